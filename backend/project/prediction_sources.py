"""Where `backend.project.prelabel` gets predictions from: a running backend, or a checkpoint loaded in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from backend.host.client import LabelStudioClient
from backend.media.media import Media
from backend.prediction.activity import Jobs, JobState
from backend.prediction.engine import Engine
from backend.prediction.predictor import Predictor
from backend.prediction.protocol import Segmenter
from backend.project.backend_client import BackendClient
from backend.services import champion_of, pool_of
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics

log = logging.getLogger(__name__)

LATE_TIMEOUT_S = 900.0


class Outcome(NamedTuple):
    """prediction: to be stored; None where the group failed for `reason`, or where the backend stores it itself."""

    prediction: Mapping[str, Any] | None
    reason: str = ""
    was_late: bool = False  # so the backend may have stored it already


class PredictionSource(Protocol):
    """version: what its predictions carry."""

    @property
    def version(self) -> str: ...

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
        """One outcome per task, in order."""


class RemoteSource:
    """A running backend. What is late for its reply is waited for, by its page of jobs."""

    def __init__(self, backend: BackendClient, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._backend = backend
        self._sleep = sleep
        self.version = backend.version()

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
        results = self._backend.predict(tasks, label_config, project)
        outcomes = []
        for task, result in zip(tasks, results, strict=True):
            outcomes.append(Outcome(result) if result else self._late(task, label_config, project))
            if outcomes[-1].reason:
                log.warning("task %s: %s", task["id"], outcomes[-1].reason)
        return outcomes

    def _late(self, task: Mapping[str, Any], label_config: str, project: int) -> Outcome:
        waited = 0.0
        while waited < LATE_TIMEOUT_S:
            job = self._backend.job(task["id"])
            match job.get("state"):
                case JobState.FAILED:
                    return Outcome(None, job.get("reason") or "failed; the backend's log says why")
                case JobState.POSTED:
                    return Outcome(None, was_late=True)
                case JobState.QUEUED | JobState.RUNNING:
                    self._sleep(1.0)
                    waited += 1.0
                case _:  # late or refused, or a backend that was restarted: ask again, this time alone
                    [result] = self._backend.predict([task], label_config, project)
                    if result:
                        return Outcome(result, was_late=True)
                    self._sleep(1.0)
                    waited += 1.0
        return Outcome(None, f"no prediction within {LATE_TIMEOUT_S:.0f} s")


class LocalSource:
    """A checkpoint in this process or in the settings' workers, through the same code as the backend's; no server, no
    time budget.
    """

    def __init__(
        self, settings: Settings, client: LabelStudioClient, *, load: Callable[[], Segmenter] | None = None
    ) -> None:
        metrics = Metrics()
        self._jobs = Jobs()
        pool = pool_of(settings) if load is None else None
        load = load or champion_of(settings, None if pool is None else pool.load).load
        engine = Engine(load, metrics, lanes=pool)
        if pool is not None:
            pool.demand = lambda: engine.depth
        media = Media(settings, metrics, client)
        at_once = 1 if pool is None else pool.max_lanes
        self._predictor = Predictor(
            engine, media, self._jobs, metrics, client=client, time_budget_s=1e6, groups_at_once=at_once,
            min_score=settings.min_score,
        )  # fmt: skip
        self.version = engine.version()  # waits for the weights; raises what loading raised

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
        results = self._predictor.predict(tasks, label_config, str(project))
        return [
            Outcome(result) if isinstance(result, Mapping) else Outcome(None, self._reason(task["id"]))
            for task, result in zip(tasks, results, strict=True)
        ]

    def _reason(self, task: int) -> str:
        [job] = self._jobs.as_json(limit=1, task=task)["jobs"]
        return str(job["reason"])
