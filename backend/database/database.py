"""A database by its URL: opened, brought up to date, written to by one transaction or another. SQLAlchemy Core.

SQLite by default, for one backend; PostgreSQL for several, which then agree on all that its tables hold.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from backend.database.upgrade import upgrade
from calico.errors import InputError

log = logging.getLogger("calico.backend")

SQLITE_LIMITS = {"timeout": 30}
POSTGRES_LIMITS = {
    "connect_timeout": 10,
    # The server too must notice soon that a backend's machine is gone: it holds locks for it.
    "options": "-c statement_timeout=30000 -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 "
    "-c tcp_keepalives_count=3",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
UPGRADE_LOCK = 0xCA11C0_01  # advisory locks of PostgreSQL: any numbers that nobody else takes


class Database:
    """Safe to share between threads. Raises InputError where it cannot be opened, or is of a later release.

    is_shared: several backends may stand before it. file: SQLite's, None for PostgreSQL. on_close: called first.
    """

    def __init__(self, url: str) -> None:
        self.on_close: list[Callable[[], None]] = []
        try:
            address = sa.make_url(url)
            is_sqlite = address.get_backend_name() == "sqlite"
            if is_sqlite and _is_in_memory(address):
                raise InputError("DATABASE_URL: SQLite in memory would lose every event with the process; name a file")
            self.is_shared = not is_sqlite
            self.file = Path(address.database) if is_sqlite and address.database else None
            # SQLite lets writers try their luck; here they queue.
            self._write: Any = threading.Lock() if is_sqlite else nullcontext()
            # The host gives up after a second, but an event that is stored later than that is still stored.
            waiting = SQLITE_LIMITS if is_sqlite else POSTGRES_LIMITS
            self.engine = sa.create_engine(address, connect_args=waiting, pool_pre_ping=not is_sqlite)
            if is_sqlite:
                sa.event.listen(self.engine, "connect", _use_wal)
            try:
                self.is_upgraded = self._upgrade()
            except BaseException:
                self.engine.dispose()
                raise
        except (sa.exc.SQLAlchemyError, sqlite3.Error, ImportError, ValueError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"DATABASE_URL: cannot open the database ({reason_of(error)}); expected for example "
                "sqlite:////var/lib/calico/inbox.db in a folder that can be written, or postgresql+psycopg://…"
            ) from None

    def close(self) -> None:
        """With all of it in the database's own file, so that a copy of that file is whole."""
        for end in self.on_close:
            end()
        if self.file is not None:
            with suppress(sa.exc.SQLAlchemyError), self.engine.connect() as connection:
                connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
        self.engine.dispose()

    def reading(self) -> Any:
        """A context manager: a connection."""
        return self.engine.connect()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, committed in the end."""
        with self._write, self.engine.begin() as connection:
            yield connection

    def insert(self, table: sa.Table) -> Any:
        """An insert that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return postgresql.insert(table) if self.is_shared else sqlite.insert(table)

    def now(self) -> Any:
        """Seconds since 1970 by the database's clock, which all that share it have in common: an expression."""
        return sa.extract("epoch", sa.func.clock_timestamp()) if self.is_shared else sa.literal(time.time())

    def _upgrade(self) -> bool:
        """One process at a time: the others wait, and find it done."""
        if self.file is None:
            with self.engine.begin() as connection:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
                return upgrade(connection)
        with open(f"{self.file}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # pysqlite would commit with every step
                is_upgraded = upgrade(connection)
                connection.exec_driver_sql("COMMIT")
                if is_upgraded:
                    connection.exec_driver_sql("VACUUM")  # what was removed is gone from the file, too
                return is_upgraded


def reason_of(error: Exception) -> str:
    """The first line of what a driver says."""
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0][:300]


def _use_wal(connection: Any, _: Any) -> None:
    """Readers do not block the writer; a commit is safe against a crash of the process."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def inode_of(file: Path | None) -> int | None:
    """Another one, or none, once the file was removed under us: SQLite would go on writing into nothing."""
    if file is None:
        return None
    with suppress(OSError):
        return os.stat(file).st_ino
    return None


def _is_in_memory(address: sa.URL) -> bool:
    name = address.database or ""
    return not name or ":memory:" in name or "mode=memory" in name or address.query.get("mode") == "memory"
