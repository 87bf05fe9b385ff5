"""PartImageNet (He et al. 2022): COCO JSON of part rows only; an image shows one object, named by its super-category.

Categories are `Quadruped Head` (super-category, blank, part; ids from 0; `Tier` for tire), in MixedParts' rewritten
files `Head` under the supercategory `Quadruped`. Files of whole objects (`train_whole`) exist beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from calico.coco.names import clean_name
from calico.coco.rows import CocoRows, ImageRow
from calico.mixedparts.assembling import locate, object_record, size_reader
from calico.mixedparts.records import ObjectRecord, ReadReport

SOURCE = "partimagenet"

Row = Mapping[str, Any]


def read_partimagenet(
    annotations: Path,
    *,
    split: str,
    report: ReadReport,
    images: Path | None = None,
    objects: Path | None = None,
) -> Iterator[ObjectRecord]:
    """One record per image and super-category, in the file's order of images.

    annotations: `{train,val,test}.json`. images: the folder of images, flat or with a folder per split or ImageNet
    class (wnid); objects of images that it lacks are skipped and counted. objects: the file of whole objects; they give
    the object's mask, and its name where all their rows of that super-category and image agree on one (images are
    matched by file name). Without it the object is the union of its parts, called by its super-category.
    Raises InputError where a file is no COCO file; whatever is wrong in a row is skipped and counted.
    """
    report.source = report.source or SOURCE
    with ExitStack() as files:
        size_of = size_reader(images, lambda name: folders_of(name, split))
        rows = files.enter_context(CocoRows(annotations, report, size_of=size_of))
        object_rows = files.enter_context(CocoRows(objects, report, size_of=size_of)) if objects else None
        parts = _part_names(rows.categories, report)
        whole = _WholeObjects(object_rows, report) if object_rows else None
        for image in rows.images.values():
            image_rows = rows.rows_of(image.id)
            image_file = locate(images, image, folders_of(image.file_name, split), report) if image_rows else None
            if image_file is not None:
                yield from _objects(image, image_file, image_rows, parts, whole, split, report)


def folders_of(file_name: str, split: str) -> tuple[str, ...]:
    """Where an image may lie below the folder of images: by split, by ImageNet class (`n01440764_10042.JPEG`), both."""
    wnid = PurePosixPath(file_name.replace("\\", "/")).name.partition("_")[0]
    return split, wnid, f"{split}/{wnid}", f"images/{split}"


def _objects(
    image: ImageRow,
    image_file: str,
    rows: Sequence[Row],
    parts: Mapping[Any, tuple[str, str]],
    whole: _WholeObjects | None,
    split: str,
    report: ReadReport,
) -> Iterator[ObjectRecord]:
    by_object: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        names = parts.get(row.get("category_id"))
        if names is None:
            message = f"annotation {row.get('id')} of {image.file_name}: no category has the id"
            report.skip("unknown_category", f"{message} {row.get('category_id')!r}")
        else:
            by_object.setdefault(names[0], []).append((names[1], row))
    for above, part_rows in by_object.items():
        name, object_rows = whole.find(image, above) if whole else (above, [])
        number = f"{image.id}:{above}"
        record = object_record(SOURCE, split, image, image_file, number, name, object_rows, part_rows, report)
        if record is not None:
            yield record


def _part_names(categories: Sequence[Row], report: ReadReport) -> dict[Any, tuple[str, str]]:
    """Category id -> (super-category, part)."""
    names = {}
    for row in categories:
        name, above = row.get("name"), row.get("supercategory")
        words = clean_name(name) if isinstance(name, str) else ""
        owner = clean_name(above) if isinstance(above, str) else ""
        if not owner:
            owner, _, words = words.partition(" ")
        part = words.removeprefix(owner + " ")
        if owner and part:
            names[row.get("id")] = (owner, part)
        else:
            message = f"category {row.get('id')!r}: expected a super-category and a part, got {name!r}"
            report.skip("unreadable_category", message)
    return names


class _WholeObjects:
    """The rows of the file of whole objects, by image file and super-category."""

    def __init__(self, rows: CocoRows, report: ReadReport) -> None:
        self._rows, self._report = rows, report
        self._image_of = {PurePosixPath(image.file_name).name: image for image in rows.images.values()}
        self._names: dict[Any, tuple[str, str]] = {}  # (super-category, object)
        for row in rows.categories:
            name, above = row.get("name"), row.get("supercategory")
            if isinstance(name, str) and clean_name(name):
                part_name = clean_name(name)
                self._names[row.get("id")] = (
                    clean_name(above) if isinstance(above, str) and above else part_name,
                    part_name,
                )

    def find(self, image: ImageRow, above: str) -> tuple[str, list[Row]]:
        """(the object's name, its rows)."""
        other = self._image_of.get(PurePosixPath(image.file_name).name)
        object_rows: list[Row] = []
        names = set()
        for row in self._rows.rows_of(other.id) if other else []:
            at, name = self._names.get(row.get("category_id"), ("", ""))
            if above in (at, name):
                object_rows.append(row)
                names.add(name)
        if other and other.size_hw != image.size_hw:
            message = f"{image.file_name}: {other.size_hw} in the file of objects, {image.size_hw} in that of parts"
            self._report.skip("object_size", message)
            object_rows = []
        elif not object_rows:
            self._report.repair("missing_object", f"{image.file_name}: has no whole {above}; its parts stand for it")
        return (names.pop() if len(names) == 1 else above), object_rows
