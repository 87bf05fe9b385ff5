"""What things are made of: a kind that the scene knows how to shade, and a colour drawn at random."""

from __future__ import annotations

import colorsys

import numpy as np

from rendering.model import Finish


def wood(rng: np.random.Generator) -> Finish:
    hue, saturation, value = rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.75), rng.uniform(0.06, 0.6)
    return Finish("wood", _rgb(hue, saturation, value))


def metal(rng: np.random.Generator) -> Finish:
    grey = float(rng.uniform(0.25, 0.85))
    tint = rng.choice([0.0, 0.0, 0.35])  # steel, steel, brass
    return Finish("metal", _rgb(0.11, float(tint), grey))


def paint(rng: np.random.Generator) -> Finish:
    return Finish("paint", _any_colour(rng))


def plastic(rng: np.random.Generator) -> Finish:
    return Finish("plastic", _any_colour(rng))


def ceramic(rng: np.random.Generator) -> Finish:
    if rng.random() < 0.4:
        return Finish("ceramic", _rgb(0.1, rng.uniform(0, 0.15), rng.uniform(0.6, 0.9)))
    return Finish("ceramic", _any_colour(rng))


def fabric(rng: np.random.Generator) -> Finish:
    return Finish("fabric", _any_colour(rng))


def rubber(rng: np.random.Generator) -> Finish:
    return Finish("rubber", _rgb(0.0, 0.0, rng.uniform(0.01, 0.06)))


def glass(rng: np.random.Generator) -> Finish:
    return Finish("glass", _rgb(rng.uniform(0.1, 0.6), rng.uniform(0.0, 0.5), rng.uniform(0.6, 0.95)))


def straw(rng: np.random.Generator) -> Finish:
    return Finish("fabric", _rgb(0.12, rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.6)))


def one_of(rng: np.random.Generator, *kinds: object) -> Finish:
    """Of the functions above."""
    chosen = kinds[int(rng.integers(len(kinds)))]
    return chosen(rng)  # type: ignore[operator, no-any-return]


def _any_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    if rng.random() < 0.3:  # much of what people own has no colour
        return _rgb(0.0, 0.0, rng.choice([0.02, 0.15, 0.4, 0.8]) * rng.uniform(0.8, 1.1))
    return _rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.08, 0.7))


def _rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(float(hue), float(saturation), float(min(value, 1.0)))
    return red, green, blue
