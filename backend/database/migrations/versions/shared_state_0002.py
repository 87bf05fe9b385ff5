"""What several backends agree on: training jobs, results that were given or are late, the version that serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    number, seconds, text = sa.Integer, sa.Float, sa.Text
    op.create_table(
        "training_jobs",
        sa.Column("id", number, primary_key=True),
        *_columns(number, "project"),
        *_columns(text, "trigger"),
        *_columns(seconds, "requested_at"),
        sa.Column("event", number),
        *_columns(number, "up_to_event"),
        sa.Column("state", sa.String(16), nullable=False),
        *_columns(text, "reason"),
        *(sa.Column(name, seconds) for name in ("started_at", "finished_at", "cancelled_at")),
        *(sa.Column(name, text) for name in ("champion", "place", "owner")),
        sa.Column("pid", number),
        sa.Column("process_started", text),
        *_columns(number, "beat"),
        sa.Column("shown", text),
    )
    op.create_index("training_jobs_by_event", "training_jobs", ["event"], unique=True)
    for name, column, state in (
        ("training_jobs_one_runs", "state", "running"),
        ("training_jobs_one_waits", "project", "queued"),
    ):
        where = sa.text(f"state = '{state}'")
        op.create_index(name, "training_jobs", [column], unique=True, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "given",
        sa.Column("task", number, primary_key=True),
        sa.Column("version", sa.String(200), primary_key=True),
        *_columns(seconds, "began_at", "given_at"),
    )
    op.create_table(
        "late_results",
        sa.Column("id", number, primary_key=True),
        *_columns(number, "task", "num_tries"),
        *_columns(text, "version", "prediction", "owner"),
        *_columns(seconds, "made_at", "leased_until"),
    )
    op.create_table(
        "backends",
        sa.Column("id", sa.String(100), primary_key=True),
        *_columns(text, "host"),
        *_columns(seconds, "seen_at"),
        sa.Column("ready", text),
    )
    op.create_table(
        "served",
        sa.Column("id", number, primary_key=True),
        *_columns(text, "version"),
        *_columns(number, "number"),
        *_columns(seconds, "since"),
    )


def _columns(kind: type, *names: str) -> list[sa.Column]:
    return [sa.Column(name, kind, nullable=False) for name in names]
