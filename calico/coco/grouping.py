"""Annotated objects of a COCO file -> groups, each group's `CoSegmentation`, and single images for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from calico.coco.dataset import CocoDataset, CocoObject, Findings
from calico.coco.orientation import upright
from calico.coco.rows import row_id
from calico.correspondence import co_segmentation
from calico.values import (
    MAX_GROUP_SIZE,
    MIN_GROUP_SIZE,
    CoSegmentation,
    NamedMask,
    RegionKey,
    whole_number,
)

MAX_PARTS = 254  # of one object: what a uint8 part map can name


@dataclass(frozen=True, eq=False)
class ObjectGroup:
    """Objects of different images that are looked at together. name: what they share."""

    name: str
    objects: tuple[CocoObject, ...]


def group_objects(dataset: CocoDataset, group_size: int = MIN_GROUP_SIZE) -> list[ObjectGroup]:
    """By the image rows' `group_id`, as our export writes it; without one, `group_size` images of one object name.

    An image may serve several objects, each in a group of its own. What finds no group is a finding `group_size`.
    """
    grouped: dict[str, list[CocoObject]] = {}
    named: dict[str, list[CocoObject]] = {}
    for item in dataset.objects:
        if (group := row_id(item.image.row.get("group_id"))) is not None:
            grouped.setdefault(str(group), []).append(item)
        else:
            named.setdefault(item.object_name, []).append(item)
    groups = []
    for name, items in grouped.items():
        item_of: dict[object, CocoObject] = {}
        for item in sorted(items, key=lambda i: (_place(i), -len(i.part_names))):
            if item.image.id in item_of:
                message = f"{item.image.file_name}: {item.object_name!r} beside {item_of[item.image.id].object_name!r}"
                dataset.findings.add("several_objects", f"{message}; an image of a group has one object")
            else:
                item_of[item.image.id] = item
        groups.append(ObjectGroup(name, tuple(item_of.values())))
    for name, items in named.items():
        starts = range(0, len(items), group_size)
        groups += [ObjectGroup(name, tuple(items[start : start + group_size])) for start in starts]
    whole = []
    for candidate in groups:
        if MIN_GROUP_SIZE <= len(candidate.objects) <= MAX_GROUP_SIZE and (
            candidate.name in grouped or len(candidate.objects) == group_size
        ):
            whole.append(candidate)
        else:
            files = ", ".join(item.image.file_name for item in candidate.objects[:MAX_GROUP_SIZE])
            dataset.findings.add("group_size", f"{candidate.name}: {len(candidate.objects)} images left ({files})")
    return whole


def _place(item: CocoObject) -> int:
    return whole_number(item.image.row.get("group_index")) or 0


def cosegmentation_of(
    group: ObjectGroup, findings: Findings, *, orientations: Sequence[int] | None = None
) -> CoSegmentation:
    """The group's masks with their occurrence and correspondence, from names and from `correspondence_id` if given.

    orientations: the EXIF orientation that each image's masks must still be turned by; None where they are upright.
    """
    turns = orientations or [1] * len(group.objects)
    sizes, masks = [], []
    relations: list[tuple[RegionKey, RegionKey]] = []
    linked: dict[str, list[RegionKey]] = {}
    for image, (item, turn) in enumerate(zip(group.objects, turns, strict=True)):
        sizes.append(item.image.size_hw[::-1] if turn >= 5 else item.image.size_hw)
        rows = item.rows
        scores, masks_of = item.scores(rows), item.masks(findings, rows)
        for part_name, mask in masks_of.items():
            mask = np.ascontiguousarray(upright(mask, turn))
            masks.append(NamedMask(image, item.object_name, part_name, mask, scores.get(part_name, 1.0)))
        for part_name, row in rows:
            kind = "object" if part_name is None else "part"
            key = RegionKey(image, kind, part_name or item.object_name)
            if isinstance(row.get("correspondence_id"), str) and part_name in masks_of:
                linked.setdefault(f"{kind} {row['correspondence_id']}", []).append(key)
    for keys in linked.values():
        relations += [(a, b) for a, b in pairwise(keys) if a.name != b.name]
    return co_segmentation(sizes, masks, relations=relations)


def part_map_of(masks: Mapping[str | None, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    """Masks by part name (None: the whole object) -> the names, largest part first, and `AnnotatedImage`'s part map.

    masks: HxW bool of one size, one at least. Where parts overlap the smaller one shows; every part belongs to the
    object. Of more than `MAX_PARTS` parts the largest are kept.
    """
    parts = sorted((name for name in masks if name is not None), key=lambda name: (-int(masks[name].sum()), name))
    parts = parts[:MAX_PARTS]
    part_map = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for mask in masks.values():
        part_map[mask] = 1
    for number, name in enumerate(parts):
        part_map[masks[name]] = number + 2
    return tuple(parts), part_map
