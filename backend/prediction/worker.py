"""The loop before the model: takes calls that wait, by priority, asks the model once, and resolves their futures.

Behind a pool of workers it asks several times at once, as often as workers are ready.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from backend.prediction.lane import LaneFull, Priority
from backend.prediction.protocol import Segmenter
from backend.telemetry.prometheus import Metrics
from calico.values import CoSegmentation, ImageGroup

log = logging.getLogger("calico.backend")

LOOK_S = 0.1

MAX_CLICKS = 64  # that wait; they have a room of their own, so that no number of groups keeps one out


@dataclass(frozen=True)
class GroupQuestion:
    group: ImageGroup
    candidates: tuple[str, ...] | None


@dataclass(frozen=True)
class PromptQuestion:
    """image: HxWx3 uint8 RGB. Points and box in its pixels."""

    image: np.ndarray
    points_xy: Sequence[tuple[float, float]]
    labels: Sequence[bool]
    box_xyxy: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class NamedQuestion:
    """A part by its name, on the images that are not `shown`. objects: the object's name of each image."""

    group: ImageGroup
    name: str
    objects: Mapping[int, str]
    shown: Sequence[int]


@dataclass
class Answerer:
    """Who answers a call, by version; a call that waits may get another one. It keeps no model in memory."""

    version: str


class Ticket(NamedTuple):
    future: Future[Any]
    answerer: Answerer


class GroupKey(NamedTuple):
    """Equal questions about a group have it."""

    version: str
    digests: tuple[str, ...]
    candidates: tuple[str, ...]


@dataclass(eq=False)
class _Call:
    """key: equal calls have it, and one future; None for clicks. is_alone: in no batch with others."""

    segmenter: Segmenter
    question: GroupQuestion | PromptQuestion | NamedQuestion
    priority: Priority
    key: Hashable = None
    future: Future[Any] = field(default_factory=Future)
    is_alone: bool = False
    answerer: Answerer = field(init=False)

    def __post_init__(self) -> None:
        self.answerer = Answerer(self.segmenter.version)

    @property
    def is_click(self) -> bool:
        return _is_click(self.priority)

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.future, self.answerer)

    def goes_with(self, other: _Call) -> bool:
        """Only batches go together, and only those of one model: nobody who waits before a screen waits for others, and
        gets to the last digit what is given alone."""
        return self.segmenter is other.segmenter and not any(
            call.is_alone or call.priority is not Priority.BATCH for call in (self, other)
        )


class Lanes(Protocol):
    """How many groups may run at once, and as many clicks beside them. on_change: to be called when it is another
    number."""

    max_lanes: int
    on_change: Callable[[], None]

    @property
    def num_lanes(self) -> int: ...


