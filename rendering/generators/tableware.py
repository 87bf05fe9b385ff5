"""Vessels: turned profiles with handles, lids and spouts. Lengths in metres."""

from __future__ import annotations

import numpy as np

from rendering.generators import finishes
from rendering.model import Mesh, Part, joined
from rendering.shapes import Point2, arc, ball, lathe, shell, tube

POTS = (finishes.ceramic, finishes.ceramic, finishes.metal, finishes.paint)


def mug(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.035, 0.05), rng.uniform(0.07, 0.12)
    belly, foot, wall = rng.uniform(0.95, 1.15), rng.uniform(0.75, 1.0), rng.uniform(0.003, 0.005)
    side = ((radius * foot, 0.006), (radius * belly, height * 0.45), (radius, height))
    profile = _profile(radius * foot * 0.95, (radius * foot, 0.004), side)
    finish = finishes.one_of(rng, *POTS)
    other = finish if rng.random() < 0.8 else finishes.one_of(rng, *POTS)
    return (
        Part("body", shell(profile, wall), finish),
        Part("handle", _ear(rng, profile, height * rng.uniform(0.25, 0.34)), other),
    )


def pitcher(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.05, 0.07), rng.uniform(0.17, 0.26)
    neck = radius * rng.uniform(0.55, 0.9)
    belly = ((radius * 0.75, 0.007), (radius * 1.5, height * 0.35), (neck, height * 0.75))
    lip = ((neck, height * 0.76), (neck, height * 0.9), (neck * rng.uniform(1.1, 1.4), height))
    profile = _profile(radius * 0.7, (radius * 0.75, 0.005), belly, lip)
    finish = finishes.one_of(rng, *POTS, finishes.glass)
    return (
        Part("body", shell(profile, 0.004), finish),
        Part("handle", _ear(rng, profile, height * rng.uniform(0.25, 0.32)), finish),
    )


def teapot(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.07, 0.095), rng.uniform(0.09, 0.15)
    mouth = radius * rng.uniform(0.45, 0.6)
    side = ((radius * 0.64, 0.006), (radius * 1.5, height * 0.5), (mouth, height))
    profile = _profile(radius * 0.6, (radius * 0.62, 0.004), side)
    finish = finishes.one_of(rng, *POTS)
    waist = _radius_at(profile, height * 0.4)
    tip = (radius + rng.uniform(0.05, 0.08), 0.0, height * rng.uniform(0.9, 1.05))
    path = arc((waist * 0.85, 0.0, height * 0.3), (radius * 1.25, 0.0, height * 0.35), tip)
    spout = tube(path, list(np.linspace(0.02, 0.008, len(path))))
    lid = lathe(
        [
            (0.0, height - 0.004),
            (mouth * 1.02, height - 0.004),
            (mouth * 1.02, height),
            (mouth * 0.6, height + 0.018),
            (0.0, height + 0.022),
        ]
    )
    knob = ball(rng.uniform(0.009, 0.014)).moved(0, 0, height + 0.032)
    other = finish if rng.random() < 0.7 else finishes.one_of(rng, finishes.wood, finishes.plastic)
    handle = _ear(rng, profile, height * 0.36).mirrored("x")
    return (
        Part("body", shell(profile, 0.004), finish),
        Part("spout", spout, finish),
        Part("lid", joined(lid, knob), finish),
        Part("handle", handle, other),
    )


def bottle(rng: np.random.Generator) -> tuple[Part, ...]:
    radius, height = rng.uniform(0.03, 0.045), rng.uniform(0.18, 0.32)
    neck, shoulder = radius * rng.uniform(0.3, 0.45), rng.uniform(0.5, 0.72)
    rise = height * rng.uniform(0.08, 0.16)
    start = height * shoulder + rise
    body = [
        (0.0, 0.0), (radius * 0.95, 0.0), (radius, 0.005), (radius, height * shoulder),
        *_curve((radius, height * shoulder + 0.001), (radius, start - rise * 0.4), (neck, start)), (0.0, start),
    ]  # fmt: skip
    top = height - 0.015
    stem = [(0.0, start), (neck, start), (neck, top), (0.0, top)]
    cap = [(0.0, top), (neck * 1.2, top), (neck * 1.2, height), (0.0, height + 0.002)]
    finish = finishes.one_of(rng, finishes.glass, finishes.plastic, finishes.ceramic)
    parts = [
        Part("body", lathe(body), finish),
        Part("neck", lathe(stem), finish),
        Part("cap", lathe(cap), finishes.one_of(rng, finishes.plastic, finishes.metal), 0.001),
    ]
    if rng.random() < 0.7:
        low, high = height * rng.uniform(0.08, 0.2), height * shoulder * rng.uniform(0.75, 0.95)
        around = [(radius * 1.005, low), (radius * 1.015, low), (radius * 1.015, high), (radius * 1.005, high)]
        parts.append(Part("label", lathe(around), finishes.paint(rng)))
    return tuple(parts)


def ladle(rng: np.random.Generator) -> tuple[Part, ...]:
    """Lying, its bowl open upwards."""
    radius, length = rng.uniform(0.035, 0.05), rng.uniform(0.22, 0.32)
    depth = radius * rng.uniform(0.6, 0.95)
    angles = np.linspace(-np.pi / 2, 0, 12)
    bowl = shell([(0.0, 0.0), *((radius * np.cos(a), depth + depth * np.sin(a)) for a in angles[1:])], 0.002)
    path = arc((radius * 0.97, 0, depth * 0.95), (radius * 1.4, 0, depth + 0.06), (radius + length, 0, 0.015))
    finish = finishes.one_of(rng, finishes.metal, finishes.wood, finishes.plastic)
    other = finish if rng.random() < 0.6 else finishes.one_of(rng, finishes.wood, finishes.plastic)
    return Part("bowl", bowl, finish), Part("handle", tube(path, rng.uniform(0.006, 0.01), 12, 0.5), other)


def _profile(under: float, foot: Point2, *curves: tuple[Point2, Point2, Point2]) -> list[Point2]:
    """(radius, z) from the axis outwards: below the foot to radius `under`, its edge, then up along the curves."""
    return [(0.0, 0.0), (under, 0.0), foot, *(point for curve in curves for point in _curve(*curve))]


def _curve(start: Point2, middle: Point2, end: Point2, steps: int = 12) -> list[Point2]:
    return [(x, z) for x, _, z in arc((start[0], 0, start[1]), (middle[0], 0, middle[1]), (end[0], 0, end[1]), steps)]


def _radius_at(profile: list[Point2], z: float) -> float:
    rising = [(radius, height) for radius, height in profile if radius > 0]
    return float(np.interp(z, [height for _, height in rising], [radius for radius, _ in rising]))


def _ear(rng: np.random.Generator, profile: list[Point2], span: float) -> Mesh:
    """A handle on +x, from where the profile is at half its height less `span` to as much more."""
    middle = profile[-1][1] * rng.uniform(0.48, 0.55)
    low, high = middle - span, middle + span
    out = _radius_at(profile, middle) + span * rng.uniform(1.3, 1.9)
    path = arc(
        (_radius_at(profile, high) * 0.96, 0, high),
        (out, 0, high * rng.uniform(0.98, 1.06)),
        (out * 0.86, 0, middle),
        9,
    )
    path += arc((out * 0.86, 0, middle), (out * 0.8, 0, low), (_radius_at(profile, low) * 0.96, 0, low), 9)[1:]
    return tube(path, span * rng.uniform(0.14, 0.22), 14, rng.uniform(0.6, 1.6))
