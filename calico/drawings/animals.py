"""Bird and dog."""

from __future__ import annotations

from random import Random

from calico.drawings.shapes import Point, Primitive, arc_points, blob, chance, curve, ellipse, polygon, stroke


def _eye(rng: Random, x: float, y: float, size: float) -> list[Primitive]:
    if chance(rng, 0.2):
        return []
    white = [ellipse("head", x, y, size * 1.8, size * 1.8, 1.9)] if chance(rng, 0.4) else []
    return [*white, ellipse("head", x, y, size, size, 0.15)]


def _beak(rng: Random, x: float, y: float, long: float, thick: float) -> Primitive:
    hook = rng.uniform(-0.02, 0.12)
    if chance(rng, 0.3):  # a flat bill
        return polygon(
            "beak",
            curve(
                [
                    (x, y - thick / 2),
                    (x + long * 0.6, y - thick * 0.15),
                    (x + long, y + 0.02),
                    (x + long * 0.8, y + thick / 2),
                    (x, y + thick / 2),
                ]
            ),
        )
    return polygon("beak", [(x, y - thick / 2), (x + long, y + hook), (x, y + thick / 2)])


def bird(rng: Random) -> list[Primitive]:
    """Side view, looking right."""
    w, h = rng.uniform(0.42, 0.6), rng.uniform(0.26, 0.42)
    tilt = rng.uniform(-30, 8)
    kind = rng.choice(("perched", "perched", "flying", "tall", "duck"))
    head_r = rng.uniform(0.18, 0.27)
    neck = {"tall": rng.uniform(0.3, 0.55), "duck": rng.uniform(0.1, 0.3)}.get(kind, 0.0)
    if kind == "flying":
        head: Point = (w + head_r * rng.uniform(0.2, 0.5), -h * rng.uniform(0.1, 0.5))
    else:
        head = (w * rng.uniform(0.75, 0.95), -h * 0.7 - head_r * 0.5 - neck)
    shapes: list[Primitive] = []
    if chance(rng, 0.9):
        end = -w - rng.uniform(0.25, 0.5)
        y, spread = rng.uniform(-0.12, 0.25), rng.uniform(0.08, 0.2)
        fork = [(end + rng.uniform(0.0, 0.15), y)] if chance(rng, 0.5) else []
        shapes.append(
            polygon("tail", [(-w * 0.6, -h * 0.35), (end, y - spread), *fork, (end, y + spread), (-w * 0.6, h * 0.35)])
        )
    if kind in ("perched", "tall") and chance(rng, 0.85):
        length = h + (rng.uniform(0.5, 0.8) if kind == "tall" else rng.uniform(0.22, 0.4))
        thick = rng.uniform(0.045, 0.075)
        for x, tone in ((-0.08, 0.8), (0.1, 1.0))[rng.randrange(2) if chance(rng, 0.2) else 0 :]:
            foot = [(x, h * 0.6), (x, length), (x + rng.uniform(0.1, 0.18), length)]
            shapes.append(stroke("leg", foot, thick, tone=tone))
    flap = rng.uniform(0.45, 0.8)
    lean = rng.uniform(-0.35, 0.15)
    if kind == "flying":
        shapes.append(
            blob(
                "wing",
                [
                    (w * 0.35, -h * 0.4),
                    (lean + 0.25, -h - flap * 0.85),
                    (lean - 0.05, -h - flap * 0.8),
                    (-w * 0.3, -h * 0.4),
                ],
                0.8,
            )
        )
    shapes.append(ellipse("body", 0, 0, w, h, angle=tilt))
    if kind in ("tall", "duck"):
        path = curve([(w * 0.55, -h * 0.2), (w * 0.95, -h * 0.6 - neck * 0.3), head])
        shapes.append(stroke("body", path, head_r * 1.5, head_r * 1.0))
    long, thick = rng.uniform(0.2, 0.42), rng.uniform(0.12, 0.2)
    if chance(rng, 0.95):
        shapes.append(_beak(rng, head[0] + head_r * 0.75, head[1] + head_r * 0.15, long, thick))
    shapes.append(ellipse("head", *head, head_r, head_r * rng.uniform(0.85, 1.05)))
    if chance(rng, 0.15):
        shapes.append(
            polygon(
                "head",
                [
                    (head[0] - head_r * 0.7, head[1] - head_r * 0.5),
                    (head[0] - head_r, head[1] - head_r * 1.7),
                    (head[0] + head_r * 0.2, head[1] - head_r * 0.8),
                ],
            )
        )
    shapes += _eye(rng, head[0] + head_r * 0.3, head[1] - head_r * 0.2, rng.uniform(0.025, 0.045))
    if kind == "flying":
        up = chance(rng, 0.6)
        y = -h - flap if up else h + flap * 0.6
        shapes.append(blob("wing", [(w * 0.45, -h * 0.1), (lean + 0.1, y), (lean - 0.25, y * 0.95), (-w * 0.45, 0.0)]))
    elif chance(rng, 0.9):
        drop = rng.uniform(0.4, 0.95)
        if chance(rng, 0.5):
            shapes.append(
                blob("wing", [(w * 0.4, -h * 0.35), (w * 0.25, h * 0.35), (-w * drop, h * 0.35), (-w * 0.35, -h * 0.4)])
            )
        else:
            shapes.append(
                ellipse("wing", -w * 0.15, 0, w * 0.55, h * rng.uniform(0.4, 0.6), angle=rng.uniform(-35, 10))
            )
    return shapes


