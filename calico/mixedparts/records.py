"""What every reader of part data yields: one object of one image with its named parts, masks as run lengths.

A record holds no pixels, so millions of them can be read, indexed and dropped; `annotated` draws one on its image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from calico.coco.grouping import part_map_of
from calico.coco.orientation import read_header, upright
from calico.errors import InputError
from calico.images import load_image
from calico.masks import decode_rle, encode_rle
from calico.values import AnnotatedImage, normalize_name

Rle = Mapping[str, Any]
MAX_EXAMPLES = 5  # of each kind of finding


@dataclass(frozen=True)
class PartMask:
    """One part. rle: COCO's compressed run lengths at the image's size, all pieces of that name together."""

    name: str
    rle: Rle


@dataclass(frozen=True)
class ObjectRecord:
    """One object of one image.

    source: `paco`, `partimagenet`, `ade20k` or another name without blanks. object_id: unique in its source and split.
    image_file: relative to the folder of images, with `/`. size_hw: of the masks, (height, width) as the source states
    it. object_rle: the object's own mask as the source draws it; None where it has none (the object is then the union
    of its parts). parts: names distinct.
    """

    source: str
    object_id: str
    image_file: str
    size_hw: tuple[int, int]
    object_name: str
    object_rle: Rle | None
    parts: tuple[PartMask, ...]
    split: str

    def masks(self) -> dict[str | None, np.ndarray]:
        """Part name (None: the whole object) -> HxW bool; names normalised, parts of one name united.

        The object is its own mask, without one the union of its parts. Raises InputError on damaged run lengths.
        """
        masks: dict[str | None, np.ndarray] = {}
        for part in self.parts:
            name, mask = normalize_name(part.name), self._decode(part.rle, part.name)
            masks[name] = masks[name] | mask if name in masks else mask
        if self.object_rle is not None:
            masks[None] = self._decode(self.object_rle, self.object_name)
        elif masks:
            masks[None] = np.logical_or.reduce(list(masks.values()))
        return masks

    def _decode(self, rle: Rle, name: str) -> np.ndarray:
        try:
            return decode_rle(rle, size_hw=self.size_hw)
        except InputError as error:
            raise InputError(f"{self.source} {self.object_id}, {name!r} of {self.image_file}: {error}") from error


def annotated(record: ObjectRecord, image: np.ndarray) -> AnnotatedImage:
    """The record drawn on its image (HxWx3 uint8 RGB at `record.size_hw`, see `load_record_image`).

    Pixels of several parts go to the smallest part (of equals: the last by name), so that an eye stays on its head.
    Parts count as the object also where the object's own mask leaves them out. Of more than 254 parts the largest stay.
    Raises InputError where the image has another size, the record no mask, or run lengths are damaged.
    """
    if image.shape[:2] != tuple(record.size_hw):
        raise InputError(
            f"{record.image_file}: is {image.shape[0]} x {image.shape[1]} (height x width), its masks are "
            f"{record.size_hw[0]} x {record.size_hw[1]}; give the image as the data set distributes it"
        )
    masks = record.masks()
    if None not in masks:
        raise InputError(f"{record.source} {record.object_id} of {record.image_file}: has no mask; leave it out")
    names, part_map = part_map_of(masks)
    return AnnotatedImage(
        image, normalize_name(record.object_name), names, part_map, record.source, f"{record.source} {record.object_id}"
    )


def load_record_image(record: ObjectRecord, images: Path) -> np.ndarray:
    """HxWx3 uint8 RGB of the record's image below the folder `images`, in the frame of the record's masks.

    The displayed frame (EXIF applied) where it has the masks' size and the stored one has not; else as it is stored,
    which is what these data sets' own readers see. Raises InputError where the image is missing or outside the folder.
    """
    path = inside(images, record.image_file)
    image = load_image(path)
    header = read_header(path)
    if header.orientation == 1 or (record.size_hw == header.size_hw != header.stored_size_hw):
        return image
    turns_back = {6: 8, 8: 6}.get(header.orientation, header.orientation)
    return np.ascontiguousarray(upright(image, turns_back))


def inside(root: Path, name: str) -> Path:
    """The file `name` below `root`. Raises InputError where it would lie outside, through a link too."""
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.name or "\0" in name or ":" in name[:3]:
        raise InputError(f"{name!r}: expected a file below {root}; correct the name in the annotations")
    path = root / relative
    try:
        target = path.resolve()
    except (OSError, ValueError) as error:
        raise InputError(f"{name[:120]!r}: can be no file ({error}); correct the name in the annotations") from None
    if not target.is_relative_to(root.resolve()):
        raise InputError(f"{name!r}: a link leads out of {root}; copy the file into it")
    return path


def united(records: Iterable[ObjectRecord]) -> Iterator[ObjectRecord]:
    """Objects of one image and name made one record each, as MixedParts counts them; order of first appearance.

    records: all of one image in a row, as every reader yields them. Ids are joined by `+`. An instance without a mask
    of its own counts by its parts.
    """
    waiting: dict[str, list[ObjectRecord]] = {}
    place: tuple[str, str] | None = None
    for record in records:
        if (record.split, record.image_file) != place:
            yield from map(_one, waiting.values())
            waiting, place = {}, (record.split, record.image_file)
        waiting.setdefault(normalize_name(record.object_name), []).append(record)
    yield from map(_one, waiting.values())


def _one(records: list[ObjectRecord]) -> ObjectRecord:
    first = records[0]
    if len(records) == 1:
        return first
    masks: dict[str | None, np.ndarray] = {}
    for record in records:
        if record.size_hw != first.size_hw:
            raise InputError(f"{first.image_file}: objects of sizes {first.size_hw} and {record.size_hw}; read it anew")
        for name, mask in record.masks().items():
            masks[name] = masks[name] | mask if name in masks else mask
    has_own = any(record.object_rle is not None for record in records)
    return ObjectRecord(
        first.source,
        "+".join(record.object_id for record in records),
        first.image_file,
        first.size_hw,
        first.object_name,
        encode_rle(masks[None]) if has_own else None,
        tuple(PartMask(name, encode_rle(mask)) for name, mask in masks.items() if name is not None),
        first.split,
    )


@dataclass
class ReadReport:
    """What a reader read, what it repaired on the way, what it skipped and why; the first examples of each.

    Complete once the reader's iterator has run out.
    """

    source: str = ""
    num_images: int = 0  # image rows
    num_rows: int = 0  # annotation rows
    num_objects: int = 0  # records yielded
    num_parts: int = 0  # of them all
    repaired: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def repair(self, code: str, message: str, number: int = 1) -> None:
        """Something was read although it was not as it should be."""
        self._add(self.repaired, code, message, number)

    def skip(self, code: str, message: str, number: int = 1) -> None:
        """Something was left out."""
        self._add(self.skipped, code, message, number)

    def _add(self, counts: dict[str, int], code: str, message: str, number: int) -> None:
        counts[code] = counts.get(code, 0) + number
        examples = self.examples.setdefault(code, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(message)

    def count(self, record: ObjectRecord) -> ObjectRecord:
        """Count a record as read, and hand it back."""
        self.num_objects += 1
        self.num_parts += len(record.parts)
        return record

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values, for `--json`."""
        return {
            "source": self.source,
            "images": self.num_images,
            "rows": self.num_rows,
            "objects": self.num_objects,
            "parts": self.num_parts,
            "repaired": dict(self.repaired),
            "skipped": dict(self.skipped),
            "examples": {code: list(messages) for code, messages in self.examples.items()},
        }
