"""What the backend is doing and has lately done, one entry per group asked about: the route `/jobs`."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """A job is QUEUED, then RUNNING, then one of the others.

    ANSWERED: in the reply. LATE: ready after it, or after that to another request, and kept for the next request only.
    POSTED: ready after it, and stored through the host's API. FAILED: no prediction. REFUSED: the queue was full.
    """

    QUEUED = "queued"
    RUNNING = "running"
    ANSWERED = "answered"
    LATE = "late"
    POSTED = "posted"
    FAILED = "failed"
    REFUSED = "refused"


_OPEN = frozenset({JobState.QUEUED, JobState.RUNNING})


@dataclass
class Job:
    id: int
    task: int | None
    project: str
    state: JobState = JobState.QUEUED
    reason: str = ""
    problems: list[str] = field(default_factory=list)
    title: str = ""  # of the task, as its data tells it
    draw: Callable[[], bytes] | None = None  # a JPEG of the group and its regions, as long as the result is kept
    queued_at: float = field(default_factory=time.time)
    seconds: float | None = None  # by the monotonic clock: the other may be set meanwhile
    _queued: float = field(default_factory=time.monotonic)

    def ended(self) -> None:
        self.seconds = round(time.monotonic() - self._queued, 3)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "task": self.task, "project": self.project, "title": self.title, "state": self.state.value,
            "reason": self.reason, "problems": self.problems, "has_picture": self.draw is not None,
            "queued_at": self.queued_at, "seconds": self.seconds,
        }  # fmt: skip


class Jobs:
    """Open jobs, and the last `keep` that ended. In memory: a restart forgets them, and the host asks again."""

    def __init__(self, keep: int = 1000) -> None:
        self._keep = keep
        self._open: OrderedDict[int, Job] = OrderedDict()
        self._ended: OrderedDict[int, Job] = OrderedDict()
        self._totals: Counter[JobState] = Counter()
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, task: int | None, project: str) -> Job:
        with self._lock:
            job = Job(next(self._ids), task, project)
            self._open[job.id] = job
            return job

    def update(self, job: Job, state: JobState, reason: str = "", problems: Iterable[str] = ()) -> None:
        with self._lock:
            if job.state not in _OPEN:
                self._totals[job.state] -= 1
            job.state, job.reason = state, reason or job.reason
            job.problems = list(problems) or job.problems
            if state in _OPEN:
                return
            job.ended()
            self._totals[state] += 1
            self._open.pop(job.id, None)
            self._ended[job.id] = job
            while len(self._ended) > self._keep:
                self._ended.popitem(last=False)

    def get(self, number: int) -> Job | None:
        with self._lock:
            return self._open.get(number) or self._ended.get(number)

    def as_json(self, *, limit: int = 200, task: int | None = None, state: str | None = None) -> dict[str, Any]:
        """Totals since start, and the newest jobs first."""
        with self._lock:
            counts = {str(s): n for s, n in (Counter(job.state for job in self._open.values()) + self._totals).items()}
            newest = itertools.chain(reversed(self._open.values()), reversed(self._ended.values()))
            jobs = (j for j in newest if task in (None, j.task) and state in (None, j.state.value))
            return {"counts": counts, "jobs": [job.as_json() for job in itertools.islice(jobs, limit)]}
