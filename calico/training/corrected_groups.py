"""One corrected group as training sees it: pictures no larger than need be, parts as maps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from PIL import Image

from calico.correspondence import co_segmentation, truth_of
from calico.model.preprocessing import fitted_size_hw
from calico.snapshots.records import AnnotatedGroup
from calico.values import AnnotatedImage, CoSegmentation, NamedMask, PartRegion, SubTask

logger = logging.getLogger(__name__)
MAX_PARTS = 250  # of one image: codes of a part map


@dataclass(frozen=True, eq=False)
class CorrectedGroup:
    """A group of a snapshot as training sees it: pictures no larger than need be, parts as maps.

    truth: where names alone do not tell what corresponds (a relation drawn by hand), else None. weight: how often it is
    drawn, in proportion. sub_tasks: the questions that its annotation answers whole. partial_images: on which something
    is not annotated, so that they are put into no other group.
    """

    id: str
    images: tuple[AnnotatedImage, ...]
    truth: CoSegmentation | None
    weight: float = 1.0
    keys: tuple[str, ...] = field(default=())
    sub_tasks: tuple[SubTask, ...] = tuple(SubTask)
    partial_images: frozenset[int] = frozenset()

    @property
    def num_images(self) -> int:
        return len(self.images)

    @property
    def num_bytes(self) -> int:
        return sum(image.image.nbytes + image.part_map.nbytes for image in self.images)

    @property
    def names(self) -> set[str]:
        return {name for image in self.images for name in (image.object_name, *image.part_names) if name}


def corrected(group: AnnotatedGroup, images: Sequence[np.ndarray], longest: int, weight: float) -> CorrectedGroup:
    """longest: of a kept picture, in pixels."""
    by_image: list[list[PartRegion]] = [[] for _ in images]
    for region in group.target.regions:
        by_image[region.image].append(region)
    annotated_images = tuple(
        reduced(annotated(image, regions, f"{group.id} image {k + 1}"), longest)
        for k, (image, regions) in enumerate(zip(images, by_image, strict=True))
    )
    truth = _hand_drawn(group.target, annotated_images)
    return CorrectedGroup(group.id, annotated_images, truth, weight, group.keys, group.sub_tasks, group.partial_images)


def annotated(image: np.ndarray, regions: Sequence[PartRegion], source: str) -> AnnotatedImage:
    """One image's regions as a part map. The object is its region and all its parts; where parts overlap, the smaller
    one is in front. An image without regions has an empty object name, and nothing is asked to be found on it."""
    parts = sorted((r for r in regions if r.part_name is not None), key=lambda r: (-int(r.mask.sum()), r.name))
    if len(parts) > MAX_PARTS:
        logger.warning("%s: %d parts, the %d largest are trained on", source, len(parts), MAX_PARTS)
        parts = parts[:MAX_PARTS]
    part_map = np.zeros(image.shape[:2], np.uint8)
    for region in regions:
        if region.part_name is None:
            part_map[region.mask] = 1
    for k, region in enumerate(parts):
        part_map[region.mask] = k + 2
    num_pixels = np.bincount(part_map.ravel(), minlength=len(parts) + 2)[2:]
    if hidden := [r.name for r, count in zip(parts, num_pixels, strict=True) if not count]:
        logger.warning(
            "%s: %s: all covered by smaller parts, so not trained on; draw what is only theirs",
            source,
            ", ".join(hidden),
        )
    name = regions[0].object_name if regions else ""
    return AnnotatedImage(image, name, tuple(r.name for r in parts), part_map, "correction", source)


def reduced(item: AnnotatedImage, longest: int) -> AnnotatedImage:
    """No larger than `longest` pixels; a part that has no pixel left is given one, since it is named."""
    if max(item.image.shape[:2]) <= longest:
        return item
    height, width = fitted_size_hw((item.image.shape[0], item.image.shape[1]), longest)
    image = Image.fromarray(item.image).resize((width, height), Image.Resampling.BILINEAR)
    part_map = np.array(Image.fromarray(item.part_map).resize((width, height), Image.Resampling.NEAREST))
    for k in range(len(item.part_names)):
        if not (part_map == k + 2).any() and (where := np.argwhere(item.part_map == k + 2)).size:
            y, x = where[len(where) // 2] * (height, width) // item.part_map.shape
            part_map[y, x] = k + 2
    return replace(item, image=np.asarray(image), part_map=part_map)


def _hand_drawn(target: CoSegmentation, images: Sequence[AnnotatedImage]) -> CoSegmentation | None:
    """The truth about the kept images with the target's relations, where names alone give others."""
    plain = truth_of(images)
    correspondences = {key: region.correspondence for key, region in target.by_key.items()}
    if all(correspondences.get(r.key, r.correspondence) == r.correspondence for r in plain.regions):
        return None
    ids = {region.key: region.correspondence_id for region in target.regions}
    pairs = [(a, b) for a, b in combinations([r.key for r in plain.regions if r.key in ids], 2) if ids[a] == ids[b]]
    masks = [NamedMask(r.image, r.object_name, r.part_name, r.mask) for r in plain.regions]
    return co_segmentation(plain.sizes_hw, masks, relations=pairs)
