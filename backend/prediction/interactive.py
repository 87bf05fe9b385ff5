"""A click or a box of a smart tool -> the mask rows that the editor shows. Pure: the model is called by others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.codecs.controls import ImageControls, LabelingConfig, RegionControl
from backend.codecs.labels import find_label
from backend.codecs.prediction import shapes_of, validate_prediction
from calico.errors import InputError

MAX_PROMPTS = 1000  # clicks and boxes of one request

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompts:
    """What was clicked, on one image (0-based). Points and box in percent of the image, as the editor sends them."""

    image: int
    to_name: str
    item_index: int | None
    points_percent: tuple[tuple[float, float], ...]
    labels: tuple[bool, ...]
    box_percent: Box | None
    label: str | None
    size_wh: tuple[int, int] | None
    digest: str
    control: str = ""

    def points_xy(self, height: int, width: int) -> list[tuple[float, float]]:
        """In pixels, kept inside the image."""
        return [(_pixel(x, width), _pixel(y, height)) for x, y in self.points_percent]

    def box_xyxy(self, height: int, width: int) -> Box | None:
        if self.box_percent is None:
            return None
        x0, y0, x1, y1 = self.box_percent
        return _pixel(x0, width), _pixel(y0, height), _pixel(x1, width), _pixel(y1, height)


def _pixel(percent: float, length: int) -> float:
    return min(max(percent * length / 100, 0.0), length - 1.0)


def read_prompts(context: Mapping[str, Any], config: LabelingConfig) -> Prompts:
    """`params.context` of `/predict`: every click and box on the image of the newest one. Raises InputError.

    Clicks "not this" may be alone: what they refine was answered before.
    """
    given_rows = context.get("result") or []
    if not isinstance(given_rows, list):
        raise InputError(
            f"interactive request: expected a list as params.context.result, got {type(given_rows).__name__}"
        )
    if len(given_rows) > MAX_PROMPTS:
        raise InputError(
            f"interactive request: expected up to {MAX_PROMPTS:,} clicks and boxes, got {len(given_rows):,}"
        )
    rows = [row for row in given_rows if isinstance(row, Mapping) and isinstance(row.get("value"), Mapping)]
    labelled = {row.get("id"): row["value"].get("labels") for row in rows if row.get("type") == "labels"}
    rows = [row for row in rows if str(row.get("type", "")).startswith(("keypoint", "rectangle"))]
    if not rows:
        raise InputError("interactive request: expected a keypoint or rectangle in params.context.result, got none")
    last = rows[-1]
    to_name, item_index = str(last.get("to_name")), last.get("item_index")
    if item_index is not None and not isinstance(item_index, int):
        raise InputError(f"interactive request: expected a number as item_index, got {type(item_index).__name__}")
    image = config.image_of(to_name, item_index)
    if image is None:
        raise InputError(f"interactive request: to_name {to_name!r} is no <Image> of the config")
    points, labels, box = [], [], None
    try:
        for row in rows:
            if (row.get("to_name"), row.get("item_index")) != (to_name, item_index):
                continue
            value = row["value"]
            x, y = float(value["x"]), float(value["y"])
            if str(row["type"]).startswith("keypoint"):
                points.append((x, y))
                labels.append(bool(row.get("is_positive", 1)))
            else:
                box = (x, y, x + float(value["width"]), y + float(value["height"]))
        size_wh = (int(last["original_width"]), int(last["original_height"])) if last.get("original_width") else None
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InputError(
            "interactive request: a keypoint needs numbers x, y; a rectangle x, y, width, height"
        ) from None
    if not (np.isfinite(points).all() and np.isfinite(box or ()).all()):
        raise InputError("interactive request: coordinates must be finite numbers")
    positive = [row for row in rows if row.get("is_positive", 1)] or rows
    given = next((label for row in reversed(positive) if (label := _label_of(row, labelled)) is not None), None)
    digest = hashlib.sha1(
        json.dumps([to_name, item_index, points, labels, box]).encode(), usedforsecurity=False
    ).hexdigest()
    return Prompts(
        image,
        to_name,
        item_index,
        tuple(points),
        tuple(labels),
        box,
        given,
        size_wh,
        digest,
        str(last.get("from_name")),
    )


def read_question(context: Mapping[str, Any], config: LabelingConfig) -> str | None:
    """What was typed into the field that asks for a part by its name; None where the request is of another kind."""
    rows = [row for row in context.get("result") or [] if isinstance(row, Mapping)]
    controls = {control.question for control in config.images} - {None}
    last = rows[-1] if rows else {}
    if last.get("type") != "textarea" or last.get("from_name") not in controls:
        return None
    value = last.get("value")
    text = value.get("text") if isinstance(value, Mapping) else None
    text = text[-1] if isinstance(text, list) and text else text
    if not isinstance(text, str) or not text.strip():
        raise InputError("interactive request: expected the name of a part in the text field, got nothing")
    return text


def encode_mask(
    mask: np.ndarray,
    score: float,
    prompts: Prompts,
    config: LabelingConfig,
    *,
    model_version: str,
    task_data: Mapping[str, Any],
    region: str | None = None,
) -> dict[str, Any]:
    """One entry of `/predict`'s results: the mask (HxW bool) in the control that draws on the clicked image.

    region: its id, where it is one that the editor may have already.
    An empty mask gives an empty result: the editor then shows nothing, and stores nothing.
    """
    height, width = mask.shape
    controls = config.controls(prompts.image)
    control, label = _target(prompts, controls, config, task_data)
    shapes: Sequence[dict[str, Any]] = shapes_of(mask, control.geometry)[0] if mask.any() else ()
    rows = []
    tag = control.tag.lower()
    for piece, shape in enumerate(shapes):
        base: dict[str, Any] = {
            "id": f"{(region or prompts.digest)[:14]}{piece:02x}" if piece or region is None else region,
            "to_name": prompts.to_name, "original_width": width, "original_height": height,
            "image_rotation": 0, "origin": "prediction", "score": round(float(score), 4),
        }  # fmt: skip
        if prompts.item_index is not None:
            base["item_index"] = prompts.item_index
        rows.append({**base, "from_name": control.name, "type": tag, "value": shape})
        if label is None:
            continue
        if tag.endswith("labels"):
            shape[tag] = [label]
        else:
            rows.append({**base, "from_name": control.labels_name, "type": "labels", "value": {"labels": [label]}})
    prediction = {"model_version": model_version, "score": round(float(score), 4), "result": rows}
    validate_prediction(prediction, config, task_data=task_data)
    return prediction


def _target(
    prompts: Prompts, controls: ImageControls, config: LabelingConfig, task_data: Mapping[str, Any]
) -> tuple[RegionControl, str | None]:
    """The control that the mask is drawn in, and its label: the one that the click's means, in whichever control has
    it; else the one at the same place, where both lists are as long; else none: never another's."""
    if prompts.label is None:
        return controls.regions[0], None
    prompt_labels = dict(controls.prompt_labels).get(prompts.control, ())
    texts = [prompts.label]
    place = next((n for n, label in enumerate(prompt_labels) if find_label(prompts.label, [label])), None)
    if place is not None and prompt_labels[place].caption:
        texts.append(prompt_labels[place].caption)
    for text in texts:
        for control in controls.regions:
            if match := find_label(text, config.labels_of(control, task_data)):
                return control, match.value
    for control in controls.regions:
        labels = config.labels_of(control, task_data)
        if place is not None and len(labels) == len(prompt_labels):
            return control, labels[place].value
    return controls.regions[0], None


def _label_of(row: Mapping[str, Any], labelled: Mapping[Any, Any]) -> str | None:
    """In the prompt's own row, or in that of the `<Labels>` beside it, under the same id."""
    given = row["value"].get(str(row["type"])) or row["value"].get("labels") or labelled.get(row.get("id"))
    given = given[0] if isinstance(given, (list, tuple)) and given else given
    return given if isinstance(given, str) else None
