"""The released MixedParts records -> an index: their own pairs and masks instead of groups chosen here."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calico.errors import InputError
from calico.mixedparts.index import SPLITS
from calico.mixedparts.records import ObjectRecord, ReadReport
from calico.mixedparts.released import ReleasedPair, read_mixedparts
from calico.mixedparts.sources import SourceFile
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter
from calico.values import SubTask

Visible = Callable[[ObjectRecord, ReadReport], tuple[ObjectRecord, int] | None]


def write_released(
    ready: Path,
    released: Mapping[str, Path],
    files: Sequence[SourceFile],
    images: Mapping[str, Path],
    visible: Visible,
    on_progress: Callable[[str, int, int | None], None],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All files of an index but the manifest; what that says of the objects, and its ranges.

    released: split -> `mixed_parts_*.json`. An object's record holds the parts that its question names, so an object
    may be there several times; equal ones are written once. In memory: two numbers a pair, a hash an object. Raises
    InputError where a split has no annotation file to look the masks up in.
    """
    reports = []
    rows_of: dict[bytes, int] = {}
    split_of: dict[tuple[str, str], str] = {}
    buckets: dict[Bucket, array[int]] = {}
    with ObjectWriter(ready, sorted({file.name for file in files})) as writer:
        for split in sorted(released, key=["test", "val", "train"].index):
            sources = {f.dataset_name: f.released(images.get(f.name)) for f in files if f.split in (split, None)}
            if not sources:
                raise InputError(f"--released {split}: no --source NAME:{split}=FILE to look its masks up in")
            report = ReadReport(f"released:{split}")
            reports.append(report)
            pairs = read_mixedparts(released[split], sources, split=split, report=report)
            for number, pair in enumerate(pairs):
                on_progress(f"pairs of {split}", number + 1, None)
                records = [visible(record, report) for record in pair.objects]
                if not _is_whole(pair, records, split_of, report):
                    continue
                rows = []
                for pair_row in records:
                    assert pair_row is not None  # `_is_whole` saw to it
                    key = _digest(pair_row[0])
                    if key not in rows_of:
                        rows_of[key] = writer.add(*pair_row)
                    rows.append(rows_of[key])
                buckets.setdefault(Bucket(split, pair.source, pair.sub_task), array("i")).extend(rows)
    with SampleWriter(ready, writer.sources) as samples:
        order = [Bucket(split, s, sub_task) for split in SPLITS for s in writer.sources for sub_task in SubTask]
        for bucket in filter(buckets.__contains__, order):
            objects = np.frombuffer(buckets[bucket], np.int32).reshape(-1, 2)
            samples.add(bucket, objects, np.zeros(len(objects), bool))
    manifest = {"sources": writer.sources, "classes": list(writer.classes), "parts": list(writer.parts)}
    return manifest | {"reading": [report.as_json() for report in reports]}, samples.ranges


def _is_whole(
    pair: ReleasedPair,
    records: Sequence[tuple[ObjectRecord, int] | None],
    split_of: dict[tuple[str, str], str],
    report: ReadReport,
) -> bool:
    """Whether all that the record names is there to be seen; half an answer is no truth."""
    files = [record.image_file for record in pair.objects]
    splits = {split_of.setdefault((pair.source, record.image_file), record.split) for record in pair.objects}
    where = f"record {pair.record}: {' and '.join(files)}"
    if splits != {pair.objects[0].split}:
        report.skip("image_in_two_splits", where)
        return False
    if not all(records):
        report.skip("incomplete_pair", f"{where}: an object cannot be seen")
        return False
    first, second = ({part.name for part in row[0].parts} for row in records if row is not None)
    whole = {
        SubTask.COMMON_OBJECT: pair.objects[0].object_name == pair.objects[1].object_name,
        SubTask.COMMON_PARTS: bool(first) and first == second,
        SubTask.UNIQUE_PARTS: bool(first | second) and not first & second,
    }[pair.sub_task]
    if not whole:
        report.skip("incomplete_pair", f"{where}: {pair.sub_task}, but {sorted(first)} and {sorted(second)} are left")
    return whole


def _digest(record: ObjectRecord) -> bytes:
    """Equal for objects with the same name, parts and masks."""
    masks = [record.object_rle["counts"] if record.object_rle else "", *(part.rle["counts"] for part in record.parts)]
    key = (record.source, record.image_file, record.object_id, record.object_name)
    return hashlib.sha256(repr((key, [part.name for part in record.parts], masks)).encode()).digest()[:16]
