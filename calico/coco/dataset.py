"""A COCO file -> annotated objects: each an image's object of one name with its parts, all damage counted.

Reads what PACO, PartImageNet, ADE20K-Part, LVIS, coco-annotator and our own export write: polygons and both kinds of
run lengths, `iscrowd` missing or boolean, ids that are 0, `obj_ann_id` (PACO) and `part_of` (ours), parts without an
object row (the object is then the union of its parts), several rows or several category ids for one name (united).
`rows` says what a row must have; masks are read when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calico.coco.names import families_of, read_category
from calico.coco.rows import CocoRows, ImageRow, SizeOf
from calico.coco.segmentation import decode_segmentation
from calico.errors import InputError
from calico.values import Problem

MAX_MESSAGES = 1000
UNNAMED_OBJECT = "object"
PART = "part"

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


@dataclass
class _Counted:
    """Findings as `CocoRows` counts them."""

    findings: Findings
    num_images: int = 0
    num_rows: int = 0

    def skip(self, code: str, message: str, number: int = 1) -> None:
        self.findings.add(code, message, number)

    repair = skip


@dataclass(frozen=True, eq=False)
class CocoObject:
    """One image's object of one name: all rows that say it, and all its parts'.

    part_names: of each row, None for the object's own. Rows stay in the file, and are read when asked for.
    """

    image: ImageRow
    object_name: str
    part_names: tuple[str | None, ...]
    _places: tuple[int, ...]
    _file: CocoRows

    @property
    def rows(self) -> tuple[tuple[str | None, Row], ...]:
        """(part name or None for the object, annotation row), from the file."""
        return tuple(zip(self.part_names, self._file.rows_at(self._places), strict=True))

    def masks(self, findings: Findings, rows: Sequence[tuple[str | None, Row]] = ()) -> dict[str | None, np.ndarray]:
        """Part name (None: the whole object) -> HxW bool at the image row's size; the object holds its parts.

        rows: `self.rows`, where they were read already.
        """
        masks: dict[str | None, np.ndarray] = {}
        for part_name, row in rows or self.rows:
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

    def scores(self, rows: Sequence[tuple[str | None, Row]] = ()) -> dict[str | None, float]:
        """The highest score of each part's rows (None: of the object's); 1.0 where no row gives one."""
        highest: dict[str | None, float] = {}
        for part_name, row in rows or self.rows:
            score = row.get("score")
            if isinstance(score, (int, float)) and not isinstance(score, bool) and 0 <= score <= 1:
                highest[part_name] = max(highest.get(part_name, 0.0), float(score))
        return highest


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """objects: by image in the file's order. is_upright: the file says that its masks are in the displayed frame."""

    objects: tuple[CocoObject, ...]
    num_images: int
    num_annotations: int
    is_upright: bool
    findings: Findings


@dataclass(frozen=True)
class NamingOptions:
    """How categories are read where their names do not say enough.

    by_supercategory: a category is a part of its supercategory, where that is a category too. given: names that a user
    gives, category -> `object`, `object:part` or `:part`; empty leaves its annotations out. object_name: of which every
    other category is a part, whatever else is said; empty for none.
    """

    by_supercategory: bool = False
    given: Mapping[str, str] = field(default_factory=dict)
    object_name: str = ""

    def owned(self, names: Names) -> Names:
        """(object, part) with `object_name` as the object; what is left out stays so."""
        owner, part = names
        if not self.object_name or names in ((None, None), (self.object_name, None)):
            return names
        return self.object_name, owner if part is None else part


