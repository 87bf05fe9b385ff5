"""The log of events, and databases of the releases before migrations, of which some kept the annotations' bodies."""

from __future__ import annotations

import logging

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

log = logging.getLogger("calico.backend")

INDEXES = {
    "events_by_action": ["action", "handled_at"],
    "events_by_project": ["project", "id"],
    "events_by_annotation": ["annotation", "annotation_updated_at"],
}


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table("events"):
        op.create_table(
            "events",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("action", sa.String(64), nullable=False),
            sa.Column("project", sa.Integer),
            sa.Column("task", sa.Integer),
            sa.Column("annotation", sa.Integer),
            sa.Column("annotation_updated_at", sa.String(40)),
            sa.Column("handled_at", sa.DateTime(timezone=True)),
        )
    elif "body" in {column["name"] for column in inspector.get_columns("events")}:
        for name in ("project", "annotation", "handled_at"):
            op.execute(f"DROP INDEX IF EXISTS ix_events_{name}")
        op.drop_column("events", "body")
        op.execute("UPDATE events SET handled_at = received_at WHERE handled_at IS NULL AND action != 'START_TRAINING'")
        log.info("inbox: an earlier release kept what was annotated; it is removed here, and stays with Label Studio")
    for name, columns in INDEXES.items():
        op.create_index(name, "events", columns, if_not_exists=True)
