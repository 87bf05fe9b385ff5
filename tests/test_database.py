"""The database of the backend: made anew, brought up to date from older ones, refused where it is newer."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from test_inbox import OLD_SCHEMA

from backend.database.database import Database
from backend.database.schema import metadata
from backend.database.upgrade import head, revision_of
from backend.learning.inbox import Inbox
from calico.errors import InputError

#: Of the releases before migrations: one kept the annotations' bodies, the last one did not.
WITHOUT_BODIES = """
CREATE TABLE events (id INTEGER NOT NULL, received_at DATETIME NOT NULL, action VARCHAR(64) NOT NULL, project INTEGER,
    task INTEGER, annotation INTEGER, annotation_updated_at VARCHAR(40), handled_at DATETIME,
    PRIMARY KEY (id));
CREATE INDEX events_by_action ON events (action, handled_at);
CREATE INDEX events_by_project ON events (project, id);
INSERT INTO events VALUES (1, '2026-01-01 00:00:00', 'ANNOTATION_CREATED', 2, 3, 5, 't1', '2026-01-01 00:00:00'),
    (2, '2026-01-01 00:00:00', 'START_TRAINING', 2, NULL, NULL, NULL, NULL);
"""
OLDER = {"with bodies": OLD_SCHEMA, "without": WITHOUT_BODIES}


def make_old(url: str, schema: str) -> None:
    address = sa.make_url(url)
    if address.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(address.database))
        connection.executescript(schema)
        connection.close()
        return
    for name, of_postgres in {"id INTEGER": "id SERIAL", "DATETIME": "TIMESTAMP WITH TIME ZONE"}.items():
        schema = schema.replace(name, of_postgres)
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.exec_driver_sql(schema + "SELECT setval('events_id_seq', 2);")
    engine.dispose()


def differences(database: Database) -> list:
    with database.reading() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": False}), metadata)


def test_a_new_database_has_the_tables_of_this_release(database_url):
    database = Database(database_url)
    assert differences(database) == []
    with database.reading() as connection:
        assert revision_of(connection) == head()
    database.close()


@pytest.mark.parametrize("schema", OLDER.values(), ids=OLDER)
def test_an_older_one_gets_them_step_by_step_and_keeps_what_it_had(database_url, schema):
    make_old(database_url, schema)
    for is_upgraded in (True, False):
        inbox = Inbox(database_url)
        assert inbox.database.is_upgraded is is_upgraded
        assert differences(inbox.database) == []
        assert inbox.states(2) == {(5, "t1")}
        assert [event["id"] for event in inbox.pending("START_TRAINING")] == [2]
        inbox.close()
    inbox = Inbox(database_url)
    assert inbox.put({"action": "A"}) == 3
    inbox.close()


@pytest.mark.parametrize("schema", [None, OLD_SCHEMA], ids=["new", "old"])
def test_twelve_first_starts_at_once_all_succeed(database_url, schema):
    if schema is not None:
        make_old(database_url, schema)
    gate = threading.Barrier(12)

    def start(_: int) -> int:
        gate.wait(10)
        inbox = Inbox(database_url)
        number = inbox.put({"action": "A"})
        inbox.close()
        return number

    with ThreadPoolExecutor(12) as pool:
        numbers = list(pool.map(start, range(12)))
    first = 1 if schema is None else 3
    assert sorted(numbers) == list(range(first, first + 12))


def test_one_of_a_later_release_is_refused_in_a_line(database_url):
    database = Database(database_url)
    with database.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(InputError, match="of a later release") as refused:
        Database(database_url)
    assert "\n" not in str(refused.value)