def read_coco(
    path: Path,
    *,
    size_of: SizeOf | None = None,
    naming: NamingOptions = NamingOptions(),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> CocoDataset:
    """Read a COCO instances file; its annotations stay in it. Raises InputError where it is none.

    size_of: tells the (height, width) of an image whose row does not. on_progress: bytes read, of all.
    """
    findings = Findings()
    return _dataset(CocoRows(path, _Counted(findings), size_of=size_of, on_progress=on_progress), findings, naming)


def parse_coco(document: Any, *, naming: NamingOptions = NamingOptions()) -> CocoDataset:
    """As `read_coco`, of a file's content."""
    findings = Findings()
    content = json.dumps(document).encode()
    return _dataset(CocoRows(Path("COCO"), _Counted(findings), content=content), findings, naming)


def _dataset(source: CocoRows, findings: Findings, naming: NamingOptions) -> CocoDataset:
    with source as rows:
        categories = _categories(rows, naming, findings)
        objects = _objects(rows, categories, findings)
        frame = str(rows.info.get("frame", "")) if isinstance(rows.info, dict) else ""
    report = rows.report
    return CocoDataset(tuple(objects), report.num_images, report.num_rows, frame.startswith("upright"), findings)


def _categories(rows: CocoRows, naming: NamingOptions, findings: Findings) -> Categories:
    """Names by id. PACO's `part_categories` may use the ids of objects: those stand under (PART, id) as well."""
    categories: dict[Any, Names] = {}
    families = families_of(
        [*rows.categories, *rows.part_categories],
        rows.used_categories,
        by_supercategory=naming.by_supercategory,
        given=naming.given,
    )
    for place, row in enumerate([*rows.categories, *rows.part_categories]):
        is_part = place >= len(rows.categories)
        key = (PART, row.get("id")) if is_part else row.get("id")
        try:
            names = naming.owned(read_category(row, families))
        except InputError as error:
            findings.add("unreadable_category", str(error))
            continue
        if is_part:
            names = names if names[1] else (None, names[0])  # alone in that list it is a part's name
            categories.setdefault(row.get("id"), names)
            categories[key] = names
        else:
            categories[key] = names
    return categories


def _objects(rows: CocoRows, categories: Categories, findings: Findings) -> list[CocoObject]:
    """Of each image the objects, from the rows that can be used: of a known category, and not of a crowd."""
    crowds = set(rows.crowds)
    objects: list[CocoObject] = []
    seen: set[Any] = set()
    for image in rows.images.values():
        used: list[tuple[int, Any, Names, Any]] = []  # place, id, names, the id of its object's row
        for place in rows.places_of(image.id):
            number, category, owner = rows.ids_at(place)
            if number is not None and number in seen:
                # As in files that were joined: rows are told apart by their image.
                message = f"annotation {number} of {image.file_name}: its id stands on another image too"
                findings.add("duplicate_annotation", message)
            seen.add(number)
            if category not in categories:
                findings.add("unknown_category", f"annotation {number}: no category has the id {category!r}")
            elif place in crowds:
                findings.add("crowd", f"annotation {number}: a crowd is many objects and belongs to none")
            elif (names := _names_of(category, owner, number, categories)) == (None, None):
                findings.add("left_out_category", f"annotation {number}: its category is left out by its given name")
            else:
                used.append((place, number, names, owner))
        objects += _objects_of(rows, image, used, findings)
    return objects


def _names_of(category: Any, owner: Any, number: Any, categories: Categories) -> Names:
    names = categories[category]
    if names[1] is None and owner is not None and owner != number:
        return categories.get((PART, category), names)
    return names


def _objects_of(
    rows: CocoRows, image: ImageRow, used: Sequence[tuple[int, Any, Names, Any]], findings: Findings
) -> list[CocoObject]:
    object_of = {number: names[0] for _, number, names, _ in used}  # within the image: ids may come again elsewhere
    gathered: dict[str, list[tuple[str | None, int]]] = {}
    for place, number, (object_name, part_name), owner in used:
        if part_name is not None:
            # PACO: the row of the object itself; never to be guessed from boxes.
            if owner is not None and owner != number and object_name is None:
                object_name = object_of.get(owner)
            if owner is not None and owner not in object_of:
                findings.add("missing_object", f"annotation {number}: its object's row {owner} is missing")
        if object_name is None:
            findings.add("no_object_name", f"annotation {number}: nothing names the object of {part_name!r}")
            object_name = UNNAMED_OBJECT
        gathered.setdefault(object_name, []).append((part_name, place))
    return [
        CocoObject(image, name, tuple(part for part, _ in pairs), tuple(place for _, place in pairs), rows)
        for name, pairs in sorted(gathered.items())
    ]
