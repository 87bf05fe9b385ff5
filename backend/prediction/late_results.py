"""Predictions that were ready after their reply: kept until they are posted, over a restart or by another backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backend.database.database import Database
from backend.database.schema import late_results as rows

LEASE_S = 60.0  # after which another backend posts what this one did not
MAX_PAUSE_S = 3600.0  # between two tries at a host that does not answer
KEPT_S = 24 * 3600.0


@dataclass(frozen=True)
class LateResult:
    id: int
    task: int
    version: str
    prediction: Mapping[str, Any]
    num_tries: int


class LateResults:
    """Each row is leased to one backend at a time. Safe to share between threads and processes.

    owner: this backend, another name after each start.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self._database, self._owner = database, owner
        if not database.is_shared:  # of the process before this one: nobody else will post them
            self._write(sa.update(rows).values(leased_until=0.0))

    def put(self, task: int, prediction: Mapping[str, Any]) -> LateResult:
        """Leased to this backend."""
        now = self._database.now()
        values = {
            "task": task, "version": prediction["model_version"], "prediction": json.dumps(prediction),
            "made_at": now, "owner": self._owner, "leased_until": now + LEASE_S, "num_tries": 0,
        }  # fmt: skip
        with self._database.writing() as connection:
            number = connection.execute(sa.insert(rows).values(values).returning(rows.c.id)).scalar_one()
        return LateResult(number, task, prediction["model_version"], prediction, 0)

    def claim(self, limit: int = 20) -> list[LateResult]:
        """Those that nobody posts now, the oldest first; from now on they are this backend's."""
        now = self._database.now()
        free = (
            sa.select(rows.c.id)
            .where(rows.c.leased_until < now)
            .order_by(rows.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        claim = (
            sa.update(rows)
            .where(rows.c.id.in_(free), rows.c.leased_until < now)
            .values(owner=self._owner, leased_until=now + LEASE_S)
            .returning(rows)
        )
        with self._database.writing() as connection:
            claimed_rows = list(connection.execute(claim))
        late = [
            LateResult(row.id, row.task, row.version, json.loads(row.prediction), row.num_tries) for row in claimed_rows
        ]
        return sorted(late, key=lambda result: result.id)

    def renew(self, ids: list[int]) -> None:
        """Of this backend's leases those that it still means to post."""
        is_own = rows.c.id.in_(ids) & (rows.c.owner == self._owner)
        self._write(sa.update(rows).where(is_own).values(leased_until=self._database.now() + LEASE_S))

    def done(self, late: LateResult) -> None:
        """Posted, or not wanted any more."""
        self._write(sa.delete(rows).where(rows.c.id == late.id))

    def again(self, late: LateResult) -> float:
        """The host did not take it now; in how many seconds it is tried again."""
        pause_s = min(MAX_PAUSE_S, 30.0 * 2**late.num_tries)
        values = {"num_tries": late.num_tries + 1, "leased_until": self._database.now() + pause_s}
        self._write(sa.update(rows).where(rows.c.id == late.id).values(values))
        return pause_s

    def prune(self) -> int:
        """Forgets what could not be posted for a day; how many."""
        return self._write(sa.delete(rows).where(rows.c.made_at < self._database.now() - KEPT_S))

    def _write(self, statement: sa.Update | sa.Delete) -> int:
        with self._database.writing() as connection:
            return connection.execute(statement).rowcount
