"""One annotated group and its line of a snapshot, there and back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from calico.errors import InputError
from calico.masks import decode_rle, encode_rle
from calico.values import CoSegmentation, Occurrence, PartRegion, SubTask


@dataclass(frozen=True)
class ImageReference:
    """source: an address or path, free of credentials. digest: `ImageGroup.digests`, None where it was not looked at.

    key: tells this image from others by its address, credentials included; a hash, so it gives none away.
    """

    source: str
    size_hw: tuple[int, int]
    digest: str | None = None
    key: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Images that have one of these in common are the same image. By content first, where that is known."""
        return tuple(filter(None, (self.digest, self.key or hashlib.sha256(self.source.encode()).hexdigest())))


@dataclass(frozen=True, eq=False)
class AnnotatedGroup:
    """One group with what a person says about it.

    id: unique in a snapshot and the same in every later one. order: the place in time of its first annotation; groups
    that come later have higher ones. provenance: JSON-ready; holds at least `task`, `annotator` (a hash) and
    `accepted_as_is`: a prediction that was submitted untouched, which a person may or may not have looked at.
    `partial`, where a region could not be read: the `images` that are only partly annotated, and the `sub_tasks` whose
    answer is whole nevertheless.
    changes: what became of each predicted region, rows as `report` reads them; None where there was no prediction.
    """

    id: str
    images: tuple[ImageReference, ...]
    target: CoSegmentation
    provenance: Mapping[str, Any]
    changes: tuple[Mapping[str, Any], ...] | None = None
    order: int = 0
    split: str = field(default="")

    def __post_init__(self) -> None:
        missing = {"task", "annotator", "accepted_as_is"} - set(self.provenance)
        if missing:
            raise InputError(f"group {self.id}: its provenance lacks {', '.join(sorted(missing))}")
        sizes = tuple(image.size_hw for image in self.images)
        if sizes != self.target.sizes_hw:
            raise InputError(f"group {self.id}: images are {sizes} (height, width), masks {self.target.sizes_hw}")

    @property
    def sub_tasks(self) -> tuple[SubTask, ...]:
        """The questions whose answer is known whole: all three, but for a group that is partly annotated."""
        partial = self.provenance.get("partial")
        return tuple(map(SubTask, partial["sub_tasks"])) if partial else tuple(SubTask)

    @property
    def partial_images(self) -> frozenset[int]:
        """Images on which regions are missing: what is not annotated there may be there all the same."""
        partial = self.provenance.get("partial")
        return frozenset(partial["images"]) if partial else frozenset()

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for image in self.images for key in image.keys)

    def to_line(self) -> str:
        """One line of JSON without its end; equal groups give equal lines."""
        images = [
            {"source": i.source, "size_hw": list(i.size_hw), "sha256": i.digest, "key": i.key} for i in self.images
        ]
        regions = [
            {
                "image": r.image,
                "object": r.object_name,
                "part": r.part_name,
                "occurrence": r.occurrence.value,
                "correspondence": list(r.correspondence),
                "correspondence_id": r.correspondence_id,
                "rle": encode_rle(r.mask),
            }
            for r in sorted(self.target.regions, key=lambda r: r.key)
        ]
        record = {
            "id": self.id,
            "order": self.order,
            "split": self.split,
            "images": images,
            "regions": regions,
            "provenance": dict(self.provenance),
            "changes": None if self.changes is None else [dict(row) for row in self.changes],
        }
        return json.dumps(record, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> AnnotatedGroup:
        """The parsed line. `InputError` where it is not what `to_line` writes."""
        try:
            images = tuple(
                ImageReference(i["source"], (int(i["size_hw"][0]), int(i["size_hw"][1])), i["sha256"], i["key"])
                for i in record["images"]
            )
            regions = tuple(
                PartRegion(
                    image=r["image"],
                    object_name=r["object"],
                    part_name=r["part"],
                    mask=decode_rle(r["rle"], size_hw=images[r["image"]].size_hw),
                    occurrence=Occurrence(r["occurrence"]),
                    correspondence=tuple(r["correspondence"]),
                    correspondence_id=r["correspondence_id"],
                )
                for r in record["regions"]
            )
            target = CoSegmentation(tuple(image.size_hw for image in images), regions)
            changes = None if record["changes"] is None else tuple(record["changes"])
            return cls(
                record["id"], images, target, record["provenance"], changes, int(record["order"]), record["split"]
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            name = record.get("id") if isinstance(record, Mapping) else None
            raise InputError(
                f"group {name!r} of the snapshot: not readable ({error!r}); make the snapshot anew"
            ) from None
