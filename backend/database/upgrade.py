"""Brings a database to the tables of this release, one process at a time however many start at once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from backend.database.schema import events, metadata
from calico.errors import InputError

MIGRATIONS = Path(__file__).parent / "migrations"


@cache
def head() -> str:
    """The revision of this release."""
    revision = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert revision is not None
    return revision


def revision_of(connection: sa.Connection) -> str | None:
    """The database's; None where it is empty, or of a release before migrations."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: sa.Connection) -> bool:
    """Runs the steps that are missing, within the connection's transaction; whether there was anything to change.

    Whoever calls keeps others out meanwhile. Raises InputError for a database of a later release.
    """
    revision = revision_of(connection)
    if revision == head():
        return False
    if revision is None and not sa.inspect(connection).has_table(events.name):
        metadata.create_all(connection)  # what all steps together give, in a tenth of the time
        context = MigrationContext.configure(connection, opts={"transactional_ddl": True})
        context.stamp(ScriptDirectory(str(MIGRATIONS)), head())
        return False
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise InputError(
            f"DATABASE_URL: the database is of a later release (its revision is {revision}, this release's {head()}); "
            "update this backend"
        ) from None
    return True
