"""Annotation files -> the objects of an index: each looked at, what cannot be used counted and explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calico.coco.grouping import part_map_of
from calico.coco.orientation import read_header
from calico.errors import InputError
from calico.mixedparts.records import ObjectRecord, ReadReport, inside
from calico.mixedparts.sources import SourceFile
from calico.mixedparts.writer import ObjectWriter
from calico.values import normalize_name

_HELD_OUT_FIRST = ("test", "val", None, "train")  # an image of two splits stays in the first of these


def read_objects(
    folder: Path,
    files: Sequence[SourceFile],
    images: Mapping[str, Path],
    min_part_pixels: int,
    on_progress: Callable[[str, int, int | None], None],
) -> dict[str, Any]:
    """Writes the objects' files into `folder`; what the manifest says of them.

    images: source -> folder of pictures; of sources without one every picture is taken to be there.
    """
    reports = []
    split_of: dict[tuple[str, str], str] = {}  # image -> its split; empty where its picture is not to be used
    with ObjectWriter(folder, sorted({file.name for file in files})) as writer:
        for file in sorted(files, key=lambda file: (_HELD_OUT_FIRST.index(file.split), file.title)):
            report = ReadReport()
            reports.append(report)
            for number, record in enumerate(file.records(images.get(file.name), report)):
                on_progress(f"objects of {file.title}", number + 1, None)
                key = record.source, record.image_file
                if key not in split_of:
                    root = images.get(file.name)
                    split_of[key] = record.split if root is None or _is_picture_of(record, root, report) else ""
                split = split_of[key]
                if not split:
                    report.skip("object_without_image", f"{record.object_id}: the picture {record.image_file}")
                elif split != record.split:
                    message = f"{record.image_file}: is in {split} already; what {record.split} says of it is left out"
                    report.skip("image_in_two_splits", message)
                elif visible_record := visible(record, min_part_pixels, report):
                    writer.add(*visible_record)
    manifest: dict[str, Any] = {"sources": writer.sources, "classes": list(writer.classes), "parts": list(writer.parts)}
    manifest["reading"] = [report.as_json() for report in reports]
    return manifest


def _is_picture_of(record: ObjectRecord, root: Path, report: ReadReport) -> bool:
    """Whether the picture can be opened and has the size of the masks, as stored or as displayed; else counted."""
    try:
        header = read_header(inside(root, record.image_file))
    except InputError as error:
        report.skip("unreadable_image", str(error))
        return False
    if record.size_hw not in (header.size_hw, header.stored_size_hw):
        message = f"{record.image_file}: is {header.stored_size_hw}, its masks {record.size_hw} (height, width)"
        report.skip("other_image_size", message)
        return False
    return True


def visible(record: ObjectRecord, min_part_pixels: int, report: ReadReport) -> tuple[ObjectRecord, int] | None:
    """The record with the parts that can be seen, and its object's area in pixels; None where nothing can be."""
    try:
        masks = record.masks()
    except InputError as error:
        report.skip("unreadable_mask", str(error))
        return None
    if None not in masks:
        report.skip("no_mask", f"{record.source} {record.object_id} of {record.image_file}: has no mask")
        return None
    names, part_map = part_map_of(masks)
    counts = np.bincount(part_map.ravel(), minlength=len(names) + 2)
    area = int(counts[1:].sum())
    visible_names = {name for k, name in enumerate(names) if counts[k + 2] >= max(1, min_part_pixels)}
    hidden = [part.name for part in record.parts if normalize_name(part.name) not in visible_names]
    if hidden:
        message = f"{record.image_file}: {', '.join(hidden)} of a {record.object_name} cannot be seen"
        report.skip("hidden_part", message, len(hidden))
    if not area:
        report.skip("no_mask", f"{record.source} {record.object_id} of {record.image_file}: its mask is empty")
        return None
    parts = tuple(part for part in record.parts if normalize_name(part.name) in visible_names)
    if not parts and record.object_rle is None:
        report.skip("no_mask", f"{record.source} {record.object_id} of {record.image_file}: none of its parts is left")
        return None
    return replace(record, parts=parts), area
