"""An exact map of ids -> masks -> rows of one image -> COCO files in PACO's form, through the project's own writer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calico.coco.encode import EncodedGroup
from calico.coco.names import Category
from calico.coco.writer import CocoWriter
from calico.masks import encode_rle, tight_box_xyxy

LEAST_PIXELS = 8  # of a part: fewer are an edge that shimmers through
MAX_UNNAMED = 0.03  # share of an object's visible pixels without a name: more, and the picture teaches a wrong thing


class Region(NamedTuple):
    """What one id of the map stands for. thing: number of the object in the picture. part_name None: unnamed."""

    thing: int
    part_name: str | None


def ids_of(values: np.ndarray) -> np.ndarray:
    """HxW float, as rendered (each region shines with its number) -> HxW int; raises where a pixel is a mixture."""
    ids = np.rint(values).astype(np.int64)
    if (off := float(np.abs(values - ids).max(initial=0))) > 0.01:
        raise ValueError(f"the map of ids holds {off:.3f} between two numbers; it was filtered or toned")
    return ids


def object_rows(
    ids: np.ndarray, regions: Mapping[int, Region], things: Sequence[str]
) -> tuple[list[dict[str, Any]], float]:
    """Rows of the objects and the parts that are seen, and the largest unnamed share of an object.

    ids: HxW int, 0 is background. regions: by id. things: object names by number. Each row: `thing`, `object`, `part`
    (None: the whole object), `segmentation`, `area`, `bbox`.
    """
    rows: list[dict[str, Any]] = []
    unnamed = 0.0
    for number, object_name in enumerate(things):
        own = {value: region.part_name for value, region in regions.items() if region.thing == number}
        whole = np.isin(ids, list(own))
        if whole.sum() < LEAST_PIXELS:
            continue
        rows.append(_row(number, object_name, None, whole))
        for name in sorted({part for part in own.values() if part is not None}):
            mask = np.isin(ids, [value for value, part in own.items() if part == name])
            if mask.sum() >= LEAST_PIXELS:
                rows.append(_row(number, object_name, name, mask))
        nameless = np.isin(ids, [value for value, part in own.items() if part is None])
        unnamed = max(unnamed, float(nameless.sum() / whole.sum()))
    return rows, unnamed


def _row(thing: int, object_name: str, part_name: str | None, mask: np.ndarray) -> dict[str, Any]:
    box = tight_box_xyxy(mask)
    assert box is not None
    x0, y0, x1, y1 = box
    return {
        "thing": thing,
        "object": object_name,
        "part": part_name,
        "segmentation": encode_rle(mask),
        "area": int(mask.sum()),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


def write_paco(path: Path, pictures: Iterable[Mapping[str, Any]], info: Mapping[str, Any]) -> tuple[int, int]:
    """pictures: what `render.py` keeps of each: `file_name`, `width`, `height`, `rows`. Returns the numbers of images
    and annotations. An object's row names itself as `obj_ann_id`, its parts name it."""
    with CocoWriter(path, scheme="object:part", run={"maker": "rendering"}, info=info) as writer:
        number = 0
        for image_id, picture in enumerate(pictures, 1):
            image = {"id": image_id, **{key: picture[key] for key in ("file_name", "width", "height")}}
            annotations = []
            owner = 0
            for row in picture["rows"]:
                number += 1
                owner = number if row["part"] is None else owner
                annotations.append(
                    {
                        "id": number,
                        "image_id": image_id,
                        "category_id": Category(row["object"], row["part"]),
                        "obj_ann_id": owner,
                        "iscrowd": 0,
                        **{key: row[key] for key in ("segmentation", "area", "bbox")},
                    }
                )
            writer.add(EncodedGroup([image], annotations, []))
        counts = writer.num_images, writer.num_annotations
        writer.finish()
    return counts


def read_picture(path: Path) -> dict[str, Any]:
    """One image's file of rows."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
