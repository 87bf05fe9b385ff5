"""Car, truck and bicycle."""

from __future__ import annotations

from random import Random

import numpy as np

from calico.drawings.shapes import (
    Point,
    Primitive,
    chance,
    curve,
    ellipse,
    polygon,
    rect,
    ring,
    rounded,
    stroke,
)


def _wheel(rng: Random, x: float, y: float, r: float, style: int) -> list[Primitive]:
    hub = (None, 0.45, 0.6, 0.25)[style % 4]
    tone = 1.7 if style < 4 else 0.6
    return [ellipse("wheel", x, y, r, r)] + ([] if hub is None else [ellipse("wheel", x, y, r * hub, r * hub, tone)])


def _pane(points: list[Point], shrink: float) -> list[Point]:
    p = np.array(points)
    return [(float(x), float(y)) for x, y in p.mean(0) + (p - p.mean(0)) * shrink]


def car(rng: Random) -> list[Primitive]:
    """Side view, front to the right."""
    half, waist, roof = rng.uniform(0.85, 1.1), rng.uniform(0.24, 0.36), rng.uniform(0.28, 0.42)
    r = rng.uniform(0.17, 0.25)
    kind = rng.choice(("sedan", "hatch", "van", "beetle", "sport"))
    rear0, rear1, front1, front0 = {
        "sedan": (-0.62, -0.42, 0.22, 0.5),
        "hatch": (-0.95, -0.75, 0.2, 0.5),
        "van": (-0.98, -0.92, 0.5, 0.78),
        "beetle": (-0.75, -0.45, 0.2, 0.5),
        "sport": (-0.7, -0.25, 0.05, 0.55),
    }[kind]
    jitter = rng.uniform(-0.06, 0.06)
    a, b, c, d = ((x + jitter) * half for x in (rear0, rear1, front1, front0))
    hood = -waist * rng.uniform(0.6, 0.95)
    y_roof = -waist - roof * (0.75 if kind == "sport" else 1.0)
    cabin = [(a, -waist), (b, y_roof), (c, y_roof), (d, -waist)]
    if kind == "beetle":
        top = curve(
            [
                (-half, 0.05),
                (-half * 0.85, -waist * 0.8),
                (b, y_roof),
                (c, y_roof),
                (d, -waist),
                (half * 0.95, hood * 0.8),
                (half, 0.05),
            ]
        )
    else:
        nose = rng.uniform(0.0, 0.08)
        top = [(-half, 0.05), (-half + nose * 0.5, -waist), *cabin, (half - nose, hood), (half, 0.05)]
    floor = rng.uniform(0.04, 0.12)
    shapes = [polygon("body", [*top, (half * 0.98, floor + 0.04), (-half * 0.98, floor + 0.04)])]
    if chance(rng, 0.9):
        glass = [(a * 0.92 + 0.02, -waist), (b + 0.04, y_roof + 0.07), (c - 0.03, y_roof + 0.07), (d - 0.1, -waist)]
        num = rng.choice((1, 2, 2, 3))
        for i in range(num):
            u, v = i / num, (i + 1) / num
            quad = [
                (glass[j][0] + (glass[k][0] - glass[j][0]) * t, glass[j][1])
                for j, k, t in ((0, 3, u), (1, 2, u), (1, 2, v), (0, 3, v))
            ]
            shapes.append(polygon("window", _pane(quad, rng.uniform(0.84, 0.92))))
    size = rng.uniform(0.055, 0.09)
    y = hood * rng.uniform(0.45, 0.75)
    if chance(rng, 0.6):
        shapes.append(ellipse("light", half * 0.95 - size, y, size * 1.1, size))
        if chance(rng, 0.5):
            shapes.append(rounded("light", -half * 0.98, y - size, -half * 0.98 + size * 1.5, y + size, 0.02))
    if chance(rng, 0.3):
        shapes.append(rect("body", -half * 0.1, -waist * 0.7, half * 0.02, -waist * 0.6, 0.6))
    style = rng.randrange(8)
    track = rng.uniform(0.52, 0.64) * half
    return shapes + [w for s in (-1, 1) for w in _wheel(rng, s * track, floor + r * 0.15, r, style)]


