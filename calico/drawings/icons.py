"""The fourteen classes once more, by another hand: plain icons with outlines, proportions and looks of their own.

No checkpoint of ours was trained on them. They share with drawings-v1 the names of the parts, and nothing of how these
are drawn: flat colours, a gradient behind black lines, or lines alone, on an empty ground.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from calico.drawings.rendering import SUPERSAMPLING, loops_of
from calico.drawings.shapes import Primitive, chance, ellipse, polygon, rect, ring, stroke
from calico.drawings.style import Colour

LOOKS = ("flat", "lines", "gradient")


def _chair(rng: Random) -> list[Primitive]:
    height, width = rng.uniform(0.45, 0.55), rng.uniform(0.03, 0.06)
    ends = ((0.28, 0.25, 0.92), (0.72, 0.75, 0.92), (0.36, 0.36, 0.85), (0.64, 0.64, 0.85))
    shapes = [stroke("leg", [(top, height), (foot, floor)], width) for top, foot, floor in ends]
    shapes.append(rect("back", 0.27, rng.uniform(0.08, 0.15), 0.73, height - 0.02))
    corners = [(0.22, height + 0.07), (0.28, height - 0.03), (0.72, height - 0.03), (0.78, height + 0.07)]
    shapes.append(polygon("seat", corners))
    if chance(rng, 0.5):
        shapes += [rect("arm", x, height - 0.15, x + 0.08, height + 0.03) for x in (0.17, 0.75)]
    return shapes


def _stool(rng: Random) -> list[Primitive]:
    height, width = rng.uniform(0.3, 0.42), rng.uniform(0.03, 0.06)
    shapes = [
        stroke("leg", [(top, height), (foot, 0.9)], width) for top, foot in ((0.35, 0.25), (0.65, 0.75), (0.5, 0.5))
    ]
    return [*shapes, ellipse("seat", 0.5, height, 0.25, 0.065)]


def _table(rng: Random) -> list[Primitive]:
    height, width = rng.uniform(0.3, 0.42), rng.uniform(0.04, 0.07)
    shapes = [stroke("leg", [(x, height), (x, floor)], width) for x, floor in ((0.18, 0.85), (0.82, 0.85))]
    shapes += [stroke("leg", [(x, height), (x, 0.75)], width) for x in (0.3, 0.7)]
    if chance(rng, 0.5):
        shapes.append(rect("drawer", 0.38, height + 0.05, 0.62, height + 0.17))
    corners = [(0.08, height + 0.06), (0.18, height - 0.05), (0.82, height - 0.05), (0.92, height + 0.06)]
    return [*shapes, polygon("top", corners)]


def _lamp(rng: Random) -> list[Primitive]:
    wide = rng.uniform(0.2, 0.28)
    return [
        rect("pole", 0.48, 0.35, 0.52, 0.87),
        ellipse("base", 0.5, 0.885, rng.uniform(0.14, 0.2), 0.045),
        polygon("shade", [(0.38, 0.1), (0.62, 0.1), (0.5 + wide, 0.42), (0.5 - wide, 0.42)]),
    ]


def _mug(rng: Random) -> list[Primitive]:
    size = rng.uniform(0.14, 0.2)
    return [ring("handle", 0.68, 0.5, size, size, 0.35), rect("body", 0.25, rng.uniform(0.2, 0.3), 0.68, 0.8)]


def _teapot(rng: Random) -> list[Primitive]:
    size = rng.uniform(0.15, 0.2)
    shapes = [ring("handle", 0.24, 0.58, size, size, 0.3)]
    shapes.append(polygon("spout", [(0.68, 0.62), (0.92, 0.32), (0.96, 0.36), (0.74, 0.74)]))
    shapes.append(ellipse("body", 0.5, 0.6, 0.26, 0.25))
    if chance(rng, 0.8):
        right = [(0.62, 0.37), (0.56, 0.28), (0.52, 0.28), (0.52, 0.23)]
        shapes.append(polygon("lid", [*right, *((1 - x, y) for x, y in reversed(right))]))
    return shapes


def _car(rng: Random) -> list[Primitive]:
    hood = rng.uniform(0.45, 0.52)
    roof = [(0.06, 0.72), (0.06, hood + 0.06), (0.25, hood), (0.36, 0.3), (0.68, 0.3), (0.8, hood)]
    shapes = [polygon("body", [*roof, (0.95, hood + 0.08), (0.95, 0.72)])]
    shapes.append(polygon("window", [(0.31, hood), (0.39, 0.35), (0.5, 0.35), (0.5, hood)]))
    shapes.append(polygon("window", [(0.54, hood), (0.54, 0.35), (0.65, 0.35), (0.73, hood)]))
    if chance(rng, 0.5):
        shapes.append(ellipse("light", 0.915, hood + 0.105, 0.035, 0.035))
    return [*shapes, *(ellipse("wheel", x, 0.715, 0.095, 0.095) for x in (0.265, 0.755))]


def _truck(rng: Random) -> list[Primitive]:
    shapes = [rect("body", 0.04, rng.uniform(0.2, 0.3), 0.62, 0.7)]
    shapes.append(polygon("cab", [(0.64, 0.7), (0.64, 0.34), (0.8, 0.34), (0.92, 0.52), (0.95, 0.7)]))
    shapes.append(polygon("window", [(0.69, 0.5), (0.69, 0.39), (0.78, 0.39), (0.86, 0.5)]))
    if chance(rng, 0.5):
        shapes.append(ellipse("light", 0.92, 0.6, 0.03, 0.03))
    return [*shapes, *(ellipse("wheel", x, 0.69, 0.09, 0.09) for x in (0.21, 0.77))]


def _bicycle(rng: Random) -> list[Primitive]:
    radius, width = rng.uniform(0.16, 0.19), 0.035
    shapes = [ring("wheel", x, 0.65, radius, radius, 0.2) for x in (0.25, 0.75)]
    rear, seat, head, pedals, front = (0.25, 0.65), (0.4, 0.4), (0.66, 0.38), (0.48, 0.66), (0.75, 0.65)
    tubes = ((rear, seat), (seat, head), (seat, pedals), (pedals, head), (rear, pedals), (head, front))
    shapes += [stroke("frame", tube, width) for tube in tubes]
    shapes.append(polygon("seat", [(0.31, 0.35), (0.47, 0.33), (0.47, 0.37), (0.38, 0.4)]))
    return [*shapes, stroke("handlebar", [head, (0.63, 0.27), (0.74, 0.25)], width)]


def _bird(rng: Random) -> list[Primitive]:
    shapes = [stroke("leg", [(x, 0.65), (x, rng.uniform(0.84, 0.92))], 0.025) for x in (0.47, 0.56)]
    shapes.append(polygon("tail", [(0.28, 0.5), (0.05, 0.42), (0.05, 0.58)]))
    shapes.append(ellipse("body", 0.49, 0.535, 0.25, rng.uniform(0.16, 0.2)))
    shapes.append(polygon("beak", [(0.84, 0.25), (0.97, 0.3), (0.84, 0.35)]))
    shapes.append(ellipse("head", 0.76, 0.3, 0.12, 0.12))
    return [*shapes, polygon("wing", [(0.36, 0.45), (0.62, 0.48), (0.4, 0.66), (0.3, 0.58)])]


def _dog(rng: Random) -> list[Primitive]:
    width = rng.uniform(0.05, 0.08)
    shapes = [stroke("leg", [(x, 0.6), (x, 0.9)], width) for x in (0.28, 0.38, 0.6, 0.7)]
    if chance(rng, 0.7):
        shapes.append(stroke("tail", [(0.25, 0.48), (0.08, 0.25)], 0.05))
    shapes += [ellipse("body", 0.49, 0.54, 0.29, 0.14), ellipse("head", 0.8, 0.33, 0.14, 0.15)]
    return [*shapes, polygon("ear", [(0.7, 0.16), (0.78, 0.2), (0.72, 0.42), (0.64, 0.36)])]


def _airplane(rng: Random) -> list[Primitive]:
    shapes = [polygon("tail", [(0.08, 0.45), (0.05, 0.22), (0.13, 0.22), (0.24, 0.45)])]
    shapes.append(ellipse("body", 0.5, 0.5, 0.45, rng.uniform(0.08, 0.11)))
    shapes.append(polygon("wing", [(0.4, 0.52), (0.6, 0.52), (0.42, 0.85), (0.33, 0.85)]))
    if chance(rng, 0.6):
        shapes += [ellipse("window", x, 0.47, 0.02, 0.02) for x in (0.42, 0.52, 0.62, 0.72)]
    return shapes


def _knife(rng: Random) -> list[Primitive]:
    blade = [(0.4, 0.47), (0.95, 0.45), (rng.uniform(0.8, 0.92), 0.55), (0.4, 0.58)]
    return [polygon("blade", blade), rect("handle", 0.06, 0.46, 0.4, 0.59)]


def _scissors(rng: Random) -> list[Primitive]:
    tip, shapes = rng.uniform(0.25, 0.33), []
    for side in (1, -1):
        points = [(0.42, 0.06), (0.95, tip - 0.5), (0.9, tip - 0.4), (0.5, 0.1)]
        shapes.append(polygon("blade", [(x, 0.5 + side * y) for x, y in points]))
    for side in (1, -1):
        shapes.append(ring("handle", 0.28, 0.5 + side * 0.18, 0.135, 0.135, 0.35))
        shapes.append(stroke("handle", [(0.36, 0.5 + side * 0.12), (0.46, 0.5 + side * 0.03)], 0.05))
    return shapes


GEOMETRY: dict[str, Callable[[Random], list[Primitive]]] = {
    "chair": _chair,
    "stool": _stool,
    "table": _table,
    "lamp": _lamp,
    "mug": _mug,
    "teapot": _teapot,
    "car": _car,
    "truck": _truck,
    "bicycle": _bicycle,
    "bird": _bird,
    "dog": _dog,
    "airplane": _airplane,
    "knife": _knife,
    "scissors": _scissors,
}


def render_icon(
    rng: Random, shapes: Sequence[Primitive], part_names: Sequence[str], size_hw: tuple[int, int], look: str
) -> tuple[np.ndarray, np.ndarray]:
    """An HxWx3 uint8 image and its HxW uint8 part map (0 = not the object, 1 = no part, k + 2 = part_names[k]).

    shapes: in pixels, in drawing order. look: one of `LOOKS`. A line belongs to the part that it is drawn around.
    """
    height, width = (side * SUPERSAMPLING for side in size_hw)
    dark = chance(rng, 0.3)
    ground = np.array([rng.randint(*((20, 90) if dark else (170, 255))) for _ in range(3)], np.float32)
    slope = np.linspace(-30, 30, height, dtype=np.float32) if look == "gradient" else np.zeros(height, np.float32)
    pixels = np.broadcast_to(ground + slope[:, None, None], (height, width, 3))
    canvas, codes = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), Image.new("L", (width, height), 0)
    paint, mark = ImageDraw.Draw(canvas), ImageDraw.Draw(codes)
    main = [rng.randint(30, 230) for _ in range(3)]
    fills: dict[str, Colour] = {name: _near(rng, main) for name in part_names}  # of every part, shown or not
    line: Colour = (20, 20, 20)
    if look == "lines":
        paper: Colour = (40, 40, 40) if dark else (250, 250, 250)
        fills, line = dict.fromkeys(part_names, paper), (255, 255, 255) if dark else (0, 0, 0)
    thick = 0 if look == "flat" else max(2, round(rng.uniform(0.006, 0.02) * min(height, width)))
    for shape in shapes:
        path, edges = loops_of(shape, SUPERSAMPLING)
        code = part_names.index(shape.part) + 2
        paint.polygon(path, fill=fills[shape.part])
        mark.polygon(path, fill=code)
        for edge in edges if thick else []:
            paint.line([*edge, *edge[:2]], fill=line, width=thick)
            mark.line([*edge, *edge[:2]], fill=code, width=thick)
    middle = SUPERSAMPLING // 2
    part_map = np.ascontiguousarray(np.asarray(codes)[middle::SUPERSAMPLING, middle::SUPERSAMPLING])
    return np.array(canvas.reduce(SUPERSAMPLING)), part_map


def _near(rng: Random, colour: Sequence[int]) -> Colour:
    red, green, blue = (min(255, max(0, value + rng.randint(-90, 90))) for value in colour)
    return red, green, blue
