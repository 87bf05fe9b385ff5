"""Objects that no checkpoint was trained on: umbrella and guitar, with part names that drawings-v1 lacks."""

from __future__ import annotations

from random import Random

from calico.drawings.shapes import Point, Primitive, arc_points, blob, chance, ellipse, polygon, rect, rounded, stroke


def umbrella(rng: Random) -> list[Primitive]:
    """Open, upright: a canopy over a shaft, with a hooked or a straight handle or none."""
    half, rise = rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.7)
    length, thick = rng.uniform(0.75, 1.15), rng.uniform(0.05, 0.09)
    shapes = [rect("shaft", -thick / 2, -rise * 0.6, thick / 2, length)]
    if chance(rng, 0.6):  # what sticks out at the top
        shapes.append(rect("shaft", -thick / 2, -rise - rng.uniform(0.08, 0.16), thick / 2, -rise * 0.9))
    kind = rng.choice(("hook", "hook", "straight", "ball", "none"))
    grip = thick * rng.uniform(1.3, 1.8)
    if kind == "hook":
        r = rng.uniform(0.11, 0.18)
        bend = arc_points(-r, length, r, r, 0.0, rng.uniform(150, 200), 10)
        shapes.append(stroke("handle", [(0.0, length - rng.uniform(0.12, 0.25)), *bend], grip))
    elif kind == "straight":
        top = length - rng.uniform(0.22, 0.35)
        shapes.append(rounded("handle", -grip * 0.8, top, grip * 0.8, length + 0.05, grip * 0.4))
    elif kind == "ball":
        shapes.append(ellipse("handle", 0.0, length, grip * 1.3, grip * 1.3))
    gores, sag = rng.randint(3, 7), rng.uniform(0.03, 0.12)
    dome: list[Point] = arc_points(0.0, 0.0, half, rise, 180.0, 360.0, 20)
    if chance(rng, 0.25):  # a pagoda's roof
        dome = [(x, y * (0.55 + 0.45 * (1 - abs(x) / half))) for x, y in dome]
    hem: list[Point] = []
    for i in range(gores):
        right, wide = half - 2 * half * i / gores, half / gores
        hem += [(right - wide * (1 - t), -sag * (1 - t * t)) for t in (0.66, 0.33, 0.0, -0.33, -0.66, -1.0)]
    shapes.append(polygon("canopy", [*dome, *hem]))
    if chance(rng, 0.7):  # ribs
        for i in range(1, gores):
            x = half - 2 * half * i / gores
            path = [(x * t, -rise * (1 - t**2) ** 0.5 * 0.98) for t in (0.05, 0.35, 0.65, 0.95)]
            shapes.append(stroke("canopy", [*path, (x, 0.0)], 0.016, tone=0.65))
    return shapes


def guitar(rng: Random) -> list[Primitive]:
    """Upright, seen from the front: acoustic ones have a sound hole."""
    wide, waist, tall = rng.uniform(0.34, 0.46), rng.uniform(0.2, 0.3), rng.uniform(0.8, 1.0)
    neck_w, neck_l = rng.uniform(0.09, 0.13), rng.uniform(0.65, 0.9)
    acoustic = chance(rng, 0.65)
    if acoustic:
        right = [(wide * 0.78, 0.0), (wide * 0.82, tall * 0.2), (waist, tall * 0.4), (wide, tall * 0.75)]
    else:  # horns beside the neck
        right = [(wide * 0.5, -0.14), (wide * 0.8, tall * 0.05), (waist, tall * 0.35), (wide * 0.95, tall * 0.72)]
    left = [(-x, y) for x, y in reversed(right)]
    shapes = [blob("body", [(neck_w * 0.6, 0.02), *right, (0.0, tall), *left, (-neck_w * 0.6, 0.02)])]
    if acoustic:
        r = rng.uniform(0.11, 0.15)
        shapes.append(ellipse("sound hole", 0.0, tall * 0.34, r, r, 0.35))
    else:
        for y in (0.35, 0.55):
            shapes.append(rect("body", -0.14, tall * y, 0.14, tall * y + 0.06, 0.5))
    bridge = rng.uniform(0.12, 0.18)
    shapes.append(rect("body", -bridge, tall * 0.7, bridge, tall * 0.7 + 0.05, 0.6))
    shapes.append(rect("neck", -neck_w / 2, -neck_l, neck_w / 2, tall * rng.uniform(0.1, 0.22)))
    for i in range(rng.choice((0, 4, 7))):  # frets
        y = -neck_l * (0.9 - 0.13 * i)
        shapes.append(rect("neck", -neck_w / 2, y, neck_w / 2, y + 0.014, 0.6))
    head_w, head_l = neck_w * rng.uniform(1.5, 2.2), rng.uniform(0.2, 0.32)
    slant = rng.uniform(0.0, 0.06)
    top = -neck_l - head_l
    outline = [(-neck_w / 2, -neck_l), (-head_w / 2, top + slant), (head_w / 2, top - slant), (neck_w / 2, -neck_l)]
    shapes.append(polygon("headstock", outline))
    if chance(rng, 0.6):  # pegs
        for side in (-1, 1):
            for i in range(3):
                y = -neck_l - head_l * (0.25 + 0.28 * i)
                shapes.append(ellipse("headstock", side * head_w * 0.52, y, 0.035, 0.025, 1.4))
    return shapes
