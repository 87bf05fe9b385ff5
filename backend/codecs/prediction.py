"""`CoSegmentation` -> a Label Studio prediction.

A region is one label row with its mask, then rows of the same id for its name (`<TextArea>`) and for common or unique
(`<Choices>`), which need no geometry of their own. `meta.text` holds the object's name, and second the part's name
where nothing else in the row can hold it; `meta.names` says the same, and that we wrote it. Parts that correspond are
joined by "same part" relations, image to image.
Label Studio stores whatever it is sent, so every prediction is validated here before it is answered.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from backend.codecs import bitmask, brush_rle
from backend.codecs.controls import ImageControls, LabelingConfig, RegionControl, Use, role
from backend.codecs.geometry import polygons_of_mask
from backend.codecs.labels import MatchKind, label_of_region
from backend.codecs.rows import NAMES_KEY
from calico.errors import InputError
from calico.values import CoSegmentation, PartRegion, Problem, normalize_name


@dataclass(frozen=True)
class EncodedPrediction:
    """prediction: one entry of `/predict`'s results. problems: what found no place in it, and doubtful matches."""

    prediction: dict[str, Any]
    problems: tuple[Problem, ...] = ()


def encode_prediction(
    coseg: CoSegmentation,
    config: LabelingConfig,
    *,
    model_version: str,
    task_id: int | str | None = None,
    task_data: Mapping[str, Any] | None = None,
) -> EncodedPrediction:
    """Encode a group for a project's config.

    task_id goes into the region ids. task_data brings dynamic labels. A name that is only similar to a label's is
    marked `similar_label`, one that is not is `no_label`. `InputError` where the group does not fit.
    """
    if config.num_images not in (None, len(coseg.sizes_hw)):
        raise InputError(
            f"the config shows {config.num_images} images, the group has {len(coseg.sizes_hw)}; use one that fits"
        )
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    scores: list[float] = []
    first_id: dict[tuple[str, int], str] = {}
    known_labels = cache(lambda image: config.known_labels(image, task_data))
    # The editor draws earlier rows on top: small parts over large ones, and all over the object, which so tints none.
    for region in sorted(coseg.regions, key=lambda r: (r.image, r.kind == "object", int(r.mask.sum()))):
        controls = config.controls(region.image)
        labels = known_labels(region.image)
        match = label_of_region(region, labels, config.vocabulary)
        where = f"{region.kind} {region.name!r} of image {region.image + 1}"
        if match is None:
            label_values = ", ".join(label.value for label in labels)
            problems.append(
                Problem("no_label", f"{where}: no label of the config means it (labels: {label_values})", region.image)
            )
            continue
        if not region.mask.any():
            problems.append(
                Problem("empty_mask", f"{where}: its mask is empty, so there is nothing to show", region.image)
            )
            continue
        if match.kind is MatchKind.SIMILAR:
            problems.append(
                Problem("similar_label", f"{where}: matched to the similar label {match.label!r}", region.image)
            )
        control = next(c for c in controls.regions if match.label in {k.value for k in config.labels_of(c, task_data)})
        is_similar, is_group = match.kind is MatchKind.SIMILAR, config.vocabulary == "group"
        region_rows = _region_rows(
            region, controls, control, match.label, is_similar, is_group, config.layout, task_id, problems
        )
        rows += region_rows
        scores.append(float(region.score))
        first_id[region.correspondence_id, region.image] = region_rows[0]["id"]
    rows += _relation_rows(coseg, first_id, config.relation)
    prediction = {
        "model_version": model_version,
        "score": round(sum(scores) / len(scores), 4) if scores else 0.0,
        "result": rows,
    }
    validate_prediction(prediction, config, task_data=task_data)
    return EncodedPrediction(prediction, tuple(problems))


def region_id(task_id: int | str | None, region: PartRegion, piece: int = 0) -> str:
    """16 hexadecimal digits: the same region of the same task gets the same id."""
    key = json.dumps([task_id if task_id is None else str(task_id), *region.key, piece])
    return hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()[:16]


def _region_rows(
    region: PartRegion,
    controls: ImageControls,
    control: RegionControl,
    label: str,
    is_similar: bool,
    is_group: bool,
    layout: str,
    task_id: int | str | None,
    problems: list[Problem],
) -> list[dict[str, Any]]:
    height, width = region.mask.shape
    shapes, iou = shapes_of(region.mask, control.geometry)
    if iou < 1:
        message = f"{region.kind} {region.name!r} of image {region.image + 1}: polygons keep IoU {iou:.3f} of its mask"
        problems.append(Problem("polygon_iou", message, region.image))

    is_fixed = role(label) is None
    has_text = controls.text is not None and (not is_group or role(label) == "other")
    if region.part_name is None:
        notes = [region.object_name] if is_fixed or not has_text else []
    else:
        is_told = not is_similar if is_fixed else has_text
        notes = [region.object_name] if is_told else [region.object_name, region.part_name]

    rows = []
    for piece, shape in enumerate(shapes):
        base = {
            "id": region_id(task_id, region, piece),
            "to_name": controls.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "origin": "prediction",
        }
        if layout == "B":
            base["item_index"] = region.image
        tag = control.tag.lower()
        main = {
            **base,
            "from_name": control.name,
            "type": tag,
            "value": dict(shape),
            "score": round(float(region.score), 4),
        }
        if notes:
            main["meta"] = {"text": notes, NAMES_KEY: notes}
        rows.append(main)
        if tag.endswith("labels"):
            main["value"][tag] = [label]
        else:
            rows.append({**base, "from_name": control.labels_name, "type": "labels", "value": {"labels": [label]}})
        if has_text:
            rows.append({**base, "from_name": controls.text, "type": "textarea", "value": {"text": [region.name]}})
        chosen = next((value for value in controls.name_values if normalize_name(value) == region.name), None)
        if chosen is not None:
            rows.append({**base, "from_name": controls.name_choices, "type": "choices", "value": {"choices": [chosen]}})
        if controls.choices is not None and region.part_name is not None:
            value = next(
                (v for v in controls.choice_values if normalize_name(v).split(" ")[0] == region.occurrence), None
            )
            if value is not None:
                rows.append({**base, "from_name": controls.choices, "type": "choices", "value": {"choices": [value]}})
    return rows


