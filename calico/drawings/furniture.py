"""Chair, stool, table and lamp."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from calico.drawings.shapes import (
    Point,
    Primitive,
    arc_points,
    chance,
    curve,
    ellipse,
    polygon,
    rect,
    ring,
    rounded,
    stroke,
)


def _oblique_legs(
    rng: Random, seat: list[Point], floor: float, width: float, splay: float
) -> tuple[list[Primitive], list[Primitive]]:
    """Far and near legs under a four-cornered top given as back left, back right, front right, front left."""
    middle = sum(x for x, _ in seat) / 4
    taper = rng.uniform(0.5, 1.1)
    depth = seat[2][1] - seat[0][1]
    legs: list[Primitive] = []
    for i, (x, y) in enumerate(seat):
        inset = width * (0.6 if x < middle else -0.6)
        foot_y = floor - (depth * 0.8 if i < 2 else 0.0)
        foot_x = x + inset + splay * (1 if x > middle else -1)
        legs.append(stroke("leg", [(x + inset, y), (foot_x, foot_y)], width, width * taper, 0.8 if i < 2 else 1.0))
    return legs[:2], legs[2:]


def _star_base(rng: Random, x: float, top: float, floor: float, spread: float, width: float) -> list[Primitive]:
    """An office chair's column and feet, all `leg`."""
    hub = floor - rng.uniform(0.08, 0.16)
    shapes = [rect("leg", x - width / 2, top, x + width / 2, hub)]
    for dx in ((-1.0, -0.45, 0.45, 1.0), (-1.0, 0.0, 1.0))[rng.randrange(2)]:
        shapes.append(stroke("leg", [(x, hub - 0.02), (x + dx * spread, floor - 0.03)], width * 0.9, width * 0.6))
    casters = chance(rng, 0.5)
    shapes += [ellipse("leg", x + dx * spread, floor, 0.035, 0.035, 0.6) for dx in (-1.0, 1.0) if casters]
    return shapes


def _back(rng: Random, x0: float, x1: float, top: float, bottom: float, lean: float) -> list[Primitive]:
    """A chair's back: a panel, slats, a ladder or a rounded cushion."""
    kind = rng.randrange(4)
    bar = rng.uniform(0.05, 0.08)
    if kind == 0:
        return [polygon("back", [(x0 + lean, top), (x1 + lean, top), (x1, bottom), (x0, bottom)])]
    if kind == 1:
        return [rounded("back", x0, top, x1, bottom, rng.uniform(0.08, 0.3))]
    posts = [
        stroke("back", [(x0 + bar / 2 + lean, top), (x0 + bar / 2, bottom)], bar),
        stroke("back", [(x1 - bar / 2 + lean, top), (x1 - bar / 2, bottom)], bar),
    ]
    if kind == 2:
        num = rng.randint(1, 4)
        for i in range(num):
            x = x0 + (x1 - x0) * (i + 1) / (num + 1)
            posts.append(stroke("back", [(x + lean, top), (x, bottom)], bar * 0.9, tone=0.9))
        return [*posts, stroke("back", [(x0 + lean, top + bar / 2), (x1 + lean, top + bar / 2)], bar * 1.6)]
    num = rng.randint(2, 4)
    for i in range(num):
        y = top + bar + (bottom - top - bar) * i / num
        dx = lean * (1 - i / num)
        posts.append(stroke("back", [(x0 + dx, y), (x1 + dx, y)], bar * 1.5))
    return posts


