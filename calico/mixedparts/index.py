"""An index of part data on disk: objects with their masks, and samples, which are groups of objects with a question.

A folder of a manifest, tables (`tables`) and two files of bytes. Nothing but the manifest is kept in memory, whatever
the number of samples; pictures stay where the user has them and are opened when a sample is asked for.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.language.questions import canonical_question
from calico.mixedparts.records import ObjectRecord, PartMask, annotated, load_record_image
from calico.mixedparts.tables import Blob, Table
from calico.values import (
    MAX_GROUP_SIZE,
    AnnotatedImage,
    CoSegmentation,
    ImageGroup,
    NamedMask,
    Sample,
    SubTask,
    normalize_name,
)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
SUB_TASKS = tuple(SubTask)
NO_OBJECT = -1  # in a sample's unused places

_PLACE = [("at", "<u8"), ("length", "<u4")]
TABLES = {
    "images.npy": np.dtype([("name", _PLACE), ("height", "<u4"), ("width", "<u4"), ("source", "u1"), ("split", "u1")]),
    "objects.npy": np.dtype(
        [
            ("image", "<u4"),
            ("class_id", "<u2"),
            ("id", _PLACE),
            ("mask", _PLACE),  # of length 0: the union of its parts
            ("first_part", "<u4"),
            ("num_parts", "<u2"),
            ("area", "<u4"),  # pixels of the whole object
        ]
    ),
    "parts.npy": np.dtype([("name_id", "<u2"), ("mask", _PLACE)]),
    "samples.npy": np.dtype(
        [
            ("objects", "<i4", (MAX_GROUP_SIZE,)),
            ("source", "u1"),
            ("split", "u1"),
            ("sub_task", "u1"),
            ("says_none", "u1"),
        ]
    ),
}
MASKS, TEXTS = "masks.bin", "texts.bin"


class Entry(NamedTuple):
    """One sample without its masks. objects: rows of `objects.npy`. says_none: "there are none" is the answer."""

    split: str
    source: str
    sub_task: SubTask
    objects: tuple[int, ...]
    says_none: bool


class MixedParts:
    """The samples of an index, all or those of a split, source or sub-task: a Dataset as torch's loaders take it.

    `data[i]` is a `Sample` with the masks as the source draws them, `data.annotated(i)` the same as annotated images;
    both open the pictures. `entry` and `records` do not. Samples come by split, source and sub-task, so that
    neighbours are alike: take them in random order. Can be pickled, and used by forked workers.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        source: str | None = None,
        sub_task: SubTask | None = None,
        images: str | Path | Mapping[str, str | Path] | None = None,
    ) -> None:
        """images: the folder of pictures, or one per source, where they are not where they were when it was built.

        Raises InputError where the folder is no index, was damaged, or has nothing of what is asked for.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.sources: list[str] = self.manifest["sources"]
        self.classes: list[str] = self.manifest["classes"]
        self.parts: list[str] = self.manifest["parts"]
        self._images, self._objects, self._parts, self._samples = (
            Table(self.folder / name, dtype) for name, dtype in TABLES.items()
        )
        self._masks, self._texts = Blob(self.folder / MASKS), Blob(self.folder / TEXTS)
        self.roots = _roots(self.sources, self.manifest["images"], images)
        chosen = [
            row
            for row in self.manifest["ranges"]
            if split in (None, row["split"]) and source in (None, row["source"]) and sub_task in (None, row["sub_task"])
        ]
        self._firsts = [row["first"] for row in chosen]
        self._ends = list(accumulate(row["stop"] - row["first"] for row in chosen))
        if not self._ends:
            request = ", ".join(filter(None, (split, source, sub_task)))
            has = ", ".join(sorted({f"{r['split']}/{r['source']}" for r in self.manifest["ranges"]})) or "no samples"
            raise InputError(f"{self.folder}: no samples of {request or 'any kind'}; it has {has}")

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def version(self) -> str:
        """What the config of a checkpoint that learnt from it says (`data_version`)."""
        return f"mixedparts-{self.manifest['sha256']['samples.npy'][:12]}"

    def row(self, i: int) -> int:
        """The row of `samples.npy` of sample i."""
        place = i + len(self) if i < 0 else i
        if not 0 <= place < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        k = bisect_right(self._ends, place)
        return self._firsts[k] + place - (self._ends[k - 1] if k else 0)

    def entry(self, i: int) -> Entry:
        return self._entry(self._samples[self.row(i)])

    def entries(self) -> Iterator[Entry]:
        """All of them in order, read a block at a time."""
        previous = 0
        for first, end in zip(self._firsts, self._ends, strict=True):
            for block in self._samples.blocks(first, first + end - previous):
                yield from map(self._entry, block)
            previous = end

    def _entry(self, row: np.void) -> Entry:
        objects, source, split, sub_task, says_none = _columns(row)
        return Entry(
            SPLITS[split],
            self.sources[source],
            SUB_TASKS[sub_task],
            tuple(number for number in objects if number != NO_OBJECT),
            bool(says_none),
        )

    def records(self, i: int) -> list[ObjectRecord]:
        """The objects of sample i, one per image."""
        return [self.record(number) for number in self.entry(i).objects]

    @property
    def num_objects(self) -> int:
        return len(self._objects)

    def area(self, number: int) -> int:
        """Pixels of the whole object of that row."""
        return int(self._objects[number]["area"])

    def record(self, number: int) -> ObjectRecord:
        """The object of that row, its masks still run lengths."""
        image, class_id, object_id, mask, first_part, num_parts, _ = _columns(self._objects[number])
        name, height, width, source, split = _columns(self._images[image])
        size_hw = height, width
        parts = self._parts[first_part : first_part + num_parts].tolist()
        return ObjectRecord(
            self.sources[source],
            self._texts.read(*object_id).decode(),
            self._texts.read(*name).decode(),
            size_hw,
            self.classes[class_id],
            self._rle(mask, size_hw) if mask[1] else None,
            tuple(PartMask(self.parts[name_id], self._rle(place, size_hw)) for name_id, place in parts),
            SPLITS[split],
        )

    def _rle(self, place: tuple[int, int], size_hw: tuple[int, int]) -> dict[str, Any]:
        return {"size": list(size_hw), "counts": self._masks.read(*place).decode("ascii")}

    def load_image(self, record: ObjectRecord) -> np.ndarray:
        """HxWx3 uint8 RGB at the record's size. Raises InputError where the picture is missing or another."""
        root = self.roots.get(record.source)
        if root is None:
            raise InputError(
                f"{self.folder}: was built without pictures of {record.source}; name their folder: --images"
            )
        return load_record_image(record, root)

    def annotated(self, i: int) -> tuple[list[AnnotatedImage], SubTask]:
        """Sample i for training: where parts overlap the smaller one shows."""
        return self.drawn(self.records(i)), self.entry(i).sub_task

    def drawn(self, records: Sequence[ObjectRecord]) -> list[AnnotatedImage]:
        return [annotated(record, self.load_image(record)) for record in records]

    def __getitem__(self, i: int) -> Sample:
        """Sample i with its pictures, its question, and the right answer's regions as the source draws them."""
        entry, records = self.entry(i), self.records(i)
        group = ImageGroup(
            tuple(self.load_image(record) for record in records), tuple(record.image_file for record in records)
        )
        provenance = {
            "sample": self.row(i),
            "source": entry.source,
            "split": entry.split,
            "sub_task": entry.sub_task.value,
            "says_none": entry.says_none,
            "objects": [record.object_id for record in records],
        }
        target = target_of(records).restricted_to(entry.sub_task)
        return Sample(group, canonical_question(entry.sub_task, len(group)), target, provenance)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def _columns(row: np.void) -> tuple[Any, ...]:
    columns: Any = row.item()
    return tuple(columns)


