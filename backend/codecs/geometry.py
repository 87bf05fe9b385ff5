"""Outlines of masks and masks of outlines, by one rule: a pixel belongs to a shape that holds its centre.

Points are (x, y) in pixels of the image, (0, 0) the upper left corner of the upper left pixel. An outline that was not
simplified gives its mask back exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from calico.errors import InputError
from calico.pictures.contours import simplified

CURVE_STEPS = 24
MAX_CROSSINGS = 8_000_000  # of a polygon's sides with rows; an outline that a hand drew has some thousands


def fill_polygon(points_xy: np.ndarray, height: int, width: int) -> np.ndarray:
    """P x 2 points in pixels -> HxW bool, by the non-zero rule; what lies outside the image is cut off.

    The editor's canvas fills so: where an outline runs over itself, nothing is cut out.
    """
    x0, y0 = np.asarray(points_xy, np.float64).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    # Every edge crosses the rows whose centre lies in [top, bottom), downwards or upwards; a pixel is inside where the
    # crossings left of it do not cancel out.
    top = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    counts = bottom - top
    if int(counts.sum()) > MAX_CROSSINGS:
        raise InputError(
            f"polygon: its {len(x0)} sides cross the rows of the image over {MAX_CROSSINGS:,} times; draw it again"
        )
    mask = np.zeros((height, width), np.bool_)
    if not counts.any():
        return mask
    edge = np.repeat(np.arange(counts.size), counts)
    rows = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts) + top[edge]
    x = x0[edge] + (rows + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    crossings = 2 * (rows * (width + 1) + columns) + (y1 > y0)[edge]  # in the order of reading, with their direction
    crossings.sort()
    winding = np.cumsum(2 * (crossings & 1) - 1)  # 0 again behind the last crossing of every row
    places = crossings >> 1
    inside = np.flatnonzero((winding[:-1] != 0) & (places[1:] > places[:-1]))
    starts, stops = places[inside], places[inside + 1]
    if len(inside) <= 20_000:
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            row, column = divmod(start, width + 1)
            mask[row, column : column + stop - start] = True
        return mask
    is_apart = np.append(True, starts[1:] != stops[:-1])  # spans that touch are one
    ends = np.empty((int(is_apart.sum()), 2), np.int64)
    ends[:, 0], ends[:, 1] = starts[is_apart], stops[np.append(is_apart[1:], True)]
    lengths = np.diff(ends.ravel(), prepend=0, append=height * (width + 1))
    filled = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return np.ascontiguousarray(filled.reshape(height, width + 1)[:, :width])


def outline_of_vertices(vertices: Any) -> np.ndarray:
    """The vertices of a closed vector region -> its outline as P x 2 points, in the vertices' own unit (percent).

    Curved sides (cubic, as the editor draws them) become `CURVE_STEPS` straight ones. `InputError` where they are none.
    """
    try:
        corners = [(float(vertex["x"]), float(vertex["y"])) for vertex in vertices]
        if len(corners) < 3:
            raise InputError(f"vector: expected at least 3 vertices, got {len(corners)}; draw an area")
        points: list[np.ndarray] = []
        for index, vertex in enumerate(vertices):
            following = vertices[(index + 1) % len(vertices)]
            start, end = np.array(corners[index]), np.array(corners[(index + 1) % len(corners)])
            leaving = _control_point(vertex, "controlPoint2")
            arriving = _control_point(following, "controlPoint1")
            points.append(start[None])
            if leaving is None and arriving is None:
                continue
            # A side with one handle only: the editor sets the other at 0.3 of the way.
            first = start + 0.3 * (end - start) if leaving is None else leaving
            second = end - 0.3 * (end - start) if arriving is None else arriving
            t = np.linspace(0, 1, CURVE_STEPS + 1)[1:-1, None]
            points.append(
                (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * end
            )
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("vector: expected vertices with numbers x and y in percent; draw the region again") from error
    outline = np.concatenate(points)
    if not (np.abs(outline) < 1e6).all():
        raise InputError("vector: expected numbers in percent, got some beyond a million; draw the region again")
    return outline


def _control_point(vertex: Mapping[str, Any], name: str) -> np.ndarray | None:
    point = vertex.get(name) if vertex.get("isBezier") else None
    return None if point is None else np.array((float(point["x"]), float(point["y"])))


def fill_rectangle(
    x: float, y: float, box_width: float, box_height: float, rotation_degrees: float, height: int, width: int
) -> np.ndarray:
    """A box of upper left corner (x, y), turned clockwise about that corner, in pixels -> HxW bool."""
    corners = np.array([[0, 0], [box_width, 0], [box_width, box_height], [0, box_height]], np.float64)
    return fill_polygon(_turned(corners, rotation_degrees) + (x, y), height, width)


def fill_ellipse(
    x: float, y: float, radius_x: float, radius_y: float, rotation_degrees: float, height: int, width: int
) -> np.ndarray:
    """An ellipse of centre (x, y), turned clockwise about it, in pixels -> HxW bool."""
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    rim = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], 1)
    return fill_polygon(_turned(rim, rotation_degrees) + (x, y), height, width)


def _turned(points_xy: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return points_xy @ np.array([[cos, sin], [-sin, cos]])


def polygons_of_mask(mask: np.ndarray, min_iou: float = 0.98) -> tuple[list[np.ndarray], float]:
    """HxW bool -> (outer outlines, P x 2 points each, one per 4-connected piece; their IoU with the mask).

    Outlines are simplified (Douglas-Peucker) as far as each piece keeps `min_iou` with its exact outline; small and
    thin pieces stay exact. Holes are lost: one polygon cannot hold them.
    """
    filled = np.zeros_like(mask)
    outlines = []
    for outline in _outlines(mask):
        (left, top), (right, bottom) = outline.min(0).astype(int), outline.max(0).astype(int)
        height, width = bottom - top, right - left
        exact = fill_polygon(outline - (left, top), height, width)
        for tolerance in (1.5, 1.0, 0.7, 0.0):
            simple = simplified(outline, tolerance)
            shape = fill_polygon(simple - (left, top), height, width)
            if _iou(shape, exact) >= min_iou:
                break
        outlines.append(simple)
        filled[top:bottom, left:right] |= shape
    return outlines, _iou(filled, mask)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    """The outer boundary of every 4-connected piece, along pixel edges, corners only, clockwise as seen."""
    padded = np.pad(mask, 1)
    stride = mask.shape[1] + 1  # corners are numbered row by row, (height + 1) x (width + 1) of them
    # Edges run with the mask on their right: rightwards on top of a pixel, downwards at its right side, and so on.
    # 0 right, 1 down, 2 left, 3 up; each by the number of the corner where it starts.
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    starts = (
        np.flatnonzero(inside & ~above),
        np.flatnonzero(~inside & left),
        np.flatnonzero(~inside & above) + 1,
        np.flatnonzero(inside & ~left) + stride,
    )
    steps = (1, stride, -1, -stride)
    todo = {corner * 4 + direction for direction in range(4) for corner in starts[direction].tolist()}
    outlines = []
    for first in (starts[0] * 4).tolist():
        if first not in todo:
            continue
        corners, at = [], first
        while at in todo:
            todo.discard(at)
            corner, direction = at >> 2, at & 3
            corners.append(corner)
            corner += steps[direction]
            # Right turn before straight before left: pieces that touch at a corner stay apart.
            for turn in (1, 0, 3):
                at = corner << 2 | (direction + turn) & 3
                if at in todo or at == first:
                    break
        y, x = np.divmod(np.array(corners), stride)
        points = np.stack([x, y], 1).astype(np.float64)
        ahead, behind = np.roll(points, -1, 0) - points, points - np.roll(points, 1, 0)
        area = (points[:, 0] * np.roll(points[:, 1], -1) - np.roll(points[:, 0], -1) * points[:, 1]).sum()
        if area > 0:
            outlines.append(points[(ahead != behind).any(1)])
    return outlines
