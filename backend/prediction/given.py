"""Which predictions went to the host: each once for all requests that overlap, of one backend or of several."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress

import sqlalchemy as sa

from backend.database.database import Database
from backend.database.patience import Patience, Unavailable
from backend.database.schema import given

log = logging.getLogger("calico.backend")

MAX_REMEMBERED = 100_000
ROWS_AT_ONCE = 1000


class Given:
    """Safe to share between threads. shared: what other backends gave; where that does not answer, better a prediction
    twice than none.
    """

    def __init__(self, shared: SharedGiven | None = None) -> None:
        self._shared = shared
        self._at: OrderedDict[tuple[int, str], float] = OrderedDict()  # (task, version) -> last in a reply or post
        self._lock = threading.Lock()

    def claim(self, requests: Sequence[tuple[int | None, str, float]]) -> list[bool]:
        """Of each (task, version, when its request began by the monotonic clock) whether it is that request's to give:
        nobody gave it since then. One without a task always is."""
        with self._lock:
            ours = [task is None or self._claims((task, version), began) for task, version, began in requests]
        if self._shared is None:
            return ours
        now = time.monotonic()
        shared_requests = [
            (task, version, now - began)
            for (task, version, began), is_ours in zip(requests, ours, strict=True)
            if is_ours and task is not None
        ]
        try:
            claims = self._shared.claim(shared_requests)
        except Unavailable as error:
            log.warning("who gives the host its predictions: %s", str(error))
            return ours
        return [
            is_ours and (task is None or (task, version) in claims)
            for (task, version, _), is_ours in zip(requests, ours, strict=True)
        ]

    def release(self, task: int, version: str) -> None:
        """It did not get there."""
        with self._lock:
            self._at.pop((task, version), None)
        if self._shared is not None:
            with suppress(Unavailable):
                self._shared.release(task, version)

    def _claims(self, key: tuple[int, str], began: float) -> bool:
        if self._at.get(key, 0.0) > began:
            return False
        self._at[key] = time.monotonic()
        self._at.move_to_end(key)
        if len(self._at) > MAX_REMEMBERED:
            self._at.popitem(last=False)
        return True


class SharedGiven:
    """Raises Unavailable where the database does not answer."""

    def __init__(self, database: Database, patience: Patience) -> None:
        self._database, self._patience = database, patience

    def claim(self, requests: Iterable[tuple[int, str, float]]) -> set[tuple[int, str]]:
        """Of (task, version, seconds since its request began) those that are this backend's to give: not given to the
        host by any since that request began."""
        rows = {(task, version): age_s for task, version, age_s in requests}
        return self._patience.ask(lambda: self._claim(rows)) if rows else set()

    def release(self, task: int, version: str) -> None:
        """It did not get there."""
        gone = sa.delete(given).where(given.c.task == task, given.c.version == version)
        self._patience.ask(lambda: self._write(gone))

    def prune(self, seconds: float) -> int:
        """Forgets those that were given so long ago; how many."""
        with self._database.writing() as connection:
            return connection.execute(
                sa.delete(given).where(given.c.given_at < self._database.now() - seconds)
            ).rowcount

    def _claim(self, ages_s: dict[tuple[int, str], float]) -> set[tuple[int, str]]:
        keys = sorted(ages_s)  # one order for all backends: two that wait for each other's rows would never end
        claimed: set[tuple[int, str]] = set()
        now = self._database.now()
        for start in range(0, len(keys), ROWS_AT_ONCE):
            insert = self._database.insert(given).values(
                [
                    {"task": task, "version": version, "given_at": now, "began_at": now - ages_s[task, version]}
                    for task, version in keys[start : start + ROWS_AT_ONCE]
                ]
            )
            insert = insert.on_conflict_do_update(
                index_elements=[given.c.task, given.c.version],
                set_={"given_at": insert.excluded.given_at, "began_at": insert.excluded.began_at},
                where=given.c.given_at <= insert.excluded.began_at,
            ).returning(given.c.task, given.c.version)
            with self._database.writing() as connection:
                claimed |= {(task, version) for task, version in connection.execute(insert)}
        return claimed

    def _write(self, statement: sa.Delete) -> None:
        with self._database.writing() as connection:
            connection.execute(statement)
