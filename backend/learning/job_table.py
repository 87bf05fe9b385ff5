"""Training jobs in the database: asked for, claimed and ended once, however many backends look at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from backend.database.database import Database
from backend.database.schema import events, training_jobs
from backend.learning.job_folders import OPEN, TrainingJob, TrainingState

jobs = training_jobs
COLUMNS = frozenset(field.name for field in fields(TrainingJob))


class JobTable:
    """Each call is one transaction. Safe to share between threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading ------------------------------------------------------------------------------------------------------

    def newest(self, *, limit: int, job: int | None = None) -> list[TrainingJob]:
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        return self._read(query if job is None else query.where(jobs.c.id == job))

    def get(self, number: int) -> TrainingJob | None:
        return next(iter(self.newest(limit=1, job=number)), None)

    def in_state(self, state: TrainingState) -> list[TrainingJob]:
        """Oldest first."""
        return self._read(sa.select(jobs).where(jobs.c.state == state.value).order_by(jobs.c.id))

    def of_event(self, event: int) -> TrainingJob | None:
        return next(iter(self._read(sa.select(jobs).where(jobs.c.event == event))), None)

    def learnt_up_to(self, project: int) -> int | None:
        """The newest event that a job of the project knew of, 0 without one; None while one waits or runs."""
        query = sa.select(jobs.c.state, jobs.c.up_to_event).where(jobs.c.project == project)
        with self._database.reading() as connection:
            rows = list(connection.execute(query))
        is_open = any(TrainingState(state) in OPEN for state, _ in rows)
        return None if is_open else max((up_to_event for _, up_to_event in rows), default=0)

    def _read(self, query: sa.Select) -> list[TrainingJob]:
        with self._database.reading() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    # -- asking -------------------------------------------------------------------------------------------------------

    def request(self, project: int, trigger: str, at: float, event: int | None = None) -> TrainingJob:
        """The new job, or the one of this project that waits already."""
        with self._database.writing() as connection:
            return self._requested(connection, project, trigger, at, event)

    def take(self, event: int, project: int | None, trigger: str, at: float) -> TrainingJob | None:
        """The job of a stored event that asks for one, which is dealt with by that; None where it names no project.

        Who comes second finds the first one's job.
        """
        claim = sa.update(events).where(events.c.id == event, events.c.handled_at.is_(None))
        with self._database.writing() as connection:
            is_first = connection.execute(claim.values(handled_at=datetime.now(UTC))).rowcount == 1
            if is_first and project is not None:
                return self._requested(connection, project, trigger, at, event)
        return self.of_event(event)

    def _requested(
        self, connection: sa.Connection, project: int, trigger: str, at: float, event: int | None
    ) -> TrainingJob:
        waiting = sa.select(jobs).where(jobs.c.project == project, jobs.c.state == TrainingState.QUEUED.value)
        newest = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)).scalar_subquery()
        values = {
            "project": project, "trigger": trigger, "requested_at": at, "event": event, "up_to_event": newest,
            "state": TrainingState.QUEUED.value, "reason": "", "beat": 0,
        }  # fmt: skip
        insert = self._database.insert(jobs).values(values).on_conflict_do_nothing().returning(jobs)
        row = None
        while row is None:  # the one that waited may be started between the two
            row = connection.execute(insert).mappings().first() or connection.execute(waiting).mappings().first()
            if row is None and event is not None:
                row = connection.execute(sa.select(jobs).where(jobs.c.event == event)).mappings().first()
        return _job(row)

    # -- changing -----------------------------------------------------------------------------------------------------

    def claim(self, *, place: str, owner: str, at: float, champion: str | None) -> TrainingJob | None:
        """The oldest that waits, which from now on runs here; None where none waits, or one runs anywhere."""
        other = jobs.alias()
        oldest = (
            sa.select(jobs.c.id)
            .where(jobs.c.state == TrainingState.QUEUED.value)
            .order_by(jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        is_free = ~sa.select(other.c.id).where(other.c.state == TrainingState.RUNNING.value).exists()
        newest = sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0)).scalar_subquery()
        claim = (
            sa.update(jobs)
            .where(jobs.c.id == oldest, jobs.c.state == TrainingState.QUEUED.value, is_free)
            .values(
                state=TrainingState.RUNNING.value, reason="", started_at=at, place=place, owner=owner,
                champion=champion, up_to_event=newest, beat=jobs.c.beat + 1,
            )
            .returning(jobs)
        )  # fmt: skip
        try:
            with self._database.writing() as connection:
                row = connection.execute(claim).mappings().first()
        except sa.exc.IntegrityError:  # another backend started one at the same moment
            return None
        return None if row is None else _job(row)

    def change(self, job: int, was: TrainingState, **values: Any) -> bool:
        """Changes a job that is in the state `was`; whether it is."""
        update = sa.update(jobs).where(jobs.c.id == job, jobs.c.state == was.value).values(values)
        with self._database.writing() as connection:
            return connection.execute(update).rowcount == 1

    def cancel_waiting(self, job: int, at: float, reason: str) -> bool:
        """Whether it waited."""
        values = {"state": TrainingState.CANCELLED.value, "finished_at": at, "reason": reason}
        return self.change(job, TrainingState.QUEUED, **values)

    def cancel_running(self, job: int, at: float) -> bool:
        """Asks its backend to end it; whether it ran."""
        return self.change(job, TrainingState.RUNNING, cancelled_at=sa.func.coalesce(jobs.c.cancelled_at, at))

    def adopted(self, job: TrainingJob, owner: str) -> TrainingJob:
        """The job as it is after this backend took it from the one that looked after it, unless another was first."""
        former = jobs.c.owner.is_(None) if job.owner is None else jobs.c.owner == job.owner
        update = sa.update(jobs).where(jobs.c.id == job.id, former).values(owner=owner)
        with self._database.writing() as connection:
            connection.execute(update)
        return self.get(job.id) or job

    def take_over(self, old_jobs: Iterable[TrainingJob]) -> None:
        """Jobs of a release that had no table, once: into a table without any."""
        rows = [{**asdict(job), "state": job.state.value} for job in old_jobs]
        with self._database.writing() as connection:
            if not rows or connection.execute(sa.select(jobs.c.id).limit(1)).first() is not None:
                return
            connection.execute(self._database.insert(jobs).on_conflict_do_nothing(), rows)
            if self._database.is_shared:
                number = max(row["id"] for row in rows)
                connection.execute(sa.select(sa.func.setval("training_jobs_id_seq", number)))


def _job(row: Mapping[Any, Any]) -> TrainingJob:
    values = {name: value for name, value in row.items() if name in COLUMNS}
    return TrainingJob(**{**values, "state": TrainingState(values["state"])})
