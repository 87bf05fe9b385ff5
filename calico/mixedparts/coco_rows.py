"""The rows of a COCO file by image, however large the file: one pass notes where each stands, then they are re-read.

A file of 1 GB would take several as Python objects. Only image rows, categories and places are kept: per annotation
its id, its image and two whole numbers.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np

from calico.errors import InputError
from calico.images import MAX_PIXELS
from calico.mixedparts.records import ReadReport

CHUNK_BYTES = 1 << 22
_BLANK = " \t\r\n"

Row = Mapping[str, Any]


class ImageRow(NamedTuple):
    """One image row. size_hw: (height, width) as the file states it."""

    id: Any
    file_name: str
    size_hw: tuple[int, int]


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

    images: by id in the file's order. categories, part_categories: rows as they stand. Rows of unknown images and
    what is no row at all are skipped and counted in `report`.
    """

    def __init__(self, path: Path, report: ReadReport) -> None:
        self.path, self.report = path, report
        self.images: dict[Any, ImageRow] = {}
        self.categories: list[Row] = []
        self.part_categories: list[Row] = []
        self._ids: list[Any] = []
        self._images_of: list[Any] = []
        self._places = array("q")  # start and length of each annotation row in bytes
        self._row_of: dict[Any, int] | None = None

    def __enter__(self) -> Self:
        try:
            self._file: BinaryIO = open(self.path, "rb")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); give a COCO file") from None
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read(self) -> None:
        found = set()
        for item in stream_rows(self._file, self.path):
            found.add(item.key)
            if not item.length:
                continue
            if item.key == "annotations":
                self._note(item)
            elif item.key in ("images", "categories", "part_categories"):
                self._keep(item.key, item.value)
        for name in ("images", "annotations", "categories"):
            if name not in found:
                raise InputError(
                    f"{self.path}: expected the lists images, annotations and categories, {name!r} is missing; "
                    "give a COCO file"
                )
        self.report.num_images += len(self.images)
        self.report.num_rows += len(self._ids)
        order = {number: place for place, number in enumerate(self.images)}
        image = np.array([order.get(number, -1) for number in self._images_of], np.int64)
        self._by_image = np.argsort(image, kind="stable")
        self._starts = np.searchsorted(image[self._by_image], np.arange(len(order) + 1))
        self._order = order
        for row in np.flatnonzero(image == -1).tolist():
            message = f"annotation {self._ids[row]}: no image has the id {self._images_of[row]!r}"
            self.report.skip("unknown_image", message)
        del self._images_of

    def _note(self, item: Item) -> None:
        if not isinstance(item.value, dict):
            self.report.skip("unreadable_annotations", f"expected an object, got {str(item.value)[:60]!r}")
            return
        number, image = item.value.get("id"), item.value.get("image_id")
        self._ids.append(number if isinstance(number, (int, str)) else None)
        self._images_of.append(image if isinstance(image, (int, str)) else None)
        self._places.extend((item.start, item.length))

    def _keep(self, name: str, row: Any) -> None:
        if not isinstance(row, dict) or isinstance(row.get("id"), (list, dict)):
            self.report.skip(f"unreadable_{name}", f"expected an object with an id, got {str(row)[:60]!r}")
        elif name == "categories":
            self.categories.append(row)
        elif name == "part_categories":
            self.part_categories.append(row)
        else:
            self._add_image(row)

    def _add_image(self, row: Row) -> None:
        number, height, width = row.get("id"), row.get("height"), row.get("width")
        if not isinstance(number, (int, str)) or not isinstance(height, int) or not isinstance(width, int):
            message = f"image {number!r}: expected id, height and width, got {str(row)[:80]}"
            self.report.skip("unreadable_image", message)
        elif height < 1 or width < 1 or height * width > MAX_PIXELS:
            message = f"image {number}: {height} x {width}, expected 1 to {MAX_PIXELS:,} pixels"
            self.report.skip("unreadable_image", message)
        elif number in self.images:
            self.report.skip("duplicate_image", f"image {number}: its id stands twice; the first row counts")
        else:
            name = row.get("file_name") or str(row.get("coco_url") or "").rpartition("/")[2] or str(number)
            self.images[number] = ImageRow(number, str(name), (height, width))

    def rows_of(self, image_id: Any) -> list[dict[str, Any]]:
        """The annotation rows of an image in the file's order; of rows with the same id the first."""
        place = self._order[image_id]
        rows: list[dict[str, Any]] = []
        seen = set()
        for index in self._by_image[self._starts[place] : self._starts[place + 1]].tolist():
            number = self._ids[index]
            if number is not None and number in seen:
                self.report.skip("duplicate_annotation", f"annotation {number}: its id stands twice; the first counts")
                continue
            seen.add(number)
            row = self._row(index)
            if isinstance(row.get("category_id"), (list, dict)):
                message = f"annotation {number}: expected one category_id, got {str(row['category_id'])[:60]}"
                self.report.skip("unknown_category", message)
                continue
            rows.append(row)
        return rows

    def by_ids(self, ids: Iterable[Any]) -> dict[Any, dict[str, Any]]:
        """Id -> annotation row; ids that the file has not are left out."""
        if self._row_of is None:
            self._row_of = {}
            for index, number in enumerate(self._ids):
                self._row_of.setdefault(number, index)
        known = [number for number in ids if isinstance(number, (int, str)) and number in self._row_of]
        return {number: self._row(self._row_of[number]) for number in known}

    def _row(self, index: int) -> dict[str, Any]:
        start, length = self._places[2 * index], self._places[2 * index + 1]
        self._file.seek(start)
        return json.loads(self._file.read(length).decode("utf-8", "replace"))


def stream_rows(file: BinaryIO, path: Path) -> Iterator[Item]:
    """Each item of each list of a JSON object, in memory that does not grow with the file.

    A JSON that is itself a list yields its items under the key "". Other values are passed over. Raises InputError
    where the file is no whole JSON.
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
            reader.item("")
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
        left = self._text[self._at :]
        more = self._file.read(max(CHUNK_BYTES, len(left)))
        self._before += self._at
        self._text, self._at, self._is_end = left + more.decode("latin-1"), 0, not more

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or self._is_end:
                return self._text[self._at : self._at + 1]
            self._more()

    def sign(self) -> str:
        found = self.peek()
        self._at += 1
        return found

    def expect(self, signs: str) -> str:
        found = self.sign()
        if not found or found not in signs:
            got = repr(found) if found else "its end"
            raise InputError(
                f"{self._path}: is no whole JSON (expected one of {signs!r} at byte {self.position - 1}, got {got}); "
                "download it again"
            )
        return found

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
