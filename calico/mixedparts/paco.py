"""PACO-LVIS v1 (Ramanathan et al. 2023): COCO JSON in which a part's row names its object's row.

Object rows have `id == obj_ann_id`, part rows the `obj_ann_id` of their object; boxes are never compared. Categories
are either one list (75 objects, 456 `object:part`) or, in the form that the documentation shows, objects in
`categories` and parts in `part_categories`, whose ids may be those of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calico.coco.names import clean_name, families_of, read_category
from calico.coco.rows import CocoRows, ImageRow
from calico.errors import InputError
from calico.mixedparts.assembling import locate, object_record, size_reader
from calico.mixedparts.records import ObjectRecord, ReadReport

SOURCE = "paco"
IMAGE_FOLDERS = ("train2017", "val2017")  # COCO's own, whatever the split here

Row = Mapping[str, Any]
Names = Mapping[Any, tuple[str | None, str | None]]


def read_paco(
    annotations: Path, *, split: str, report: ReadReport, images: Path | None = None
) -> Iterator[ObjectRecord]:
    """One record per object instance, in the file's order of images.

    annotations: `paco_lvis_v1_{train,val,test}.json`. images: the folder with `train2017` and `val2017`; objects of
    images that it lacks are skipped and counted. None reads masks only, without looking for images.
    Raises InputError where the file is no COCO file; whatever is wrong in a row is skipped or repaired, and counted.
    """
    report.source = report.source or SOURCE
    with CocoRows(annotations, report, size_of=size_reader(images, lambda name: IMAGE_FOLDERS)) as rows:
        objects, parts = _names(rows, report)
        for image in rows.images.values():
            image_rows = rows.rows_of(image.id)
            image_file = locate(images, image, IMAGE_FOLDERS, report) if image_rows else None
            if image_file is not None:
                yield from _objects(image, image_file, image_rows, objects, parts, split, report)


def _names(rows: CocoRows, report: ReadReport) -> tuple[Names, Names]:
    """(object, part) names by category id: of rows that are objects, of rows that are parts."""
    objects: dict[Any, tuple[str | None, str | None]] = {}
    parts: dict[Any, tuple[str | None, str | None]] = {}
    families = families_of(rows.categories, rows.used_categories)
    for row in rows.categories:
        try:
            names = read_category(row, families)
        except InputError as error:
            report.skip("unreadable_category", str(error))
            continue
        (objects if names[1] is None else parts)[row.get("id")] = names
    for row in rows.part_categories:
        name = row.get("name")
        if not isinstance(name, str) or not clean_name(name):
            report.skip("unreadable_category", f"part category {row.get('id')!r}: expected a name, got {name!r}")
        else:
            owner, _, part = name.rpartition(":")
            parts.setdefault(row.get("id"), (clean_name(owner) or None, clean_name(part)))
    return objects, parts


class _PartRow(NamedTuple):
    """object_name: as the row's category says it, None where it does not."""

    object_name: str | None
    part_name: str
    row: Row


def _objects(
    image: ImageRow,
    image_file: str,
    rows: Sequence[Row],
    objects: Names,
    parts: Names,
    split: str,
    report: ReadReport,
) -> Iterator[ObjectRecord]:
    owners, parts_of = _gather(image, rows, objects, parts, report)
    for owner in dict.fromkeys([*owners, *parts_of]):
        given = parts_of.get(owner, [])
        object_rows: list[Row] = []
        if owner in owners:
            object_name, row = owners[owner]
            object_rows = [row]
            for part in given:
                if part.object_name not in (None, object_name):
                    message = f"annotation {part.row.get('id')} of {image.file_name}: {part.part_name!r} of a"
                    report.repair("other_object_name", f"{message} {part.object_name} is its {object_name}'s")
        else:
            named = next((part.object_name for part in given if part.object_name), None)
            if named is None:
                message = f"{image.file_name}: object row {owner} is missing, nothing names the object"
                report.skip("no_object", message, len(given))
                continue
            object_name = named
            report.repair(
                "missing_object", f"{image.file_name}: the {named} {owner} has no row; its parts stand for it"
            )
        part_rows = [(part.part_name, part.row) for part in given]
        record = object_record(SOURCE, split, image, image_file, owner, object_name, object_rows, part_rows, report)
        if record is not None:
            yield record


def _gather(
    image: ImageRow, rows: Sequence[Row], objects: Names, parts: Names, report: ReadReport
) -> tuple[dict[str, tuple[str, Row]], dict[str, list[_PartRow]]]:
    """(name, row) of each object and the parts of each, by the object's annotation id."""
    owners: dict[str, tuple[str, Row]] = {}
    parts_of: dict[str, list[_PartRow]] = {}
    for row in rows:
        where = f"annotation {row.get('id')} of {image.file_name}"
        category, owner = row.get("category_id"), row.get("obj_ann_id")
        is_part = category in parts and category not in objects if owner is None else owner != row.get("id")
        object_name, part_name = (parts if is_part else objects).get(category, (None, None))
        if is_part and part_name is not None:
            if owner is None:  # all those of one name in the image: what else they belong to is not to be guessed
                owner = f"{image.id}:{object_name}"
            parts_of.setdefault(str(owner), []).append(_PartRow(object_name, part_name, row))
        elif not is_part and object_name is not None:
            owners[str(row.get("id"))] = (object_name, row)
        else:
            kind = "part" if is_part else "object"
            report.skip("unknown_category", f"{where}: no category of {kind}s has the id {category!r}")
    return owners, parts_of