def chair(rng: Random) -> list[Primitive]:
    kind = rng.choice(("oblique", "oblique", "front", "side", "office", "armchair"))
    arms = chance(rng, 0.4)
    leg = rng.uniform(0.055, 0.11)
    height = rng.uniform(0.4, 0.7)  # of the seat over the floor
    rise = rng.uniform(0.5, 0.85)  # of the back over the seat
    thick = rng.uniform(0.06, 0.13)
    if kind == "armchair":
        w, depth = rng.uniform(0.42, 0.6), rng.uniform(0.14, 0.24)
        arm_w, arm_y, r = rng.uniform(0.12, 0.18), rng.uniform(-0.3, -0.15), rng.uniform(0.03, 0.1)
        foot = rng.uniform(0.1, 0.22)
        shapes = [rect("leg", s * (w - 0.06) - leg / 2, 0.25, s * (w - 0.06) + leg / 2, 0.3 + foot) for s in (-1, 1)]
        shapes.append(rounded("back", -w + 0.05, -rise, w - 0.05, 0.2, rng.uniform(0.05, 0.3)))
        shapes.append(rounded("seat", -w + 0.05, 0.0, w - 0.05, 0.1 + depth, r))
        if chance(rng, 0.8):
            shapes += [rounded("arm", s * w - arm_w / 2, arm_y, s * w + arm_w / 2, 0.12 + depth, r) for s in (-1, 1)]
        return shapes
    if kind in ("side", "office"):
        w, lean = rng.uniform(0.3, 0.42), rng.uniform(-0.02, 0.18)
        back = stroke(
            "back",
            curve([(-w + 0.02, 0.02), (-w - lean * 0.4, -rise / 2), (-w - lean, -rise)]),
            rng.uniform(0.08, 0.13),
            rng.uniform(0.06, 0.11),
        )
        seat = rounded("seat", -w, -thick / 2, w, thick / 2, rng.uniform(0.0, 0.06))
        shapes = []
        if kind == "office":
            shapes += _star_base(rng, 0.0, 0.0, height, rng.uniform(0.28, 0.4), leg)
        else:
            splay = rng.uniform(-0.02, 0.12)
            if chance(rng, 0.5):
                shapes += [
                    stroke("leg", [(s * (w - 0.14), 0.0), (s * (w - 0.14 + splay), height * 0.9)], leg, leg * 0.7, 0.75)
                    for s in (-1, 1)
                ]
            shapes += [
                stroke("leg", [(s * (w - 0.05), 0.0), (s * (w - 0.05 + splay), height)], leg, leg * 0.7)
                for s in (-1, 1)
            ]
        shapes += [back, seat]
        if arms:
            y = -rng.uniform(0.24, 0.34)
            shapes.append(stroke("arm", [(-w, y), (w * 0.6, y), (w * 0.6, -thick / 2)], rng.uniform(0.06, 0.09)))
        return shapes
    w = rng.uniform(0.34, 0.48)
    lean = rng.uniform(-0.05, 0.05)
    if kind == "front":
        shapes = [
            stroke("leg", [(s * (w - 0.1), 0.0), (s * (w - 0.1), height * 0.85)], leg, leg * 0.8, 0.7)
            for s in (-1, 1)
            if leg < 0.09
        ]
        shapes += _back(rng, -w * 0.95, w * 0.95, -rise, 0.0, lean)
        shapes += [stroke("leg", [(s * (w - 0.05), 0.0), (s * (w - 0.03), height)], leg, leg * 0.8) for s in (-1, 1)]
        inset = rng.uniform(0.0, 0.08)
        y = rng.uniform(0.06, 0.16)
        shapes.append(polygon("seat", [(-w + inset, -y), (w - inset, -y), (w, thick), (-w, thick)]))
    else:
        shift, depth = rng.uniform(0.12, 0.3), rng.uniform(0.16, 0.3)
        top = [(-w + shift, -depth), (w + shift, -depth), (w - shift * 0.2, 0.0), (-w - shift * 0.2, 0.0)]
        far, near = _oblique_legs(rng, top, height, leg, rng.uniform(-0.01, 0.07))
        shapes = far + _back(rng, top[0][0], top[1][0], -depth - rise, -depth, lean) + near
        shapes.append(polygon("seat", [top[0], top[1], top[2], (top[2][0], thick), (top[3][0], thick), top[3]]))
    if arms:
        y, width, reach = -rng.uniform(0.26, 0.36), rng.uniform(0.06, 0.1), rng.uniform(0.02, 0.08)
        for s in (-1, 1):
            x = s * (w + reach * 0.5)
            post = [(x, 0.0), (x, y)]
            shapes.append(
                stroke(
                    "arm",
                    [
                        *post,
                        (x + (0.16 if kind == "oblique" else -s * 0.02), y - (0.16 if kind == "oblique" else 0.05)),
                    ],
                    width,
                )
            )
    return shapes


