"""ADE20K-Part-234 (Wei et al. 2023, OV-PARTS): objects as COCO instances, parts as a 16-bit PNG of part ids per image.

A pixel is a part id 0..233, 65535 where there is none; several ids may bear one label. An instance's parts are its
class's ids (its `part_category_id` where it lists them) inside its own mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from calico.coco.names import clean_name, read_category
from calico.coco.rows import CocoRows, ImageRow
from calico.errors import InputError
from calico.masks import decode_rle, encode_rle
from calico.mixedparts.assembling import find_file, locate, row_rle, size_reader
from calico.mixedparts.records import ObjectRecord, PartMask, ReadReport, inside

SOURCE = "ade20k"
IGNORE = 65535

PartNames = Mapping[int, tuple[str, str]]


def read_ade20k(
    annotations: Path,
    part_maps: Path,
    part_names: PartNames,
    *,
    split: str,
    report: ReadReport,
    images: Path | None = None,
) -> Iterator[ObjectRecord]:
    """One record per object instance, in the file's order of images.

    annotations: `ade20k_instance_{train,val}.json`. part_maps: the folder of PNGs (`annotations_detectron2_part`), with
    or without `training` and `validation`. part_names: from `read_part_names`. images: the folder of images, likewise;
    objects of images that it lacks are skipped and counted. An image without its PNG yields objects without parts.
    Raises InputError where the file is no COCO file; whatever else is wrong is skipped or repaired, and counted.
    """
    report.source = report.source or SOURCE
    folders = folders_of(split)
    with CocoRows(annotations, report, size_of=size_reader(images, lambda name: folders)) as rows:
        objects = _object_names(rows, report)
        for image in rows.images.values():
            image_rows = rows.rows_of(image.id)
            image_file = locate(images, image, folders, report) if image_rows else None
            if image_file is None:
                continue
            part_map = read_part_map(part_maps, image, folders, part_names, report)
            for row in image_rows:
                record = _object(image, image_file, row, part_map, objects, part_names, split, report)
                if record is not None:
                    yield report.count(record)


def folders_of(split: str) -> tuple[str, ...]:
    """Where images and PNGs may lie below their folders; the test split is the validation's."""
    return ("training", "train") if split == "train" else ("validation", "val", split)


def read_part_names(path: Path) -> dict[int, tuple[str, str]]:
    """Part id -> (object, part) of a JSON list of names like `chair's back`, in the order of their ids.

    Also a list in `class_order`, a mapping of ids to names, and COCO `categories`. Raises InputError for others.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the list of ADE20K-Part's part names") from None
    if isinstance(document, dict):
        document = document.get("class_order", document.get("categories", document))
    named = list(document.items()) if isinstance(document, dict) else list(enumerate(document))
    names = {}
    for number, item in named:
        if isinstance(item, dict):
            number, item = item.get("id"), item.get("name")
        try:
            owner, part = read_category({"id": number, "name": item})
            if owner is None or part is None:
                raise InputError(f"{item!r} names no object and part")
            names[int(number)] = (owner, part)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"{path}: part {number}: expected a name like `chair's back` ({error})") from None
    if not names:
        raise InputError(f"{path}: holds no part names; give the list of ADE20K-Part's part names")
    return names


def read_part_map(
    part_maps: Path, image: ImageRow, folders: Sequence[str], part_names: PartNames, report: ReadReport
) -> np.ndarray | None:
    """HxW int32 part ids of an image, -1 where there is none; None, counted, where there is no such PNG."""
    name = str(PurePosixPath(image.file_name.replace("\\", "/")).with_suffix(".png"))
    try:
        file_name = find_file(part_maps, name, folders)
        if file_name is None:
            report.skip("missing_part_map", f"{name}: not below {part_maps}; its objects have no parts")
            return None
        with Image.open(inside(part_maps, file_name)) as file:
            if file.mode not in ("L", "I", "I;16", "I;16B", "I;16L") or file.size != image.size_hw[::-1]:
                expected = f"{image.size_hw[1]} x {image.size_hw[0]} (width x height) of grey"
                report.skip("bad_part_map", f"{file_name}: expected {expected}, got {file.size} of mode {file.mode}")
                return None
            part_map = np.asarray(file).astype(np.int32)
            ignore = 255 if file.mode == "L" else IGNORE
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        report.skip("bad_part_map", f"{name}: cannot be read ({' '.join(str(error).split())})")
        return None
    is_part = np.isin(part_map, list(part_names))
    strange = np.unique(part_map[~is_part & (part_map != ignore)]).tolist()
    if strange:
        report.skip("unknown_part_id", f"{file_name}: holds {strange[:8]}, which name no part", len(strange))
    return np.where(is_part, part_map, -1)


def cut_parts(
    part_map: np.ndarray, mask: np.ndarray, ids: Sequence[int], part_names: PartNames
) -> tuple[PartMask, ...]:
    """The parts of `ids` that a HxW bool object mask shows, ids of one label united, in the order of the ids."""
    visible_ids = set(np.unique(part_map[mask]).tolist())
    by_name: dict[str, list[int]] = {}
    for number in ids:
        if number in visible_ids:
            by_name.setdefault(part_names[number][1], []).append(number)
    return tuple(PartMask(name, encode_rle(mask & np.isin(part_map, same))) for name, same in by_name.items())


def _object(
    image: ImageRow,
    image_file: str,
    row: Mapping[str, Any],
    part_map: np.ndarray | None,
    objects: Mapping[Any, str],
    part_names: PartNames,
    split: str,
    report: ReadReport,
) -> ObjectRecord | None:
    where = f"annotation {row.get('id')} of {image.file_name}"
    name = objects.get(row.get("category_id"))
    if name is None:
        report.skip("unknown_category", f"{where}: no category has the id {row.get('category_id')!r}")
        return None
    rle = row_rle(row, image, report)
    if rle is None:
        return None
    parts: tuple[PartMask, ...] = ()
    if part_map is not None:
        ids = [number for number, (owner, _) in part_names.items() if owner == name]
        listed = row.get("part_category_id")
        if isinstance(listed, (int, list)) and not isinstance(listed, bool):
            numbers = [listed] if isinstance(listed, int) else listed
            for number in numbers:
                if number not in ids:
                    owner_and_part = part_names.get(number) if isinstance(number, int) else None
                    description = f"{owner_and_part[0]}'s {owner_and_part[1]}" if owner_and_part else "no part"
                    report.skip("foreign_part_id", f"{where}: lists {number!r} ({description}) as a part of a {name}")
            ids = [number for number in ids if number in numbers]
        parts = cut_parts(part_map, decode_rle(rle), ids, part_names)
    return ObjectRecord(SOURCE, str(row.get("id")), image_file, image.size_hw, name, rle, parts, split)


def _object_names(rows: CocoRows, report: ReadReport) -> dict[Any, str]:
    names = {}
    for row in rows.categories:
        name = row.get("name")
        name = name.partition(",")[0] if isinstance(name, str) else name  # `chest of drawers, chest, bureau, dresser`
        if isinstance(name, str) and clean_name(name):
            names[row.get("id")] = clean_name(name)
        else:
            report.skip("unreadable_category", f"category {row.get('id')!r}: expected a name, got {name!r}")
    return names
