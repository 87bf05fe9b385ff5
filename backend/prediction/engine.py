"""The one place where the model runs: loaded in the background, one call at a time, equal calls computed once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from backend.http.prometheus import Metrics
from backend.prediction.gathering import Gathering, Waiting
from backend.prediction.lane import Lane, LaneFull, Priority
from backend.prediction.protocol import Segmenter
from backend.prediction.result_cache import ResultCache
from backend.prediction.succession import Succession, Wanted
from calico.errors import CalicoError, CheckpointError
from calico.values import CoSegmentation, ImageGroup

T = TypeVar("T")


class NotReady(CalicoError):
    """The weights are still being loaded; try again shortly."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call of the model that waits, runs or is done. version: of the model that was chosen for it, and stays."""

    version: str
    future: Future[T]

    def result(self, timeout_s: float | None = None) -> T:
        """Waits for it. Raises TimeoutError, and what the model raised."""
        return self.future.result(timeout_s)

    def done(self) -> bool:
        return self.future.done()


class Engine:
    """Starts loading at once. Safe to share between threads: the model itself only ever runs on the lane's one thread.

    load: makes the segmenter; it is called once. follow: says at each call whether another one is to serve from now on
    (`Succession`). queue_size: calls that may wait before LaneFull. groups_at_once: waiting groups that one call of the
    model may take together.
    """

    def __init__(
        self,
        load: Callable[[], Segmenter],
        metrics: Metrics,
        *,
        follow: Callable[[], Wanted | None] = lambda: None,
        queue_size: int = 256,
        cache_bytes: int = 0,
        groups_at_once: int = 1,
    ) -> None:
        self._metrics = metrics
        self._lane = Lane("model", num_threads=1, capacity=queue_size)
        self._results = ResultCache(cache_bytes)
        self._gathering = Gathering(groups_at_once)
        self._in_flight: dict[Hashable, Future[Any]] = {}
        self._lock = threading.RLock()
        metrics.queue_depth.labels("model").set_function(lambda: self._lane.depth)
        self._models = Succession(self._lane.submit(load, Priority.FIRST), follow, metrics)

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
        key = ("segment", version, group.digests, tuple(candidates))
        known = self._results.get(key)
        self._metrics.cache.labels("result", "miss" if known is None else "hit").inc()
        if known is not None:
            future: Future[CoSegmentation] = Future()
            future.set_result(known)
            return Call(version, future)

        def compute() -> CoSegmentation:
            with self._metrics.span("model"):
                result = self._gathering.run(key)
            self._results.put(key, result)
            return result

        with self._lock:
            if key not in self._in_flight:
                self._gathering.add(key, Waiting(segmenter, group, tuple(candidates) or None, priority))
            try:
                return Call(version, self._once(key, compute, priority))
            except LaneFull:
                self._gathering.drop(key)
                raise

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

        def compute() -> tuple[np.ndarray, float]:
            with self._metrics.span("model"):
                return segmenter.segment_prompts(image, list(points_xy), list(labels), box_xyxy)

        return Call(segmenter.version, self._once(object(), compute, Priority.FIRST))

    def _once(self, key: Hashable, compute: Callable[[], Any], priority: Priority) -> Future[Any]:
        """The future of the equal call in flight, or of a new one."""
        with self._lock:
            future = self._in_flight.get(key)
            if future is None:
                future = self._in_flight[key] = self._lane.submit(compute, priority)
                future.add_done_callback(lambda _: self._forget(key))
            return future

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            self._in_flight.pop(key, None)
            self._gathering.drop(key)
