"""The tables, as they are now. `migrations/` says how a database gets there; a test holds one against the other.

An event is a trigger: what happened to which annotation, and when. What was annotated stays with the host.
"""

from __future__ import annotations

import sqlalchemy as sa

START = "START_TRAINING"

metadata = sa.MetaData()
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("project", sa.Integer),
    sa.Column("task", sa.Integer),
    sa.Column("annotation", sa.Integer),
    sa.Column("annotation_updated_at", sa.String(40)),
    sa.Column("handled_at", sa.DateTime(timezone=True)),
    sa.Index("events_by_action", "action", "handled_at"),
    sa.Index("events_by_project", "project", "id"),
    sa.Index("events_by_annotation", "annotation", "annotation_updated_at"),
)

#: Jobs that train (`job_table`). Times in seconds since 1970. At most one runs, and one of a project waits.
training_jobs = sa.Table(
    "training_jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("project", sa.Integer, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("requested_at", sa.Float, nullable=False),
    sa.Column("event", sa.Integer),
    sa.Column("up_to_event", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("cancelled_at", sa.Float),
    sa.Column("champion", sa.Text),
    sa.Column("place", sa.Text),  # the machine or container in which the process numbers mean something
    sa.Column("owner", sa.Text),  # the backend there
    sa.Column("pid", sa.Integer),
    sa.Column("process_started", sa.Text),
    sa.Column("beat", sa.Integer, nullable=False),  # counts on while its backend looks after it
    sa.Column("shown", sa.Text),  # JSON: progress, outcome, log; for the backends that do not see its folder
)
sa.Index("training_jobs_by_event", training_jobs.c.event, unique=True)
for _name, _column, _state in (
    ("training_jobs_one_runs", training_jobs.c.state, "running"),
    ("training_jobs_one_waits", training_jobs.c.project, "queued"),
):
    _where = training_jobs.c.state == sa.text(f"'{_state}'")
    sa.Index(_name, _column, unique=True, sqlite_where=_where, postgresql_where=_where)

#: Predictions that went to the host: by which request, and when it began.
given = sa.Table(
    "given",
    metadata,
    sa.Column("task", sa.Integer, primary_key=True),
    sa.Column("version", sa.String(200), primary_key=True),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("given_at", sa.Float, nullable=False),
)

#: Predictions that were ready after their reply, until they are posted.
late_results = sa.Table(
    "late_results",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("prediction", sa.Text, nullable=False),  # JSON
    sa.Column("made_at", sa.Float, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("num_tries", sa.Integer, nullable=False),
)

#: Backends that run, as they say of themselves.
backends = sa.Table(
    "backends",
    metadata,
    sa.Column("id", sa.String(100), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    sa.Column("ready", sa.Text),  # the version that it has in memory and that is to serve
)

#: The version that all of them answer with: one row.
served = sa.Table(
    "served",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
)
