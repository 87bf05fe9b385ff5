"""Which of several backends does what only one may do: reconcile, train by itself, remove what is old.

PostgreSQL's advisory lock, held by a connection: it is free as soon as its backend is gone. SQLite: a locked file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

from backend.database.database import Database

log = logging.getLogger("calico.backend")

LEADER_LOCK, RECONCILE_LOCK = 0xCA11C0_02, 0xCA11C0_03


class Leader:
    """is_leader: as of the last look. Gives it up when the database is closed, or when nobody holds this any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: sa.Connection | None = None
        self._let_go: Callable[[], object] | None = None  # of the locked file
        self.is_leader = False
        database.on_close.append(self.close)

    def look(self) -> bool:
        """Takes the lead if nobody has it. Call it every few seconds."""
        was = self.is_leader
        self.is_leader = self._hold_file() if self._database.file is not None else self._hold_lock()
        if self.is_leader is not was:
            log.info("this backend %s", "leads" if self.is_leader else "does not lead any more")
        return self.is_leader

    def close(self) -> None:
        self.is_leader = False
        if self._connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._connection.close()
            self._connection = None
        if self._let_go is not None:
            self._let_go()
            self._let_go = None

    def _hold_lock(self) -> bool:
        try:
            if self._connection is None:
                connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                connection.detach()  # its own for good: the pool would let others into the session that holds the lock
                if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(LEADER_LOCK))).scalar():
                    connection.close()
                    return False
                self._connection = connection
            self._connection.execute(sa.text("SELECT 1"))  # the lock is held as long as the connection is
            return True
        except sa.exc.SQLAlchemyError as error:
            log.warning("leader: %s", " ".join(str(error).split())[:200])
            self.close()
            return False

    def _hold_file(self) -> bool:
        if self._let_go is None:
            file = os.open(f"{self._database.file}.leader", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            self._let_go = weakref.finalize(self, os.close, file)
        return True


@contextmanager
def alone(database: Database, lock: int) -> Iterator[None]:
    """Waits until no other backend is in here. With SQLite there is no other."""
    if database.file is not None:
        yield
        return
    with database.engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
        yield
