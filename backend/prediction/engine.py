"""What answers about groups and clicks: the model that serves, results of late, and the worker before the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np

from backend.prediction.lane import Priority
from backend.prediction.protocol import Segmenter
from backend.prediction.result_cache import ResultCache
from backend.prediction.succession import Succession, Successor
from backend.prediction.worker import (
    Answerer,
    GroupKey,
    GroupQuestion,
    Lanes,
    NamedQuestion,
    PromptQuestion,
    Ticket,
    Worker,
)
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError, CheckpointError
from calico.values import CoSegmentation, ImageGroup

T = TypeVar("T")


class NotReady(CalicoError):
    """The weights are still being loaded; try again shortly."""


class Call(Generic[T]):
    """A call of the model that waits, runs or is done."""

    def __init__(self, ticket: Ticket) -> None:
        self._answerer = ticket.answerer
        self.future: Future[T] = ticket.future

    @property
    def version(self) -> str:
        """Of the model that was chosen for it. With a pool of workers that is final once it is done."""
        return self._answerer.version

    def result(self, timeout_s: float | None = None) -> T:
        """Waits for it. Raises TimeoutError, and what the model raised."""
        return self.future.result(timeout_s)

    def done(self) -> bool:
        return self.future.done()

    def cancel(self) -> None:
        """Nobody waits for it any more: it does not run, if it did not begin."""
        self.future.cancel()


class Engine:
    """Starts loading at once. Safe to share between threads: the model itself only ever runs on the worker's thread.

    load: makes the segmenter; it is called once, and after a rest. rests: whether nothing is loaded before
    `models.wake()`. follow: says at each call whether another one is to serve from now on, may_serve whether one that
    is loaded takes over (`Succession`). queue_size: groups that may wait before LaneFull. groups_at_once: groups that
    one call of the model may take together. lanes: of a model that takes several calls at once.
    """

    def __init__(
        self,
        load: Callable[[], Segmenter],
        metrics: Metrics,
        *,
        follow: Callable[[], Successor | None] = lambda: None,
        may_serve: Callable[[Successor], bool] = lambda successor: True,
        queue_size: int = 256,
        cache_bytes: int = 0,
        groups_at_once: int = 1,
        rests: bool = False,
        lanes: Lanes | None = None,
    ) -> None:
        self._metrics = metrics
        self._results = ResultCache(cache_bytes)
        self._models = Succession(None if rests else _loading(load), follow, metrics, load, may_serve)
        self._worker = Worker(
            metrics,
            groups_at_once=groups_at_once,
            capacity=queue_size,
            keep=self._results.put,
            lanes=lanes,
            serving=lambda: self._models.serving,
        )
        metrics.queue_depth.labels("model").set_function(lambda: self.depth)

    @property
    def depth(self) -> int:
        """How many calls wait for the model, those that run not counted."""
        return self._worker.depth

    @property
    def models(self) -> Succession:
        return self._models

    @property
    def state(self) -> str:
        """`loading`, `ready` or `failed`."""
        serving = self._models.serving
        if not serving.done():
            return "loading"
        return "failed" if serving.exception() else "ready"

    @property
    def failure(self) -> BaseException | None:
        """Why loading failed, once it did and nothing else serves."""
        serving = self._models.serving
        return serving.exception() if serving.done() else None

    def segmenter(self, timeout_s: float | None = None) -> Segmenter:
        """Waits for the weights. Raises NotReady after the timeout, and what loading raised if it failed."""
        serving = self._models.serving
        if self._models.is_resting:
            raise NotReady("the model rests while a version is trained on its card; GET /jobs says how far that is")
        try:
            return serving.result(timeout_s)
        except CalicoError:
            raise
        except Exception as error:
            if not serving.done():
                raise NotReady("the model is still loading; try again in some seconds") from None
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the model could not be loaded ({type(error).__name__}: {reason})") from error

    def version(self, timeout_s: float | None = None) -> str:
        """The version that serves now. Raises as `segmenter` does."""
        return self.segmenter(timeout_s).version

    def segment(
        self,
        group: ImageGroup,
        candidates: Sequence[str] = (),
        priority: Priority = Priority.BATCH,
        timeout_s: float | None = None,
    ) -> Call[CoSegmentation]:
        """All three questions about a group. Equal images, candidates and version give one computation and one result.

        timeout_s bounds the wait for the weights, not the computation. Raises as `segmenter` does, and LaneFull.
        """
        segmenter = self.segmenter(timeout_s)
        version = segmenter.version
        key = GroupKey(version, group.digests, tuple(candidates))
        recent = self._results.get(key)
        self._metrics.cache.labels("result", "miss" if recent is None else "hit").inc()
        if recent is not None:
            future: Future[CoSegmentation] = Future()
            future.set_result(recent)
            return Call(Ticket(future, Answerer(version)))
        question = GroupQuestion(group, tuple(candidates) or None)
        return Call(self._worker.segment(segmenter, question, priority, key))

    def kept(self, version: str, group: ImageGroup, candidates: Sequence[str] = ()) -> CoSegmentation | None:
        """The result of an earlier call, if it is still kept."""
        return self._results.get(GroupKey(version, group.digests, tuple(candidates)))

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
        timeout_s: float | None = None,
    ) -> Call[tuple[np.ndarray, float]]:
        """(HxW bool mask, score 0 to 1) for clicks and a box in pixels of the image. Goes before any group.

        Raises as `segment` does.
        """
        segmenter = self.segmenter(timeout_s)
        question = PromptQuestion(image, points_xy, labels, box_xyxy)
        return Call(self._worker.segment_prompts(segmenter, question))

    def segment_named(
        self, group: ImageGroup, name: str, objects: Mapping[int, str], shown: Sequence[int]
    ) -> Call[Mapping[int, tuple[np.ndarray, float]]]:
        """A part by its name on the images that are not `shown`. Goes before any group. Raises as `segment` does."""
        segmenter = self.segmenter()
        question = NamedQuestion(group, name, objects, shown)
        return Call(self._worker.segment_named(segmenter, question))


def _loading(load: Callable[[], Segmenter]) -> Future[Segmenter]:
    """On a thread of its own: it takes seconds."""
    future: Future[Segmenter] = Future()

    def run() -> None:
        try:
            future.set_result(load())
        except BaseException as error:  # handed to whoever waits for the model
            future.set_exception(error)

    threading.Thread(target=run, name="first-model", daemon=True).start()
    return future
