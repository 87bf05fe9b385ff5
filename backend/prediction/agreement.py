"""The version that several backends answer with: all of them, or none of them yet.

A backend loads what was published beside what serves, says that it is ready, and goes on with the old one. Once every
backend that is up is ready, one row of the database says so, and each takes over with its next request. While one waits
for that, it looks at the row before each request, so no request that begins after the first answer of the new version
is answered by the old one. A rollback waits for nobody: whoever sees it answers no more with the newer version.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress

import sqlalchemy as sa

from backend.database.database import Database
from backend.database.patience import Patience, Unavailable
from backend.database.schema import backends, served
from backend.prediction.succession import Successor

log = logging.getLogger("calico.backend")

SAY_S = 0.2  # between two times that this backend says that it is ready
GONE_S = 15.0  # a backend that said nothing for so long is not waited for
THE_ROW = 1


class Agreement:
    """Between the backends before one database. Versions are named as the registry does, "" is the checkpoint.

    name: of this backend, another one after each start.
    """

    def __init__(self, database: Database, name: str, patience: Patience) -> None:
        self._database, self._name, self._patience = database, name, patience
        self._lock = threading.Lock()
        self._ready: str | None = None
        self._said = "", -SAY_S
        database.on_close.append(self.leave)
        self.waits_for: tuple[str, ...] = ()  # hosts of backends that have not loaded what this one has

    def join(self, current: str) -> str:
        """What this backend is to load first: what the others serve, else what is current."""
        with self._database.writing() as connection:
            row = self._row(connection)
            others = self._others(connection)
            first = row.version if row is not None and others else current
            if row is None or (not others and row.version != current):
                self._set(connection, row, current)
            self._ready = first
            self._say(connection)
        return first

    def beat(self) -> None:
        """This backend is up. Call it every few seconds. Raises what the database raises."""
        with self._database.writing() as connection:
            self._say(connection)

    def may_serve(self, successor: Successor) -> bool:
        """Whether all answer with this version from now on; this backend has it in memory.

        Where the database does not answer for seconds, what served goes on.
        """
        version = successor.version
        if version is None:
            return True
        with self._lock:
            self._ready = version
            try:
                return self._patience.ask(lambda: self._agreed(version, successor.at_once))
            except Unavailable as error:
                log.warning("agreeing on %s: %s", successor.name, str(error))
                return successor.at_once

    def leave(self) -> None:
        """Nobody has to wait for this backend any more."""
        with suppress(sa.exc.SQLAlchemyError), self._database.writing() as connection:
            connection.execute(sa.delete(backends).where(backends.c.id == self._name))

    def hosts(self) -> list[str]:
        """Of all backends that are up, this one among them."""
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(backends.c.host).where(self._is_up)).scalars())

    def _agreed(self, version: str, at_once: bool) -> bool:
        with self._database.reading() as connection:
            if connection.execute(sa.select(served.c.version)).scalar() == version:
                return True
        if time.monotonic() - self._said[1] < SAY_S and self._said[0] == version:
            return False
        self._said = version, time.monotonic()
        with self._database.writing() as connection:
            row = self._row(connection)  # locked: two that say at once that they are ready see each other
            self._say(connection)
            if row is not None and row.version == version:
                return True
            missing = [host for host, ready in self._others(connection) if ready != version]
            self.waits_for = tuple(sorted(missing))
            if missing and not at_once:
                return False
            self._set(connection, row, version)
            return True

    @property
    def _is_up(self) -> sa.ColumnElement[bool]:
        return backends.c.seen_at > self._database.now() - GONE_S

    def _others(self, connection: sa.Connection) -> list[tuple[str, str | None]]:
        query = sa.select(backends.c.host, backends.c.ready).where(self._is_up, backends.c.id != self._name)
        return [(host, ready) for host, ready in connection.execute(query)]

    def _row(self, connection: sa.Connection) -> sa.Row | None:
        return connection.execute(sa.select(served).where(served.c.id == THE_ROW).with_for_update()).first()

    def _set(self, connection: sa.Connection, row: sa.Row | None, version: str) -> None:
        values = {"version": version, "since": self._database.now(), "number": 1 if row is None else row.number + 1}
        insert = self._database.insert(served).values(id=THE_ROW, **values)
        connection.execute(insert.on_conflict_do_update(index_elements=[served.c.id], set_=values))

    def _say(self, connection: sa.Connection) -> None:
        values = {"host": socket.gethostname(), "seen_at": self._database.now(), "ready": self._ready}
        insert = self._database.insert(backends).values(id=self._name, **values)
        connection.execute(insert.on_conflict_do_update(index_elements=[backends.c.id], set_=values))
