"""The inbox's one table, and the one place that makes it or brings an older one up to date.

An event is a trigger: what happened to which annotation, and when. What was annotated stays with the host.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa

log = logging.getLogger("calico.backend")

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


def prepare(engine: sa.Engine) -> None:
    """Makes the table where there is none; takes the bodies out of one that an earlier release made."""
    metadata.create_all(engine)
    if _has_bodies(engine):
        try:
            _drop_bodies(engine)
        except sa.exc.DBAPIError:
            if _has_bodies(engine):  # else another process did it just now
                raise
    for index in events.indexes:
        index.create(engine, checkfirst=True)


def _has_bodies(engine: sa.Engine) -> bool:
    return "body" in {column["name"] for column in sa.inspect(engine).get_columns(events.name)}


def _drop_bodies(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for name in ("project", "annotation", "handled_at"):
            connection.execute(sa.text(f"DROP INDEX IF EXISTS ix_events_{name}"))
        connection.execute(sa.text("ALTER TABLE events DROP COLUMN body"))
        connection.execute(
            sa.update(events)
            .where(events.c.handled_at.is_(None), events.c.action != START)
            .values(handled_at=events.c.received_at)
        )
    log.info("inbox: an earlier release kept what was annotated; it is removed here, and stays with Label Studio")
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM"))
