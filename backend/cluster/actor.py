"""What runs in a worker: models by name, asked one call at a time; and co-segmentations packed for the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from backend.prediction.protocol import Segmenter
from calico.errors import CalicoError
from calico.values import CoSegmentation, ImageGroup, PartRegion

#: References of a group's images, and the images' digests.
StoredGroup = tuple[Sequence[Any], Sequence[str]]

_NO_MASK = np.zeros((1, 1), np.bool_)


@dataclass(frozen=True)
class Packed:
    """A co-segmentation with a bit a pixel."""

    result: CoSegmentation  # without its regions
    regions: tuple[PartRegion, ...]  # without their masks
    masks: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, result: CoSegmentation) -> Packed:
        regions = tuple(replace(region, mask=_NO_MASK) for region in result.regions)
        return cls(replace(result, regions=()), regions, tuple(np.packbits(region.mask) for region in result.regions))

    def unpacked(self) -> CoSegmentation:
        sizes = self.result.sizes_hw
        regions = tuple(
            replace(region, mask=unpack_mask(bits, sizes[region.image]))
            for region, bits in zip(self.regions, self.masks, strict=True)
        )
        return replace(self.result, regions=regions)


def unpack_mask(bits: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """HxW bool."""
    return np.unpackbits(bits, count=size_hw[0] * size_hw[1]).reshape(size_hw).view(np.bool_)


class ModelActor:
    """Calls of models come one at a time; `hold` and `release` may come beside them, on a thread of their own.

    load: makes a segmenter from a folder, None: the settings' checkpoint. Images come as references into the store that
    all workers of a machine share; whoever answers says its version too.
    """

    def __init__(self, load: Callable[[Path | None], Segmenter]) -> None:
        self._load = load
        self._models: dict[str, Segmenter] = {}

    def hold(self, key: str, folder: Path | None) -> str:
        """Loads a model beside those that serve; its version."""
        if key not in self._models:
            self._models[key] = self._load(folder)
        return self._models[key].version

    def release(self, key: str) -> None:
        self._models.pop(key, None)

    def segment_many(
        self, key: str, groups: Sequence[StoredGroup], candidates: Sequence[Sequence[str] | None]
    ) -> tuple[str, list[Packed]]:
        model = self._model(key)
        asked = [_group(images, digests) for images, digests in groups]
        return model.version, [Packed.of(result) for result in model.segment_many(asked, candidates=candidates)]

    def segment_prompts(
        self,
        key: str,
        images: Sequence[Any],
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[str, tuple[np.ndarray, tuple[int, int], float]]:
        model = self._model(key)
        mask, score = model.segment_prompts(_fetched(images)[0], points_xy, labels, box_xyxy)
        return model.version, (np.packbits(mask), (mask.shape[0], mask.shape[1]), score)

    def segment_named(
        self, key: str, group: StoredGroup, name: str, objects: Mapping[int, str], shown: Sequence[int]
    ) -> tuple[str, dict[int, tuple[np.ndarray, float]]]:
        model = self._model(key)
        masks = model.segment_named(_group(*group), name, objects, shown=shown)
        return model.version, {image: (np.packbits(mask), score) for image, (mask, score) in masks.items()}

    def _model(self, key: str) -> Segmenter:
        if key not in self._models:
            raise CalicoError(f"this worker does not hold {key}")
        return self._models[key]


def _group(images: Sequence[Any], digests: Sequence[str]) -> ImageGroup:
    group = ImageGroup(tuple(_fetched(images)))
    vars(group)["digests"] = tuple(digests)  # as the sender counted them
    return group


def _fetched(images: Sequence[Any]) -> list[np.ndarray]:
    """HxWx3 uint8 each, read-only, in the store's memory."""
    import ray

    return ray.get(list(images))
