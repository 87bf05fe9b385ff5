"""Closed meshes that things are put together from. Each is watertight, its faces look outwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rendering.model import Mesh

Point2 = tuple[float, float]
Point3 = tuple[float, float, float]


def box(width: float, depth: float, height: float) -> Mesh:
    """Along x, y and z; its middle above the origin, standing on z = 0."""
    return prism(rectangle(width, depth), height)


def rectangle(width: float, depth: float) -> list[Point2]:
    x, y = width / 2, depth / 2
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def prism(outline: Sequence[Point2], height: float, top: Sequence[Point2] | None = None) -> Mesh:
    """outline: x and y, counter-clockwise seen from above, from z = 0 to `height`; top: another outline of as many
    points there."""
    count = len(outline)
    if top is not None and len(top) != count:
        raise ValueError(f"both outlines have as many points, got {count} and {len(top)}")
    upper = outline if top is None else top
    vertices = [(x, y, 0.0) for x, y in outline] + [(x, y, height) for x, y in upper]
    sides = [(k, (k + 1) % count, count + (k + 1) % count, count + k) for k in range(count)]
    return Mesh(np.array(vertices, float), [tuple(reversed(range(count))), tuple(range(count, 2 * count)), *sides])


def rounded(width: float, depth: float, radius: float, steps: int = 6) -> list[Point2]:
    """The outline of a rectangle with round corners."""
    radius = min(radius, width / 2, depth / 2)
    points = []
    for k, (x, y) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        for angle in np.linspace(k * np.pi / 2, (k + 1) * np.pi / 2, steps):
            points.append(
                (x * (width / 2 - radius) + radius * np.cos(angle), y * (depth / 2 - radius) + radius * np.sin(angle))
            )
    return _distinct(points)


def circle(radius: float, steps: int = 40) -> list[Point2]:
    return [(radius * np.cos(a), radius * np.sin(a)) for a in np.linspace(0, 2 * np.pi, steps, endpoint=False)]


def lathe(profile: Sequence[Point2], steps: int = 48) -> Mesh:
    """A profile of (radius, z) turned about z: outside upwards, then back down inside.

    It begins and ends on the axis (radius 0), or is a ring: its last point then joins its first.
    """
    profile = _distinct(profile)
    is_ring = all(radius > 0 for radius, _ in profile)
    if not is_ring and (profile[0][0] > 0 or profile[-1][0] > 0):
        raise ValueError("a profile begins and ends on the axis, or touches it nowhere")
    if any(radius <= 0 for radius, _ in profile[1:-1]):
        raise ValueError("a profile touches the axis at its ends only")
    angles = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    vertices: list[Point3] = []
    rows: list[list[int]] = []
    for radius, z in profile:
        around = [(0.0, 0.0, z)] if radius == 0 else [(radius * np.cos(a), radius * np.sin(a), z) for a in angles]
        rows.append([len(vertices) + k if radius else len(vertices) for k in range(steps)])
        vertices += around
    faces = []
    for lower, upper in zip(rows, [*rows[1:], rows[0]] if is_ring else rows[1:], strict=False):
        for k in range(steps):
            n = (k + 1) % steps
            faces.append(tuple(dict.fromkeys((lower[k], lower[n], upper[n], upper[k]))))
    return Mesh(np.array(vertices, float), [face for face in faces if len(face) > 2])


def shell(outer: Sequence[Point2], thickness: float) -> Mesh:
    """A vessel that is open above: its outer profile upwards from the axis, and a wall of that thickness."""
    inner = [(max(radius - thickness, 0.0), z) for radius, z in outer[1:]]
    floor = outer[0][1] + thickness
    above = [(radius, z) for radius, z in inner if z > floor and radius > 0]
    at_floor = np.interp(floor, [z for _, z in inner], [radius for radius, _ in inner])
    return lathe([*outer, *reversed(above), (float(max(at_floor, 1e-3)), floor), (0.0, floor)])


def tube(path: Sequence[Point3], radii: float | Sequence[float], steps: int = 14, flat: float = 1.0) -> Mesh:
    """Round about a path, its ends closed. radii: one, or one for each point. flat: thickness across, of the radius."""
    points = np.array(path, float)
    widths = np.full(len(points), radii) if isinstance(radii, int | float) else np.array(radii, float)
    along = _unit(np.gradient(points, axis=0))
    side = _across(along[0])
    vertices: list[np.ndarray] = []
    angles = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    for point, direction, radius in zip(points, along, widths, strict=True):
        side = _unit(side - direction * (side @ direction))
        other = np.cross(direction, side)
        vertices += [point + radius * (np.cos(a) * side + flat * np.sin(a) * other) for a in angles]
    faces: list[tuple[int, ...]] = [tuple(reversed(range(steps)))]
    for row in range(len(points) - 1):
        start = row * steps
        for k in range(steps):
            n = (k + 1) % steps
            faces.append((start + k, start + n, start + steps + n, start + steps + k))
    last = (len(points) - 1) * steps
    return Mesh(np.array(vertices), [*faces, tuple(range(last, last + steps))])


def rod(start: Point3, end: Point3, radius: float, end_radius: float | None = None, steps: int = 20) -> Mesh:
    """A straight tube."""
    return tube([start, end], [radius, radius if end_radius is None else end_radius], steps)


def beam(start: Point3, end: Point3, width: float, end_width: float | None = None) -> Mesh:
    """A straight square tube, its sides along the frame's where it stands."""
    half = width / np.sqrt(2)
    end_half = half if end_width is None else end_width / np.sqrt(2)
    low, high = np.array(start, float), np.array(end, float)
    if abs(high - low)[2] > abs(high - low)[:2].max():
        corners = [(half * np.cos(a), half * np.sin(a)) for a in np.pi / 4 + np.arange(4) * np.pi / 2]
        ratio = end_half / half
        if high[2] < low[2]:
            low, high, corners, ratio = high, low, [(x * ratio, y * ratio) for x, y in corners], half / end_half
        shift = high - low
        top = [(x * ratio + shift[0], y * ratio + shift[1]) for x, y in corners]
        return prism(corners, float(shift[2]), top).moved(*low)
    return tube([start, end], [half, end_half], 4)


