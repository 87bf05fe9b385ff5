"""Groups that wait for the model are answered together: whoever's turn it is takes those behind it along."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from backend.prediction.lane import Priority
from backend.prediction.protocol import Segmenter
from calico.values import CoSegmentation, ImageGroup

log = logging.getLogger("calico.backend")


@dataclass(frozen=True)
class Waiting:
    """A group in the queue of the model that was chosen for it."""

    segmenter: Segmenter
    group: ImageGroup
    candidates: Sequence[str] | None
    priority: Priority


class Gathering:
    """A result that was computed on another's turn lies here until its own comes, which then takes no time.

    Only groups of one model go together, and only those of batches: nobody who waits before a screen waits for others,
    and gets to the last digit what is given alone.
    """

    def __init__(self, at_once: int) -> None:
        """at_once: groups of one call at most; 1 for none together."""
        self._at_once = at_once
        self._waiting: dict[Hashable, Waiting] = {}
        self._ready: dict[Hashable, CoSegmentation] = {}
        self._lock = threading.Lock()

    def add(self, key: Hashable, waiting: Waiting) -> None:
        with self._lock:
            self._waiting[key] = waiting

    def drop(self, key: Hashable) -> None:
        """What nobody waits for any more."""
        with self._lock:
            self._waiting.pop(key, None)
            self._ready.pop(key, None)

    def run(self, key: Hashable) -> CoSegmentation:
        """On the model's thread, when the turn of `key` has come. Raises what the model raises over this group alone.

        A group that fails spoils nobody else's answer: the others are then asked about on their own turn.
        """
        with self._lock:
            if key in self._ready:
                return self._ready.pop(key)
            own = self._waiting.pop(key)
            along = [
                other
                for other, waiting in self._waiting.items()
                if waiting.segmenter is own.segmenter and waiting.priority is own.priority is Priority.BATCH
            ][: self._at_once - 1]
            others = {other: self._waiting.pop(other) for other in along}
        many = getattr(own.segmenter, "segment_many", None)
        if others and many is not None:
            together = [own, *others.values()]
            try:
                result, *rest = many([w.group for w in together], candidates=[w.candidates for w in together])
            except Exception as error:
                log.warning("%d groups together failed (%s); one by one", len(together), type(error).__name__)
            else:
                with self._lock:
                    self._ready.update(zip(others, rest, strict=True))
                return result
        with self._lock:
            self._waiting = {**others, **self._waiting}
        return own.segmenter.segment(own.group, candidates=own.candidates)
