"""A model that every worker of a pool holds, behind the protocol of one in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.prediction.packed import Packed, PackedMask
from calico.values import CoSegmentation, ImageGroup, image_digest

if TYPE_CHECKING:
    from backend.cluster.pool import ModelPool


class PooledSegmenter:
    """Keeps the protocol `Segmenter`; several calls may run at once."""

    def __init__(self, pool: ModelPool, key: str, version: str) -> None:
        self._pool, self._key, self.version = pool, key, version

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None]
    ) -> list[CoSegmentation]:
        digests = [group.digests for group in groups]
        every = [digest for own in digests for digest in own]
        arguments = (digests, list(candidates), *(image for group in groups for image in self.references(group)))
        packed: list[Packed] = self._pool.ask(self._key, self.version, "segment_many", arguments, every)
        return [one.unpacked() for one in packed]

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[np.ndarray, float]:
        digest = image_digest(image)
        arguments = (points_xy, labels, box_xyxy, self._pool.reference(image, digest))
        packed: tuple[PackedMask, float] = self._pool.ask(
            self._key, self.version, "segment_prompts", arguments, [digest]
        )
        return packed[0].unpacked(), packed[1]

    def segment_named(
        self, group: ImageGroup, name: str, objects: Mapping[int, str], *, shown: Sequence[int]
    ) -> dict[int, tuple[np.ndarray, float]]:
        arguments = (group.digests, name, dict(objects), list(shown), *self.references(group))
        masks: dict[int, tuple[PackedMask, float]] = self._pool.ask(
            self._key, self.version, "segment_named", arguments, group.digests
        )
        return {image: (mask.unpacked(), score) for image, (mask, score) in masks.items()}

    def references(self, group: ImageGroup) -> list[Any]:
        """Of its images, in the store."""
        return [self._pool.reference(image, digest) for image, digest in zip(group.images, group.digests, strict=True)]

    def stored(self, value: Any) -> Any:
        return self._pool.stored(value)

    def beside(self, method: str, arguments: Sequence[Any], digests: Sequence[str], *, sticks: bool = False) -> Any:
        """See `ModelPool.beside`."""
        return self._pool.beside(self._key, self.version, method, arguments, digests, sticks)
