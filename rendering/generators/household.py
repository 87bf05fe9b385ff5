"""Lamps, ladders, brooms, bins and toys. Lengths in metres."""

from __future__ import annotations

import numpy as np

from rendering.generators import finishes
from rendering.model import Finish, Part, joined
from rendering.shapes import arc, beam, box, circle, lathe, prism, rod, rounded, shell, tube, wheel


def lamp(rng: np.random.Generator) -> tuple[Part, ...]:
    is_tall = rng.random() < 0.5
    height = rng.uniform(1.2, 1.7) if is_tall else rng.uniform(0.3, 0.55)
    foot = rng.uniform(0.13, 0.18) if is_tall else height * rng.uniform(0.2, 0.3)
    shade, top, drop = foot * rng.uniform(1.1, 1.6), rng.uniform(0.5, 0.95), rng.uniform(0.8, 1.3)
    frame = finishes.one_of(rng, finishes.metal, finishes.wood, finishes.ceramic, finishes.paint)
    thick = 0.012 if is_tall else rng.uniform(0.008, 0.03)
    drop *= shade
    base = [(0.0, 0.0), (foot, 0.0), (foot, 0.012), (foot * 0.9, 0.02), (thick * 1.2, 0.04), (0.0, 0.04)]
    pole = [
        (0.0, 0.03),
        (thick, 0.03),
        (thick * rng.uniform(0.7, 2.0), height * 0.4),
        (thick * 0.6, height - drop * 0.4),
        (0.0, height - drop * 0.4),
    ]
    wall = 0.003
    cone = [(shade, height - drop), (shade * top, height), (shade * top - wall, height), (shade - wall, height - drop)]
    cover = Finish("shade", finishes.fabric(rng).rgb)
    bulb = lathe(
        [
            (0.0, height - drop * 0.42),
            (0.012, height - drop * 0.42),
            (0.028, height - drop * 0.2),
            (0.0, height - drop * 0.12),
        ]
    )
    return (
        Part("base", lathe(base), frame),
        Part("pole", lathe(pole), frame),
        Part("shade", lathe(cone), cover),
        Part("bulb", bulb, Finish("light", (1.0, 0.85, 0.6))),
    )


def ladder(rng: np.random.Generator) -> tuple[Part, ...]:
    """A stepladder, standing open; or one that leans at nothing, lying on its side."""
    height, wide, steps = rng.uniform(0.8, 1.8), rng.uniform(0.34, 0.46), int(rng.integers(3, 7))
    narrow, reach, thick = wide * rng.uniform(0.7, 1.0), height * rng.uniform(0.3, 0.4), rng.uniform(0.025, 0.045)
    frame = finishes.one_of(rng, finishes.metal, finishes.wood, finishes.paint)
    rails = [beam((s * wide / 2, -reach, 0.0), (s * narrow / 2, 0.0, height), thick) for s in (-1, 1)]
    rails += [beam((s * wide / 2, reach, 0.0), (s * narrow / 2, 0.03, height), thick * 0.8) for s in (-1, 1)]
    treads, feet = [], []
    for share in np.arange(1, steps + 1) / (steps + 0.7):
        across = wide + (narrow - wide) * share
        tread = prism(rounded(float(across), 0.08, 0.005), 0.022)
        treads.append(tread.moved(0, -reach * (1 - share), float(height * share)))
    for s in (-1, 1):
        for y in (-reach, reach):
            feet.append(box(thick * 1.5, thick * 1.5, thick).moved(s * wide / 2, y, -0.001))
    return (
        Part("rail", joined(*rails), frame, 0.002),
        Part("step", joined(*treads), frame if rng.random() < 0.6 else finishes.plastic(rng), 0.002),
        Part("foot", joined(*feet), finishes.rubber(rng), 0.003),
        Part(
            "top",
            prism(rounded(narrow * 1.1, 0.16, 0.01), 0.025).moved(0, 0.015, height),
            finishes.one_of(rng, finishes.plastic, finishes.wood),
            0.003,
        ),
    )


def broom(rng: np.random.Generator) -> tuple[Part, ...]:
    """Lying, its bristles towards -x."""
    length, wide, hair = rng.uniform(1.0, 1.3), rng.uniform(0.22, 0.4), rng.uniform(0.08, 0.16)
    thick, flare = rng.uniform(0.035, 0.05), rng.uniform(1.0, 1.25)
    back = prism(rounded(wide, thick, 0.01), rng.uniform(0.03, 0.05))
    tuft = prism(rounded(wide * 0.96, thick * 0.8, 0.01), hair, rounded(wide * 0.96 * flare, thick * 1.2, 0.01))
    up = thick * 0.62
    parts = [
        tuft.turned("z", 90).turned("y", -90).moved(0, 0, up),
        back.turned("z", 90).turned("y", 90).moved(0, 0, up),
    ]
    return (
        Part("bristle", parts[0], finishes.one_of(rng, finishes.straw, finishes.fabric)),
        Part("head", parts[1], finishes.one_of(rng, finishes.wood, finishes.plastic), 0.003),
        Part(
            "handle",
            rod((0.02, 0, up), (length, 0, up + 0.01), 0.013),
            finishes.one_of(rng, finishes.wood, finishes.metal, finishes.paint),
        ),
    )