def stool(rng: Random) -> list[Primitive]:
    kind = rng.choice(("bar", "low", "pedestal", "oblique"))
    w = rng.uniform(0.22, 0.36)  # narrower than it is high, as a table is not
    height = rng.uniform(0.8, 1.3) if kind in ("bar", "pedestal") else rng.uniform(0.55, 0.85)
    leg, thick = rng.uniform(0.055, 0.1), rng.uniform(0.07, 0.16)
    if kind == "oblique":
        shift, depth = rng.uniform(0.06, 0.2), rng.uniform(0.12, 0.24)
        top = [(-w + shift, -depth), (w + shift, -depth), (w - shift * 0.2, 0.0), (-w - shift * 0.2, 0.0)]
        far, near = _oblique_legs(rng, top, height, leg, rng.uniform(0.0, 0.08))
        return far + near + [polygon("seat", [top[0], top[1], top[2], (top[2][0], thick), (top[3][0], thick), top[3]])]
    shapes: list[Primitive] = []
    if kind == "pedestal":
        base = rng.uniform(0.2, 0.34)
        shapes.append(rect("leg", -leg * 0.6, 0.0, leg * 0.6, height))
        shapes.append(ellipse("leg", 0.0, height, base, rng.uniform(0.05, 0.1)))
    else:
        splay = rng.uniform(0.0, 0.16)
        for x in (-0.55, 0.55) if chance(rng, 0.4) else ((0.0,) if chance(rng, 0.5) else ()):
            shapes.append(
                stroke("leg", [(x * w * 0.8, 0.0), (x * (w + splay) * 0.8, height * 0.92)], leg, leg * 0.8, 0.75)
            )
        if chance(rng, 0.5):
            y = height * rng.uniform(0.45, 0.75)
            x = w * 0.8 + splay * y / height
            shapes.append(stroke("leg", [(-x, y), (x, y)], leg * 0.7, tone=0.85))
        shapes += [
            stroke("leg", [(s * w * 0.8, 0.0), (s * (w * 0.8 + splay), height)], leg, leg * 0.8) for s in (-1, 1)
        ]
    if chance(rng, 0.5):
        round_top = rng.uniform(0.06, 0.12)
        shapes.append(
            polygon(
                "seat", [*arc_points(0, 0, w, round_top, 180, 360, 16), *arc_points(0, thick, w, round_top, 0, 180, 16)]
            )
        )
    else:
        shapes.append(rounded("seat", -w, -thick / 2, w, thick / 2, rng.uniform(0.0, 0.08)))
    return shapes


def table(rng: Random) -> list[Primitive]:
    kind = rng.choice(("oblique", "oblique", "front", "pedestal", "desk"))
    w, height = rng.uniform(0.65, 0.95), rng.uniform(0.45, 0.8)
    leg, thick = rng.uniform(0.06, 0.12), rng.uniform(0.06, 0.12)
    drawers = chance(rng, 0.5)
    shapes: list[Primitive] = []
    knob = rng.uniform(0.018, 0.03)
    if kind == "pedestal":
        base = rng.uniform(0.25, 0.45)
        shapes.append(stroke("leg", [(0, 0), (0, height)], leg * 1.2, leg * rng.uniform(1.2, 2.0)))
        if chance(rng, 0.5):
            shapes.append(ellipse("leg", 0, height, base, rng.uniform(0.05, 0.1)))
        else:
            shapes += [stroke("leg", [(0, height - 0.14), (s * base, height)], leg, leg * 0.7) for s in (-1, 1)]
        flat = rng.uniform(0.08, 0.22)
        return [
            *shapes,
            polygon("top", [*arc_points(0, 0, w, flat, 180, 360, 18), *arc_points(0, thick, w, flat, 0, 180, 18)]),
        ]
    depth = rng.uniform(0.1, 0.18)
    if kind == "oblique":
        shift, back = rng.uniform(0.1, 0.35), rng.uniform(0.2, 0.42)
        top = [(-w + shift, -back), (w + shift, -back), (w - shift * 0.2, 0.0), (-w - shift * 0.2, 0.0)]
        far, near = _oblique_legs(rng, top, height, leg, rng.uniform(-0.02, 0.06))
        shapes += far + near
        if drawers:
            shapes.append(rect("drawer", -w * 0.75, thick, w * 0.65, thick + depth))
            shapes.append(ellipse("drawer", -w * 0.05, thick + depth / 2, knob, knob, 0.6))
        return [*shapes, polygon("top", [top[0], top[1], top[2], (top[2][0], thick), (top[3][0], thick), top[3]])]
    splay = rng.uniform(0.0, 0.1)
    num_drawers = rng.randint(2, 3)
    side = rng.uniform(0.3, 0.42)
    for s in (-1, 1):
        if kind == "desk" and s == 1:
            for i in range(num_drawers):
                y0, y1 = height * 0.92 * i / num_drawers, height * 0.92 * (i + 1) / num_drawers
                shapes.append(rect("drawer", w - side, y0, w - 0.04, y1))
                shapes.append(
                    rect(
                        "drawer",
                        w - side * 0.65,
                        (y0 + y1) / 2 - knob / 2,
                        w - side * 0.35,
                        (y0 + y1) / 2 + knob / 2,
                        0.55,
                    )
                )
            if chance(rng, 0.5):
                shapes += [rect("leg", x, height * 0.92, x + leg, height) for x in (w - side, w - 0.04 - leg)]
        else:
            shapes.append(
                stroke("leg", [(s * (w - 0.1), 0), (s * (w - 0.1 + splay), height)], leg, leg * rng.uniform(0.6, 1.0))
            )
    if kind == "front" and drawers:
        num = rng.randint(1, 2)
        edges = [-w * 0.8 + 1.6 * w * i / num for i in range(num + 1)]
        for x0, x1 in pairwise(edges):
            shapes.append(rect("drawer", x0, thick / 2, x1, thick / 2 + depth))
            shapes.append(ellipse("drawer", (x0 + x1) / 2, thick / 2 + depth / 2, knob, knob, 0.6))
    return [*shapes, rounded("top", -w, -thick / 2, w, thick / 2, rng.uniform(0.0, 0.05))]