def shapes_of(mask: np.ndarray, geometry: str) -> tuple[list[dict[str, Any]], float]:
    """HxW bool -> (the values of its rows in a control of that geometry, one per piece; their IoU with the mask)."""
    height, width = mask.shape
    if geometry == "brush":
        return [{"format": "rle", "rle": brush_rle.encode(mask)}], 1.0
    if geometry == "bitmask":
        return [{"imageDataURL": bitmask.encode(mask)}], 1.0
    outlines, iou = polygons_of_mask(mask)
    percent = [(points / (width, height) * 100).tolist() for points in outlines]
    if geometry == "polygon":
        return [{"points": points, "closed": True} for points in percent], iou
    return [{"vertices": _vertices(points), "closed": True} for points in percent], iou


def _vertices(points: list[list[float]]) -> list[dict[str, Any]]:
    """Straight ones, each naming the one before it."""
    return [
        {"id": str(n), "x": x, "y": y, "prevPointId": str(n - 1) if n else None, "isBezier": False}
        for n, (x, y) in enumerate(points)
    ]


def _relation_rows(
    coseg: CoSegmentation, first_id: Mapping[tuple[str, int], str], relation: str | None
) -> list[dict[str, Any]]:
    if relation is None:
        return []
    ids: dict[str, list[str]] = defaultdict(list)
    for region in sorted(coseg.regions, key=lambda r: r.image):
        row_id = first_id.get((region.correspondence_id, region.image))
        if region.part_name is not None and row_id is not None and row_id not in ids[region.correspondence_id]:
            ids[region.correspondence_id].append(row_id)
    return [
        {"type": "relation", "from_id": a, "to_id": b, "direction": "bi", "labels": [relation]}
        for chain in ids.values()
        for a, b in pairwise(chain)
    ]


def validate_prediction(
    prediction: Mapping[str, Any], config: LabelingConfig, *, task_data: Mapping[str, Any] | None = None
) -> None:
    """Refuse what Label Studio would store and its editor break on. `InputError` names the row and the fault."""
    if not _is_score(prediction.get("score")):
        raise InputError(f"prediction: score must be a number from 0 to 1, got {prediction.get('score')!r}")
    seen: set[tuple[str, str]] = set()
    place_of: dict[str, tuple[str, int | None]] = {}
    relations = []
    for row in prediction["result"]:
        if row["type"] == "relation":
            relations.append(row)
            continue
        owner = f"row {row.get('id')!r} ({row.get('type')})"
        to_name, from_name, item_index = row["to_name"], row["from_name"], row.get("item_index")
        image = config.image_of(to_name, item_index)
        if image is None:
            raise InputError(f"{owner}: to_name {to_name!r} is no <Image> of the config")
        controls = config.controls(image)
        use = controls.use_of(from_name)
        if use not in (Use.REGION, Use.NAME, Use.OCCURRENCE):
            raise InputError(f"{owner}: from_name {from_name!r} is no control of {to_name!r}")
        if (row["id"], from_name) in seen:
            raise InputError(f"{owner}: two rows of {from_name!r} have this id")
        seen.add((row["id"], from_name))
        if place_of.setdefault(row["id"], (to_name, item_index)) != (to_name, item_index):
            raise InputError(f"{owner}: its id is on two images")
        if not _is_score(row.get("score", 0.0)):
            raise InputError(f"{owner}: score must be a number from 0 to 1, got {row['score']!r}")
        value = row["value"]
        labelled = [control for control in controls.regions if control.labels_name == from_name]
        if labelled:
            label_values = {label.value for label in config.labels_of(labelled[0], task_data)}
            given = value.get(row["type"], [])
            if (not given and row["type"] in value) or not set(given) <= label_values:
                values = ", ".join(sorted(label_values))
                raise InputError(f"{owner}: labels {given} are not among the config's ({values})")
        if from_name == controls.choices and not set(value["choices"]) <= set(controls.choice_values):
            raise InputError(f"{owner}: choices {value['choices']} are not among {controls.choice_values}")
        if "rle" in value:
            num_values = int.from_bytes(bytes(value["rle"][:4]), "big")
            if num_values != 4 * row["original_width"] * row["original_height"]:
                raise InputError(
                    f"{owner}: its RLE is not of a {row['original_width']} x {row['original_height']} image"
                )
    for row in relations:
        unknown = {row["from_id"], row["to_id"]} - set(place_of)
        if unknown:
            raise InputError(
                f"relation {row['from_id']} -> {row['to_id']}: no region has id {', '.join(sorted(unknown))}"
            )


def _is_score(score: Any) -> bool:
    return isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score) and 0 <= score <= 1
