"""Hammers, screwdrivers, shovels, wheelbarrows. Lengths in metres; what lies, lies along x."""

from __future__ import annotations

import numpy as np

from rendering.generators import finishes
from rendering.model import Mesh, Part, joined
from rendering.shapes import Point2, arc, lathe, prism, rectangle, rod, rounded, tube, wheel


def hammer(rng: np.random.Generator) -> tuple[Part, ...]:
    length, thick = rng.uniform(0.26, 0.38), rng.uniform(0.012, 0.018)
    width, half = rng.uniform(0.022, 0.034), rng.uniform(0.05, 0.075)
    path = arc((0, 0, thick), (length * 0.5, 0, thick * 1.1), (length, 0, thick), 9)
    handle = tube(path, list(thick * np.array([0.9, 1.25, 1.3, 1.2, 1, 0.9, 0.85, 0.85, 0.85])), 16, 0.75)
    at = length - width * 0.3
    block = prism(rounded(width, 2 * half * 0.55, 0.003), width).moved(at, 0, thick - width / 2)
    face = lathe(
        [
            (0.0, 0.0),
            (width * 0.5, 0.0),
            (width * 0.58, 0.004),
            (width * 0.58, 0.02),
            (width * 0.4, half * 0.6),
            (0.0, half * 0.6),
        ]
    )
    head = [block, face.turned("x", 90).moved(at, half, thick)]
    if rng.random() < 0.5:  # a claw, or a wedge
        for side in (-1, 1):
            claw = arc(
                (at + side * width * 0.2, -half * 0.5, thick),
                (at + side * width * 0.25, -half * 1.1, thick),
                (at + side * width * 0.5, -half * 1.5, thick - width * 0.15),
            )
            head.append(tube(claw, list(np.linspace(width * 0.32, width * 0.12, len(claw))), 10, 0.7))
    else:
        wedge = prism(rectangle(width, width), half * 0.8, rectangle(width, 0.004))
        head.append(wedge.turned("x", 90).moved(at, -half * 0.5, thick))
    grip = finishes.one_of(rng, finishes.wood, finishes.wood, finishes.plastic, finishes.rubber)
    lift = float(min(0.0, joined(*head).vertices[:, 2].min()))
    return (
        Part("handle", handle.moved(0, 0, -lift), grip),
        Part(
            "head",
            joined(*head).moved(0, 0, -lift),
            finishes.one_of(rng, finishes.metal, finishes.metal, finishes.paint),
            0.002,
        ),
    )


def screwdriver(rng: np.random.Generator) -> tuple[Part, ...]:
    grip, shaft, thick = rng.uniform(0.08, 0.11), rng.uniform(0.08, 0.18), rng.uniform(0.012, 0.017)
    handle = [
        (0.0, 0.0),
        (thick * 0.8, 0.002),
        (thick, grip * 0.2),
        (thick * 0.85, grip * 0.6),
        (thick, grip * 0.8),
        (thick * 0.5, grip * 0.95),
        (thick * 0.45, grip),
        (0.0, grip),
    ]
    rough = thick * rng.uniform(0.18, 0.28)
    blade: list[Point2] = [(0.0, grip * 0.98), (rough, grip * 0.98), (rough, grip + shaft * 0.9)]
    is_flat = rng.random() < 0.5
    tip = prism(rectangle(rough * 1.9, rough * 1.2), shaft * 0.1, rectangle(rough * 2.4, rough * 0.3))
    blade += [(0.0, grip + shaft * 0.9)] if is_flat else [(rough * 0.2, grip + shaft), (0.0, grip + shaft)]
    ends = [tip.moved(0, 0, grip + shaft * 0.9)] if is_flat else []
    lying = [mesh.turned("y", 90).moved(0, 0, thick) for mesh in (lathe(handle, 12), joined(lathe(blade, 16), *ends))]
    return (
        Part(
            "handle",
            lying[0],
            finishes.one_of(rng, finishes.plastic, finishes.plastic, finishes.wood, finishes.rubber),
            0.001,
        ),
        Part("shaft", lying[1], finishes.metal(rng)),
    )


def shovel(rng: np.random.Generator) -> tuple[Part, ...]:
    """Lying on its back."""
    length, width, long = rng.uniform(0.7, 1.1), rng.uniform(0.2, 0.28), rng.uniform(0.24, 0.34)
    outline = _blade(width, long, rng.uniform(0.2, 1.0))
    bend = rng.uniform(0.1, 0.35)
    blade = _bent(prism(outline, 0.004), width, bend)
    rise = bend * width * 0.5 + 0.02
    path = arc((long * 0.62, 0, 0.02), (long + 0.15, 0, rise * 0.7), (long + length, 0, rise + 0.04))
    handle = [tube(path, 0.016, 14)]
    if rng.random() < 0.6:
        end = long + length
        handle += [
            tube(
                arc((end, 0, rise + 0.04), (end + 0.05, s * 0.06, rise + 0.04), (end + 0.1, s * 0.06, rise + 0.04)),
                0.009,
            )
            for s in (-1, 1)
        ]
        handle.append(rod((end + 0.1, -0.065, rise + 0.04), (end + 0.1, 0.065, rise + 0.04), 0.013))
    return (
        Part("blade", blade, finishes.one_of(rng, finishes.metal, finishes.paint)),
        Part("handle", joined(*handle), finishes.one_of(rng, finishes.wood, finishes.wood, finishes.plastic)),
    )


