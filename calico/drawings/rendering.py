"""Placed shapes to pixels: an anti-aliased image and a part map of the same geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from calico.drawings.shapes import Point, Primitive
from calico.drawings.style import Style, apply_textures, finish, paint_background, random_colour, shade

# Odd, so that each pixel's centre is a sample of its own: the masks are the supersampled map, every third sample.
SUPERSAMPLING = 3
MIN_PART_SHARE = 0.001  # of the image's area: less is no part that one could mark by hand


def _occluder(rng: Random, shapes: Sequence[Primitive]) -> tuple[list[tuple[float, float]], tuple[int, int, int]]:
    """A shape over some point of the object, up to about a third of its extent."""
    every = np.concatenate([shape.outline for shape in shapes])
    low, high = every.min(0), every.max(0)
    shape = shapes[rng.randrange(len(shapes))]
    x, y = shape.outline[int(rng.random() * len(shape.outline))]
    size = rng.uniform(0.2, 0.42) * float((high - low).max()) / 2
    sides, turn, aspect = rng.choice((3, 4, 4, 5, 24, 24)), rng.uniform(0, math.tau), rng.uniform(0.6, 1.5)
    angles = [turn + math.tau * i / sides for i in range(sides)]
    return [(float(x) + size * aspect * math.cos(a), float(y) + size * math.sin(a)) for a in angles], random_colour(rng)


def loops_of(shape: Primitive, scale: float) -> tuple[list[Point], list[list[Point]]]:
    """What to fill and what to draw lines along, times scale; a ring is filled as one polygon, out along the outer loop
    and back along the inner one."""
    edges = [[(x, y) for x, y in (loop * scale).tolist()] for loop in (shape.outline, shape.hole) if loop is not None]
    path = edges[0]
    if len(edges) == 2:
        inner = edges[1]
        path = [*path, path[0], inner[0], *inner[:0:-1], inner[0]]
    return path, edges


def render(
    rng: Random,
    shapes: Sequence[Primitive],
    part_names: Sequence[str],
    style: Style,
    size_hw: tuple[int, int],
    difficulty: str,
) -> tuple[np.ndarray, np.ndarray]:
    """An HxWx3 uint8 image and its HxW uint8 part map (0 = not the object, 1 = no part, k + 2 = part_names[k]).

    shapes: in pixels, in drawing order. An outline belongs to the part that it is drawn around.
    """
    height, width = size_hw
    canvas_wh = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    cluttered = difficulty == "clutter" or (difficulty == "occluded" and rng.random() < 0.3)
    canvas = paint_background(rng, style, canvas_wh, cluttered)
    codes = Image.new("L", canvas_wh, 0)
    paint, mark = ImageDraw.Draw(canvas), ImageDraw.Draw(codes)
    line_width = round(style.line_width * min(size_hw) * SUPERSAMPLING)
    if style.line_art:
        line_width = max(line_width, SUPERSAMPLING)
    for shape in shapes:
        code = part_names.index(shape.part) + 2 if shape.part else 1
        fill = style.line if style.line_art and shape.tone < 0.3 else style.fills[shape.part]
        if not style.line_art:
            fill = shade(fill, shape.tone)
        path, edges = loops_of(shape, SUPERSAMPLING)
        paint.polygon(path, fill=fill)
        mark.polygon(path, fill=code)
        for edge in edges if line_width else []:
            paint.line([*edge, *edge[:2]], fill=style.line, width=line_width)
            mark.line([*edge, *edge[:2]], fill=code, width=line_width)
    if difficulty == "occluded":
        for _ in range(rng.choice((1, 1, 2))):
            points, colour = _occluder(rng, shapes)
            points = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
            paint.polygon(points, fill=colour)
            mark.polygon(points, fill=0)
            if line_width:
                paint.line([*points, *points[:2]], fill=style.line, width=line_width)
                mark.line([*points, *points[:2]], fill=0, width=line_width)
    middle = SUPERSAMPLING // 2
    part_map = np.ascontiguousarray(np.asarray(codes)[middle::SUPERSAMPLING, middle::SUPERSAMPLING])
    if rng.random() < 0.12:  # some programs do not anti-alias
        pixels = np.asarray(canvas)[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    else:
        pixels = np.asarray(canvas.reduce(SUPERSAMPLING))
    return finish(rng, apply_textures(rng, pixels, part_map, style)), part_map


def keep_visible(part_map: np.ndarray, part_names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The part map and names without the parts that are too small to be named: their pixels become 1."""
    counts = np.bincount(part_map.ravel(), minlength=len(part_names) + 2)
    least = max(MIN_PART_SHARE * part_map.size, 2)
    table = np.zeros(len(counts), dtype=np.uint8)
    table[1] = 1
    kept: list[str] = []
    for k, name in enumerate(part_names):
        visible = counts[k + 2] >= least
        if visible:
            kept.append(name)
        table[k + 2] = len(kept) + 1 if visible else 1
    return table[part_map], tuple(kept)
