"""The rows of a COCO file by image, however large the file: one pass notes where each stands, then they are re-read.

A file of 1 GB would take several as Python objects. Only image rows, categories and places are kept: per annotation
its ids and two whole numbers. What a row must have is checked here, for every reader.
"""

from __future__ import annotations

import io
import json
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, NamedTuple, Protocol, Self

import numpy as np

from calico.errors import InputError
from calico.images import MAX_PIXELS
from calico.values import whole_number

CHUNK_BYTES = 1 << 22
_BLANK = " \t\r\n"

Row = Mapping[str, Any]


ID_KEYS = ("id", "image_id", "category_id", "obj_ann_id", "part_of")
#: The (height, width) of an image whose row does not say it, by its file name; None where the image is not there.
SizeOf = Callable[[str], tuple[int, int] | None]


class Report(Protocol):
    """Counts what was left out, and what was read although it was not as it should be, with a message."""

    num_images: int
    num_rows: int

    def skip(self, code: str, message: str, number: int = 1) -> None: ...

    def repair(self, code: str, message: str, number: int = 1) -> None: ...


class ImageRow(NamedTuple):
    """One image row. size_hw: (height, width) as the file states it, else of the image itself. row: as it stands."""

    id: Any
    file_name: str
    size_hw: tuple[int, int]
    row: Row = MappingProxyType({})


def row_id(value: Any) -> int | str | None:
    """The id that a file means: `7`, `7.0` and `"7"` are one, any other text is itself; None where it is none."""
    number = whole_number(value)
    if number is not None and not (isinstance(value, str) and value.strip() not in (str(number), f"{number}.0")):
        return number
    return value if isinstance(value, str) else None


