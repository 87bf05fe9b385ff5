"""One `/predict` request -> its answer: fetch, segment, encode, within a time budget; what is late is posted later."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from backend.codecs.config import LabelingConfig, read_config, task_images
from backend.codecs.prediction import encode_prediction
from backend.host.client import LabelStudioClient
from backend.media.media import Media, image_host
from backend.prediction.activity import Job, Jobs, JobState
from backend.prediction.engine import Engine
from backend.prediction.given import Given
from backend.prediction.lane import Lane, LaneFull, Priority
from backend.prediction.late_posts import LatePosts, fail, has_already
from backend.prediction.late_results import LateResults
from backend.prediction.project_parts import ProjectParts
from backend.prediction.protocol import Remembered
from backend.prediction.smart_tools import SmartTools
from backend.telemetry.log_lines import describe, one_line
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError, InputError
from calico.inference.belief import MIN_IMAGE_SCORE, worth_showing
from calico.pictures.overlay import strip_of_overlays
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, CoSegmentation, ImageGroup, Problem

log = logging.getLogger("calico.backend")

GROUPS_AT_ONCE = 4  # fetched and encoded side by side, so that the model never waits for the network; bounds memory too
MAX_SOURCES_KEPT = 20_000  # characters of a group's addresses that are kept for its picture; data URIs have more
MAX_PROBLEMS = 50  # of a group, as shown in `/jobs`
LONG_CONFIG = 50_000  # characters; few of these are kept, for each may take megabytes
MAX_PROJECTS = 64  # whose parts' names are kept; the one that was asked about longest ago goes
CLICK_S = 20.0  # nobody waits longer before a screen, and who gave up must not keep others out

Prediction = dict[str, Any]


class NothingToShow(CalicoError):
    """No region of the group found a place in the prediction."""


@dataclass(eq=False)
class _Work:
    """One task of one request. prediction and is_late change under the lock: the reply and the worker race for them."""

    task: Mapping[str, Any]
    label_config: str
    job: Job
    priority: Priority
    future: Future[None] | None = None
    started: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    prediction: Prediction | None = None
    is_late: bool = False

    @property
    def task_id(self) -> int | None:
        return self.job.task


class Predictor:
    """client: posts what was late; without one, late results wait in the engine's cache for the next request.

    groups_at_once: that the model takes together; twice as many of a project are fetched side by side, so that a batch
    waits ready, and as many of others: no project and no image host has more than half of the threads.
    remembered: sees a prediction in the light of what the project has taught; gives the version to say too.
    min_score: what is less sure is not shown, see `worth_showing`.
    given: agrees with other backends on who gives the host a prediction. late: keeps late ones until they are posted;
    without it they are lost with the process.
    """

    def __init__(
        self,
        engine: Engine,
        media: Media,
        jobs: Jobs,
        metrics: Metrics,
        *,
        client: LabelStudioClient | None = None,
        queue_size: int = 2000,
        time_budget_s: float = 50.0,
        groups_at_once: int = 1,
        remembered: Remembered | None = None,
        min_score: float = MIN_IMAGE_SCORE,
        given: Given | None = None,
        late: LateResults | None = None,
    ) -> None:
        self._engine, self._media, self._jobs, self._metrics, self._client = engine, media, jobs, metrics, client
        self._time_budget_s, self._remembered, self._min_score = time_budget_s, remembered, min_score
        self._given = Given() if given is None else given
        self.late_posts = LatePosts(client, late, self._given, jobs, metrics, queue_size)
        self._smart_tools = SmartTools(engine, media, metrics, min_score=min_score, remembered=remembered)
        share = max(GROUPS_AT_ONCE, 2 * groups_at_once)
        self._groups = Lane("groups", num_threads=2 * share, capacity=queue_size, share=share)
        self._parts: OrderedDict[int, ProjectParts] = OrderedDict()
        self._opened: list[_Work] = []  # requests of one task that are not answered yet
        self._lock = threading.Lock()
        metrics.queue_depth.labels("groups").set_function(lambda: self._groups.depth)

    # -- groups -----------------------------------------------------------------------------------------------------

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: str
    ) -> list[Prediction | list[Any]]:
        """One entry per task, in order: its prediction, or `[]` (which stores nothing) where it failed or is not ready.

        Raises LaneFull where not even one task finds room.
        """
        deadline = time.monotonic() + self._time_budget_s
        priority = Priority.WAITED_FOR if len(tasks) == 1 else Priority.BATCH
        works = [_Work(task, label_config, self._jobs.add(_id(task), project), priority) for task in tasks]
        for work in works:
            self._queue(work)
        futures = [work.future for work in works if work.future]
        if tasks and not futures:
            raise LaneFull(f"{self._groups.capacity} tasks wait already; try again later")
        opened = [work for work in works if work.priority is Priority.WAITED_FOR]
        with self._lock:
            self._opened.extend(opened)
        try:
            wait(futures, timeout=max(0.0, deadline - time.monotonic()))
            results = self._replies(works)
        finally:
            with self._lock:
                for work in opened:
                    self._opened.remove(work)
        seconds = time.monotonic() - deadline + self._time_budget_s
        log.info("project %s: %d of %d tasks answered in %.1f s", project, sum(map(bool, results)), len(tasks), seconds)
        return results

    def _queue(self, work: _Work) -> None:
        try:
            work.future = self._groups.submit(lambda: self._run(work), work.priority, _owners(work))
        except LaneFull as error:
            self._jobs.update(work.job, JobState.REFUSED, str(error))
            self._metrics.groups.labels("refused").inc()

    def _replies(self, works: Sequence[_Work]) -> list[Prediction | list[Any]]:
        ready: list[tuple[_Work, Prediction]] = []
        for work in works:
            with work.lock:
                if work.prediction is None:
                    work.is_late = True
                else:
                    ready.append((work, work.prediction))
        claimed = self._claimed(ready)
        for work, prediction in ready:
            if work in claimed:
                self._metrics.groups.labels("answered").inc()
                self._jobs.update(work.job, JobState.ANSWERED)
            else:
                self._metrics.groups.labels("late").inc()
                self._jobs.update(work.job, JobState.LATE, has_already(prediction["model_version"]))
        return [work.prediction if work in claimed and work.prediction else [] for work in works]

    def _claimed(self, ready: Sequence[tuple[_Work, Prediction]]) -> set[_Work]:
        """Those whose request is to give the host the prediction, which would keep a second one beside it: not where
        another gave it since that one began, or where the first that opened the task is about to."""
        with self._lock:
            opened = {other.task_id: other for other in reversed(self._opened)}  # the first of each task
        first = [(work, prediction) for work, prediction in ready if opened.get(work.task_id, work) is work]
        requests = [(work.task_id, prediction["model_version"], work.started) for work, prediction in first]
        return {work for (work, _), is_ours in zip(first, self._given.claim(requests), strict=True) if is_ours}

    def _run(self, work: _Work) -> None:
        """On a worker thread. Never raises: what fails is this group's affair alone."""
        self._jobs.update(work.job, JobState.RUNNING)
        try:
            prediction, problems = self._predicted(work)
        except Exception as error:  # whatever it is, the other groups of the request go on
            self._fail(work.job, error)
            return
        problem_lines = [f"{problem.code}: {problem.message}" for problem in problems[:MAX_PROBLEMS]]
        work.job.problems = [one_line(text) for text in problem_lines]
        with work.lock:
            work.prediction = prediction
            is_late = work.is_late
        if is_late:
            self._deliver(work, prediction)

    def _predicted(self, work: _Work) -> tuple[Prediction, list[Problem]]:
        config, data = config_of(work.label_config), _data(work.task)
        sources = task_images(config, data)
        if not MIN_GROUP_SIZE <= len(sources) <= MAX_GROUP_SIZE:  # before anything is fetched
            raise InputError(f"a group has {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, the task has {len(sources)}")
        work.job.title = title_of(data)
        candidates = tuple(config.candidates(data))
        with self._media.group(sources, task=work.task_id) as images:
            group = ImageGroup(images)
            call = self._engine.segment(group, candidates, work.priority)
            result, version = call.result(), call.version
            if self._remembered is not None:
                result, version = self._remembered(work.job.project, version, group, result, candidates)
            result = worth_showing(result, self._min_score)
            del images, group
            data = self._with_labels(work, data, result, config)
            with self._metrics.span("encode"):
                encoded = encode_prediction(result, config, model_version=version, task_id=work.task_id, task_data=data)
        if sum(map(len, sources)) <= MAX_SOURCES_KEPT:
            work.job.draw = partial(self._picture, sources, work.task_id, candidates, call.version)
        problems = [*result.problems, *encoded.problems]
        for problem in problems:
            self._metrics.problems.labels(problem.code).inc()
        if not encoded.prediction["result"]:
            message = (
                "; ".join(problem.message for problem in problems) or "the model found nothing in common or unique"
            )
            raise NothingToShow(f"no region to show: {message}")
        self._metrics.regions.inc(len(result.regions))
        return encoded.prediction, problems

    def _with_labels(
        self, work: _Work, data: Mapping[str, Any], result: CoSegmentation, config: LabelingConfig
    ) -> Mapping[str, Any]:
        """The task's data with the labels of what was found on it, where its tasks bring their labels."""
        project = work.job.project.partition(".")[0]  # the host sends ID.epoch
        if self._client is None or work.task_id is None or not project.isdigit():
            return data
        with self._lock:
            parts = self._parts.setdefault(int(project), ProjectParts(self._client, int(project)))
            self._parts.move_to_end(int(project))
            if len(self._parts) > MAX_PROJECTS:
                self._parts.popitem(last=False)
        return parts.fit(work.task_id, data, result, config)

    def _picture(self, sources: Sequence[str], task: int | None, candidates: Sequence[str], version: str) -> bytes:
        """A JPEG of the group with its regions. Raises InputError where the result is not kept any more."""
        with self._media.group(sources, task=task) as images:
            result = self._engine.kept(version, ImageGroup(images), candidates)
            if result is None:
                raise InputError(
                    "the result is not kept any more; open the task again, or raise CALICO_RESULT_CACHE_MB"
                )
            return strip_of_overlays(images, worth_showing(result, self._min_score))

    def _fail(self, job: Job, error: Exception) -> None:
        fail(job, describe(error), self._jobs, self._metrics)

    # -- what comes too late for its reply ----------------------------------------------------------------------------

    def _deliver(self, work: _Work, prediction: Prediction) -> None:
        self._metrics.groups.labels("late").inc()
        self.late_posts.put(work.job, prediction, lambda: self._claimed([(work, prediction)]) == {work})

    # -- clicks -------------------------------------------------------------------------------------------------------

    def click(
        self, task: Mapping[str, Any], label_config: str, context: Mapping[str, Any], project: str = ""
    ) -> Prediction:
        """The answer to a smart keypoint or rectangle, or to a part's name, see `SmartTools`. project: as the host
        writes it.

        Raises InputError for what cannot be answered, NotReady or LaneFull for what cannot be answered now.
        """
        deadline = time.monotonic() + min(CLICK_S, self._time_budget_s)
        return self._smart_tools.answer(_id(task), _data(task), config_of(label_config), context, deadline, project)


