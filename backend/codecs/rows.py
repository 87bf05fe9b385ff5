"""Result rows -> drawn regions: rows of one id are one region, with its mask, labels, name and notes.

Prediction and annotation rows alike. What a row says is decided by its control, by name and kind; rows without one are
taken by their type. The editor repeats a region's geometry in its text and choice rows, and for pages that nobody
visited other keys too; nothing is counted twice. Shapes: brush RLE, bitmask, polygon, vector, rectangle, ellipse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from backend.codecs import bitmask, brush_rle, geometry
from backend.codecs.controls import LabelingConfig, Use
from calico.errors import InputError
from calico.values import Problem, whole_number

Size = tuple[int, int]
NAMES_KEY = "names"  # of `meta`: where predictions write names; the editor keeps it, and shows only `text`


@dataclass
class DrawnRegion:
    """What the rows of one region say. row_id: as they give it; `id` is another where two regions have the same.

    value: the geometry, in percent or RLE; size_hw: as the rows give it, if they do. notes: the object's name and the
    part's as our predictions write them; note: what else stands there, an annotator's remark.
    """

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
    note: str = ""
    row_id: str = ""

    def mask(self, size_hw: Size) -> np.ndarray:
        """HxW bool at the image's own size. `InputError` where the rows draw no area or one of another size."""
        if self.value is None:
            raise InputError("its rows hold no brush, bitmask, polygon, rectangle or ellipse; draw one or delete it")
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
    """regions: by id, in the order of the rows. faults: rows that say nothing that can be read. remarks: what else is
    worth counting: prompts that were left, ids twice, controls that the config does not have."""

    regions: dict[str, DrawnRegion]
    relations: list[Relation]
    faults: list[str]
    remarks: list[Problem]


def read_rows(rows: Sequence[Mapping[str, Any]], config: LabelingConfig | None = None) -> ReadRows:
    """Gather result rows by region. config: says what each control is for; without one, the row's type does.

    `InputError` only where `rows` is no list.
    """
    if not isinstance(rows, (list, tuple)):
        raise InputError(f"result: expected a list of rows, got {type(rows).__name__}; export the annotation as JSON")
    gathered = _Gathered(config)
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
            gathered.add(row, str(row.get("id") or f"row {number}"))  # hand-made predictions may lack ids
    # Choices or text about a whole image have ids too, but no region's geometry or labels.
    regions = {region.id: region for region in gathered.regions if region.value is not None or region.labels}
    return ReadRows(regions, relations, faults, gathered.remarks())


class _Gathered:
    """Regions as their rows come. Rows of one id are one region where they are of one image and one shape."""

    def __init__(self, config: LabelingConfig | None) -> None:
        self.regions: list[DrawnRegion] = []
        self._config = config
        self._of_id: dict[str, list[DrawnRegion]] = {}
        self._prompts: list[str] = []
        self._unknown: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any], row_id: str) -> None:
        use = self._use(row)
        if use is Use.PROMPT:
            self._prompts.append(row_id)
        elif use is not Use.OTHER:
            _add_row(self._region(row, row_id, use), row, use)

    def _use(self, row: Mapping[str, Any]) -> Use:
        kind, control = row["type"], row.get("from_name")
        use = _USE_OF_TYPE.get(kind, Use.REGION)
        if self._config is None or not isinstance(control, str):
            return use
        item_index = row.get("item_index")
        image = self._config.image_of(row["to_name"], item_index if isinstance(item_index, int) else None)
        if image is None or (self._config.layout == "A" and image >= len(self._config.images)):
            return use
        use_in_config = self._config.controls(image).use_of(control)
        if use_in_config is None and use not in (Use.REGION, Use.PROMPT):
            self._unknown[control] += 1  # a text is a name only where the config says so
            return Use.OTHER
        if use_in_config in (None, Use.REGION):
            return use if use in (Use.REGION, Use.PROMPT) else Use.OTHER
        return use_in_config

    def _region(self, row: Mapping[str, Any], row_id: str, use: Use) -> DrawnRegion:
        """The region that a row belongs to: of its id, on its image, with its shape."""
        regions_of_id = self._of_id.setdefault(row_id, [])
        item_index = row["item_index"] if isinstance(row.get("item_index"), int) else None
        on_image = [
            region
            for region in regions_of_id
            if region.to_name == row["to_name"]
            and (None in (region.item_index, item_index) or region.item_index == item_index)
        ]
        shape = shape_of(row["value"])
        if use is Use.REGION and shape is not None:
            same = [region for region in on_image if region.value is None or shape_of(region.value) == shape]
        else:
            same = [
                region for region in on_image if shape is not None and shape_of(region.value or {}) == shape
            ] or on_image
        if same:
            if same[-1].item_index is None:
                same[-1].item_index = item_index
            return same[-1]
        # The first of an id bears it; a second one is a region of its own.
        region = DrawnRegion(
            row_id if not regions_of_id else f"{row_id} ({len(regions_of_id) + 1})",
            row["to_name"],
            item_index,
            row_id=row_id,
        )
        regions_of_id.append(region)
        self.regions.append(region)
        return region

    def remarks(self) -> list[Problem]:
        remarks = [
            Problem("leftover_prompt", f"row {prompt}: a click or box that asked for a mask is no region; left out")
            for prompt in self._prompts
        ]
        for row_id, regions in self._of_id.items():
            shapes = [region for region in regions if region.value is not None]
            if len(shapes) > 1:
                message = f"region {row_id}: {len(shapes)} shapes bear this id; each is read as a region of its own"
                remarks.append(Problem("duplicate_region_id", message))
        for control, count in self._unknown.items():
            message = f"control {control!r}: the config has none of this name, so {count} rows of it are not read"
            remarks.append(Problem("unknown_control", message))
        return remarks


