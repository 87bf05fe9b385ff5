"""Result rows -> drawn regions: rows of one id are one region, with its mask, labels, name and notes.

Prediction and annotation rows alike. The editor repeats a region's geometry in its text and choice rows, and for pages
that nobody visited other keys too; nothing is counted twice. Shapes: brush RLE, polygon, rectangle, ellipse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from backend.codecs import brush_rle, geometry
from calico.errors import InputError

Size = tuple[int, int]


@dataclass
class DrawnRegion:
    """What the rows of one id say. value: the geometry, in percent or RLE; size_hw: as the rows give it, if they do."""

    id: str
    to_name: str
    item_index: int | None = None
    value: Mapping[str, Any] | None = None
    size_hw: Size | None = None
    image_rotation: float = 0
    labels: tuple[str, ...] = ()
    text: str = ""
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def mask(self, size_hw: Size) -> np.ndarray:
        """HxW bool at the image's own size. `InputError` where the rows draw no area or one of another size."""
        if self.value is None:
            raise InputError("its rows hold no brush, polygon, rectangle or ellipse; draw one or delete it")
        if self.size_hw not in (None, size_hw):
            raise InputError(
                f"it was drawn on an image of {self.size_hw} (height, width), the image is {size_hw}; was it replaced? "
                "Put the annotated one back, or draw the region again"
            )
        if self.image_rotation:
            raise InputError(
                f"it was drawn on an image turned by {self.image_rotation} degrees; turn the image file instead"
            )
        return mask_of_value(self.value, size_hw)


class Relation(NamedTuple):
    from_id: str
    to_id: str
    labels: tuple[str, ...]


class ReadRows(NamedTuple):
    """regions: by id, in the order of the rows. faults: rows that say nothing that can be read."""

    regions: dict[str, DrawnRegion]
    relations: list[Relation]
    faults: list[str]


def read_rows(rows: Sequence[Mapping[str, Any]]) -> ReadRows:
    """Gather result rows by region. `InputError` only where `rows` is no list."""
    if not isinstance(rows, (list, tuple)):
        raise InputError(f"result: expected a list of rows, got {type(rows).__name__}; export the annotation as JSON")
    regions: dict[str, DrawnRegion] = {}
    relations: list[Relation] = []
    faults: list[str] = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            faults.append(f"row {number}: expected an object, got {type(row).__name__}")
        elif row.get("type") == "relation":
            relations.append(Relation(str(row.get("from_id")), str(row.get("to_id")), _strings(row.get("labels"))))
        elif not isinstance(row.get("value"), Mapping) or not all(
            isinstance(row.get(k), str) for k in ("type", "to_name")
        ):
            faults.append(
                f"row {number} ({row.get('type')}): expected `to_name` and `value`, got {', '.join(map(str, row))}"
            )
        else:
            key = str(row.get("id") or f"row {number}")  # hand-made predictions may lack ids
            _add_row(regions.setdefault(key, DrawnRegion(key, row["to_name"])), row)
    # Choices or text about a whole image have ids too, but no region's geometry or labels.
    regions = {key: region for key, region in regions.items() if region.value is not None or region.labels}
    return ReadRows(regions, relations, faults)


def _add_row(region: DrawnRegion, row: Mapping[str, Any]) -> None:
    value, kind = row["value"], row["type"]
    if region.item_index is None and isinstance(row.get("item_index"), int):
        region.item_index = row["item_index"]
    if region.value is None and (
        value.get("rle") is not None or "points" in value or "width" in value or "radiusX" in value
    ):
        region.value = value
    height, width = row.get("original_height"), row.get("original_width")
    if region.size_hw is None and isinstance(height, int) and isinstance(width, int):
        region.size_hw = (height, width)
    region.image_rotation = region.image_rotation or row.get("image_rotation") or 0
    if kind.endswith("labels"):
        region.labels = region.labels or _strings(value.get(kind))
    elif kind == "textarea":
        region.text = region.text or " ".join(_strings(value.get("text"))).strip()
    elif kind == "choices":
        region.choices = region.choices or _strings(value.get("choices"))
    meta = row.get("meta")
    if isinstance(meta, Mapping):
        region.notes = region.notes or tuple(note.strip() for note in _strings(meta.get("text")) if note.strip())


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, (list, tuple)) else ()


def mask_of_value(value: Mapping[str, Any], size_hw: Size) -> np.ndarray:
    """A row's geometry as HxW bool. `InputError` where it is damaged or has no area."""
    height, width = size_hw
    if value.get("rle") is not None:
        return brush_rle.decode(value["rle"], height, width)
    try:
        if "points" in value:
            points = _finite(value["points"])
            if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
                raise InputError(f"polygon: expected at least 3 points of 2 numbers, got shape {points.shape}")
            return geometry.fill_polygon(points * (width / 100, height / 100), height, width)
        x, y, turn = _finite([value["x"], value["y"], value.get("rotation") or 0]) * (width / 100, height / 100, 1)
        if "radiusX" in value:
            radius_x, radius_y = _finite([value["radiusX"], value["radiusY"]]) * (width / 100, height / 100)
            return geometry.fill_ellipse(x, y, radius_x, radius_y, turn, height, width)
        box_width, box_height = _finite([value["width"], value["height"]]) * (width / 100, height / 100)
        return geometry.fill_rectangle(x, y, box_width, box_height, turn, height, width)
    except KeyError as error:
        known = ", ".join(map(str, value))
        raise InputError(
            f"shape: expected points, a box or an ellipse in percent, got {known}; draw an area"
        ) from error


def _finite(numbers: Any) -> np.ndarray:
    try:
        found = np.array(numbers, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("shape: expected numbers in percent, got other values; draw it again") from error
    if not (np.abs(found) < 1e6).all():
        raise InputError("shape: expected numbers in percent, got some beyond a million; draw it again")
    return found
