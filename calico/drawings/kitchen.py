"""Mug, teapot, knife and scissors."""

from __future__ import annotations

import math
from random import Random

import numpy as np

from calico.drawings.shapes import (
    Primitive,
    arc_points,
    chance,
    curve,
    ellipse,
    polygon,
    ring,
    rounded,
    stroke,
)


def _loop(rng: Random, x: float, top: float, bottom: float, reach: float, width: float) -> Primitive:
    """A handle from (x, top) out to the right and back to (x, bottom): round, square or ear-shaped."""
    drop = bottom - top
    kind = rng.randrange(3)
    if kind == 0:
        path = arc_points(x - 0.02, (top + bottom) / 2, reach, drop / 2, -90, 90, 14)
    elif kind == 1:
        path = [
            (x - 0.05, top),
            (x + reach * 0.85, top),
            (x + reach, top + drop * 0.15),
            (x + reach, bottom - drop * 0.15),
            (x + reach * 0.85, bottom),
            (x - 0.05, bottom),
        ]
    else:
        path = curve(
            [
                (x - 0.05, top + drop * 0.1),
                (x + reach * 0.8, top),
                (x + reach, top + drop * 0.35),
                (x + reach * 0.5, bottom - drop * 0.15),
                (x - 0.05, bottom),
            ]
        )
    return stroke("handle", path, width)


def mug(rng: Random) -> list[Primitive]:
    w, h = rng.uniform(0.32, 0.48), rng.uniform(0.42, 0.62)
    foot = w * rng.uniform(0.65, 1.05)
    rim, shapes = rng.uniform(0.04, 0.14), []
    if chance(rng, 0.9):
        x = (w + foot) / 2
        shapes.append(
            _loop(
                rng,
                x - 0.02,
                -h * rng.uniform(0.4, 0.75),
                h * rng.uniform(0.3, 0.75),
                rng.uniform(0.2, 0.38),
                rng.uniform(0.08, 0.14),
            )
        )
    kind = rng.randrange(3)
    if kind == 0:  # seen from the side
        shapes.append(polygon("body", [(-w, -h), (w, -h), (foot, h), (-foot, h)]))
    elif kind == 1:  # seen from above: an open rim
        base = arc_points(0, h, foot, rim * 0.8, 0, 180, 14)
        shapes.append(polygon("body", [(-w, -h), *arc_points(0, -h, w, rim, 180, 360, 14), (w, -h), *base]))
        shapes.append(ellipse("body", 0, -h, w * 0.9, rim * 0.8, rng.choice((0.55, 0.7, 1.3))))
    else:  # a round cup
        belly = w * rng.uniform(1.0, 1.2)
        shapes.append(
            polygon(
                "body",
                [
                    (-w, -h),
                    (w, -h),
                    *curve([(w, -h), (belly, 0), (foot * 0.7, h)])[1:],
                    *curve([(-foot * 0.7, h), (-belly, 0), (-w, -h)])[:-1],
                ],
            )
        )
    if chance(rng, 0.25):
        y = rng.uniform(-0.2, 0.2)
        shapes.append(
            stroke(
                "body",
                [(-min(w, foot) * 0.85, y), (min(w, foot) * 0.85, y)],
                rng.uniform(0.06, 0.16),
                tone=rng.choice((0.75, 1.25)),
            )
        )
    return shapes


def teapot(rng: Random) -> list[Primitive]:
    w, h = rng.uniform(0.48, 0.68), rng.uniform(0.36, 0.56)
    shapes: list[Primitive] = []
    thick = rng.uniform(0.09, 0.15)
    start, reach, up = h * rng.uniform(-0.1, 0.35), rng.uniform(0.3, 0.5), rng.uniform(0.6, 1.05)
    if chance(rng, 0.5):
        path = curve(
            [
                (-w * 0.75, start),
                (-w - reach * 0.5, start - 0.1),
                (-w - reach * 0.6, -h * up * 0.6),
                (-w - reach, -h * up),
            ]
        )
    else:
        path = [(-w * 0.7, start), (-w - reach, -h * up)]
    shapes.append(stroke("spout", path, thick * 2.4, thick))
    if chance(rng, 0.25):  # a bail over the lid
        shapes.append(
            stroke("handle", arc_points(0, -h * 0.6, w * 0.85, h * rng.uniform(1.0, 1.4), 180, 360, 18), thick * 0.8)
        )
    else:
        shapes.append(
            _loop(
                rng, w * 0.85, -h * rng.uniform(0.45, 0.75), h * rng.uniform(0.25, 0.7), rng.uniform(0.32, 0.5), thick
            )
        )
    kind = rng.randrange(3)
    mouth = w * rng.uniform(0.4, 0.65)
    lid_y = -h * 0.85
    if kind == 0:
        shapes.append(ellipse("body", 0, 0, w, h))
    elif kind == 1:
        foot = w * rng.uniform(0.75, 1.1)
        lid_y = -h
        shapes.append(polygon("body", [(-w * 0.75, -h), (w * 0.75, -h), (foot, h), (-foot, h)]))
    else:
        foot = w * rng.uniform(0.5, 0.8)
        shapes.append(
            polygon(
                "body",
                curve([(-foot, h), (-w, h * 0.1), (-mouth, -h * 0.9)])
                + curve([(mouth, -h * 0.9), (w, h * 0.1), (foot, h)]),
            )
        )
    if chance(rng, 0.85):
        tall = rng.uniform(0.12, 0.24)
        knob = rng.uniform(0.05, 0.09)
        shapes.append(ellipse("lid", 0, lid_y - tall - knob * 0.6, knob, knob))
        if chance(rng, 0.6):
            shapes.append(polygon("lid", arc_points(0, lid_y + 0.03, mouth, tall, 180, 360, 16)))
        else:
            shapes.append(
                polygon(
                    "lid",
                    [
                        (-mouth, lid_y + 0.04),
                        (-mouth * 0.6, lid_y - tall),
                        (mouth * 0.6, lid_y - tall),
                        (mouth, lid_y + 0.04),
                    ],
                )
            )
    return shapes