def lamp(rng: Random) -> list[Primitive]:
    kind = rng.choice(("floor", "table", "table", "desk", "pendant"))
    pole = rng.uniform(0.05, 0.1)
    if kind == "desk":
        elbow = (-rng.uniform(0.15, 0.4), -rng.uniform(0.4, 0.65))
        tip = (rng.uniform(0.15, 0.4), elbow[1] - rng.uniform(0.1, 0.35))
        size, wide = rng.uniform(0.18, 0.26), rng.uniform(0.2, 0.3)
        aim = (rng.uniform(0.5, 0.9), rng.uniform(0.45, 0.9))
        end = (tip[0] + aim[0] * size * 1.3, tip[1] + aim[1] * size * 1.3)
        shapes = [stroke("pole", [(0, 0), elbow, tip], pole)]
        base = rng.uniform(0.2, 0.34)
        shapes.append(
            rounded("base", -base, -0.05, base, 0.07, 0.06)
            if chance(rng, 0.5)
            else polygon("base", arc_points(0, 0.05, base, 0.14, 180, 360, 16))
        )
        return [
            *shapes,
            stroke("shade", [(tip[0] - aim[0] * 0.05, tip[1] - aim[1] * 0.05), end], wide * 0.5, wide * 2.0),
        ]
    length = {"floor": rng.uniform(1.2, 1.7), "table": rng.uniform(0.25, 0.6), "pendant": rng.uniform(0.4, 0.8)}[kind]
    bottom, top, tall = rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.34), rng.uniform(0.3, 0.5)
    dome = chance(rng, 0.3)
    rim = (
        arc_points(0, 0, bottom, tall, 180, 360, 18)
        if dome
        else [(-bottom, 0), (-top, -tall), (top, -tall), (bottom, 0)]
    )
    shade = polygon("shade", rim)
    if kind == "pendant":
        shapes = [rect("pole", -pole / 2, -tall - length, pole / 2, -tall * 0.8), shade]
        return (
            [rect("base", -0.16, -tall - length - 0.08, 0.16, -tall - length), *shapes] if chance(rng, 0.4) else shapes
        )
    base_w = rng.uniform(0.16, 0.36)
    shapes = [rect("pole", -pole / 2, -0.05, pole / 2, length)]
    style = rng.randrange(4)
    if kind == "table" and style == 0:  # a gourd
        h = rng.uniform(0.3, 0.5)
        shapes.append(ellipse("base", 0, length + h * 0.6, base_w, h * 0.7))
        if chance(rng, 0.5):
            shapes.append(rect("base", -base_w * 0.7, length + h * 1.15, base_w * 0.7, length + h * 1.3, 0.9))
    elif kind == "table" and style == 1:
        shapes.append(
            polygon(
                "base",
                [(-base_w * 0.4, length), (base_w * 0.4, length), (base_w, length + 0.4), (-base_w, length + 0.4)],
            )
        )
    elif style == 2:
        shapes.append(ellipse("base", 0, length, base_w * 1.1, rng.uniform(0.06, 0.1)))
    elif style == 3 and kind == "floor":
        shapes += [stroke("base", [(0, length - 0.2), (s * base_w, length)], pole * 1.2, pole) for s in (-1, 0, 1)]
    else:
        shapes.append(
            rounded("base", -base_w, length - 0.03, base_w, length + rng.uniform(0.06, 0.14), rng.uniform(0, 0.06))
        )
    if not dome and chance(rng, 0.3):
        shapes.append(ring("shade", 0, -tall, top, 0.04, 0.5, 0.8))
    return [*shapes, shade]
