"""From an object's unit frame to pixels: rotation, mirror, shear, aspect, a slight warp, scale and place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np

from calico.drawings.shapes import Primitive


def place(shapes: Sequence[Primitive], rng: Random, size_hw: tuple[int, int], max_turn: float) -> list[Primitive]:
    """The shapes in pixels (x right, y down, pixel (0, 0) covers 0..1) of an image of size_hw.

    The longer side of the object's box takes 55 to 96 % of the image's shorter side, and all of it lies in the image.
    max_turn: largest rotation in degrees. The random numbers drawn do not depend on size_hw.
    """
    turn = rng.uniform(-max_turn, max_turn) if max_turn > 45 else rng.triangular(-max_turn, max_turn, 0.0)
    angle, shear, aspect = math.radians(turn), rng.triangular(-0.15, 0.15, 0.0), rng.uniform(0.85, 1.18)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[c, -s], [s, c]]) @ np.array([[mirror * aspect, shear], [0.0, 1.0]])
    fill = rng.triangular(0.55, 0.96, 0.85)
    across, down = rng.random(), rng.random()
    warp, waves, phases = (
        rng.choice((0.0, 0.0, 0.012, 0.025)),
        (rng.uniform(2, 6), rng.uniform(2, 6)),
        (rng.uniform(0, 6), rng.uniform(0, 6)),
    )

    loops = [loop for shape in shapes for loop in (shape.outline, shape.hole) if loop is not None]
    points = np.concatenate(loops) @ matrix.T
    low, high = points.min(0), points.max(0)
    points = (points - low) / (high - low).max()
    if warp:  # a hand that is not quite sure of itself
        points += warp * np.sin(points[:, ::-1] * waves + phases)
        low, high = points.min(0), points.max(0)
        points = (points - low) / (high - low).max()
    height, width = size_hw
    scale = fill * min(size_hw)
    extent = points.max(0) * scale
    origin = (np.array((width, height)) - extent) * (across, down)
    points = points * scale + origin

    ends = np.cumsum([len(loop) for loop in loops])[:-1]
    moved = iter(np.split(points, ends))
    return [
        Primitive(shape.part, next(moved), None if shape.hole is None else next(moved), shape.tone) for shape in shapes
    ]