def trash_can(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.14, 0.2), rng.uniform(0.35, 0.65)
    narrow = rng.uniform(0.75, 1.0)
    finish = finishes.one_of(rng, finishes.metal, finishes.plastic, finishes.paint)
    cover = finish if rng.random() < 0.5 else finishes.one_of(rng, finishes.metal, finishes.plastic)
    body = shell([(0.0, 0.0), (radius * narrow, 0.0), (radius, height)], 0.006)
    rise = rng.uniform(0.02, 0.1)
    lid = lathe(
        [
            (0.0, height),
            (radius * 1.03, height),
            (radius * 1.03, height + 0.02),
            (radius * 0.7, height + 0.02 + rise * 0.7),
            (0.0, height + 0.02 + rise),
        ]
    )
    parts = [Part("body", body, finish), Part("lid", lid, cover, 0.002)]
    if rng.random() < 0.5:
        ring = lathe(
            [
                (radius * narrow * 0.9, 0.0),
                (radius * narrow * 1.06, 0.0),
                (radius * narrow * 1.06, 0.03),
                (radius * narrow * 0.9, 0.03),
            ]
        )
        parts.append(Part("base", ring, finishes.rubber(rng)))
    return tuple(parts)


def flashlight(rng: np.random.Generator) -> tuple[Part, ...]:
    """Lying."""
    length, thick, wide = rng.uniform(0.12, 0.22), rng.uniform(0.012, 0.018), rng.uniform(1.3, 2.0)
    finish = finishes.one_of(rng, finishes.metal, finishes.plastic, finishes.rubber, finishes.paint)
    body = lathe([(0.0, 0.0), (thick * 0.9, 0.0), (thick, 0.004), (thick, length), (0.0, length)])
    front = thick * wide
    head = shell([(0.0, length), (thick * 1.02, length), (front, length + 0.03), (front, length + 0.05)], 0.002)
    switch = prism(rounded(0.022, 0.01, 0.004), 0.004).moved(length * 0.62, 0, front + thick - 0.001)
    return (
        Part("body", body.turned("y", 90).moved(0, 0, front), finish),
        Part("head", head.turned("y", 90).moved(0, 0, front), finish if rng.random() < 0.6 else finishes.metal(rng)),
        Part("switch", switch, finishes.one_of(rng, finishes.rubber, finishes.plastic), 0.001),
    )


def skateboard(rng: np.random.Generator) -> tuple[Part, ...]:
    length, wide, radius = rng.uniform(0.7, 0.85), rng.uniform(0.18, 0.22), rng.uniform(0.025, 0.032)
    high, kick = radius * 2.6, rng.uniform(0.03, 0.06)
    slices = np.linspace(-length / 2, length / 2, 25)
    path = [(float(x), 0.0, float(high + kick * max(0.0, (abs(x) * 2 / length - 0.65) / 0.35) ** 2)) for x in slices]
    half = [wide / 2 * np.sqrt(max(0.05, 1 - max(0.0, (abs(x) * 2 / length - 0.75) / 0.25) ** 2)) for x in slices]
    deck = tube(path, half, 20, 0.055)
    axles, wheels = [], []
    for x in (-length * 0.28, length * 0.28):
        axles += [
            rod((x, -wide * 0.42, radius), (x, wide * 0.42, radius), 0.006),
            beam((x, 0, radius * 0.8), (x, 0, high), 0.035),
        ]
        wheels += [wheel(radius, 0.035).turned("x", 90).moved(x, s * wide * 0.36, radius) for s in (-1, 1)]
    return (
        Part("deck", deck, finishes.one_of(rng, finishes.wood, finishes.paint)),
        Part("axle", joined(*axles), finishes.metal(rng)),
        Part("wheel", joined(*wheels), finishes.one_of(rng, finishes.plastic, finishes.rubber)),
    )


def bat(rng: np.random.Generator) -> tuple[Part, ...]:
    """Lying on one side."""
    radius, grip = rng.uniform(0.07, 0.08), rng.uniform(0.09, 0.11)
    stretch = rng.uniform(1.0, 1.12)
    face = prism(circle(radius), 0.012).scaled(stretch, 1, 1).moved(0, 0, 0.006)
    start = radius * stretch * 0.9
    handle = tube(
        arc((start, 0, 0.012), (start + grip * 0.5, 0, 0.012), (start + grip, 0, 0.012), 6),
        [0.02, 0.013, 0.013, 0.014, 0.015, 0.016],
        16,
        0.75,
    )
    return Part("blade", face, finishes.paint(rng), 0.001), Part("handle", handle, finishes.wood(rng))
