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
