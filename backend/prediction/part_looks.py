"""What a project's part memory asks of the model that serves: a fit from lessons, and sights of images."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from backend.prediction.model_import import import_model
from calico.values import ImageGroup

if TYPE_CHECKING:
    from calico.part_memory.kept import KeptLooks
    from calico.part_memory.lessons import Lesson
    from calico.part_memory.memory import PartMemory, Sight


class PartLooks(Protocol):
    """segmenter: the model that serves."""

    def size(self, segmenter: Any) -> int:
        """Longest side in pixels at which images are looked at."""

    def fit(self, segmenter: Any, project: int, lessons: Sequence[Lesson], max_images: int) -> PartMemory:
        """Raises InputError where no lesson names an object. One at a time."""

    def sights(self, segmenter: Any, memory: PartMemory, group: ImageGroup) -> list[Sight | None]:
        """Of each image; may run beside a fit."""


class LooksHere:
    """Of a model in this process. What was read of images is kept for the next fit, of all projects together."""

    def __init__(self) -> None:
        self.kept: KeptLooks | None = None
        self._version = ""
        self._fitting = threading.Lock()

    def size(self, segmenter: Any) -> int:
        import_model()
        from calico.part_memory.fitting import look_size

        return look_size(segmenter.config)

    def fit(self, segmenter: Any, project: int, lessons: Sequence[Lesson], max_images: int) -> PartMemory:
        import_model()
        from calico.part_memory.fitting import MemorySettings, fit_memory, look_size
        from calico.part_memory.kept import KeptLooks
        from calico.part_memory.pyramid import PyramidReader
        from calico.training.corrections import drawings
        from calico.training.memory_fit import negatives_of, strangers_of

        size = look_size(segmenter.config)
        with self._fitting:
            if self.kept is None or self._version != segmenter.version:
                self.kept, self._version = KeptLooks(), segmenter.version
            self.kept.reader = PyramidReader(segmenter.model, segmenter.config, size)
            try:
                return fit_memory(
                    segmenter.model,
                    segmenter.config,
                    lessons,
                    MemorySettings(max_images=max_images),
                    negatives=negatives_of(lessons, size, drawings),
                    strangers=strangers_of(lessons, size, drawings),
                    looks=self.kept,
                )
            finally:
                self.kept.reader = None  # which holds the model, also when another one serves

    def sights(self, segmenter: Any, memory: PartMemory, group: ImageGroup) -> list[Sight | None]:
        return sights_of(segmenter, memory, group.images)


def sights_of(segmenter: Any, memory: PartMemory, images: Sequence[np.ndarray]) -> list[Sight | None]:
    """images: HxWx3 uint8 each."""
    from calico.part_memory.memory import reader_of

    reader = reader_of(memory, segmenter.model, segmenter.config)
    return [memory.sight(reader(image), (image.shape[0], image.shape[1])) for image in images]
