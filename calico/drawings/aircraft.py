"""Airplane."""

from __future__ import annotations

from random import Random

from calico.drawings.shapes import Primitive, arc_points, blob, chance, ellipse, polygon, rounded


def airplane(rng: Random) -> list[Primitive]:
    return _airplane_top(rng) if chance(rng, 0.4) else _airplane_side(rng)


def _airplane_side(rng: Random) -> list[Primitive]:
    """Side view, nose to the right."""
    long, thick = rng.uniform(0.85, 1.1), rng.uniform(0.13, 0.22)
    shapes: list[Primitive] = []
    sweep, span = rng.uniform(0.15, 0.4), rng.uniform(0.35, 0.6)
    chord = rng.uniform(0.24, 0.36)
    if chance(rng, 0.6):  # the far wing
        shapes.append(
            polygon(
                "wing",
                [
                    (chord / 2, -thick * 0.5),
                    (-chord / 2, -thick * 0.5),
                    (-sweep - chord * 0.5, -thick - span * 0.6),
                    (-sweep - chord * 0.15, -thick - span * 0.6),
                ],
                0.8,
            )
        )
    fin, lean = rng.uniform(0.26, 0.42), rng.uniform(0.05, 0.2)
    shapes.append(
        polygon(
            "tail",
            [
                (-long * 0.62, -thick * 0.3),
                (-long * 0.78 - lean, -thick - fin),
                (-long - lean, -thick - fin),
                (-long * 0.95, -thick * 0.2),
            ],
        )
    )
    nose = rng.uniform(0.15, 0.35)
    upper = [(-long, -thick * 0.6), (-long * 0.6, -thick), (long - nose, -thick), (long - 0.03, -thick * 0.2)]
    lower = [(long, thick * 0.15), (long - nose, thick), (-long * 0.3, thick), (-long, -thick * 0.3)]
    shapes.append(
        blob("body", upper + lower) if chance(rng, 0.6) else rounded("body", -long, -thick, long, thick, thick)
    )
    if chance(rng, 0.65):
        shapes.append(
            polygon(
                "tail",
                [(-long * 0.68, 0), (-long * 0.85, 0), (-long * 1.12, 0.1 + thick * 0.2), (-long, 0.1 + thick * 0.2)],
            )
        )
    if chance(rng, 0.75):
        size = thick * rng.uniform(0.22, 0.34)
        num = rng.randint(3, 7)
        for i in range(num):
            x = -long * 0.45 + long * 1.05 * i / num
            shapes.append(
                ellipse("window", x, -thick * 0.35, size, size)
                if num > 4
                else rounded("window", x - size * 1.3, -thick * 0.35 - size, x + size * 1.3, -thick * 0.35 + size, 0.02)
            )
        shapes.append(
            polygon(
                "window",
                [
                    (long - nose * 0.95, -thick * 0.75),
                    (long - nose * 0.4, -thick * 0.55),
                    (long - nose * 0.35, -thick * 0.1),
                    (long - nose * 0.95, -thick * 0.1),
                ],
            )
        )
    shapes.append(
        polygon(
            "wing",
            [
                (chord * 0.6, thick * 0.3),
                (-chord * 0.6, thick * 0.3),
                (-sweep - chord * 0.6, thick + span),
                (-sweep - chord * 0.2, thick + span),
            ],
        )
    )
    if chance(rng, 0.35):
        shapes.append(
            rounded("", -0.05 - sweep * 0.5, thick + span * 0.3, 0.2 - sweep * 0.4, thick + span * 0.3 + 0.1, 0.05)
        )
    return shapes


def _airplane_top(rng: Random) -> list[Primitive]:
    """Seen from above, nose up."""
    long, thick = rng.uniform(0.8, 1.05), rng.uniform(0.1, 0.17)
    span, sweep, root, tip = (
        rng.uniform(0.75, 1.1),
        rng.uniform(-0.02, 0.4),
        rng.uniform(0.28, 0.45),
        rng.uniform(0.1, 0.26),
    )
    at = rng.uniform(-0.25, 0.0)
    shapes: list[Primitive] = []
    for s in (-1, 1):
        shapes.append(polygon("wing", [(0, at), (s * span, at + sweep), (s * span, at + sweep + tip), (0, at + root)]))
        w, h = rng.uniform(0.3, 0.42), rng.uniform(0.14, 0.24)
        shapes.append(
            polygon(
                "tail",
                [
                    (0, long * 0.7),
                    (s * w, long * 0.7 + sweep * 0.4 + 0.03),
                    (s * w, long * 0.75 + sweep * 0.4 + h * 0.5),
                    (0, long * 0.7 + h),
                ],
            )
        )
        if chance(rng, 0.35):
            shapes.append(
                rounded(
                    "",
                    s * span * 0.45 - 0.05,
                    at + sweep * 0.4 - 0.1,
                    s * span * 0.45 + 0.05,
                    at + sweep * 0.4 + 0.1,
                    0.05,
                )
            )
    body = [
        (0, -long),
        (thick * 0.9, -long * 0.7),
        (thick, 0),
        (thick * 0.5, long * 0.85),
        (0, long),
        (-thick * 0.5, long * 0.85),
        (-thick, 0),
        (-thick * 0.9, -long * 0.7),
    ]
    shapes.append(blob("body", body))
    if chance(rng, 0.6):
        shapes.append(polygon("window", arc_points(0, -long * 0.66, thick * 0.72, thick * 0.9, 180, 360, 10)))
    return shapes