def _blade(width: float, long: float, round_share: float, steps: int = 14) -> list[Point2]:
    """Its tip towards -x, counter-clockwise from the handle's corner, in strips along y so that it bends."""
    across = np.linspace(width / 2, -width / 2, steps)
    tips = [(long * 0.45 * round_share * (2 * abs(y) / width) ** 2, float(y)) for y in across]
    ends = [(long, float(y)) for y in across[::-1]]
    return tips + ends


def _bent(mesh: Mesh, width: float, bend: float) -> Mesh:
    vertices = mesh.vertices.copy()
    vertices[:, 2] += bend * width * (2 * np.abs(vertices[:, 1]) / width) ** 2 / 2
    return Mesh(vertices, _strips(mesh))


def _strips(mesh: Mesh) -> list[tuple[int, ...]]:
    """The two caps of a prism whose outline goes there and back as quads: an uneven polygon renders torn."""
    count = len(mesh.vertices) // 2
    half = count // 2
    faces = list(mesh.faces[2:])
    for k in range(half - 1):
        quad = (k, k + 1, count - 2 - k, count - 1 - k)
        faces += [tuple(reversed(quad)), tuple(count + index for index in quad)]
    return faces


def wheelbarrow(rng: np.random.Generator) -> tuple[Part, ...]:
    long, width, deep = rng.uniform(0.75, 0.95), rng.uniform(0.5, 0.62), rng.uniform(0.2, 0.3)
    low, radius, thick = rng.uniform(0.3, 0.36), rng.uniform(0.16, 0.2), rng.uniform(0.06, 0.1)
    floor = rounded(long * 0.6, width * 0.6, 0.05)
    rim = [(x * long / (long * 0.6) * 1.0 + 0.04, y * width / (width * 0.6)) for x, y in floor]
    wall = 0.012
    inner_floor = [(x * 0.96, y * 0.96) for x, y in floor]
    inner_rim = [(0.04 + (x - 0.04) * 0.965, y * 0.965) for x, y in rim]
    tray = _open_box(floor, rim, inner_floor, inner_rim, deep, wall).moved(0, 0, low)
    front = long * 0.5 + 0.12
    axle = (front, 0.0, radius)
    steel = finishes.one_of(rng, finishes.metal, finishes.paint)
    bars = [
        tube(
            arc(
                (front, s * 0.07, radius),
                (long * 0.1, s * width * 0.3, low - 0.02),
                (-long * 0.95, s * width * 0.45, low + 0.22),
            ),
            0.016,
        )
        for s in (-1, 1)
    ]
    grips = [
        rod((-long * 0.84, s * width * 0.432, low + 0.175), (-long * 0.99, s * width * 0.455, low + 0.235), 0.021)
        for s in (-1, 1)
    ]
    legs = [
        tube(
            [
                (-long * 0.16, s * width * 0.36, low + 0.02),
                (-long * 0.22, s * width * 0.37, 0.02),
                (-long * 0.36, s * width * 0.37, 0.02),
                (-long * 0.42, s * width * 0.385, low + 0.06),
            ],
            0.015,
        )
        for s in (-1, 1)
    ]
    tyre = wheel(radius, thick, radius * 0.6).turned("x", 90).moved(*axle)
    hub = joined(
        wheel(radius * 0.62, thick * 0.5).turned("x", 90).moved(*axle),
        rod((front, -0.09, radius), (front, 0.09, radius), 0.012),
    )
    return (
        Part("tray", tray, finishes.one_of(rng, finishes.paint, finishes.metal, finishes.plastic), 0.004),
        Part("handle", joined(*bars, *legs), steel),
        Part("handle", joined(*grips), finishes.rubber(rng)),
        Part("wheel", tyre, finishes.rubber(rng)),
        Part("wheel", hub, steel),
    )


def _open_box(
    floor: list[Point2],
    rim: list[Point2],
    inner_floor: list[Point2],
    inner_rim: list[Point2],
    height: float,
    wall: float,
) -> Mesh:
    """Walls that slope from a floor to a rim; open above."""
    count = len(floor)
    rings = [(floor, 0.0), (rim, height), (inner_rim, height), (inner_floor, wall)]
    vertices = np.array([(x, y, z) for ring, z in rings for x, y in ring], float)
    faces: list[tuple[int, ...]] = [tuple(reversed(range(count))), tuple(range(3 * count, 4 * count))]
    for row in range(3):
        for k in range(count):
            n = (k + 1) % count
            faces.append((row * count + k, row * count + n, (row + 1) * count + n, (row + 1) * count + k))
    return Mesh(vertices, faces)
