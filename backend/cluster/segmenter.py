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
        every = [digest for group_digests in digests for digest in group_digests]
        images = self.images([image for group in groups for image in group.images], every)
        packed: list[Packed] = self._pool.ask(
            self._key, self.version, "segment_many", (digests, list(candidates), *images), every
        )
        return [one.unpacked() for one in packed]

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]],
        labels: Sequence[bool],
        box_xyxy: tuple[float, float, float, float] | None,
    ) -> tuple[np.ndarray, float]:
        digests = [image_digest(image)]
        arguments = (points_xy, labels, box_xyxy, *self.images([image], digests))
        packed: tuple[PackedMask, float] = self.beside("segment_prompts", arguments, digests)
        return packed[0].unpacked(), packed[1]

    def segment_named(
        self, group: ImageGroup, name: str, objects: Mapping[int, str], *, shown: Sequence[int]
    ) -> dict[int, tuple[np.ndarray, float]]:
        arguments = (group.digests, name, dict(objects), list(shown), *self.images(group.images, group.digests))
        masks: dict[int, tuple[PackedMask, float]] = self.beside("segment_named", arguments, group.digests)
        return {image: (mask.unpacked(), score) for image, (mask, score) in masks.items()}

    def images(self, images: Sequence[np.ndarray], digests: Sequence[str]) -> tuple[Any, ...]:
        """The last arguments of a call about them: `Places`, and references of the store."""
        return self._pool.images(images, digests)

    def stored(self, value: Any) -> Any:
        return self._pool.stored(value)

    def beside(
        self,
        method: str,
        arguments: Sequence[Any],
        digests: Sequence[str],
        *,
        sticks: bool = False,
        wait_s: float | None = None,
    ) -> Any:
        """See `ModelPool.beside`."""
        return self._pool.beside(self._key, self.version, method, arguments, digests, sticks, wait_s)