def target_of(records: Sequence[ObjectRecord]) -> CoSegmentation:
    """All three sub-tasks' truth about a group, one object an image; masks as the source draws them, overlaps kept."""
    masks = [
        NamedMask(image, normalize_name(record.object_name), name, mask)
        for image, record in enumerate(records)
        for name, mask in sorted(record.masks().items(), key=lambda item: item[0] or "")
        if mask.any()
    ]
    return co_segmentation([record.size_hw for record in records], masks)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises InputError where the folder holds no index of this version."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except FileNotFoundError:
        raise InputError(f"{folder}: no {MANIFEST} in it; make an index with `calico mixedparts build`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error!r}); build the index anew") from None
    if version != SCHEMA_VERSION or "ranges" not in manifest:
        raise InputError(
            f"{folder}: no index of version {SCHEMA_VERSION}; build it anew with `calico mixedparts build`"
        )
    return dict(manifest)


def _roots(
    sources: Sequence[str],
    stored: Mapping[str, str],
    given: str | Path | Mapping[str, str | Path] | None,
) -> dict[str, Path]:
    """Source -> its folder of pictures."""
    if isinstance(given, Mapping):
        if unknown := set(given) - set(sources):
            raise InputError(f"images: no source {', '.join(sorted(unknown))}; the index has {', '.join(sources)}")
        return {source: Path(root) for source, root in {**stored, **given}.items()}
    return {source: Path(root) for source, root in (stored if given is None else dict.fromkeys(sources, given)).items()}
