"""A bounded queue of calls by priority, with a fixed number of threads that run them."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from typing import Any

from calico.errors import CalicoError


class Priority(IntEnum):
    """Lower goes first. WAITED_FOR: a click, or a single task that somebody has just opened."""

    FIRST = 0
    WAITED_FOR = 1
    BATCH = 2


class LaneFull(CalicoError):
    """The queue is at its limit; try again later."""


class Lane:
    """Calls wait here and run by priority, then in order of arrival. At most `capacity` wait; more raise LaneFull.

    Threads are daemons: what is still queued when the process ends is lost, so queue nothing that must survive.
    """

    def __init__(self, name: str, *, num_threads: int, capacity: int) -> None:
        self.name = name
        self.capacity = capacity
        self._queue: queue.PriorityQueue[tuple[int, int, Future[Any], Callable[[], Any]]] = queue.PriorityQueue(
            capacity
        )
        self._order = itertools.count()
        for i in range(num_threads):
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True).start()

    @property
    def depth(self) -> int:
        """How many calls wait, those that run not counted."""
        return self._queue.qsize()

    def submit(self, call: Callable[[], Any], priority: Priority = Priority.BATCH) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            self._queue.put_nowait((priority, next(self._order), future, call))
        except queue.Full:
            raise LaneFull(f"{self.name}: {self.capacity} calls wait already; try again later") from None
        return future

    def _run(self) -> None:
        while True:
            _, _, future, call = self._queue.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # handed to whoever waits for the future
                    future.set_exception(error)
            del future, call  # a thread at rest must not keep the last group's images alive
