"""The released MixedParts records, `mixed_parts_{train,val,test}.json`, which point into the sources' annotation files.

An object record says which classes two images share; a part record says, for pairs of classes, which parts are common
and which unique. Each becomes one `ReleasedPair` per class pair and question; a mask is the union of the annotations
that the record lists for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calico.coco.names import clean_name
from calico.coco.rows import CocoRows, ImageRow, stream_rows
from calico.errors import InputError
from calico.masks import decode_rle, rle_area, union_rle
from calico.mixedparts import ade20k, paco, partimagenet
from calico.mixedparts.assembling import locate, row_rle, size_reader
from calico.mixedparts.records import ObjectRecord, PartMask, ReadReport, Rle
from calico.values import SubTask

NAMES = {"paco_lvis": paco.SOURCE, "part_image_net": partimagenet.SOURCE, "ade20k_part234": ade20k.SOURCE}
SPELLINGS = {"ade20k_part_234": "ade20k_part234"}
MIN_OBJECT_SHARE = 0.02  # of the image: smaller objects are left out of common-object records, as the authors do


@dataclass(frozen=True)
class ReleasedSource:
    """One source's files, for one split.

    annotations: of objects (PACO: of objects and parts). parts: the file of parts (PartImageNet). part_maps,
    part_names: the folder of PNGs and `read_part_names` (ADE20K). images: as in the sources' own readers.
    """

    annotations: Path
    parts: Path | None = None
    part_maps: Path | None = None
    part_names: Mapping[int, tuple[str, str]] | None = None
    images: Path | None = None


@dataclass(frozen=True)
class ReleasedPair:
    """One question about two images. record: its place in the file, from 0; visibility: as the record states it.

    objects: one per image, with the parts that the right answer names and no others (none for the common object).
    """

    record: int
    source: str
    sub_task: SubTask
    objects: tuple[ObjectRecord, ObjectRecord]
    visibility: tuple[float, ...] = ()


def read_mixedparts(
    records: Path, sources: Mapping[str, ReleasedSource], *, split: str, report: ReadReport
) -> Iterator[ReleasedPair]:
    """The pairs in the file's order; the file is streamed, the sources' rows are read where they are needed.

    sources: by `dataset_name` (`paco_lvis`, `part_image_net`, `ade20k_part234`); records of others are skipped. What
    cannot be resolved (an image or annotation that is missing, a mask that is none) is skipped and counted.
    Raises InputError where a file is none of its kind.
    """
    report.source = report.source or "mixedparts"
    for name in sources:
        if name not in NAMES:
            raise InputError(f"source {name!r}: expected one of {', '.join(NAMES)}")
    with ExitStack() as files:
        opened = {name: _Source(NAMES[name], name, source, split, files, report) for name, source in sources.items()}
        try:
            file = files.enter_context(open(records, "rb"))
        except OSError as error:
            raise InputError(f"{records}: cannot be read ({error.strerror}); give a MixedParts file") from None
        for number, item in enumerate(stream_rows(file, records)):
            if item.key or (item.length and not isinstance(item.value, dict)):
                raise InputError(f"{records}: expected a list of records; give a `mixed_parts_*.json`")
            if not item.length:
                return
            report.num_rows += 1
            name = str(item.value.get("dataset_name"))
            source = opened.get(SPELLINGS.get(name, name))
            if source is None:
                report.skip("other_source", f"record {number}: of {name!r}, whose files are not given")
                continue
            try:
                yield from source.pairs(number, item.value)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                report.skip("unreadable_record", f"record {number}: not of the released form ({error!r})")


class _Source:
    """Resolves the records of one source."""

    def __init__(
        self, name: str, dataset: str, files: ReleasedSource, split: str, opened: ExitStack, report: ReadReport
    ) -> None:
        self.name, self.split, self.files, self.report = name, split, files, report
        size_of = size_reader(files.images, self._folders)

        def rows_of(path: Path) -> CocoRows:
            return opened.enter_context(CocoRows(path, report, size_of=size_of))

        self.objects = rows_of(files.annotations)
        self.parts = rows_of(files.parts) if files.parts else self.objects
        if dataset == "ade20k_part234" and (files.part_maps is None or files.part_names is None):
            raise InputError(f"{dataset}: expected part_maps and part_names beside {files.annotations}")
        self._part_map: tuple[Any, np.ndarray | None] = (None, None)

    def pairs(self, number: int, record: Mapping[str, Any]) -> Iterator[ReleasedPair]:
        places = []
        for image_id in record["img_ids"]:
            image = self.objects.images.get(image_id)
            if image is None:
                self.report.skip("unknown_image", f"record {number}: no image has the id {image_id!r}")
                return
            file = locate(self.files.images, image, self._folders(image.file_name), self.report)
            if file is None:
                return
            places.append((image, file))
        if len(places) != 2:
            raise ValueError(f"{len(places)} images, expected 2")
        if record["is_object"]:
            for common in record["common"]:
                names = (common["cat"], common["cat"])
                small = MIN_OBJECT_SHARE
                yield from self._pair(number, SubTask.COMMON_OBJECT, places, names, common, ({}, {}), small)
            return
        for pair in record["pairs"]:
            if not pair.get("common") and not pair.get("unique"):
                self.report.skip("no_question", f"record {number}: {pair['cats']} have no parts listed")
            if pair.get("common"):
                parts = tuple({item["part_cat"]: _ids(item, image) for item in pair["common"]} for image in (0, 1))
                yield from self._pair(number, SubTask.COMMON_PARTS, places, pair["cats"], pair, parts)
            if pair.get("unique"):
                unique = pair["unique"]
                parts = tuple(
                    dict(zip(unique["part_cats"][image], _ids(unique, image), strict=True)) for image in (0, 1)
                )
                yield from self._pair(number, SubTask.UNIQUE_PARTS, places, pair["cats"], pair, parts)

    def _folders(self, file_name: str) -> Sequence[str]:
        if self.name == paco.SOURCE:
            return paco.IMAGE_FOLDERS
        if self.name == partimagenet.SOURCE:
            return partimagenet.folders_of(file_name, self.split)
        return ade20k.folders_of(self.split)

    def _pair(
        self,
        number: int,
        sub_task: SubTask,
        places: Sequence[tuple[ImageRow, str]],
        names: Sequence[str],
        stated: Mapping[str, Any],
        parts: Sequence[Mapping[str, Sequence[Any]]],
        min_share: float = 0.0,
    ) -> Iterator[ReleasedPair]:
        where = f"record {number}"
        records = []
        for (image, file), name, ids, part_ids in zip(places, names, stated["ann_ids"], parts, strict=True):
            whole = self._union(self.objects, ids, image, where)
            if whole is None:
                self.report.skip("no_object", f"{where}: nothing is left of the {name} of {image.file_name}")
                return
            height, width = image.size_hw
            if rle_area(whole) < min_share * height * width:
                share = rle_area(whole) / (height * width)
                message = f"{where}: the {name} of {image.file_name} is {share:.2%} of it, under {min_share:.0%}"
                self.report.skip("small_object", message)
                return
            masks = self._part_masks(whole, part_ids, image, where)
            object_id = "+".join(str(one) for one in ids)
            records.append(
                ObjectRecord(self.name, object_id, file, image.size_hw, clean_name(name), whole, masks, self.split)
            )
        visibility = tuple(float(value) for value in stated.get("visibility") or ())
        for record in records:
            self.report.count(record)
        yield ReleasedPair(number, self.name, sub_task, (records[0], records[1]), visibility)

    def _part_masks(
        self, whole: Rle, part_ids: Mapping[str, Sequence[Any]], image: ImageRow, where: str
    ) -> tuple[PartMask, ...]:
        masks: dict[str, list[Rle]] = {}
        for part, ids in part_ids.items():
            if self.name == ade20k.SOURCE:
                names = dict.fromkeys(ids, ("", part))
                cut = ade20k.cut_parts(self._map_of(image), decode_rle(whole), list(names), names) if names else ()
                rle = cut[0].rle if cut else None
            else:
                rle = self._union(self.parts, ids, self._part_image(image), where)
            if rle is None:
                self.report.skip("no_part", f"{where}: nothing is left of the {part} of {image.file_name}")
            else:
                masks.setdefault(clean_name(part), []).append(rle)
        return tuple(PartMask(part, union_rle(rles)) for part, rles in masks.items())

    def _part_image(self, image: ImageRow) -> ImageRow:
        return self.parts.images.get(image.id, image)

    def _union(self, rows: CocoRows, ids: Sequence[Any], image: ImageRow, where: str) -> Rle | None:
        """The union of the annotations listed; those of another image, or missing, are skipped and counted."""
        row_of = rows.by_ids(ids)
        rles = []
        for number in ids:
            row = row_of.get(number)
            if row is None or row.get("image_id") != image.id:
                why = "is missing" if row is None else f"is of image {row.get('image_id')!r}, not {image.id!r}"
                self.report.skip("unknown_annotation", f"{where}: annotation {number!r} {why}")
                continue
            rle = row_rle(row, image, self.report)
            if rle is not None:
                rles.append(rle)
        return union_rle(rles) if rles else None

    def _map_of(self, image: ImageRow) -> np.ndarray:
        """Part ids of an image, the last one kept; -1 everywhere where its PNG is missing or bad (counted)."""
        if self._part_map[0] != image.id:
            assert self.files.part_maps is not None
            assert self.files.part_names is not None
            folders = ade20k.folders_of(self.split)
            part_map = ade20k.read_part_map(self.files.part_maps, image, folders, self.files.part_names, self.report)
            self._part_map = (image.id, part_map)
        part_map = self._part_map[1]
        return np.full(image.size_hw, -1, np.int32) if part_map is None else part_map


def _ids(item: Mapping[str, Any], image: int) -> Any:
    """`part_ann_ids`, or ADE20K's `part_cat_ids`, of image 0 or 1."""
    return (item["part_ann_ids"] if "part_ann_ids" in item else item["part_cat_ids"])[image]
