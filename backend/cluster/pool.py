"""Workers behind the one queue before the model: Ray's actors, each with the models that serve; any of them answers.

The queue stays where it is (`backend.prediction.worker`): it hands the pool as many calls at once as workers are ready,
the most urgent first, and as many clicks, which run beside them. A call goes to a worker that has seen its images, so
that their encodings are used again, else to the one that did least. A worker that dies is replaced, and its call is
asked once more of another.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backend.cluster.actor import CONCURRENCY_GROUPS, ModelActor, thread_of
from backend.cluster.address import WorkersAddress, connect, room_for
from backend.cluster.segmenter import PooledSegmenter
from backend.telemetry.log_lines import describe
from calico.errors import CalicoError, CheckpointError

log = logging.getLogger("calico.backend")

Load = Callable[[Path | None], Any]

IMAGES_KEPT_BYTES = 256 * 2**20  # in the store; a group's images are put there once for all its calls
SEEN_KEPT = 256  # digests of images that a worker has lately seen
IDLE_S = 120.0  # after which a worker more than the least number ends
LOOK_S = 1.0
WORKER_WAIT_S = 120.0  # for one that loads, where all died
RETRY_S = 30.0  # after a worker that did not start
NO_WORKER = "no worker is ready; the log says why, try again later"


@dataclass(eq=False)
class Slot:
    """One worker. state: starting, idle, busy or gone."""

    number: int
    actor: Any
    state: str = "starting"
    num_calls: int = 0
    beside: Counter[str] = field(default_factory=Counter)  # calls that run beside those about groups, by thread
    since: float = field(default_factory=time.monotonic)
    seen: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def num_seen(self, digests: Sequence[str]) -> int:
        return sum(digest in self.seen for digest in digests)

    def saw(self, digests: Sequence[str]) -> None:
        for digest in digests:
            self.seen[digest] = None
            self.seen.move_to_end(digest)
        while len(self.seen) > SEEN_KEPT:
            self.seen.popitem(last=False)

    def shown(self) -> dict[str, Any]:
        return {"worker": self.number, "state": self.state, "calls": self.num_calls}


class Stored(NamedTuple):
    """An image in Ray's store: where it lies among those that were put there together."""

    together: Any
    place: int
    num_bytes: int


