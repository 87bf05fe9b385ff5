"""The one place where the model runs: loaded once in the background, one call at a time, equal calls computed once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from backend.lane import Lane, Priority
from backend.metrics import Metrics
from backend.result_cache import ResultCache
from calico.errors import CalicoError, CheckpointError
from calico.values import CoSegmentation, ImageGroup


class Segmenter(Protocol):
    """What `calico.segmenter.CoSegmenter` offers, and a fake of the tests."""

    version: str

    def segment(self, group: ImageGroup, *, candidates: Sequence[str] | None = None) -> CoSegmentation: ...

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[np.ndarray, float]: ...  # HxW bool at the image's own size, score 0 to 1


class NotReady(CalicoError):
    """The weights are still being loaded; try again shortly."""


class Engine:
    """Starts loading at once. Safe to share between threads: the model itself only ever runs on the lane's one thread.

    load: makes the segmenter; it is called once. queue_size: calls that may wait before LaneFull.
    """

    def __init__(
        self, load: Callable[[], Segmenter], metrics: Metrics, *, queue_size: int = 256, cache_bytes: int = 0
    ) -> None:
        self._metrics = metrics
        self._lane = Lane("model", num_threads=1, capacity=queue_size)
        self._results = ResultCache(cache_bytes)
        self._in_flight: dict[Hashable, Future[Any]] = {}
        self._lock = threading.RLock()
        metrics.queue_depth.labels("model").set_function(lambda: self._lane.depth)
        self._segmenter: Future[Segmenter] = self._lane.submit(load, Priority.FIRST)
        self._segmenter.add_done_callback(lambda future: metrics.model_ready.set(future.exception() is None))

    @property
    def state(self) -> str:
        """`loading`, `ready` or `failed`."""
        if not self._segmenter.done():
            return "loading"
        return "failed" if self._segmenter.exception() else "ready"

    @property
    def failure(self) -> BaseException | None:
        """Why loading failed, once it did."""
        return self._segmenter.exception() if self._segmenter.done() else None

    def segmenter(self, timeout_s: float | None = None) -> Segmenter:
        """Waits for the weights. Raises NotReady after the timeout, and what loading raised if it failed."""
        try:
            return self._segmenter.result(timeout_s)
        except CalicoError:
            raise
        except Exception as error:
            if not self._segmenter.done():
                raise NotReady("the model is still loading; try again in some seconds") from None
            reason = " ".join(str(error).split())
            raise CheckpointError(f"the model could not be loaded ({type(error).__name__}: {reason})") from error

    def version(self, timeout_s: float | None = None) -> str:
        """The version that predictions carry. Raises as `segmenter` does."""
        return self.segmenter(timeout_s).version

    def segment(
        self,
        group: ImageGroup,
        candidates: Sequence[str] = (),
        priority: Priority = Priority.BATCH,
        timeout_s: float | None = None,
    ) -> Future[CoSegmentation]:
        """All three questions about a group. Equal images, candidates and version give one computation and one result.

        timeout_s bounds the wait for the weights, not the computation. Raises as `segmenter` does, and LaneFull.
        """
        segmenter = self.segmenter(timeout_s)
        key = ("segment", segmenter.version, group.digests, tuple(candidates))
        known = self._results.get(key)
        self._metrics.cache.labels("result", "miss" if known is None else "hit").inc()
        if known is not None:
            future: Future[CoSegmentation] = Future()
            future.set_result(known)
            return future

        def compute() -> CoSegmentation:
            with self._metrics.span("model"):
                result = segmenter.segment(group, candidates=tuple(candidates) or None)
            self._results.put(key, result)
            return result

        return self._once(key, compute, priority)

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
        timeout_s: float | None = None,
    ) -> Future[tuple[np.ndarray, float]]:
        """(HxW bool mask, score 0 to 1) for clicks and a box in pixels of the image. Goes before any group.

        Raises as `segment` does.
        """
        segmenter = self.segmenter(timeout_s)

        def compute() -> tuple[np.ndarray, float]:
            with self._metrics.span("model"):
                return segmenter.segment_prompts(image, list(points_xy), list(labels), box_xyxy)

        return self._once(object(), compute, Priority.FIRST)

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
