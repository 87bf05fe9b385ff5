"""A bounded queue of calls by priority, with a fixed number of threads that run them, of which nobody gets all."""

from __future__ import annotations

import itertools
import threading
from bisect import insort
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
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


@dataclass(order=True)
class _Waiting:
    priority: Priority
    number: int
    future: Future[Any] = field(compare=False)
    call: Callable[[], Any] = field(compare=False)
    owners: frozenset[Hashable] = field(compare=False)


class Lane:
    """Calls wait here and run by priority, then in order of arrival. At most `capacity` wait; more raise LaneFull.

    share: how many threads may run calls of one owner at once; those who wait for such calls let others go first.
    Threads are daemons: what is still queued when the process ends is lost, so queue nothing that must survive.
    """

    def __init__(self, name: str, *, num_threads: int, capacity: int, share: int | None = None) -> None:
        self.name = name
        self.capacity = capacity
        self._share = share or num_threads
        self._waiting: list[_Waiting] = []
        self._running: Counter[Hashable] = Counter()
        self._order = itertools.count()
        self._changed = threading.Condition()
        for i in range(num_threads):
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True).start()

    @property
    def depth(self) -> int:
        """How many calls wait, those that run not counted."""
        return len(self._waiting)

    def submit(
        self, call: Callable[[], Any], priority: Priority = Priority.BATCH, owners: Iterable[Hashable] = ()
    ) -> Future[Any]:
        """owners: in whose name it runs, for instance a project and the hosts of its images."""
        future: Future[Any] = Future()
        with self._changed:
            if len(self._waiting) >= self.capacity:
                raise LaneFull(f"{self.name}: {self.capacity} calls wait already; try again later")
            insort(self._waiting, _Waiting(priority, next(self._order), future, call, frozenset(owners)))
            self._changed.notify()
        return future

    def _next(self) -> _Waiting:
        """The first whose owners have a thread left. Waits for one."""
        with self._changed:
            while True:
                for place, waiting in enumerate(self._waiting):
                    if all(self._running[owner] < self._share for owner in waiting.owners):
                        del self._waiting[place]
                        self._running.update(waiting.owners)
                        return waiting
                self._changed.wait()

    def _run(self) -> None:
        while True:
            waiting = self._next()
            future = waiting.future
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(waiting.call())
                except BaseException as error:  # handed to whoever waits for the future
                    future.set_exception(error)
            with self._changed:
                self._running.subtract(waiting.owners)
                self._running += Counter()  # drops those at zero
                self._changed.notify_all()
            del waiting, future  # a thread at rest must not keep the last group's images alive
