"""Writes an index: objects first, then samples; equal input gives equal bytes. No dates, a fixed order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from calico.errors import InputError
from calico.mixedparts.index import MANIFEST, MASKS, NO_OBJECT, SCHEMA_VERSION, SPLITS, SUB_TASKS, TABLES, TEXTS
from calico.mixedparts.records import ObjectRecord
from calico.mixedparts.tables import TableWriter
from calico.snapshots.store import sha256_of
from calico.values import MAX_GROUP_SIZE, SubTask, normalize_name

OBJECT_FILES = ("images.npy", "objects.npy", "parts.npy", MASKS, TEXTS)


class Names:
    """Names numbered in order of first appearance."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def __iter__(self) -> Any:
        return iter(self._numbers)


class ObjectWriter:
    """The objects' files, into `folder`; a context manager. Masks go to disk at once."""

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        self.folder = folder
        self.sources, self.classes, self.parts = list(sources), Names(), Names()
        self._image_rows: dict[tuple[int, str], int] = {}
        self._files = ExitStack()

    def __enter__(self) -> ObjectWriter:
        with ExitStack() as stack:
            self._images, self._objects, self._parts = (
                stack.enter_context(_table(self.folder, name)) for name in ("images.npy", "objects.npy", "parts.npy")
            )
            self._masks = stack.enter_context((self.folder / MASKS).open("wb"))
            self._texts = stack.enter_context((self.folder / TEXTS).open("wb"))
            self._files = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.__exit__(kind, error, at)

    def add(self, record: ObjectRecord, area: int) -> int:
        """One object, `area` pixels in all; its row."""
        source = self.sources.index(record.source)
        key = source, record.image_file
        if key not in self._image_rows:
            name = _append(self._texts, record.image_file.encode())
            split = SPLITS.index(record.split)
            self._image_rows[key] = self._images.add(name, *record.size_hw, source, split)
        first_part = self._parts.num_rows
        for part in record.parts:
            self._parts.add(self.parts.number(normalize_name(part.name)), self._mask(part.rle))
        return self._objects.add(
            self._image_rows[key],
            self.classes.number(normalize_name(record.object_name)),
            _append(self._texts, record.object_id.encode()),
            (0, 0) if record.object_rle is None else self._mask(record.object_rle),
            first_part,
            len(record.parts),
            area,
        )

    def _mask(self, rle: Mapping[str, Any]) -> tuple[int, int]:
        return _append(self._masks, rle["counts"].encode("ascii"))


class Bucket(NamedTuple):
    """Samples of one kind stand together in an index, in this order."""

    split: str
    source: str
    sub_task: SubTask


def samples_of(objects: np.ndarray, says_none: np.ndarray, bucket: Bucket, sources: Sequence[str]) -> np.ndarray:
    """Rows of `samples.npy`. objects: N x K rows of objects, K up to 8, `NO_OBJECT` where a group is smaller."""
    if objects.ndim != 2 or objects.shape[1] > MAX_GROUP_SIZE:
        raise InputError(f"samples: expected N x at most {MAX_GROUP_SIZE} objects, got {objects.shape}")
    rows = np.zeros(len(objects), TABLES["samples.npy"])
    rows["objects"] = NO_OBJECT
    rows["objects"][:, : objects.shape[1]] = objects
    rows["says_none"] = says_none
    rows["split"], rows["source"] = SPLITS.index(bucket.split), list(sources).index(bucket.source)
    rows["sub_task"] = SUB_TASKS.index(bucket.sub_task)
    return rows


class SampleWriter:
    """`samples.npy` of `folder` and the manifest's ranges, bucket after bucket; a context manager."""

    def __init__(self, folder: Path, sources: Sequence[str]) -> None:
        self._table = _table(folder, "samples.npy")
        self.sources = list(sources)
        self.ranges: list[dict[str, Any]] = []

    def __enter__(self) -> SampleWriter:
        self._table.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._table.__exit__(kind, error, at)

    def add(self, bucket: Bucket, objects: np.ndarray, says_none: np.ndarray) -> None:
        """objects, says_none: as in `samples_of`. A bucket that goes on where it stopped grows."""
        if not len(objects):
            return
        first = self._table.extend(samples_of(objects, says_none, bucket, self.sources))
        last = self.ranges[-1] if self.ranges else None
        if last is None or Bucket(last["split"], last["source"], last["sub_task"]) != bucket:
            if any(Bucket(r["split"], r["source"], r["sub_task"]) == bucket for r in self.ranges):
                raise ValueError(f"{bucket} was closed before")
            last = {**bucket._asdict(), "first": first, "stop": first, "num_none": 0}
            self.ranges.append(last)
        last["stop"] = first + len(objects)
        last["num_none"] += int(np.count_nonzero(says_none))


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """about: sources, classes, parts, ranges, images and what else is to be told. Adds the version and the hashes."""
    files = {name: sha256_of(folder / name) for name in (*OBJECT_FILES, "samples.npy")}
    manifest = {"schema_version": SCHEMA_VERSION, **about, "sha256": files}
    text = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def link_objects(source: Path, target: Path) -> None:
    """The objects' files of one index in another: the same files, or copies where the file system has no links."""
    for name in OBJECT_FILES:
        try:
            (target / name).hardlink_to(source / name)
        except OSError:
            shutil.copyfile(source / name, target / name)


def _table(folder: Path, name: str) -> TableWriter:
    return TableWriter(folder / name, TABLES[name])


def _append(file: IO[bytes], content: bytes) -> tuple[int, int]:
    place = file.tell(), len(content)
    file.write(content)
    return place