class Worker:
    """The only one that calls a model, on a thread of its own. Safe to share between threads.

    groups_at_once: groups of one call of the model at most. capacity: groups that may wait before LaneFull; clicks have
    a room of their own. keep: gets every group's key and result before anybody who waits for it does. lanes: of a model
    that takes several calls at once, each on a thread, clicks beside groups; they are all of one version, so after the
    first answer of a new one there is none of the old. serving: that version; a call that waits is answered by it when
    its turn comes.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        groups_at_once: int,
        capacity: int,
        keep: Callable[[Hashable, CoSegmentation], None],
        lanes: Lanes | None = None,
        serving: Callable[[], Future[Segmenter]] | None = None,
    ) -> None:
        self._metrics, self._groups_at_once, self._keep = metrics, groups_at_once, keep
        self._lanes, self._serving = lanes, serving
        self._room = {True: MAX_CLICKS, False: capacity}  # by whether it is a click
        self._queues: dict[Priority, deque[_Call]] = {priority: deque() for priority in Priority}
        self._calls: dict[Hashable, _Call] = {}  # that wait or run, by key
        self._running: dict[bool, list[Segmenter]] = {True: [], False: []}  # by whether it is a click
        self._changed = threading.Condition()
        if lanes is not None:
            lanes.on_change = self._wake
        for _ in range(1 if lanes is None else 2 * lanes.max_lanes):
            threading.Thread(target=self._run, name="model", daemon=True).start()

    @property
    def depth(self) -> int:
        """How many calls wait, those that run not counted."""
        return sum(map(len, self._queues.values()))

    def segment(self, segmenter: Segmenter, question: GroupQuestion, priority: Priority, key: Hashable) -> Ticket:
        """The equal call that waits or runs, or a new one. Raises LaneFull.

        An equal call that waits moves up where this one is more urgent.
        """
        with self._changed:
            call = self._calls.get(key)
            if call is None:
                call = self._calls[key] = self._added(_Call(segmenter, question, priority, key))
            elif priority < call.priority and call in self._queues[call.priority]:
                self._queues[call.priority].remove(call)
                call.priority = priority
                self._queues[priority].append(call)
            return call.ticket

    def segment_prompts(self, segmenter: Segmenter, question: PromptQuestion) -> Ticket:
        """Goes before any group. Raises LaneFull."""
        with self._changed:
            return self._added(_Call(segmenter, question, Priority.FIRST)).ticket

    def segment_named(self, segmenter: Segmenter, question: NamedQuestion) -> Ticket:
        """As a click: somebody waits before the screen. Raises LaneFull."""
        with self._changed:
            return self._added(_Call(segmenter, question, Priority.FIRST)).ticket

    def _added(self, call: _Call) -> _Call:
        queues = (queue for priority, queue in self._queues.items() if _is_click(priority) is call.is_click)
        num_waiting = sum(map(len, queues))
        if num_waiting >= self._room[call.is_click]:
            what = "clicks" if call.is_click else "calls"
            raise LaneFull(f"model: {num_waiting} {what} wait already; try again later")
        self._queues[call.priority].append(call)
        self._changed.notify()
        return call

    # -- on the worker's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            calls = self._next()
            if calls:
                try:
                    self._answer(calls)
                finally:
                    with self._changed:  # this thread takes the next call; others wait here only for another version
                        self._running[calls[0].is_click].remove(calls[0].segmenter)
            del calls  # a thread at rest must not keep the last group's images alive

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _num_idle(self, is_click: bool) -> int:
        if self._lanes is None:
            return 1 - len(self._running[True]) - len(self._running[False])
        return self._lanes.num_lanes - len(self._running[is_click])

    def _turn(self) -> deque[_Call] | None:
        """The most urgent calls that wait and may run now."""
        for priority, queue in sorted(self._queues.items()):
            if queue and self._num_idle(_is_click(priority)) > 0:
                return queue
        return None

    def _next(self) -> list[_Call]:
        """The most urgent call, and those behind it that go with it; none where nobody waits for it any more."""
        with self._changed:
            queue = self._changed.wait_for(self._turn)
            assert queue is not None
            serving = None
            if self._lanes is not None and self._serving is not None:
                future = self._serving()
                if not future.done():  # after a rollback: nothing newer answers any more
                    self._changed.wait(LOOK_S)
                    return []
                serving = None if future.exception() else future.result()
                before = [*self._running[True], *self._running[False]]
                if before and serving is not None and before[0] is not serving:
                    self._changed.wait(LOOK_S)  # until the calls of the version before are answered
                    return []
            first = queue.popleft()
            num_idle = max(1, self._num_idle(first.is_click))  # workers may have gone meanwhile
            share = -(-(1 + len(queue)) // num_idle)  # what waits is spread over the lanes that are free
            most = min(self._groups_at_once, share)
            along = [call for call in queue if first.goes_with(call)][: most - 1]
            for call in along:
                queue.remove(call)
            calls = [call for call in (first, *along) if _starts(call.future)]
            for call in {first, *along}.difference(calls):
                self._calls.pop(call.key, None)
            if calls and serving is not None:
                self._move(calls, serving)
            if calls:
                self._running[first.is_click].append(calls[0].segmenter)
            return calls

    def _move(self, calls: Sequence[_Call], serving: Segmenter) -> None:
        """Calls of the version before to the one that serves: nobody was told yet who answers them."""
        for call in calls:
            if call.segmenter is serving:
                continue
            if call.key is not None and self._calls.get(call.key) is call:
                del self._calls[call.key]
            call.segmenter, call.answerer.version = serving, serving.version
            if isinstance(call.key, GroupKey):
                call.key = call.key._replace(version=serving.version)
                self._calls.setdefault(call.key, call)

    def _answer(self, calls: list[_Call]) -> None:
        """A group that fails spoils nobody else's answer: each is then asked about on a turn of its own."""
        try:
            with self._metrics.span("model"):
                results = _answers(calls)
            for call, result in zip(calls, results, strict=True):
                if call.key is not None:
                    self._keep(call.key, result)
        except BaseException as error:
            if len(calls) == 1:
                self._forget(calls)
                calls[0].future.set_exception(error)
                return
            log.warning("%d groups together failed (%s); one by one", len(calls), type(error).__name__)
            with self._changed:
                for call in reversed(calls):
                    call.is_alone = True
                    self._queues[call.priority].appendleft(call)
                self._changed.notify(len(calls))
            return
        self._forget(calls)
        for call, result in zip(calls, results, strict=True):
            call.future.set_result(result)

    def _forget(self, calls: Sequence[_Call]) -> None:
        with self._changed:
            for call in calls:
                if self._calls.get(call.key) is call:
                    del self._calls[call.key]


def _is_click(priority: Priority) -> bool:
    return priority is Priority.FIRST


def _answers(calls: Sequence[_Call]) -> Sequence[Any]:
    """What their model says: to one click, or to groups in one call."""
    segmenter, question = calls[0].segmenter, calls[0].question
    if isinstance(question, PromptQuestion):
        return [
            segmenter.segment_prompts(
                question.image, list(question.points_xy), list(question.labels), question.box_xyxy
            )
        ]
    if isinstance(question, NamedQuestion):
        return [segmenter.segment_named(question.group, question.name, question.objects, shown=question.shown)]
    questions = [call.question for call in calls if isinstance(call.question, GroupQuestion)]
    return segmenter.segment_many([q.group for q in questions], candidates=[q.candidates for q in questions])


def _starts(future: Future[Any]) -> bool:
    """Whether somebody still waits; one that has its second turn runs already."""
    return future.running() or future.set_running_or_notify_cancel()
