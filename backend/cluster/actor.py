"""What runs in a worker: models by name, asked one call at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from backend.cluster.sights import PackedSight
from backend.prediction.packed import Packed, PackedMask
from backend.prediction.part_looks import LooksHere, sights_of
from backend.prediction.protocol import Segmenter
from calico.errors import CalicoError
from calico.values import ImageGroup

if TYPE_CHECKING:
    from calico.part_memory.lessons import Lesson
    from calico.part_memory.memory import PartMemory

#: Calls of these run beside those about groups, on a thread each: clicks, models loaded, memories fitted, images seen
#: by memories.
CONCURRENCY_GROUPS = {"click": 1, "side": 1, "fit": 1, "sight": 1}

Images = Sequence[np.ndarray]  # that were put into the store together
Places = Sequence[tuple[int, int]]  # of each image: which of those, and where in it

Method = TypeVar("Method", bound=Callable[..., Any])


def thread_of(method: str) -> str:
    """Which of `CONCURRENCY_GROUPS` it belongs to; "" is none: the thread of groups."""
    return getattr(getattr(ModelActor, method), "__ray_concurrency_group__", "")


def _beside(group: str) -> Callable[[Method], Method]:
    """What `ray.method(concurrency_group=group)` does, without Ray, which only workers and their askers import. Given
    with each call instead it would not go through Ray's client."""

    def mark(method: Method) -> Method:
        method.__ray_concurrency_group__ = group  # type: ignore[attr-defined]
        return method

    return mark


class ModelActor:
    """Calls about groups come one at a time; those of `CONCURRENCY_GROUPS` may come beside them.

    load: makes a segmenter from a folder, None: the settings' checkpoint. Images (HxWx3 uint8, read-only) come last, so
    that Ray gives them as they lie in the memory that all workers of a machine share; `Places` say which is which. An
    answer is small enough to come back with the reply. Whoever answers says its version too.
    """

    def __init__(self, load: Callable[[Path | None], Segmenter]) -> None:
        self._load = load
        self._models: dict[str, Segmenter] = {}
        self._looks = LooksHere()

    @_beside("side")
    def hold(self, key: str, folder: Path | None) -> str:
        """Loads a model beside those that serve; its version."""
        if key not in self._models:
            self._models[key] = self._load(folder)
        return self._models[key].version

    @_beside("side")
    def release(self, key: str) -> None:
        self._models.pop(key, None)

    def segment_many(
        self,
        key: str,
        digests: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str] | None],
        places: Places,
        *stored: Images,
    ) -> tuple[str, list[Packed]]:
        """digests: of each group's images, as the sender counted them. places: of the images of all groups."""
        model = self._model(key)
        rest = _taken(places, stored)
        groups = [_group(rest, group_digests) for group_digests in digests]
        return model.version, [Packed.of(result) for result in model.segment_many(groups, candidates=candidates)]

    @_beside("click")
    def segment_prompts(
        self,
        key: str,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
        places: Places,
        *stored: Images,
    ) -> tuple[str, tuple[PackedMask, float]]:
        model = self._model(key)
        [image] = _taken(places, stored)
        mask, score = model.segment_prompts(image, points_xy, labels, box_xyxy)
        return model.version, (PackedMask.of(mask), score)

    @_beside("click")
    def segment_named(
        self,
        key: str,
        digests: Sequence[str],
        name: str,
        objects: Mapping[int, str],
        shown: Sequence[int],
        places: Places,
        *stored: Images,
    ) -> tuple[str, dict[int, tuple[PackedMask, float]]]:
        model = self._model(key)
        masks = model.segment_named(_group(_taken(places, stored), digests), name, objects, shown=shown)
        return model.version, {image: (PackedMask.of(mask), score) for image, (mask, score) in masks.items()}

    # -- part memories ------------------------------------------------------------------------------------------------

    @_beside("side")
    def look_size(self, key: str) -> tuple[str, int]:
        model = self._model(key)
        return model.version, self._looks.size(model)

    @_beside("fit")
    def fit_memory(self, key: str, project: int, max_images: int, lessons: Sequence[Lesson]) -> tuple[str, PartMemory]:
        """A few megabytes at most. What was read of the lessons' images is kept here for the next fit."""
        model = self._model(key)
        return model.version, self._looks.fit(model, project, lessons, max_images)

    @_beside("sight")
    def sights(
        self, key: str, memory: PartMemory, places: Places, *stored: Images
    ) -> tuple[str, list[PackedSight | None]]:
        model: Any = self._model(key)
        seen = sights_of(model, memory, list(_taken(places, stored)))
        return model.version, [None if sight is None else PackedSight.of(sight) for sight in seen]

    def _model(self, key: str) -> Segmenter:
        if key not in self._models:
            raise CalicoError(f"this worker does not hold {key}")
        return self._models[key]


def _taken(places: Places, stored: Sequence[Images]) -> Iterator[np.ndarray]:
    return (stored[together][place] for together, place in places)


def _group(images: Iterable[np.ndarray], digests: Sequence[str]) -> ImageGroup:
    group = ImageGroup(tuple(islice(images, len(digests))))
    vars(group)["digests"] = tuple(digests)
    return group