def knife(rng: Random) -> list[Primitive]:
    length, w, grip = rng.uniform(0.8, 1.5), rng.uniform(0.13, 0.26), rng.uniform(0.45, 0.75)
    kind = rng.choice(("chef", "chef", "bread", "cleaver", "dagger"))
    if kind == "cleaver":
        length, w = rng.uniform(0.7, 1.0), rng.uniform(0.32, 0.5)
        blade = polygon("blade", [(0, -0.1), (length, -0.1), (length, w - 0.1), (0, w - 0.1)])
    elif kind == "bread":
        blade = polygon(
            "blade",
            [
                (0, -w / 2),
                *arc_points(length - w * 0.6, 0, w * 0.6, w / 2, -90, 90 if chance(rng, 0.5) else 45, 8),
                (length * 0.95, w / 2),
                (0, w / 2),
            ],
        )
    elif kind == "dagger":
        blade = polygon(
            "blade", [(0, -w * 0.45), (length * 0.75, -w * 0.45), (length, 0), (length * 0.75, w * 0.45), (0, w * 0.45)]
        )
    else:
        spine = [(0, -w * 0.45), (length * rng.uniform(0.5, 0.8), -w * 0.45), (length, rng.uniform(-0.4, 0.35) * w)]
        blade = polygon("blade", [*spine, *curve([spine[-1], (length * 0.7, w * 0.55), (0, w * 0.6)])[1:]])
    grip_w = rng.uniform(0.1, 0.18)
    shapes = [blade]
    style = rng.randrange(3)
    if style == 0:
        shapes.append(rounded("handle", -grip, -grip_w / 2, 0.04, grip_w / 2, rng.uniform(0, 0.09)))
    elif style == 1:
        shapes.append(
            polygon(
                "handle",
                [
                    (0.04, -grip_w * 0.5),
                    (-grip, -grip_w * 0.6),
                    (-grip - 0.05, grip_w * 0.7),
                    (-grip + 0.1, grip_w * 0.7),
                    (0.04, grip_w * 0.5),
                ],
            )
        )
    else:
        top = [(0.04, -grip_w * 0.5), (-grip * 0.4, -grip_w * 0.65), (-grip, -grip_w * 0.5)]
        shapes.append(
            polygon(
                "handle",
                curve(top) + curve([(-grip, grip_w * 0.8), (-grip * 0.5, grip_w * 0.4), (0.04, grip_w * 0.55)]),
            )
        )
    if chance(rng, 0.5):
        shapes += [ellipse("handle", -grip * f, 0, 0.022, 0.022, 0.55) for f in (0.25, 0.5, 0.75)]
    if kind == "dagger" and chance(rng, 0.5):
        shapes.append(rounded("handle", -0.03, -w * 0.9, 0.05, w * 0.9, 0.02, 0.85))
    return shapes


def _rotated(shape: Primitive, degrees: float, mirror: bool) -> Primitive:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.array([[c, s], [-s, c]])
    flip = np.array([1.0, -1.0 if mirror else 1.0])
    hole = None if shape.hole is None else (shape.hole * flip) @ matrix
    return Primitive(shape.part, (shape.outline * flip) @ matrix, hole, shape.tone)


def scissors(rng: Random) -> list[Primitive]:
    """Two mirrored halves around a pivot at the origin; the blades point right."""
    opening, length = rng.uniform(8, 32), rng.uniform(0.7, 1.2)
    w, shank = rng.uniform(0.09, 0.17), rng.uniform(0.12, 0.4)
    rx, ry, thick = rng.uniform(0.2, 0.3), rng.uniform(0.16, 0.24), rng.uniform(0.3, 0.5)
    offset = rng.uniform(0.06, 0.14)
    pointed = chance(rng, 0.7)
    curved = chance(rng, 0.4)
    shapes: list[Primitive] = []
    for mirror in (False, True):
        # The half whose blade turns up has its ring down.
        tip = [(length, 0.0)] if pointed else [(length, -w * 0.3), (length, w * 0.3)]
        outline = [(-0.1, -w / 2), (length * (0.6 if curved else 0.15), -w / 2), *tip, (-0.1, w / 2)]
        centre = (-shank - rx, offset)
        half = [
            polygon("blade", outline),
            stroke("handle", [(-0.04, 0), (-shank - rx * 0.2, offset * 0.6)], w, w * 0.8),
            ring("handle", *centre, rx, ry, thick),
        ]
        tone = 1.0 if mirror else 0.85
        shapes += [
            _rotated(Primitive(s.part, s.outline, s.hole, tone), -opening / 2 if not mirror else opening / 2, mirror)
            for s in half
        ]
    return [*shapes, ellipse("blade", 0, 0, 0.035, 0.035, 0.6)]