def config_of(label_config: str) -> LabelingConfig:
    """Read once: a project sends the same text with every request. Raises InputError, as often as it is asked."""
    config_or_error = _config_or_error(label_config)
    if isinstance(config_or_error, InputError):
        raise InputError(str(config_or_error))
    return config_or_error


def _config_or_error(label_config: str) -> LabelingConfig | InputError:
    return (_long_config if len(label_config) > LONG_CONFIG else _usual_config)(label_config)


def _read(label_config: str) -> LabelingConfig | InputError:
    try:
        return read_config(label_config)
    except InputError as error:
        return error


_usual_config, _long_config = lru_cache(maxsize=64)(_read), lru_cache(maxsize=4)(_read)


def _owners(work: _Work) -> set[tuple[str, str]]:
    """In whose name a task is fetched: its project's and its image hosts'."""
    owners = {("project", work.job.project)}
    try:
        sources = task_images(config_of(work.label_config), _data(work.task))
    except InputError:  # said when its turn has come
        return owners
    hosts = (image_host(source) for source in sources[:MAX_GROUP_SIZE])
    return owners | {("host", host) for host in hosts if host is not None}


def title_of(data: Mapping[str, Any]) -> str:
    """What people call a task: the first of its usual keys that holds a short text."""
    titles = (data.get(key) for key in ("title", "group", "name"))
    return next((title[:80] for title in titles if isinstance(title, str) and title.strip()), "")


def _id(task: Mapping[str, Any]) -> int | None:
    return task["id"] if isinstance(task.get("id"), int) else None


def _data(task: Mapping[str, Any]) -> Mapping[str, Any]:
    data = task.get("data")
    if not isinstance(data, Mapping):
        raise InputError(f"task {_id(task)}: expected an object as its data, got {type(data).__name__}")
    return data