class ModelPool:
    """Safe to share between threads. `load` makes segmenters as `CoSegmenter.from_checkpoint` does; what they are asked
    is answered by workers.

    make: the load function of each worker. num_gpus: of each, a fraction where several share a card. least, most:
    workers; between them as many as calls wait for. demand: how many calls wait. Raises InputError without Ray.
    """

    def __init__(
        self,
        workers: WorkersAddress,
        make: Load,
        *,
        num_gpus: float = 0.0,
        least: int = 1,
        most: int | None = None,
        num_cpus: float = 1.0,
    ) -> None:
        self._ray = connect(workers)
        self.max_lanes = most or workers.num_workers or room_for(self._ray, num_gpus)
        self._least = min(least, self.max_lanes)
        resources = {"num_gpus": num_gpus, "num_cpus": 0} if num_gpus else {"num_cpus": num_cpus}
        remote = self._ray.remote(concurrency_groups=CONCURRENCY_GROUPS, max_restarts=0)(ModelActor)
        self._remote = remote.options(**resources)
        self._make = self._ray.put(make)
        self._slots: list[Slot] = []
        self._keys: dict[str, Path | None] = {}  # models that every worker holds
        self._images: OrderedDict[str, Stored] = OrderedDict()  # by digest
        self._num_bytes = 0  # of these
        self._changed = threading.Condition()
        self._num_made = self.num_deaths = 0
        self._not_before = 0.0
        self._failure: Exception | None = None  # of the last worker that did not start
        self._is_closed = False
        self.demand: Callable[[], int] = lambda: 0
        self.on_change: Callable[[], None] = lambda: None
        threading.Thread(target=self._scale, name="workers", daemon=True).start()

    # -- what the queue asks ------------------------------------------------------------------------------------------

    @property
    def num_lanes(self) -> int:
        """Groups that may be asked at once, and clicks: one of each worker that is ready; 1 while none is."""
        return max(1, sum(slot.state in ("idle", "busy") for slot in self._slots))

    def shown(self) -> list[dict[str, Any]]:
        """Each worker, for people and programs."""
        with self._changed:
            return [slot.shown() for slot in self._slots]

    def load(self, folder: Path | None) -> PooledSegmenter:
        """Loads a model in every worker, beside those that serve. Raises what loading raises there."""
        key = f"{folder or 'checkpoint'} {time.monotonic_ns()}"
        with self._changed:
            self._keys[key] = folder
            slots = list(self._slots)
        try:
            if not slots:
                self._add(self._least)
                self._wait_for_one()
                slots = [slot for slot in self._slots if slot.state != "starting"]
            versions = {self._held(slot, key, folder) for slot in slots}
            versions.discard(None)
        except BaseException:
            self._drop(key)
            raise
        if len(versions) != 1:
            self._drop(key)
            listing = ", ".join(sorted(map(str, versions))) or "none"
            raise CheckpointError(f"{folder or 'the checkpoint'}: expected one version in all workers, got {listing}")
        segmenter = PooledSegmenter(self, key, str(versions.pop()))
        weakref.finalize(segmenter, self._drop, key)
        return segmenter

    def ask(self, key: str, version: str, method: str, arguments: Sequence[Any], digests: Sequence[str]) -> Any:
        """What a worker answers, with this version or not at all. Raises what its model raised."""
        return self._asked(lambda: self._take(digests), self._give_back, key, version, method, arguments)

    def beside(
        self,
        key: str,
        version: str,
        method: str,
        arguments: Sequence[Any],
        digests: Sequence[str],
        sticks: bool = False,
        wait_s: float | None = None,
    ) -> Any:
        """As `ask`, for a method that has a thread of its own in the worker: it waits for no group. sticks: goes to
        whoever has seen most, however many such calls run there. Raises TimeoutError after wait_s."""
        thread = thread_of(method)

        def leave(slot: Slot) -> None:
            self._leave(slot, thread)

        return self._asked(
            lambda: self._near(thread, digests, sticks, wait_s), leave, key, version, method, arguments, wait_s
        )

    def _asked(
        self,
        choose: Callable[[], Slot],
        give_back: Callable[[Slot], None],
        key: str,
        version: str,
        method: str,
        arguments: Sequence[Any],
        wait_s: float | None = None,
    ) -> Any:
        for is_last in (False, True):
            slot = choose()
            try:
                answer = self._ray.get(getattr(slot.actor, method).remote(key, *arguments), timeout=wait_s)
            except self._ray.exceptions.RayTaskError as error:
                give_back(slot)
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except self._ray.exceptions.GetTimeoutError:
                give_back(slot)
                raise TimeoutError(f"worker {slot.number} did not answer in {wait_s:.0f} s; try again later") from None
            except self._ray.exceptions.RayError as error:
                if self._is_closed:
                    raise CalicoError("the workers have been ended") from None
                self._lost(slot)
                log.warning("worker %d died while it was asked: %s", slot.number, type(error).__name__)
                if is_last:
                    raise CalicoError("two workers died over this call; is their memory enough?") from None
                continue
            except BaseException:  # the way to the worker, not the worker: Ray's client raises ConnectionError
                give_back(slot)
                raise
            give_back(slot)
            if answer[0] != version:
                raise CheckpointError(f"worker {slot.number} answered with {answer[0]} instead of {version}")
            return answer[1]

    def stored(self, value: Any) -> Any:
        """A reference of something for workers, there as long as it is held."""
        return self._ray.put(value)

    def images(self, images: Sequence[np.ndarray], digests: Sequence[str]) -> tuple[Any, ...]:
        """(`Places`, references of the store); those that are not there yet are put there, together."""
        with self._changed:
            there = {digest: stored for digest in digests if (stored := self._images.get(digest)) is not None}
        new = {digest: image for digest, image in zip(digests, images, strict=True) if digest not in there}
        if new:
            together = self._ray.put(tuple(new.values()))
            there |= {digest: Stored(together, i, image.nbytes) for i, (digest, image) in enumerate(new.items())}
        with self._changed:
            for digest, stored in there.items():
                self._num_bytes += stored.num_bytes if digest not in self._images else 0
                self._images[digest] = stored
                self._images.move_to_end(digest)
            while self._num_bytes > IMAGES_KEPT_BYTES:
                self._num_bytes -= self._images.popitem(last=False)[1].num_bytes
        references = list({id(stored.together): stored.together for stored in there.values()}.values())
        number = {id(reference): i for i, reference in enumerate(references)}
        return [(number[id(there[digest].together)], there[digest].place) for digest in digests], *references

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            slots, self._slots = self._slots, []
            self._changed.notify_all()
        for slot in slots:
            self._kill(slot)

    # -- workers ------------------------------------------------------------------------------------------------------

    def _take(self, digests: Sequence[str]) -> Slot:
        """An idle worker, the one that has seen most of the images; it is busy from now on."""
        until = time.monotonic() + WORKER_WAIT_S
        with self._changed:
            while not (idle := [slot for slot in self._slots if slot.state == "idle"]):
                if self._is_closed or not self._changed.wait(max(0.0, until - time.monotonic())):
                    raise CalicoError(NO_WORKER)
            slot = max(idle, key=lambda slot: (slot.num_seen(digests), -slot.num_calls))
            slot.state, slot.since = "busy", time.monotonic()
            slot.saw(digests)
            return slot

    def _near(self, thread: str, digests: Sequence[str], sticks: bool, wait_s: float | None) -> Slot:
        """A worker that is ready, busy or not: that with the fewest calls on this thread, of these the one that has
        seen most; or the other way round."""
        until = time.monotonic() + (WORKER_WAIT_S if wait_s is None else min(WORKER_WAIT_S, wait_s))
        with self._changed:
            while not (ready := [slot for slot in self._slots if slot.state in ("idle", "busy")]):
                if self._is_closed or not self._changed.wait(max(0.0, until - time.monotonic())):
                    raise CalicoError(NO_WORKER)

            def rank(slot: Slot) -> tuple[int, ...]:
                num_seen, num_fewer = slot.num_seen(digests), -slot.beside[thread]
                first = (num_seen, num_fewer) if sticks else (num_fewer, num_seen)
                return *first, slot.state == "idle", -slot.num_calls

            slot = max(ready, key=rank)
            slot.beside[thread] += 1
            slot.saw(digests)
            return slot

    def _leave(self, slot: Slot, thread: str) -> None:
        with self._changed:
            slot.num_calls += 1
            slot.beside[thread] -= 1

    def _give_back(self, slot: Slot) -> None:
        with self._changed:
            slot.num_calls += 1
            if slot.state == "busy":
                slot.state, slot.since = "idle", time.monotonic()
            self._changed.notify_all()

    def _lost(self, slot: Slot) -> None:
        with self._changed:
            if slot.state == "gone":  # another call has seen it already
                return
            self.num_deaths += 1
            self._remove(slot)
        self._add(1)

    def _remove(self, slot: Slot) -> None:
        slot.state = "gone"
        if slot in self._slots:
            self._slots.remove(slot)
        self._changed.notify_all()

    def _add(self, number: int) -> None:
        """Starts workers; each is asked once it holds all models."""
        with self._changed:
            number = min(number, self.max_lanes - len(self._slots))
            slots = []
            for _ in range(0 if self._is_closed else number):
                self._num_made += 1
                slots.append(Slot(self._num_made, self._remote.remote(self._make)))
            self._slots += slots
        for slot in slots:
            threading.Thread(target=self._start, args=(slot,), name=f"worker-{slot.number}", daemon=True).start()

    def _start(self, slot: Slot) -> None:
        held: set[str] = set()
        try:
            while True:
                with self._changed:
                    missing = {key: folder for key, folder in self._keys.items() if key not in held}
                    if not missing:
                        if slot.state == "starting":
                            slot.state, slot.since = "idle", time.monotonic()
                        self._changed.notify_all()
                        break
                for key, folder in missing.items():
                    self._hold(slot, key, folder)
                    held.add(key)
        except Exception as error:
            log.warning("worker %d does not start: %s", slot.number, describe(error))
            with self._changed:
                self._not_before = time.monotonic() + RETRY_S
                self._failure = error
                self._remove(slot)
            self._kill(slot)
            return
        self.on_change()

    def _hold(self, slot: Slot, key: str, folder: Path | None) -> str:
        try:
            return self._ray.get(slot.actor.hold.remote(key, folder))
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None

    def _held(self, slot: Slot, key: str, folder: Path | None) -> str | None:
        """The version that a worker has loaded; None where it died, and another one takes its place."""
        try:
            return self._hold(slot, key, folder)
        except self._ray.exceptions.RayError:
            self._lost(slot)
            return None

    def _wait_for_one(self) -> None:
        """Until a worker holds what is to be loaded. Raises what kept all of them from it."""
        with self._changed:
            while not any(slot.state in ("idle", "busy") for slot in self._slots):
                if not self._slots:
                    raise self._failure or CalicoError("no worker started")
                self._changed.wait(1.0)

    def _drop(self, key: str) -> None:
        """No call of this model will come any more."""
        with self._changed:
            self._keys.pop(key, None)
            slots = list(self._slots)
        for slot in slots:
            try:
                slot.actor.release.remote(key)
            except Exception as error:  # it is gone, or Ray is: so is the model
                log.debug("worker %d: %s", slot.number, describe(error))

    def _kill(self, slot: Slot) -> None:
        try:
            self._ray.kill(slot.actor)
        except Exception as error:
            log.debug("worker %d: %s", slot.number, describe(error))

    def _scale(self) -> None:
        while not self._is_closed:
            time.sleep(LOOK_S)
            try:
                self._fit_to_demand()
            except Exception as error:  # Ray is out of reach; the next look may find it again
                log.warning("workers: %s", describe(error))

    def _fit_to_demand(self) -> None:
        """More workers while calls wait and none is idle, fewer after a while of rest."""
        with self._changed:
            states = [slot.state for slot in self._slots]
            wants_more = bool(self._keys) and (
                len(states) < self._least
                or (len(states) < self.max_lanes and not {"idle", "starting"} & set(states) and self.demand() > 0)
            )
            resting = [slot for slot in self._slots if slot.state == "idle" and not slot.beside.total()]
            spare = min(resting, key=lambda slot: slot.since, default=None)
            if len(states) <= self._least or (spare and time.monotonic() - spare.since < IDLE_S):
                spare = None
            if spare is not None:
                self._remove(spare)
            wants_more = wants_more and time.monotonic() >= self._not_before
        if spare is not None:
            self._kill(spare)
        elif wants_more:
            self._add(1)
