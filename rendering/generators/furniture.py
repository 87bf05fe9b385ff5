"""Chairs, stools, tables and benches. Lengths in metres."""

from __future__ import annotations

import numpy as np

from rendering.generators import finishes
from rendering.model import Finish, Mesh, Part, joined
from rendering.shapes import Point3, arc, beam, circle, lathe, prism, rod, rounded, tube

FRAMES = (finishes.wood, finishes.wood, finishes.metal, finishes.paint)
SEATS = (finishes.wood, finishes.plastic, finishes.fabric, finishes.paint)


def chair(rng: np.random.Generator) -> tuple[Part, ...]:
    width, depth, height = rng.uniform(0.4, 0.52), rng.uniform(0.4, 0.5), rng.uniform(0.42, 0.48)
    thick, leg, lean = rng.uniform(0.02, 0.07), rng.uniform(0.03, 0.05), rng.uniform(0.02, 0.1)
    is_round = rng.random() < 0.35
    frame = finishes.one_of(rng, *FRAMES)
    seat = frame if rng.random() < 0.4 else finishes.one_of(rng, *SEATS)
    outline = rounded(width, depth, rng.uniform(0.01, 0.15))
    x, y = width / 2 - leg, depth / 2 - leg
    rise = rng.uniform(0.38, 0.55)
    legs = [
        _leg((sx * x, sy * y, height), (sx * (x + 0.03), sy * y + 0.02 * sy, 0.0), leg, is_round)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    posts = [_leg((s * x, y, height), (s * x, y + lean, height + rise), leg * 0.8, is_round) for s in (-1, 1)]
    parts = [
        Part("seat", prism(outline, thick).moved(0, 0, height), seat, 0.008),
        Part("leg", joined(*legs), frame, 0.003),
        Part("back", joined(*posts, *_rest(rng, x, y, lean, height + thick, rise, leg)), frame, 0.004),
    ]
    if rng.random() < 0.3:
        over = height + rng.uniform(0.18, 0.24)
        arms = [
            joined(
                _leg((s * (x + leg), -y, height), (s * (x + leg), -y, over), leg * 0.8, is_round),
                beam((s * (x + leg), y + lean * 0.4, over), (s * (x + leg), -y - 0.03, over), leg),
            )
            for s in (-1, 1)
        ]
        parts.append(Part("arm", joined(*arms), frame, 0.004))
    if rng.random() < 0.4:
        low = height * rng.uniform(0.2, 0.45)
        bars = [rod((s * x, -y, low), (s * x, y, low), leg * 0.3) for s in (-1, 1)] + [
            rod((-x, 0, low), (x, 0, low), leg * 0.3)
        ]
        parts.append(Part("stretcher", joined(*bars), frame))
    return tuple(parts)


def _rest(rng: np.random.Generator, x: float, y: float, lean: float, low: float, rise: float, leg: float) -> list[Mesh]:
    """What a sitter leans on, between two posts: slats up, rungs across, or one board."""
    kind, top = rng.integers(3), low + rise - leg

    def behind(z: float) -> float:
        return y + lean * (z - low) / rise

    if kind == 0:
        count = int(rng.integers(3, 7))
        ends = [beam((-x, behind(z), z), (x, behind(z), z), leg) for z in (low + rise * 0.15, top)]
        places = np.linspace(-x, x, count + 2)[1:-1]
        return ends + [
            rod((p, behind(low + rise * 0.15), low + rise * 0.15), (p, behind(top), top), leg * 0.25) for p in places
        ]
    if kind == 1:
        heights = np.linspace(low + rise * 0.25, top, int(rng.integers(2, 5)))
        return [
            tube(arc((-x, behind(z), z), (0, behind(z) + 0.05, z), (x, behind(z), z)), leg * 0.9, 10, 0.3)
            for z in heights
        ]
    board = prism(rounded(2 * x, rise * 0.55, 0.04), 0.02).turned("x", 90).moved(0, 0.01, 0)
    return [
        board.turned("x", -np.rad2deg(np.arctan2(lean, rise))).moved(0, behind(low + rise * 0.62), low + rise * 0.62)
    ]


def _leg(start: Point3, end: Point3, width: float, is_round: bool) -> Mesh:
    return rod(start, end, width / 2, width / 2.6) if is_round else beam(start, end, width, width * 0.8)


def stool(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.15, 0.22), rng.uniform(0.4, 0.8)
    thick, leg = rng.uniform(0.025, 0.08), rng.uniform(0.025, 0.045)
    frame = finishes.one_of(rng, *FRAMES)
    seat = frame if rng.random() < 0.3 else finishes.one_of(rng, *SEATS)
    is_square = rng.random() < 0.3
    outline = rounded(2 * radius, 2 * radius, rng.uniform(0.01, 0.06)) if is_square else circle(radius)
    parts = [Part("seat", prism(outline, thick).moved(0, 0, height), seat, 0.008)]
    if rng.random() < 0.3:
        foot = rng.uniform(0.18, 0.24)
        profile = [
            (0.0, 0.0),
            (foot, 0.0),
            (foot, 0.012),
            (0.05, 0.03),
            (leg / 2 + 0.01, 0.06),
            (leg / 2 + 0.01, height),
            (0.0, height),
        ]
        parts.append(Part("base", lathe(profile), finishes.metal(rng)))
        if height > 0.6:
            parts.append(Part("footrest", _ring(radius * 0.9, 0.3 * height, 0.012), finishes.metal(rng)))
        return tuple(parts)
    count, splay = (4 if is_square else int(rng.integers(3, 5))), rng.uniform(1.0, 1.4)
    angles = np.pi / 4 + 2 * np.pi * np.arange(count) / count
    top = radius * 0.75
    legs = [
        _leg(
            (top * np.cos(a), top * np.sin(a), height),
            (top * splay * np.cos(a), top * splay * np.sin(a), 0.0),
            leg,
            not is_square,
        )
        for a in angles
    ]
    parts.append(Part("leg", joined(*legs), frame, 0.003))
    if height > 0.5 and rng.random() < 0.8:
        z = height * rng.uniform(0.25, 0.4)
        reach = top * (1 + (splay - 1) * (1 - z / height))
        bars = [
            rod((reach * np.cos(a), reach * np.sin(a), z), (reach * np.cos(b), reach * np.sin(b), z), leg * 0.3)
            for a, b in zip(angles, np.roll(angles, -1), strict=True)
        ]
        parts.append(Part("footrest", joined(*bars), frame))
    return tuple(parts)


def _ring(radius: float, z: float, thickness: float) -> Mesh:
    around = np.linspace(0, 2 * np.pi, 13)[:-1]
    profile = [(radius + thickness * np.cos(a), z + thickness * np.sin(a)) for a in around]
    return lathe(profile)


def table(rng: np.random.Generator) -> tuple[Part, ...]:
    width, depth, height = rng.uniform(0.6, 1.6), rng.uniform(0.55, 0.9), rng.uniform(0.4, 0.78)
    thick, leg = rng.uniform(0.015, 0.05), rng.uniform(0.035, 0.08)
    frame = finishes.one_of(rng, *FRAMES)
    top: Finish = frame if rng.random() < 0.5 else finishes.one_of(rng, finishes.wood, finishes.plastic, finishes.paint)
    if rng.random() < 0.3:
        radius = depth * 0.6
        foot = radius * rng.uniform(0.5, 0.7)
        stem = [
            (0.0, 0.0),
            (foot, 0.0),
            (foot, 0.015),
            (leg, 0.06),
            (leg * 0.6, height * 0.5),
            (leg, height),
            (0.0, height),
        ]
        return (
            Part("top", prism(circle(radius), thick).moved(0, 0, height), top, 0.004),
            Part("base", lathe(stem), frame),
        )
    x, y, splay = width / 2 - leg, depth / 2 - leg, rng.choice([1.0, 1.0, 1.12])
    is_round = rng.random() < 0.4
    legs = [
        _leg((sx * x, sy * y, height), (sx * x * splay, sy * y * splay, 0.0), leg, is_round)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    parts = [
        Part("top", prism(rounded(width, depth, rng.uniform(0.005, 0.2)), thick).moved(0, 0, height), top, 0.004),
        Part("leg", joined(*legs), frame, 0.003),
    ]
    if rng.random() < 0.5:
        low = height - rng.uniform(0.05, 0.1)
        boards = [beam((-x, s * y, low), (x, s * y, low), 0.03).scaled(1, 1, 1) for s in (-1, 1)]
        boards += [beam((s * x, -y, low), (s * x, y, low), 0.03) for s in (-1, 1)]
        parts.append(Part("apron", joined(*boards), frame, 0.002))
    if rng.random() < 0.3:
        shelf = prism(rounded(width - 3 * leg, depth - 3 * leg, 0.01), 0.015).moved(0, 0, height * 0.3)
        parts.append(Part("shelf", shelf, frame, 0.002))
    return tuple(parts)


def bench(rng: np.random.Generator) -> tuple[Part, ...]:
    width, depth, height = rng.uniform(1.0, 1.8), rng.uniform(0.32, 0.48), rng.uniform(0.4, 0.47)
    frame = finishes.one_of(rng, finishes.wood, finishes.metal, finishes.paint)
    slat = frame if rng.random() < 0.4 else finishes.wood(rng)
    count, leg = int(rng.integers(1, 6)), rng.uniform(0.04, 0.07)
    board = depth / count
    slats = [
        prism(rounded(width, board * (0.85 if count > 1 else 1), 0.005), 0.03).moved(
            0, (k + 0.5) * board - depth / 2, height
        )
        for k in range(count)
    ]
    x, y = width / 2 - rng.uniform(0.08, 0.25), depth / 2 - leg
    legs = [beam((sx * x, sy * y, height), (sx * x, sy * y * 1.1, 0.0), leg) for sx in (-1, 1) for sy in (-1, 1)]
    legs += [beam((s * x, -y, height - leg / 2), (s * x, y, height - leg / 2), leg * 0.8) for s in (-1, 1)]
    parts = [Part("seat", joined(*slats), slat, 0.004), Part("leg", joined(*legs), frame, 0.003)]
    if rng.random() < 0.6:
        rise, lean, rows = rng.uniform(0.3, 0.42), rng.uniform(0.05, 0.15), int(rng.integers(2, 5))
        posts = [beam((s * x, y, height), (s * x, y + lean, height + rise), leg * 0.8) for s in (-1, 1)]
        boards = []
        for k in range(rows):
            share = (k + 1) / rows
            across = prism(rounded(width, rise / rows * 0.7, 0.005), 0.025).turned("x", 90)
            boards.append(across.moved(0, y + lean * share - leg * 0.4, height + rise * share - rise / rows * 0.35))
        parts.append(Part("back", joined(*posts, *boards), slat, 0.004))
    return tuple(parts)
