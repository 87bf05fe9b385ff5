"""What the readers share: annotation rows -> one object's record, and where a picture lies below the user's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from calico.coco.orientation import read_header
from calico.coco.rows import ImageRow, SizeOf
from calico.coco.segmentation import compress_segmentation
from calico.data.image_files import is_address, is_file, relative_names
from calico.errors import InputError
from calico.masks import rle_area, union_rle
from calico.mixedparts.records import ObjectRecord, PartMask, ReadReport, Rle, inside

Row = Mapping[str, Any]


def object_record(
    source: str,
    split: str,
    image: ImageRow,
    image_file: str,
    object_id: str,
    object_name: str,
    object_rows: Iterable[Row],
    part_rows: Iterable[tuple[str, Row]],
    report: ReadReport,
) -> ObjectRecord | None:
    """Rows of one object and (name, row) of its parts -> its record, rows of one part name united; None without masks.

    Rows that cannot be read are skipped and counted; those that can are counted in `report` as read.
    """
    whole = [rle for row in object_rows if (rle := row_rle(row, image, report)) is not None]
    gathered: dict[str, list[Rle]] = {}
    for name, row in part_rows:
        rle = row_rle(row, image, report)
        if rle is not None:
            gathered.setdefault(name, []).append(rle)
    if not whole and not gathered:
        return None
    parts = tuple(PartMask(name, union_rle(rles)) for name, rles in gathered.items())
    object_rle = union_rle(whole) if whole else None
    record = ObjectRecord(source, object_id, image_file, image.size_hw, object_name, object_rle, parts, split)
    return report.count(record)


def row_rle(row: Row, image: ImageRow, report: ReadReport) -> Rle | None:
    """The mask of an annotation row in compressed run lengths; None, counted, where it cannot be read or is empty."""
    where = f"annotation {row.get('id')} of {image.file_name}"
    if row.get("iscrowd"):
        report.skip("crowd", f"{where}: a crowd is many objects and belongs to none")
        return None
    try:
        rle, num_short = compress_segmentation(row.get("segmentation"), image.size_hw)
    except InputError as error:
        report.skip("unreadable_segmentation", f"{where}: {error}")
        return None
    if num_short:
        report.repair("short_polygon", f"{where}: {num_short} polygons of fewer than 3 points left out", num_short)
    if not rle_area(rle):
        report.skip("empty_mask", f"{where}: nothing of it is on the image")
        return None
    return rle


def find_file(root: Path, name: str, folders: Sequence[str] = ()) -> str | None:
    """Where a file lies below `root`, relative with `/`; None where it is missing.

    Tried: as named, of an address its path, then its last piece alone, then that in each of `folders`. Raises
    InputError where the name leads out of `root`.
    """
    if not is_address(name):
        inside(root, name)
    for path in relative_names(name):
        last = PurePosixPath(path).name
        for candidate in dict.fromkeys([path, last, *(f"{folder}/{last}" for folder in folders)]):
            if is_file(inside(root, candidate)):
                return candidate
    return None


def size_reader(root: Path | None, folders_of: Callable[[str], Sequence[str]]) -> SizeOf | None:
    """Tells the stored (height, width) of the images below `root`, for rows without it; None without a folder.

    folders_of: by an image's name where else it may lie, as `find_file` takes it.
    """

    if root is None:
        return None

    def size_of(name: str) -> tuple[int, int] | None:
        try:
            file_name = find_file(root, name, folders_of(name))
            return None if file_name is None else read_header(inside(root, file_name)).stored_size_hw
        except InputError:
            return None

    return size_of


def locate(root: Path | None, image: ImageRow, folders: Sequence[str], report: ReadReport) -> str | None:
    """An image's file below the user's folder; None, counted, where it is missing. root None: as the row names it."""
    if root is None:
        return image.file_name
    try:
        file_name = find_file(root, image.file_name, folders)
    except InputError as error:
        report.skip("bad_file_name", f"image {image.id}: {error}")
        return None
    if file_name is None:
        report.skip("missing_image", f"{image.file_name}: not below {root}; download it")
    return file_name