def plain_ids(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its ids as `row_id` reads them, where they are some."""
    for key in ID_KEYS:
        value = row.get(key)
        if value is not None and type(value) is not int and (number := row_id(value)) is not None:
            row[key] = number
    return row


def file_name_of(row: Row) -> str:
    """Where an image row says that its file is: `file_name`, else the last name of its address, else its id."""
    name = row.get("file_name")
    if isinstance(name, str) and name.strip():
        return name.strip()
    return str(row.get("coco_url") or "").rpartition("/")[2] or str(row.get("id"))


class Item(NamedTuple):
    """One item of a list in a JSON object. key: the list's. start, length: where it stands in the file, in bytes.

    length 0: the list is empty, this is no item but says that the list is there.
    """

    key: str
    start: int
    length: int
    value: Any


class CocoRows:
    """A context manager; raises InputError where the file is missing, no JSON or has not the three lists of COCO.

    images: by id in the file's order. categories, part_categories: rows as they stand, the first of each id. Rows of
    unknown images and what is no row at all are skipped and counted in `report`. size_of: for image rows that state no
    size. on_progress: is told how many bytes were read, of how many.
    """

    def __init__(
        self,
        path: Path,
        report: Report,
        *,
        size_of: SizeOf | None = None,
        content: bytes | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """content: what stands in the file, where it was read already; `path` is then a name for messages."""
        self.path, self.report = path, report
        self.images: dict[Any, ImageRow] = {}
        self.categories: list[Row] = []
        self.part_categories: list[Row] = []
        self._category_ids: set[tuple[str, Any]] = set()
        self.info: Any = None
        self.has_crowd_masks = False
        self._size_of, self._content, self._on_progress = size_of, content, on_progress
        self._file: BinaryIO | None = None
        self._ids: list[Any] = []
        self._images_of: list[Any] = []
        self._category_of: list[Any] = []
        self._owner_of: list[Any] = []
        self._crowds: list[int] = []
        self._num_plain = {"polygons": 0, "run lengths": 0, "no attributes": 0}  # rows that are no crowd, by form
        self._places = array("q")  # start and length of each annotation row in bytes
        self._row_of: dict[Any, int] | None = None

    def __enter__(self) -> Self:
        self._file = self._opened()
        try:
            self._read(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._content is not None:
            return io.BytesIO(self._content)
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); give a COCO file") from None

    def _read(self, file: BinaryIO) -> None:
        keys = set()
        total = file.seek(0, 2)
        file.seek(0)
        for number, item in enumerate(stream_rows(file, self.path, values=("info",))):
            keys.add(item.key)
            if number % 10_000 == 0:
                self._on_progress(item.start, total)
            if not item.length:
                continue
            if item.key == "annotations":
                self._note(item)
            elif item.key in ("images", "categories", "part_categories"):
                self._keep(item.key, item.value)
            elif item.key == "info":
                self.info = item.value
        self._on_progress(total, total)
        for name in ("images", "annotations", "categories"):
            if name not in keys:
                raise InputError(
                    f"{self.path}: expected the lists images, annotations and categories, {name!r} is missing; "
                    "give a COCO file"
                )
        self.report.num_images += len(self.images)
        self.report.num_rows += len(self._ids)
        self._judge_crowds()
        order = {number: place for place, number in enumerate(self.images)}
        image = np.array([order.get(number, -1) for number in self._images_of], np.int64)
        self._by_image = np.argsort(image, kind="stable")
        self._starts = np.searchsorted(image[self._by_image], np.arange(len(order) + 1))
        self._order = order
        for row in np.flatnonzero(image == -1).tolist():
            message = f"annotation {self._ids[row]}: no image has the id {self._images_of[row]!r}"
            self.report.skip("unknown_image", message)
        self._images_of.clear()

    def _note(self, item: Item) -> None:
        row = item.value
        if not isinstance(row, dict):
            self.report.skip("unreadable_annotation", f"annotation: expected an object, got {str(row)[:60]!r}")
            return
        if strange := [key for key in ID_KEYS if isinstance(row.get(key), (list, dict))]:
            message = f"annotation {row.get('id')}: expected one {strange[0]}, got {str(row[strange[0]])[:60]}"
            self.report.skip("unreadable_annotation", message)
            return
        plain_ids(row)
        is_rle = isinstance(row.get("segmentation"), dict)
        if _is_true(row.get("iscrowd")):
            self._crowds.append(len(self._ids))
            self._num_plain["no attributes"] += not isinstance(row.get("attributes"), dict)
        else:
            self._num_plain["run lengths" if is_rle else "polygons"] += 1
        owner = row.get("obj_ann_id", row.get("part_of"))
        self._ids.append(row.get("id"))
        self._images_of.append(row.get("image_id"))
        self._category_of.append(sys.intern(key) if isinstance(key := row.get("category_id"), str) else key)
        self._owner_of.append(owner)
        self._places.extend((item.start, item.length))

    def _judge_crowds(self) -> None:
        """CVAT marks every mask as a crowd; COCO itself only a group of many objects, and masks are polygons there.

        So they are masks where no run lengths are anything else, and no row is a polygon or all say CVAT's attributes.
        """
        plain = self._num_plain
        self.has_crowd_masks = bool(
            self._crowds and not plain["run lengths"] and not (plain["polygons"] and plain["no attributes"])
        )
        if self.has_crowd_masks:
            message = f"all {len(self._crowds)} masks of the file are marked as crowds, as CVAT does; read as masks"
            self.report.repair("crowd_masks", message, len(self._crowds))
            self._crowds.clear()

    def _keep(self, name: str, row: Any) -> None:
        singular = {"images": "image", "categories": "category", "part_categories": "category"}[name]
        if not isinstance(row, dict) or isinstance(row.get("id"), (list, dict)):
            self.report.skip(f"unreadable_{singular}", f"expected an object with an id, got {str(row)[:60]!r}")
        elif name == "images":
            self._add_image(plain_ids(row))
        else:
            rows = self.categories if name == "categories" else self.part_categories
            row = plain_ids(row)
            if (name, row.get("id")) in self._category_ids:
                message = f"category {row.get('id')}: its id stands twice; {row.get('name')!r} is left out"
                self.report.skip("duplicate_category", message)
                return
            self._category_ids.add((name, row.get("id")))
            rows.append(row)

    def _add_image(self, row: Row) -> None:
        number = row_id(row.get("id"))
        if number is None:
            self.report.skip("unreadable_image", f"image {row.get('id')!r}: expected an id, got {str(row)[:80]}")
            return
        height, width = whole_number(row.get("height")), whole_number(row.get("width"))
        name = file_name_of(row)
        if height is None or width is None:
            size_hw = self._size_of(name) if self._size_of is not None else None
            if size_hw is None:
                where = "" if self._size_of is None else "; and no image file tells it"
                message = f"image {number!r}: expected height and width, got {str(row)[:80]}{where}"
                self.report.skip("unreadable_image", message)
                return
            height, width = size_hw
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            message = f"image {number}: {height} x {width}, expected 1 to {MAX_PIXELS:,} pixels"
            self.report.skip("unreadable_image", message)
        elif number in self.images:
            self.report.skip("duplicate_image", f"image {number}: its id stands twice; the first row counts")
        else:
            self.images[number] = ImageRow(number, name, (height, width), row)

    @property
    def used_categories(self) -> set[Any]:
        """The category ids that annotations have."""
        return set(self._category_of)

    @property
    def crowds(self) -> list[int]:
        """The places of rows that stand for many objects at once."""
        return self._crowds

    def places_of(self, image_id: Any) -> list[int]:
        """Where the annotation rows of an image stand, in the file's order; of rows with the same id the first."""
        place = self._order[image_id]
        places: list[int] = []
        seen = set()
        for index in self._by_image[self._starts[place] : self._starts[place + 1]].tolist():
            number = self._ids[index]
            if number is not None and number in seen:
                self.report.skip("duplicate_annotation", f"annotation {number}: its id stands twice; the first counts")
                continue
            seen.add(number)
            places.append(index)
        return places

    def ids_at(self, place: int) -> tuple[Any, Any, Any]:
        """(id, category id, id of the object's row) of the row at a place, without reading it."""
        return self._ids[place], self._category_of[place], self._owner_of[place]

    def rows_at(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """The rows themselves, read from the file."""
        if self._file is not None:
            return [self._row(self._file, place) for place in places]
        with self._opened() as file:
            return [self._row(file, place) for place in places]

    def rows_of(self, image_id: Any) -> list[dict[str, Any]]:
        """The annotation rows of an image, as `places_of` orders them."""
        return self.rows_at(self.places_of(image_id))

    def by_ids(self, ids: Iterable[Any]) -> dict[Any, dict[str, Any]]:
        """Id -> annotation row; ids that the file has not are left out."""
        if self._row_of is None:
            self._row_of = {}
            for index, number in enumerate(self._ids):
                self._row_of.setdefault(number, index)
        numbers = [number for number in map(row_id, ids) if number in self._row_of]
        return dict(zip(numbers, self.rows_at(self._row_of[number] for number in numbers), strict=True))

    def _row(self, file: BinaryIO, index: int) -> dict[str, Any]:
        start, length = self._places[2 * index], self._places[2 * index + 1]
        file.seek(start)
        row = plain_ids(json.loads(file.read(length).decode("utf-8", "replace")))
        return {**row, "iscrowd": 0} if self.has_crowd_masks else row


def _is_true(value: Any) -> bool:
    return bool(whole_number(value)) if isinstance(value, (str, int, float)) and value is not True else value is True


def stream_rows(file: BinaryIO, path: Path, *, values: tuple[str, ...] = ()) -> Iterator[Item]:
    """Each item of each list of a JSON object, in memory that does not grow with the file.

    A JSON that is itself a list yields its items under the key "". Other values are passed over, but for those of the
    keys in `values`. Raises InputError where the file is no whole JSON.
    """
    reader = _Reader(file, path)
    opening = reader.sign()
    if opening == "[":
        yield from _items(reader, "")
        return
    if opening != "{":
        raise InputError(f"{path}: expected a JSON object, got {opening!r}; give a COCO file")
    if reader.peek() == "}":
        return
    while True:
        key = reader.item("").value
        if not isinstance(key, str):
            raise InputError(f"{path}: is no JSON (a key is {str(key)[:20]!r}); download it again")
        reader.expect(":")
        if reader.peek() == "[":
            reader.sign()
            yield from _items(reader, key)
        else:
            item = reader.item(key)
            if key in values:
                yield item
        if reader.expect(",}") == "}":
            return


def _items(reader: _Reader, key: str) -> Iterator[Item]:
    """The items of a list whose bracket was read."""
    if reader.peek() == "]":
        reader.sign()
        yield Item(key, reader.position, 0, None)
        return
    while True:
        yield reader.item(key)
        if reader.expect(",]") == "]":
            return


class _Reader:
    """JSON values of a file, one after another.

    Read as Latin-1, so that characters count as bytes (JSON's own signs are ASCII); values are decoded as UTF-8.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._before, self._is_end = "", 0, 0, False
        self._more()
        if self._text.startswith("\xef\xbb\xbf"):  # a byte order mark
            self._at = 3

    @property
    def position(self) -> int:
        return self._before + self._at

    def _more(self) -> None:
        rest = self._text[self._at :]
        more = self._file.read(max(CHUNK_BYTES, len(rest)))
        self._before += self._at
        self._text, self._at, self._is_end = rest + more.decode("latin-1"), 0, not more

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or self._is_end:
                return self._text[self._at : self._at + 1]
            self._more()

    def sign(self) -> str:
        character = self.peek()
        self._at += 1
        return character

    def expect(self, signs: str) -> str:
        character = self.sign()
        if not character or character not in signs:
            what = repr(character) if character else "its end"
            raise InputError(
                f"{self._path}: is no whole JSON (expected one of {signs!r} at byte {self.position - 1}, got {what}); "
                "download it again"
            )
        return character

    def item(self, key: str) -> Item:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                if end < len(self._text) or self._is_end:  # a number might go on in the next piece
                    text, start = self._text[self._at : end], self.position
                    self._at = end
                    if not text.isascii():
                        value = json.loads(text.encode("latin-1").decode("utf-8", "replace"))
                    return Item(key, start, len(text), value)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._is_end or isinstance(error, RecursionError):
                    raise InputError(f"{self._path}: is no whole JSON ({error}); download it again") from None
            self._more()
