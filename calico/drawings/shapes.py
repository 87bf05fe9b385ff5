"""Vector primitives in a unit frame (x right, y down, any extent: the pose fits it to the image)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Primitive:
    """One filled shape of an object; later primitives hide earlier ones.

    part: the part's name, "" for a piece that belongs to the object but to no named part.
    outline: Nx2 float, closed. hole: Mx2 float or None, cut out of it.
    tone: brightness relative to the part's colour (a far leg is darker, a hub lighter).
    """

    part: str
    outline: np.ndarray
    hole: np.ndarray | None = None
    tone: float = 1.0


def polygon(part: str, points: Sequence[Point], tone: float = 1.0) -> Primitive:
    return Primitive(part, np.array(points, dtype=np.float64), None, tone)


def rect(part: str, x0: float, y0: float, x1: float, y1: float, tone: float = 1.0) -> Primitive:
    return polygon(part, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], tone)


def arc_points(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, num: int = 28
) -> list[Point]:
    """Points on an ellipse from angle start to stop (degrees, clockwise on screen, 0 = right)."""
    closed = abs(stop - start) >= 360.0
    angles = np.deg2rad(np.linspace(start, stop, num, endpoint=not closed))
    return list(zip((cx + rx * np.cos(angles)).tolist(), (cy + ry * np.sin(angles)).tolist(), strict=True))


def ellipse(part: str, cx: float, cy: float, rx: float, ry: float, tone: float = 1.0, angle: float = 0.0) -> Primitive:
    """angle: degrees clockwise."""
    points = np.array(arc_points(0.0, 0.0, rx, ry))
    if angle:
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        points = points @ np.array([[c, s], [-s, c]])
    return Primitive(part, points + (cx, cy), None, tone)


def ring(part: str, cx: float, cy: float, rx: float, ry: float, thickness: float, tone: float = 1.0) -> Primitive:
    """An ellipse with a hole; thickness as a share of the radius."""
    outer, centre = np.array(arc_points(0.0, 0.0, rx, ry)), np.array((cx, cy))
    return Primitive(part, outer + centre, outer * (1.0 - thickness) + centre, tone)


def rounded(part: str, x0: float, y0: float, x1: float, y1: float, radius: float, tone: float = 1.0) -> Primitive:
    r = min(radius, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    corners = ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 90), (x0 + r, y0 + r, 180), (x1 - r, y0 + r, 270))
    return polygon(part, [p for cx, cy, a in corners for p in arc_points(cx, cy, r, r, a, a + 90, 5)], tone)


def curve(points: Sequence[Point], *, closed: bool = False, num: int = 6) -> list[Point]:
    """A Catmull-Rom curve through the points, num samples between two of them."""
    p = np.array(points, dtype=np.float64)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0.0, 1.0, num, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    q = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    vertices = [(float(x), float(y)) for x, y in q.reshape(-1, 2)]
    return vertices if closed else [*vertices, (float(p[-1][0]), float(p[-1][1]))]


def blob(part: str, points: Sequence[Point], tone: float = 1.0) -> Primitive:
    """A smooth closed shape through the points."""
    return polygon(part, curve(points, closed=True), tone)


def stroke(
    part: str, points: Sequence[Point], width: float, end_width: float | None = None, tone: float = 1.0
) -> Primitive:
    """A thick polyline, its width changing evenly from start to end."""
    p = np.array(points, dtype=np.float64)
    step = np.diff(p, axis=0)
    step /= np.hypot(step[:, 0], step[:, 1])[:, None] + 1e-9
    along = np.concatenate([step[:1], step[:-1] + step[1:], step[-1:]])
    along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
    # A mitre: at a bend the half width grows so that both arms keep theirs.
    cosine = np.maximum((along * np.concatenate([step[:1], step])).sum(1), 0.5)
    half = np.linspace(width, width if end_width is None else end_width, len(p)) / 2 / cosine
    offset = np.stack([-along[:, 1], along[:, 0]], axis=1) * half[:, None]
    return Primitive(part, np.concatenate([p + offset, (p - offset)[::-1]]), None, tone)


def chance(rng: Random, probability: float) -> bool:
    return rng.random() < probability