def truck(rng: Random) -> list[Primitive]:
    """Side view, cab to the right."""
    long, tall = rng.uniform(0.9, 1.6), rng.uniform(0.5, 0.85)
    cab_w, cab_h = rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.72)
    r = rng.uniform(0.15, 0.22)
    shapes = [rect("", -long, -0.02, cab_w * 0.9, 0.08)]
    kind = rng.choice(("box", "box", "tank", "dump", "flat"))
    gap = rng.uniform(0.02, 0.1)
    if kind == "box":
        shapes.append(rounded("body", -long, -tall, -gap, 0.0, rng.uniform(0, 0.06)))
        for i in range(rng.choice((0, 0, 2, 4))):
            x = -long * (0.15 + 0.2 * i)
            shapes.append(rect("body", x - 0.012, -tall * 0.93, x + 0.012, -0.04, 0.75))
    elif kind == "tank":
        shapes.append(rounded("body", -long, -tall * 0.85, -gap, 0.0, tall * 0.4))
    elif kind == "dump":
        shapes.append(
            polygon(
                "body",
                [
                    (-long - rng.uniform(0, 0.15), -tall * 0.85),
                    (-gap, -tall * rng.uniform(0.75, 0.95)),
                    (-gap - 0.05, 0),
                    (-long * 0.9, 0),
                ],
            )
        )
    else:
        shapes.append(rect("body", -long, -tall * 0.3, -gap, 0.0))
    slant = rng.uniform(0.0, 0.16)
    if chance(rng, 0.35):  # a long nose
        nose = rng.uniform(0.2, 0.32)
        edge = cab_w + nose
        cab = [
            (0, -cab_h),
            (cab_w - slant, -cab_h),
            (cab_w, -cab_h * 0.5),
            (edge, -cab_h * 0.42),
            (edge, 0.06),
            (0, 0.06),
        ]
    else:
        edge = cab_w
        cab = [(0, -cab_h), (cab_w - slant, -cab_h), (cab_w, -cab_h * 0.45), (cab_w, 0.06), (0, 0.06)]
    shapes.append(polygon("cab", cab))
    if chance(rng, 0.9):
        pane = [
            (cab_w * 0.25, -cab_h * 0.88),
            (cab_w - slant - 0.03, -cab_h * 0.88),
            (cab_w * 0.94, -cab_h * 0.5),
            (cab_w * 0.25, -cab_h * 0.5),
        ]
        shapes.append(polygon("window", pane))
    if chance(rng, 0.55):
        size = rng.uniform(0.055, 0.08)
        shapes.append(ellipse("light", edge - size * 0.9, -cab_h * 0.18, size * 0.9, size))
    style = rng.randrange(8)
    rear = [-long * 0.75] + ([-long * 0.75 + r * 2.1] if chance(rng, 0.5) else [])
    rear += [-gap - r * 1.2] if chance(rng, 0.2) and long > 1.2 else []
    return shapes + [w for x in [*rear, cab_w * 0.5 + (edge - cab_w) * 0.8] for w in _wheel(rng, x, 0.1, r, style)]


def bicycle(rng: Random) -> list[Primitive]:
    """Side view, front to the right."""
    r, base = rng.uniform(0.36, 0.48), rng.uniform(0.52, 0.66)
    tyre, tube = rng.uniform(0.14, 0.3), rng.uniform(0.05, 0.085)
    solid = chance(rng, 0.2)
    shapes: list[Primitive] = []
    spokes = rng.choice((0, 0, 2, 3, 4))
    for x in (-base, base):
        if solid:
            shapes += [ellipse("wheel", x, 0, r, r), ellipse("wheel", x, 0, r * 0.4, r * 0.4, 1.5)]
            continue
        shapes.append(ring("wheel", x, 0, r, r, tyre))
        turn = rng.uniform(0, np.pi)
        for i in range(spokes):
            dx, dy = r * 0.9 * np.cos(turn + i * np.pi / spokes), r * 0.9 * np.sin(turn + i * np.pi / spokes)
            shapes.append(stroke("wheel", [(x - dx, -dy), (x + dx, dy)], 0.022))
    crank = (-base * rng.uniform(0.05, 0.2), rng.uniform(-0.02, 0.1))
    saddle = (-base * rng.uniform(0.35, 0.5), -rng.uniform(0.5, 0.7))
    head = (base * rng.uniform(0.5, 0.65), -rng.uniform(0.5, 0.65))
    stem = (head[0] - 0.04, head[1] - rng.uniform(0.1, 0.25))
    joint = (crank[0] + (saddle[0] - crank[0]) * 0.8, crank[1] + (saddle[1] - crank[1]) * 0.8)
    shapes += [stroke("frame", path, tube) for path in ([(-base, 0), crank], [(-base, 0), joint], [crank, saddle])]
    if chance(rng, 0.8):
        shapes.append(stroke("frame", [joint, head], tube))
    shapes += [stroke("frame", [crank, (head[0], head[1] + 0.06)], tube), stroke("frame", [stem, (base, 0)], tube)]
    if chance(rng, 0.5):
        shapes.append(ellipse("frame", *crank, 0.09, 0.09, 0.7))
    if chance(rng, 0.92):
        w, h = rng.uniform(0.14, 0.22), rng.uniform(0.045, 0.075)
        seat = ellipse("seat", saddle[0], saddle[1] - h * 0.6, w, h)
        if chance(rng, 0.5):
            x, y = saddle
            seat = polygon(
                "seat", [(x - w, y - h * 1.6), (x + w, y - h), (x + w, y), (x - w * 0.6, y + h * 0.6), (x - w, y)]
            )
        shapes.append(seat)
    x, y = stem
    path = rng.choice(
        (
            [(x - 0.2, y - 0.1), (x - 0.04, y - 0.1), (x, y)],
            [(x, y + 0.02), (x + 0.16, y - 0.02), (x + 0.22, y + 0.08), (x + 0.14, y + 0.18)],
            [(x, y + 0.02), (x + 0.08, y - 0.12), (x - 0.16, y - 0.14)],
            [(x - 0.14, y), (x + 0.14, y - 0.06)],
        )
    )
    if chance(rng, 0.92):
        shapes.append(stroke("handlebar", path, rng.uniform(0.06, 0.09)))
    return shapes
