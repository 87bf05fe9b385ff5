"""Which model serves: the next version is loaded beside it, and takes over between two calls."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from backend.prediction.protocol import Segmenter
from backend.telemetry.prometheus import Metrics

log = logging.getLogger("calico.backend")

AGREE_S = 0.2  # between looks whether what is loaded may serve
RETRY_S = 60.0  # after a version that did not load: memory may be short only while something is trained
LEAVE_S = 30.0  # that the next version waits at most for the one before last to answer its last call
LEAVE_LOOK_S = 0.05


@dataclass(frozen=True)
class Successor:
    """A model that is to serve from now on.

    Attributes:
        name: as people know it.
        version: as the registry does, "" is the checkpoint; None: nobody else has to agree.
        load: makes it; seconds.
        at_once: what serves until then must not answer any more (a rollback), so calls wait for this one.
    """

    name: str
    load: Callable[[], Segmenter]
    at_once: bool = False
    version: str | None = None


@dataclass(frozen=True)
class NotLoaded:
    """A successor that could not be loaded; `at` by the monotonic clock."""

    successor: Successor
    error: Exception
    at: float


class Succession:
    """Holds the one that serves. Calls that have it go on with it; its memory is free when the last of them ends.

    first: being loaded; None: none, it rests until `wake`. follow: what is wanted, told once at each change, else None;
    cheap, for every call asks it. reload: loads what served before it rested. may_serve: whether one that is loaded
    takes over now, asked before every call until it does.
    """

    def __init__(
        self,
        first: Future[Segmenter] | None,
        follow: Callable[[], Successor | None],
        metrics: Metrics,
        reload: Callable[[], Segmenter],
        may_serve: Callable[[Successor], bool] = lambda successor: True,
    ) -> None:
        self._promise: Future[Segmenter] | None = Future() if first is None else None  # what waiting calls are given
        self._serving = self._promise or first or Future()
        self._follow, self._reload, self._metrics = follow, reload, metrics
        self._lock = threading.Lock()
        self._may_serve = may_serve
        self._loaded: tuple[Successor, Segmenter] | None = None  # waits until it may serve
        self._successor: Successor | None = None  # being loaded, or next to be
        self._is_loading = False
        self._is_resting = first is None
        self._before: Future[Segmenter] | None = None  # while calls wait: what serves again if nothing else loads
        self._not_loaded: NotLoaded | None = None
        if first is not None:
            first.add_done_callback(self._first_is_loaded)

    @property
    def serving(self) -> Future[Segmenter]:
        """Looks first whether another one is wanted."""
        self.look()
        return self._serving

    @property
    def successor(self) -> Successor | None:
        """What is being loaded to take over."""
        self.look()
        return self._successor

    @property
    def not_loaded(self) -> NotLoaded | None:
        """What should serve and cannot; the one before it goes on."""
        self.look()
        return self._not_loaded

    @property
    def is_resting(self) -> bool:
        """No model is in memory, and none is loaded before `wake`."""
        return self._is_resting

    def look(self) -> None:
        """Starts to load another one, if one is wanted."""
        with self._lock:
            self._take_over()
            successor = None if self._is_resting else self._follow() or self._again()
            if successor is not None:
                self._succeed_by(successor)

    def rest(self) -> None:
        """Lets go of the model, at once but for the calls that have it, so that another process has its memory."""
        with self._lock:
            if self._is_resting:
                return
            self._is_resting, serving = True, self._before or self._serving
            self._serving = self._promise = self._promise or Future()
            self._before = self._successor = None
            self._metrics.model_ready.set(0)
        leaving = _weakly(serving)
        del serving
        log.info("the model rests")
        threading.Thread(target=_free, args=(leaving,), name="model-rests", daemon=True).start()

    def wake(self) -> None:
        """Loads what is to serve now."""
        with self._lock:
            if self._is_resting:
                self._is_resting = False
                self._succeed_by(self._follow() or Successor("the model that rested", self._reload))

    def _succeed_by(self, successor: Successor) -> None:
        """The caller holds the lock."""
        self._successor = successor
        if successor.at_once and self._promise is None:
            self._before, self._promise = self._serving, Future()
            self._serving = self._promise
        if not self._is_loading:
            self._is_loading = True
            threading.Thread(target=self._load, name="next-model", daemon=True).start()

    def _again(self) -> Successor | None:
        failed = self._not_loaded
        if failed is None or self._successor is not None or time.monotonic() - failed.at < RETRY_S:
            return None
        return replace(failed.successor, at_once=False)

    def _load(self) -> None:
        """On a thread of its own, until what is wanted was tried. One at a time: two more may not fit into memory."""
        while True:
            with self._lock:
                successor = self._successor
                self._is_loading = successor is not None
            if successor is None:
                return
            before = self._try(successor)
            _free(before)

    def _try(self, successor: Successor) -> weakref.ref[Segmenter] | None:
        """Returns the model that it took over from, if it did."""
        log.info("loading %s", successor.name)
        try:
            fresh = successor.load()
        except Exception as error:
            self._keep(successor, error)
            return None
        with self._lock:
            leaving = _weakly(self._serving if self._promise is None else self._before)
            self._loaded = successor, fresh
        del fresh
        while (is_serving := self._has_taken_over()) is None:
            time.sleep(AGREE_S)
        return leaving if is_serving else None

    def _has_taken_over(self) -> bool | None:
        """None while what is loaded waits until it may; False if meanwhile another one is wanted, or none."""
        self.look()
        with self._lock:
            if self._loaded is None:
                return True
            if self._loaded[0] is self._successor:
                return None
            self._loaded = None
            return False

    def _take_over(self) -> None:
        """What is loaded, wanted and may serve, serves. Holding the lock."""
        if self._loaded is None or self._loaded[0] is not self._successor or not self._may_serve(self._loaded[0]):
            return
        fresh = self._loaded[1]
        serving = self._serving = self._promise or Future()
        self._before = self._promise = self._successor = self._not_loaded = self._loaded = None
        self._tell(fresh.version)
        log.info("%s serves", fresh.version)
        self._metrics.switches.labels("done").inc()
        serving.set_result(fresh)

    def _keep(self, successor: Successor, error: Exception) -> None:
        """The model before goes on, also for calls that wait for another."""
        with self._lock:
            if self._successor is not successor:
                return
            self._successor, self._not_loaded = None, NotLoaded(successor, error, time.monotonic())
            promise, before = self._promise, self._before
            self._promise = self._before = None
            if before is not None:
                self._serving = before
        goes_on = "" if promise is not None and before is None else ", the model before it goes on"
        log.error("%s does not load%s: %s", successor.name, goes_on, " ".join(str(error).split()))
        self._metrics.switches.labels("failed").inc()
        if promise is not None and before is not None:
            before.add_done_callback(lambda done: _pass_on(done, promise))
        elif promise is not None:
            promise.set_exception(error)

    def _first_is_loaded(self, first: Future[Segmenter]) -> None:
        with self._lock:
            if first is self._serving and first.exception() is None:
                self._tell(first.result().version)

    def _tell(self, version: str) -> None:
        self._metrics.model_ready.set(1)
        self._metrics.model_info.clear()
        self._metrics.model_info.labels(version).set(1)


def _weakly(serving: Future[Segmenter] | None) -> weakref.ref[Segmenter] | None:
    """The model in a future, not held; None where there is none yet."""
    is_there = serving is not None and serving.done() and serving.exception() is None
    return weakref.ref(serving.result()) if serving is not None and is_there else None


def _free(leaving: weakref.ref[Segmenter] | None) -> None:
    """Waits until its last call let go of a model, so that never three are in memory; what it held goes back to the
    system, where a training job may want it."""
    gc.collect()
    until = time.monotonic() + LEAVE_S
    while leaving is not None and leaving() is not None and time.monotonic() < until:
        time.sleep(LEAVE_LOOK_S)
    give_back_memory()


def give_back_memory() -> None:
    """What is free of the GPU's memory in this process goes back to the system."""
    if "torch" in sys.modules:  # else nothing that was loaded is of it
        from calico.model import out_of_memory

        out_of_memory.give_back_memory()


def _pass_on(done: Future[Segmenter], to: Future[Segmenter]) -> None:
    error = done.exception()
    if error is None:
        to.set_result(done.result())
    else:
        to.set_exception(error)
