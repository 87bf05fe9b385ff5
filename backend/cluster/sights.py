"""Part memories where the model is in workers: fitted in one, looked with in all."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.prediction.packed import PackedMask
from calico.values import ImageGroup

if TYPE_CHECKING:
    from backend.cluster.segmenter import PooledSegmenter
    from calico.part_memory.lessons import Lesson
    from calico.part_memory.memory import PartMemory, Sight

FIT_WAIT_S = 1800.0  # of hundreds of images on a CPU

Region = tuple[PackedMask, float]


@dataclass(frozen=True)
class PackedSight:
    """What a memory sees on an image, for the way back."""

    object_name: str
    object: Region
    parts: Mapping[str, Region]
    unseen: frozenset[str]

    @classmethod
    def of(cls, sight: Sight) -> PackedSight:
        parts = {name: (PackedMask.of(part.mask), part.score) for name, part in sight.parts.items()}
        whole = PackedMask.of(sight.object.mask), sight.object.score
        return cls(sight.object_name, whole, parts, sight.unseen)

    def unpacked(self) -> Sight:
        from calico.part_memory.memory import SeenRegion, Sight

        def region(packed: Region) -> SeenRegion:
            return SeenRegion(packed[0].unpacked(), packed[1])

        parts = {name: region(part) for name, part in self.parts.items()}
        return Sight(self.object_name, region(self.object), parts, self.unseen)


class PooledLooks:
    """`PartLooks` of a pool's models. Every question carries the memory that it is about, by reference: so all workers
    have a refit at once, and which one answers makes no difference.

    A project's fits go to the worker that made the last one, which has kept what it read; a new one reads all again.
    wait_s: for sights. Whoever waits longer gets TimeoutError; a fit has `FIT_WAIT_S`.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._stored: weakref.WeakKeyDictionary[PartMemory, Any] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def size(self, segmenter: PooledSegmenter) -> int:
        return int(segmenter.beside("look_size", (), [], wait_s=self._wait_s))

    def fit(self, segmenter: PooledSegmenter, project: int, lessons: Sequence[Lesson], max_images: int) -> PartMemory:
        arguments = (project, max_images, segmenter.stored(list(lessons)))
        digests = [f"project {project}"]
        memory: PartMemory = segmenter.beside("fit_memory", arguments, digests, sticks=True, wait_s=FIT_WAIT_S)
        return memory

    def sights(self, segmenter: PooledSegmenter, memory: PartMemory, group: ImageGroup) -> list[Sight | None]:
        with self._lock:
            stored = self._stored.get(memory)
            if stored is None:
                stored = self._stored[memory] = segmenter.stored(memory)
        arguments = (stored, *segmenter.images(group.images, group.digests))
        packed: list[PackedSight | None] = segmenter.beside("sights", arguments, group.digests, wait_s=self._wait_s)
        return [None if one is None else one.unpacked() for one in packed]
