"""A COCO file -> annotated objects: each an image's object of one name with its parts, all damage counted.

Reads what PACO, PartImageNet, ADE20K-Part, LVIS, coco-annotator and our own export write: polygons and both kinds of
run lengths, `iscrowd` missing or boolean, ids that are 0, `obj_ann_id` (PACO) and `part_of` (ours), parts without an
object row (the object is then the union of its parts), several rows or several category ids for one name (united).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calico.coco.names import families_of, read_category
from calico.coco.segmentation import decode_segmentation
from calico.errors import InputError
from calico.images import MAX_PIXELS
from calico.values import Problem

MAX_MESSAGES = 1000
UNNAMED_OBJECT = "object"
PART = "part"
ID_KEYS = ("id", "image_id", "category_id", "obj_ann_id", "part_of")

Row = Mapping[str, Any]
Names = tuple[str | None, str | None]  # object, part
Categories = Mapping[Any, Names]


@dataclass
class Findings:
    """Problems counted by code; the first messages kept."""

    counts: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, code: str, message: str, number: int = 1) -> None:
        self.counts[code] = self.counts.get(code, 0) + number
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(f"{code}: {message}")

    def add_all(self, problems: Iterator[Problem] | tuple[Problem, ...] | list[Problem], where: str = "") -> None:
        for problem in problems:
            self.add(problem.code, where + problem.message)


@dataclass(frozen=True, eq=False)
class CocoImage:
    """One image row. row: as it stands in the file."""

    id: Any
    file_name: str
    size_hw: tuple[int, int]
    row: Row


@dataclass(frozen=True, eq=False)
class CocoObject:
    """One image's object of one name: all rows that say it, and all its parts'.

    rows: (part name or None for the object, annotation row). Masks are decoded only when asked for.
    """

    image: CocoImage
    object_name: str
    rows: tuple[tuple[str | None, Row], ...]

    def masks(self, findings: Findings) -> dict[str | None, np.ndarray]:
        """Part name (None: the whole object) -> HxW bool at the image row's size; the object holds its parts."""
        masks: dict[str | None, np.ndarray] = {}
        for part_name, row in self.rows:
            where = f"annotation {row.get('id')} of {self.image.file_name}"
            try:
                mask, num_short = decode_segmentation(row.get("segmentation"), self.image.size_hw)
            except InputError as error:
                findings.add("unreadable_segmentation", f"{where}: {error}")
                continue
            if num_short:
                findings.add("short_polygon", f"{where}: {num_short} polygons of fewer than 3 points", num_short)
            if not mask.any():
                findings.add("empty_mask", f"{where}: nothing of it is on the image")
                continue
            masks[part_name] = masks[part_name] | mask if part_name in masks else mask
        if masks and None not in masks:
            masks[None] = np.logical_or.reduce(list(masks.values()))
        return masks

    def scores(self) -> dict[str | None, float]:
        """The highest score of each part's rows (None: of the object's); 1.0 where no row gives one."""
        found: dict[str | None, float] = {}
        for part_name, row in self.rows:
            score = row.get("score")
            if isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1:
                found[part_name] = max(found.get(part_name, 0.0), float(score))
        return found


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """objects: by image in the file's order. is_upright: the file says that its masks are in the displayed frame."""

    objects: tuple[CocoObject, ...]
    num_images: int
    num_annotations: int
    is_upright: bool
    findings: Findings


def read_coco(path: Path) -> CocoDataset:
    """Read a COCO instances file (the whole of it into memory). Raises InputError where it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a COCO instances file") from error
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error}); export or download it again") from error
    try:
        return parse_coco(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse_coco(document: Any) -> CocoDataset:
    """As `read_coco`, of a file's content."""
    lists = {}
    for name in ("images", "annotations", "categories"):
        found = document.get(name) if isinstance(document, dict) else None
        if not isinstance(found, list):
            raise InputError(f"expected the lists images, annotations and categories, {name!r} is missing")
        lists[name] = found
    findings = Findings()
    images = _images(lists["images"], findings)
    part_rows = document.get("part_categories")
    categories = _categories(lists["categories"], part_rows if isinstance(part_rows, list) else [], findings)
    annotations = _annotations(lists["annotations"], images, categories, findings)
    objects = _objects(annotations, images, categories, findings)
    frame = str((document.get("info") or {}).get("frame", "")) if isinstance(document.get("info"), dict) else ""
    return CocoDataset(
        tuple(objects), len(lists["images"]), len(lists["annotations"]), frame.startswith("upright"), findings
    )


