"""A group of a snapshot before and after its correction: what was predicted, and what people made of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import decode_rle
from calico.pictures.overlay import colours_of, strip_of_overlays
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.store import Snapshot
from calico.values import CoSegmentation, NamedMask, RegionKey

HEIGHT_PX = 240


def predicted(group: AnnotatedGroup) -> CoSegmentation | None:
    """What the group's annotation started from; None where it started from nothing, or a snapshot of an earlier
    release does not tell."""
    if group.changes is None:
        return None
    region_of, masks = group.target.by_key, []
    for row in group.changes:
        if row["change"] == "added":
            continue
        image, part = row["image"], row["part"]
        if row.get("mask") is not None:
            mask = decode_rle(row["mask"], size_hw=group.target.sizes_hw[image])
        else:
            same = region_of.get(RegionKey(image, "object" if part is None else "part", part or row["object"]))
            if row["change"] != "kept" or same is None:
                return None
            mask = same.mask
        masks.append(NamedMask(image, row["object"], part, mask))
    return co_segmentation(group.target.sizes_hw, masks)


def before_and_after(snapshot: Snapshot, groups: Collection[str]) -> dict[str, tuple[bytes, bytes]]:
    """JPEGs of the predicted and of the corrected regions of these groups (ids), in the same colours; without those
    whose pictures or predictions are not kept."""
    pictures_of: dict[str, tuple[bytes, bytes]] = {}
    for record in snapshot.records():
        if record["id"] in groups and (pictures := _drawn(snapshot, record)) is not None:
            pictures_of[record["id"]] = pictures
    return pictures_of


def _drawn(snapshot: Snapshot, record: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    group = AnnotatedGroup.from_record(record)
    before = predicted(group)
    if before is None:
        return None
    try:
        images = snapshot.load_images(group).images
    except InputError:  # made without images
        return None
    colours = colours_of(before, group.target)
    first, second = (strip_of_overlays(images, coseg, HEIGHT_PX, colours) for coseg in (before, group.target))
    return first, second