_USE_OF_TYPE = {
    **dict.fromkeys(("keypoint", "keypointlabels"), Use.PROMPT),
    **dict.fromkeys(("textarea", "taxonomy"), Use.NAME),
    "choices": Use.OCCURRENCE,
    **dict.fromkeys(("number", "rating", "datetime", "pairwise", "ranker", "magicwand"), Use.OTHER),
}
_SHAPE_KEYS = (
    *("rle", "imageDataURL", "points", "vertices"),
    *("x", "y", "width", "height", "radiusX", "radiusY", "rotation"),
)


def shape_of(value: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What can be compared of a value's geometry; None where it has none."""
    if value.get("rle") is None and not any(key in value for key in _SHAPE_KEYS[1:] if key not in ("x", "y")):
        return None
    return tuple(value.get(key) for key in _SHAPE_KEYS)


def _add_row(region: DrawnRegion, row: Mapping[str, Any], use: Use) -> None:
    value, kind = row["value"], row["type"]
    if region.value is None and shape_of(value) is not None:
        region.value = value
    height, width = whole_number(row.get("original_height")), whole_number(row.get("original_width"))
    if region.size_hw is None and height is not None and width is not None:
        region.size_hw = (height, width)
    region.image_rotation = region.image_rotation or row.get("image_rotation") or 0
    if use is Use.NAME:
        region.text = region.text or _text(value)
    elif use is Use.OCCURRENCE:
        region.choices = region.choices or _strings(value.get("choices"))
    elif kind.endswith("labels"):
        region.labels = region.labels or _strings(value.get(kind))
    _add_notes(region, row)


def _text(value: Mapping[str, Any]) -> str:
    """What a `<TextArea>`, a per-region `<Choices>` of names or the last step of a `<Taxonomy>` says."""
    taxonomy = value.get("taxonomy")
    if isinstance(taxonomy, (list, tuple)) and taxonomy:
        return (_strings(taxonomy[0]) or ("",))[-1].strip()
    return " ".join(_strings(value.get("text")) or _strings(value.get("choices"))[:1]).strip()


def _add_notes(region: DrawnRegion, row: Mapping[str, Any]) -> None:
    """Names from `meta`: under our own key, or as the text of a row that no annotator drew (earlier predictions,
    hand-made rows). Any other text is an annotator's remark. An annotator who edits the text leaves our key alone.
    """
    meta = row.get("meta")
    if not isinstance(meta, Mapping):
        return
    text = tuple(note.strip() for note in _strings(meta.get("text")) if note.strip())
    ours = tuple(_strings(meta.get(NAMES_KEY)))
    if not ours and row.get("origin") != "manual":
        ours = text
    region.notes = region.notes or ours
    region.note = region.note or " ".join(text)


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, (list, tuple)) else ()


def mask_of_value(value: Mapping[str, Any], size_hw: Size) -> np.ndarray:
    """A row's geometry as HxW bool. `InputError` where it is damaged or has no area."""
    height, width = size_hw
    if value.get("rle") is not None:
        return brush_rle.decode(value["rle"], height, width)
    if "imageDataURL" in value:
        return bitmask.decode(value["imageDataURL"], height, width)
    try:
        if "vertices" in value:
            if value.get("closed") is False:
                raise InputError("vector: an open line encloses nothing; close it or draw an area")
            points = geometry.outline_of_vertices(value["vertices"])
            return geometry.fill_polygon(points * (width / 100, height / 100), height, width)
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
        keys = ", ".join(map(repr, list(value)[:8]))
        raise InputError(f"shape: expected points, a box or an ellipse in percent, got {keys}; draw an area") from error


def _finite(numbers: Any) -> np.ndarray:
    try:
        values = np.array(numbers, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("shape: expected numbers in percent, got other values; draw it again") from error
    if not (np.abs(values) < 1e6).all():
        raise InputError("shape: expected numbers in percent, got some beyond a million; draw it again")
    return values