def ball(radius: float, steps: int = 24) -> Mesh:
    angles = np.linspace(-np.pi / 2, np.pi / 2, steps // 2 + 1)
    return lathe(
        [(0.0, -radius), *((radius * np.cos(a), radius * np.sin(a)) for a in angles[1:-1]), (0.0, radius)], steps
    )


def wheel(radius: float, width: float, hole: float = 0.0) -> Mesh:
    """Lying, its middle at the origin, its axis along z. hole: radius of what is left out of its middle."""
    edge = min(width, radius) * 0.3
    side = [
        (radius - edge, -width / 2),
        (radius, -width / 2 + edge),
        (radius, width / 2 - edge),
        (radius - edge, width / 2),
    ]
    if hole > 0:
        return lathe([*side, (hole, width / 2), (hole, -width / 2)])
    return lathe([(0.0, -width / 2), *side, (0.0, width / 2)])


def arc(start: Point3, middle: Point3, end: Point3, steps: int = 12) -> list[Point3]:
    """A curve (quadratic Bézier's) from start to end, pulled towards `middle`."""
    a, b, c = (np.array(point, float) for point in (start, middle, end))
    found = [(1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for t in np.linspace(0, 1, steps)]
    return [(float(x), float(y), float(z)) for x, y, z in found]


def _distinct(points: Sequence[Point2]) -> list[Point2]:
    kept: list[Point2] = []
    for x, y in points:
        if not kept or abs(kept[-1][0] - x) + abs(kept[-1][1] - y) > 1e-9:
            kept.append((float(x), float(y)))
    return kept[:-1] if len(kept) > 2 and np.allclose(kept[0], kept[-1]) else kept


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _across(direction: np.ndarray) -> np.ndarray:
    """Some vector that is not along `direction`."""
    return np.eye(3)[int(np.abs(direction).argmin())]
