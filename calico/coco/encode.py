"""A `CoSegmentation` -> COCO rows: one image row per image, one annotation row per region (or per connected piece).

Ids follow from the group's number, so that the same region has the same id in every export:
image = 100 x group + its place from 1; annotation = 10,000 x image + its place among the image's regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from calico.coco.names import SCHEMES, Category
from calico.coco.segmentation import encode_polygons
from calico.errors import InputError
from calico.masks import components, encode_rle, tight_box_xyxy
from calico.values import CoSegmentation, PartRegion, Problem

MAX_GROUP_ID = 9_000_000_000  # ids stay below 2**53, which every JSON reader keeps exact
MAX_IMAGES = 99  # of one group
MAX_ANNOTATIONS = 9_999  # of one image


@dataclass(frozen=True)
class CocoOptions:
    """scheme: how part categories are named, one of `SCHEMES`. split_pieces: an annotation per connected piece.

    polygon_tolerance_px: write polygons simplified by at most that many pixels (0: exact); None writes RLE.
    """

    scheme: str = SCHEMES[0]
    split_pieces: bool = False
    polygon_tolerance_px: float | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise InputError(f"category names: expected one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.polygon_tolerance_px is not None and not 0 <= self.polygon_tolerance_px <= 100:
            raise InputError(f"polygon tolerance: expected 0 to 100 pixels, got {self.polygon_tolerance_px}")


@dataclass(frozen=True)
class ImageEntry:
    """What a COCO image row says besides its size. file_name: as a reader finds it. more: further keys of the row."""

    file_name: str
    more: Mapping[str, Any] = field(default_factory=dict)


class EncodedGroup(NamedTuple):
    """images, annotations: rows; an annotation's `category_id` is still its `Category`. problems: what is lost."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    problems: list[Problem]


def encode_group(
    coseg: CoSegmentation,
    entries: Sequence[ImageEntry | None],
    group_id: int,
    options: CocoOptions = CocoOptions(),
    *,
    provenance: Mapping[str, Any] | None = None,
) -> EncodedGroup:
    """Rows of one group, objects first, then parts by name.

    entries: one per image; None leaves the image out (what corresponds to it elsewhere still says so). group_id: a
    whole number from 0, other for every group of a file. provenance: goes into every annotation. Masks are exact as
    RLE; area and box are the mask's own, also where polygons are written.
    """
    if not 0 <= group_id <= MAX_GROUP_ID:
        raise InputError(f"group id: expected 0 to {MAX_GROUP_ID:,}, got {group_id}")
    if len(entries) != len(coseg.sizes_hw):
        raise InputError(f"expected one entry per image, got {len(entries)} for {len(coseg.sizes_hw)} images")
    if len(entries) > MAX_IMAGES:
        raise InputError(f"group {group_id}: {len(entries)} images, the limit is {MAX_IMAGES}; split the task")
    encoded = EncodedGroup([], [], [])
    for image, (entry, (height, width)) in enumerate(zip(entries, coseg.sizes_hw, strict=True)):
        if entry is None:
            continue
        image_id = (MAX_IMAGES + 1) * group_id + image + 1
        row = {"id": image_id, "file_name": entry.file_name, "width": width, "height": height}
        encoded.images.append({**row, "group_id": group_id, "group_index": image, **entry.more})
        regions = [region for region in coseg.regions if region.image == image]
        labelled: list[tuple[PartRegion, np.ndarray, int]] = []  # HxW labels from 1, and how many there are
        for region in sorted(regions, key=lambda r: (r.kind != "object", r.name)):
            if not region.mask.any():
                message = f"{region.kind} {region.name!r} of image {image + 1}: its mask is empty"
                encoded.problems.append(Problem("empty_mask", message, image))
                continue
            labels, num_pieces = components(region.mask) if options.split_pieces else (region.mask.astype(np.uint8), 1)
            labelled.append((region, labels, num_pieces))
        total = sum(num_pieces for _, _, num_pieces in labelled)
        if total > MAX_ANNOTATIONS:
            raise InputError(
                f"image {image + 1} of group {group_id}: {total} pieces, the limit is {MAX_ANNOTATIONS}; "
                "export whole masks"
            )
        # The object comes first, so that its labels are its annotations' places.
        whole = labelled[0][1] if labelled and labelled[0][0].part_name is None else None
        number = 0
        for region, labels, num_pieces in labelled:
            for label in range(1, num_pieces + 1):
                number += 1
                mask = labels == label
                annotation = _annotation(region, mask, image_id, number, group_id, options, encoded.problems)
                if region.part_name is not None and whole is not None:
                    owner = int(np.bincount(whole[mask], minlength=2)[1:].argmax()) + 1  # the piece it lies on most
                    annotation["part_of"] = _annotation_id(image_id, owner)
                if provenance:
                    annotation["provenance"] = dict(provenance)
                encoded.annotations.append(annotation)
    return encoded


def _annotation_id(image_id: int, number: int) -> int:
    return image_id * (MAX_ANNOTATIONS + 1) + number


def _annotation(
    region: PartRegion,
    mask: np.ndarray,
    image_id: int,
    number: int,
    group_id: int,
    options: CocoOptions,
    problems: list[Problem],
) -> dict[str, Any]:
    box = tight_box_xyxy(mask)
    assert box is not None
    x0, y0, x1, y1 = box
    segmentation: Any = encode_rle(mask)
    if options.polygon_tolerance_px is not None:
        segmentation, kept = encode_polygons(mask, options.polygon_tolerance_px)
        if kept < 1:
            where = f"{region.kind} {region.name!r} of image {region.image + 1}"
            problems.append(Problem("polygon_iou", f"{where}: polygons keep IoU {kept:.4f} of its mask", region.image))
    return {
        "id": _annotation_id(image_id, number),
        "image_id": image_id,
        "category_id": Category(region.object_name, region.part_name),
        "segmentation": segmentation,
        "area": int(np.count_nonzero(mask)),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "iscrowd": 0,
        "group_id": group_id,
        "correspondence_id": region.correspondence_id,
        "occurrence": region.occurrence.value,
        "score": round(float(region.score), 6),
    }