def _images(rows: list[Any], findings: Findings) -> dict[Any, CocoImage]:
    images: dict[Any, CocoImage] = {}
    for row in rows:
        number = row.get("id") if isinstance(row, dict) else None
        height, width = (row.get("height"), row.get("width")) if isinstance(row, dict) else (None, None)
        if not isinstance(number, (int, str)) or not isinstance(height, int) or not isinstance(width, int):
            findings.add("unreadable_image", f"image {number!r}: expected id, height and width, got {str(row)[:80]}")
        elif height < 1 or width < 1 or height * width > MAX_PIXELS:
            message = f"image {number}: {height} x {width}, expected 1 to {MAX_PIXELS:,} pixels"
            findings.add("unreadable_image", message)
        elif number in images:
            findings.add("duplicate_image", f"image {number}: its id stands twice; the first row counts")
        else:
            name = row.get("file_name") or str(row.get("coco_url") or "").rpartition("/")[2] or str(number)
            images[number] = CocoImage(number, str(name), (height, width), row)
    return images


def _categories(rows: list[Any], part_rows: list[Any], findings: Findings) -> Categories:
    """Names by id. PACO's `part_categories` may use the ids of objects: those stand under (PART, id) as well."""
    categories: dict[Any, Names] = {}
    families = families_of([*rows, *part_rows])
    for place, row in enumerate([*rows, *part_rows]):
        if not isinstance(row, dict) or isinstance(row.get("id"), (list, dict)):
            findings.add("unreadable_category", f"category: expected an object with an id, got {str(row)[:60]}")
            continue
        try:
            names = read_category(row, families)
        except InputError as error:
            findings.add("unreadable_category", str(error))
            continue
        if place < len(rows):
            categories[row.get("id")] = names
        else:
            names = names if names[1] else (None, names[0])  # alone in that list it is a part's name
            categories.setdefault(row.get("id"), names)
            categories[PART, row.get("id")] = names
    return categories


def _names_of(row: Row, categories: Categories) -> Names:
    number, owner = row["category_id"], row.get("obj_ann_id")
    names = categories[number]
    if names[1] is None and owner is not None and owner != row.get("id"):
        return categories.get((PART, number), names)
    return names


def _annotations(
    rows: list[Any],
    images: Mapping[Any, CocoImage],
    categories: Categories,
    findings: Findings,
) -> list[Row]:
    """The rows that can be used: of a known image and category, and not of a crowd."""
    used: list[Row] = []
    for row in rows:
        if not isinstance(row, dict):
            findings.add("unreadable_annotation", f"annotation: expected an object, got {type(row).__name__}")
        elif strange := [key for key in ID_KEYS if isinstance(row.get(key), (list, dict))]:
            message = f"annotation {row.get('id')}: expected one {strange[0]}, got {str(row[strange[0]])[:60]}"
            findings.add("unreadable_annotation", message)
        elif row.get("image_id") not in images:
            findings.add("unknown_image", f"annotation {row.get('id')}: no image has the id {row.get('image_id')!r}")
        elif row.get("category_id") not in categories:
            message = f"annotation {row.get('id')}: no category has the id {row.get('category_id')!r}"
            findings.add("unknown_category", message)
        elif row.get("iscrowd"):
            findings.add("crowd", f"annotation {row.get('id')}: a crowd is many objects and belongs to none")
        else:
            used.append(row)
    return used


def _objects(
    annotations: list[Row],
    images: Mapping[Any, CocoImage],
    categories: Categories,
    findings: Findings,
) -> list[CocoObject]:
    object_of = {row.get("id"): _names_of(row, categories)[0] for row in annotations}
    gathered: dict[tuple[Any, str], list[tuple[str | None, Row]]] = {}
    for row in annotations:
        object_name, part_name = _names_of(row, categories)
        if part_name is not None:
            # PACO: the row of the object itself; never to be guessed from boxes.
            owner = row.get("obj_ann_id", row.get("part_of"))
            if owner is not None and owner != row.get("id") and object_name is None:
                object_name = object_of.get(owner)
            if owner is not None and owner not in object_of:
                findings.add("missing_object", f"annotation {row.get('id')}: its object's row {owner} is missing")
        if object_name is None:
            findings.add("no_object_name", f"annotation {row.get('id')}: nothing names the object of {part_name!r}")
            object_name = UNNAMED_OBJECT
        gathered.setdefault((row["image_id"], object_name), []).append((part_name, row))
    order = {number: place for place, number in enumerate(images)}
    return [
        CocoObject(images[image], object_name, tuple(rows))
        for (image, object_name), rows in sorted(gathered.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]