def _dog_head(rng: Random, x: float, y: float, r: float) -> list[Primitive]:
    muzzle = rng.uniform(0.5, 1.0) * r
    low = rng.uniform(0.15, 0.4) * r
    shapes: list[Primitive] = []
    ears = chance(rng, 0.85)
    floppy = chance(rng, 0.55)
    if ears and not floppy:
        tall = rng.uniform(0.7, 1.2) * r
        shapes += [
            polygon(
                "ear",
                [
                    (x + dx * r, y - r * 0.6),
                    (x + (dx - 0.1) * r, y - r * 0.7 - tall),
                    (x + (dx + 0.5) * r, y - r * 0.75),
                ],
                tone,
            )
            for dx, tone in ((0.05, 0.8), (-0.7, 1.0))
        ]
    snout = [
        (x + r * 0.3, y - r * 0.2),
        (x + r + muzzle, y + low - r * 0.25),
        (x + r + muzzle, y + low + r * 0.2),
        (x + r * 0.3, y + r * 0.75),
    ]
    shapes.append(blob("head", snout) if chance(rng, 0.6) else polygon("head", snout))
    shapes.append(ellipse("head", x, y, r, r * rng.uniform(0.85, 1.0)))
    shapes.append(ellipse("head", x + r * 0.95 + muzzle, y + low - r * 0.2, r * 0.17, r * 0.14, 0.2))
    shapes += _eye(rng, x + r * 0.35, y - r * 0.25, r * rng.uniform(0.1, 0.17))
    if ears and floppy:
        long = rng.uniform(0.9, 1.5) * r
        shapes.append(
            blob(
                "ear",
                [
                    (x - r * 0.1, y - r * 0.85),
                    (x - r * 0.1, y + long * 0.35),
                    (x - r * 0.5, y - r * 0.5 + long),
                    (x - r * 0.95, y + long * 0.2),
                    (x - r * 0.75, y - r * 0.6),
                ],
            )
        )
    return shapes


def dog(rng: Random) -> list[Primitive]:
    """Side view, looking right: standing, or sitting."""
    r, width = rng.uniform(0.2, 0.3), rng.uniform(0.1, 0.17)
    swing = rng.uniform(0.0, 0.12)
    tail_w = rng.uniform(0.07, 0.13)
    has_tail = chance(rng, 0.85)
    shapes: list[Primitive] = []
    if chance(rng, 0.22):
        tall = rng.uniform(0.6, 0.8)
        if has_tail:
            shapes.append(
                stroke(
                    "tail", curve([(-0.4, 0.62), (-0.65, 0.6), (-0.78, rng.uniform(0.3, 0.6))]), tail_w, tail_w * 0.6
                )
            )
        body = [(0.28, -tall * 0.6), (0.3, 0.1), (0.12, 0.6), (-0.4, 0.68), (-0.5, 0.3), (-0.12, -tall * 0.5)]
        shapes.append(stroke("leg", [(0.12, 0.1), (0.16, 0.7)], width, tone=0.8))
        shapes.append(blob("body", body))
        shapes.append(stroke("leg", [(0.24, 0.05), (0.28, 0.7), (0.4, 0.7)], width))
        shapes.append(blob("leg", [(-0.3, 0.25), (0.0, 0.45), (0.05, 0.7), (-0.38, 0.72)]))
        return shapes + _dog_head(rng, 0.3, -tall * 0.75 - r * 0.4, r)
    half, deep, leg = rng.uniform(0.5, 0.8), rng.uniform(0.2, 0.3), rng.uniform(0.3, 0.6)
    floor = deep + leg
    if has_tail:
        up = rng.choice((-1.0, -0.6, 0.5)) * rng.uniform(0.25, 0.45)
        path = curve(
            [
                (-half * 0.9, -deep * 0.4),
                (-half - 0.2, -deep * 0.4 + up * 0.4),
                (-half - rng.uniform(0.15, 0.4), -deep * 0.4 + up),
            ]
        )
        shapes.append(stroke("tail", path, tail_w, tail_w * rng.uniform(0.4, 1.0)))
    far = [(half * 0.5, -1), (-half * 0.6, 1)] if chance(rng, 0.75) else []
    near = [(half * 0.75, 1), (-half * 0.8, -1)]
    for x, s in far:
        shapes.append(stroke("leg", [(x, 0), (x + s * swing, floor * 0.97)], width, width * 0.8, 0.75))
    if chance(rng, 0.5):
        shapes += [stroke("leg", [(x, 0), (x + s * swing, floor)], width, width * 0.8) for x, s in near]
    else:
        shapes += [
            stroke("leg", [(x, 0), (x + s * swing, floor), (x + s * swing + width, floor)], width) for x, s in near
        ]
    neck = (half * 0.95, -deep - r * rng.uniform(0.5, 1.1))
    shapes.append(stroke("body", [(half * 0.6, -deep * 0.1), (neck[0], neck[1])], deep * 1.5, r * 1.1))
    if chance(rng, 0.5):
        shapes.append(ellipse("body", 0, 0, half, deep * 1.05))
    else:
        shapes.append(
            polygon(
                "body",
                arc_points(half - deep * 0.9, 0, deep, deep, -90, 90, 10)
                + arc_points(-half + deep, 0, deep, deep * rng.uniform(0.8, 1.0), 90, 270, 10),
            )
        )
    return shapes + _dog_head(rng, neck[0] + r * 0.3, neck[1], r)
