"""Names on an overlay: a plate for each region, where it hides least."""

from __future__ import annotations

from math import cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from calico.masks import deepest_point, tight_box_xyxy
from calico.values import Occurrence, PartRegion

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, the last two exclusive

PLATE = (18, 20, 26)
WHITE = (255, 255, 255)
RINGS, TURNS = 14, 12


class _Label(NamedTuple):
    region: PartRegion
    anchor_xy: tuple[int, int]
    size_wh: tuple[int, int]


def draw_labels(drawn: Image.Image, regions: list[tuple[PartRegion, np.ndarray]], colours: dict[str, Colour]) -> None:
    """A dark plate with a coloured mark and the name in white for every region, with a line to it where it is away.

    regions: with their masks (HxW bool, not empty) at the size of `drawn`. Plates overlap only where there is no room.
    """
    size = max(13, round(min(drawn.size) / 34))
    font = ImageFont.load_default(size)
    pad = size // 3
    labels = []
    for region, mask in regions:
        wh = round(font.getlength(region.name)) + size + 3 * pad, round(size * 1.2) + 2 * pad
        labels.append(_Label(region, _anchor(region, mask), wh))
    labels.sort(key=lambda label: (label.anchor_xy[1], label.anchor_xy[0], label.region.key))

    hidden = _HiddenShare(drawn.size, [mask for region, mask in regions if region.kind == "part"])
    boxes: list[Box] = []
    for label in labels:
        boxes.append(_place(label, drawn.size, boxes, hidden))

    pen = ImageDraw.Draw(drawn, "RGBA")
    for label, box in zip(labels, boxes, strict=True):
        _draw_leader(pen, label.anchor_xy, box, colours[label.region.correspondence_id])
    for label, (x0, y0, x1, y1) in zip(labels, boxes, strict=True):
        pen.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=pad, fill=(*PLATE, 215))
        middle, radius = (y0 + y1) / 2, size * 0.42
        spot = (x0 + pad, middle - radius, x0 + pad + 2 * radius, middle + radius)
        _draw_mark(pen, spot, label.region, colours[label.region.correspondence_id], max(2, size // 6))
        text_xy = (x0 + 2 * pad + 2 * radius, middle)
        pen.text(text_xy, label.region.name, font=font, fill=(*WHITE, 255), anchor="lm")


def _draw_mark(
    pen: ImageDraw.ImageDraw, spot: tuple[float, float, float, float], region: PartRegion, colour: Colour, width: int
) -> None:
    """Common: a disk. Unique: a ring. Object: a square, filled where it is common."""
    common = region.occurrence is Occurrence.COMMON
    shape = pen.rectangle if region.kind == "object" else pen.ellipse
    shape(spot, fill=(*colour, 255) if common else None, outline=(*colour, 255), width=width)


def _draw_leader(pen: ImageDraw.ImageDraw, anchor_xy: tuple[int, int], box: Box, colour: Colour) -> None:
    x, y = anchor_xy
    near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    if near == anchor_xy:
        return
    pen.line([anchor_xy, near], fill=(*PLATE, 255), width=4)
    pen.line([anchor_xy, near], fill=(*WHITE, 255), width=2)
    pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(*colour, 255), outline=(*WHITE, 255), width=1)


def _anchor(region: PartRegion, mask: np.ndarray) -> tuple[int, int]:
    """Where a name belongs: deep inside a part; at the top of an object, whose middle is its parts'."""
    if region.kind == "object":
        box = tight_box_xyxy(mask)
        assert box is not None
        row = np.flatnonzero(mask[box[1]])
        return int(row[len(row) // 2]), box[1]
    step = max(1, max(mask.shape) // 256)  # depth is slow to find on a large mask
    small = mask[step // 2 :: step, step // 2 :: step]
    if not small.any():
        return deepest_point(mask)
    x, y = deepest_point(small)
    return x * step + step // 2, y * step + step // 2


class _HiddenShare:
    """How much of the parts a box hides, each part counted as 1: so a plate stays off what it would cover."""

    def __init__(self, image_wh: tuple[int, int], masks: list[np.ndarray]) -> None:
        weights = np.zeros((image_wh[1], image_wh[0]))
        for mask in masks:
            weights += mask / np.count_nonzero(mask)
        self._sums = np.pad(weights.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def of(self, box: Box) -> float:
        height, width = self._sums.shape
        x0, x1 = (min(max(x, 0), width - 1) for x in (box[0], box[2]))
        y0, y1 = (min(max(y, 0), height - 1) for y in (box[1], box[3]))
        return float(self._sums[y1, x1] - self._sums[y0, x1] - self._sums[y1, x0] + self._sums[y0, x0])


def _place(label: _Label, image_wh: tuple[int, int], taken: list[Box], hidden: _HiddenShare) -> Box:
    """The best of some boxes around the anchor, inside the picture: free of others, near, and hiding little."""
    width, height = label.size_wh
    best: tuple[float, Box] | None = None
    for ring in range(RINGS):
        for turn in range(TURNS if ring else 1):
            angle = 2 * pi * turn / TURNS - pi / 2
            dx, dy = ring * 0.4 * width * cos(angle), ring * 0.6 * height * sin(angle)
            x0 = round(min(max(label.anchor_xy[0] - width / 2 + dx, 2), max(2, image_wh[0] - width - 2)))
            y0 = round(min(max(label.anchor_xy[1] - height / 2 + dy, 2), max(2, image_wh[1] - height - 2)))
            box = x0, y0, x0 + width, y0 + height
            covered = sum(_overlap(box, other) for other in taken)
            cost = 100 * covered / (width * height) + 3 * hidden.of(box) + 0.12 * hypot(dx, dy) / height
            if best is None or cost < best[0]:
                best = cost, box
    assert best is not None
    return best[1]


def _overlap(a: Box, b: Box) -> int:
    """Pixels that two boxes share, a distance of two pixels kept."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 2
    height = min(a[3], b[3]) - max(a[1], b[1]) + 2
    return max(0, width) * max(0, height)
