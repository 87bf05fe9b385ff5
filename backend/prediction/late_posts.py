"""Posts what was ready after its reply through the host's API, also what the process before this one left."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from backend.host.client import LabelStudioClient
from backend.prediction.activity import Job, Jobs, JobState
from backend.prediction.given import Given
from backend.prediction.lane import Lane, LaneFull
from backend.prediction.late_results import LEASE_S, LateResult, LateResults
from backend.telemetry.log_lines import describe
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError

log = logging.getLogger("calico.backend")

AWAY = frozenset({None, 408, 429, 500, 502, 503, 504})  # the host's answers, none among them, after which to try again


class LatePosts:
    """Safe to share between threads.

    client: without one, late results wait in the engine's cache for the next request. late: keeps them until they are
    posted; without it they are lost with the process.
    """

    def __init__(
        self,
        client: LabelStudioClient | None,
        late: LateResults | None,
        given: Given,
        jobs: Jobs,
        metrics: Metrics,
        capacity: int,
    ) -> None:
        self._client, self._late, self._given, self._jobs, self._metrics = client, late, given, jobs, metrics
        self._lane = Lane("posts", num_threads=1, capacity=capacity)
        self._waiting: set[int] = set()  # numbers of those that this process means to post
        self._renewed_at = 0.0
        self._lock = threading.Lock()
        metrics.queue_depth.labels("posts").set_function(lambda: self._lane.depth)

    def put(self, job: Job, prediction: Mapping[str, Any], claims: Callable[[], bool]) -> None:
        """claims: whether it is to be given, asked right before."""
        if self._client is None or job.task is None:
            self._jobs.update(
                job, JobState.LATE, "ready after the reply, without LABEL_STUDIO_API_KEY to post it: ask again"
            )
            return
        late = LateResult(0, job.task, prediction["model_version"], prediction, 0)
        if self._late is not None:
            try:
                late = self._late.put(job.task, prediction)
            except (SQLAlchemyError, sqlite3.Error) as error:
                log.warning("a late result of task %d is not kept: %s", job.task, describe(error))
        self._queue(late, job, claims)

    def look(self) -> None:
        """Posts what another process left, or the host did not take before. Call it every few seconds."""
        if self._late is None or self._client is None:
            return
        with self._lock:
            waiting = list(self._waiting)
        if waiting and time.monotonic() - self._renewed_at > LEASE_S / 4:
            self._late.renew(waiting)
            self._renewed_at = time.monotonic()
        for late in self._late.claim():
            with self._lock:
                is_waiting = late.id in self._waiting
            if not is_waiting:
                self._queue(late, None, lambda: True)

    def _queue(self, late: LateResult, job: Job | None, claims: Callable[[], bool]) -> None:
        with self._lock:
            self._waiting.add(late.id)
        try:
            self._lane.submit(lambda: self._run(late, job, claims))
        except LaneFull as error:
            with self._lock:
                self._waiting.discard(late.id)  # when its lease ends, somebody tries again
            if job is not None:
                fail(job, describe(error), self._jobs, self._metrics)

    def _run(self, late: LateResult, job: Job | None, claims: Callable[[], bool]) -> None:
        try:
            is_dealt_with = self._post(late, job, claims)
            if is_dealt_with and late.id and self._late is not None:
                self._late.done(late)
        except Exception as error:
            log.warning("late result of task %d: %s", late.task, describe(error))
        finally:
            with self._lock:
                self._waiting.discard(late.id)

    def _post(self, late: LateResult, job: Job | None, claims: Callable[[], bool]) -> bool:
        """Unless the host has a prediction of this version, or gets it in a reply. Whether that is the end of it."""
        assert self._client is not None  # or it would not wait here
        if not claims():
            self._tell(job, JobState.LATE, has_already(late.version))
            return True
        try:
            if any(p.get("model_version") == late.version for p in self._client.predictions(task=late.task)):
                self._tell(job, JobState.LATE, has_already(late.version))
                return True
            result, score = late.prediction["result"], late.prediction["score"]
            self._client.create_prediction(late.task, result, model_version=late.version, score=score)
        except Exception as error:
            self._given.release(late.task, late.version)
            return self._not_posted(late, job, error)
        self._tell(job, JobState.POSTED)
        self._metrics.groups.labels("posted").inc()
        return True

    def _not_posted(self, late: LateResult, job: Job | None, error: Exception) -> bool:
        """Whether that is final: the host refused. Where it was away, it is asked again later."""
        reason = describe(error)
        is_away = not isinstance(error, CalicoError) or getattr(error, "status", 0) in AWAY
        if is_away and late.id and self._late is not None:
            reason = f"{reason}; tried again in {self._late.again(late):.0f} s"
        if job is None:
            log.warning("late result of task %d: %s", late.task, reason)
        else:
            fail(job, reason, self._jobs, self._metrics)
        return not is_away

    def _tell(self, job: Job | None, state: JobState, reason: str = "") -> None:
        if job is not None:
            self._jobs.update(job, state, reason)


def has_already(version: str) -> str:
    return f"the host has a prediction of {version} already"


def fail(job: Job, reason: str, jobs: Jobs, metrics: Metrics) -> None:
    """No prediction: that is this group's affair alone."""
    log.warning("task %s of project %s: %s", job.task, job.project, reason)
    jobs.update(job, JobState.FAILED, reason)
    metrics.groups.labels("failed").inc()
