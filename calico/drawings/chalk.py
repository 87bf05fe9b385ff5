"""A look that drawings-v1 does not have: hatched with chalk on a board that is hatched too, over what was wiped off.

Parts are told apart by the direction, pitch and colour of their hatching, never by a fill; three of ten drawings have
no outlines either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from calico.drawings.rendering import SUPERSAMPLING, loops_of
from calico.drawings.shapes import Primitive
from calico.drawings.style import Colour

_BOARDS: tuple[Colour, ...] = ((28, 52, 44), (34, 36, 38), (22, 40, 66), (60, 44, 36))
_CHALKS: tuple[Colour, ...] = ((240, 240, 232), (240, 240, 232), (246, 226, 150), (240, 178, 184), (164, 208, 236))


def render_chalk(
    rng: Random, shapes: Sequence[Primitive], part_names: Sequence[str], size_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """An HxWx3 uint8 image and its HxW uint8 part map (0 = not the object, 1 = no part, k + 2 = part_names[k]).

    shapes: in pixels, in drawing order. An outline belongs to the part that it is drawn around.
    """
    height, width = (side * SUPERSAMPLING for side in size_hw)
    short = min(height, width)
    board, codes = rng.choice(_BOARDS), Image.new("L", (width, height), 0)
    line, mark = Image.new("L", (width, height), 0), ImageDraw.Draw(codes)
    ink = ImageDraw.Draw(line)
    thick = max(SUPERSAMPLING, round(rng.uniform(0.008, 0.016) * short))
    wobble, outlined = rng.uniform(0.002, 0.006) * short, rng.random() < 0.7
    for shape in shapes:
        code = part_names.index(shape.part) + 2 if shape.part else 1
        path, edges = loops_of(shape, SUPERSAMPLING)
        ink.polygon(path, fill=0)
        mark.polygon(path, fill=code)
        for edge in edges:
            mark.line([*edge, *edge[:2]], fill=code, width=thick)
            for _ in range(2 if outlined else 0):  # a hand goes over a line twice
                shaken = [(x + rng.gauss(0, wobble), y + rng.gauss(0, wobble)) for x, y in edge]
                ink.line([*shaken, shaken[0]], fill=255, width=max(2, thick // 2))
    part_map = np.asarray(codes)
    pressure = np.asarray(line).astype(np.float32) / 255
    one_chalk = rng.choice(_CHALKS) if rng.random() < 0.5 else None
    colour = np.empty((height, width, 3), np.float32)
    colour[:] = one_chalk or _CHALKS[0]
    behind = part_map == 0
    pressure[behind] = np.maximum(pressure, rng.uniform(0.1, 0.4) * _hatching(rng, (height, width), short))[behind]
    for code in range(1, len(part_names) + 2):
        hatch = _hatching(rng, (height, width), short)  # drawn for every part, shown or not: one seed, one drawing
        inside = part_map == code
        pressure[inside] = np.maximum(pressure, hatch)[inside]
        colour[inside] = one_chalk or rng.choice(_CHALKS)
    np.maximum(pressure, _wiped(rng, (width, height)), out=pressure)
    pressure *= _grain(rng, pressure.shape)
    paper = np.asarray(board, np.float32) * (0.85 + 0.5 * _clouds(rng, (width, height)))[..., None]
    pixels = paper + (colour - paper) * pressure[..., None]
    reduced = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).reduce(SUPERSAMPLING)
    middle = SUPERSAMPLING // 2
    return np.array(reduced), np.ascontiguousarray(part_map[middle::SUPERSAMPLING, middle::SUPERSAMPLING])


def _hatching(rng: Random, size_hw: tuple[int, int], short: int) -> np.ndarray:
    """HxW float32, 0 or a pressure: parallel strokes, sometimes crossed, sometimes hardly any."""
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    turn, pitch = rng.uniform(0, math.pi), rng.uniform(0.022, 0.05) * short
    share, pressure, is_crossed = rng.uniform(0.3, 0.5), rng.uniform(0.45, 0.9), rng.random() < 0.3
    phase, bend = rng.random(), rng.uniform(0.5, 2.0)

    def strokes(angle: float) -> np.ndarray:
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        return ((along + bend * pitch * np.sin(across / (6 * pitch))) / pitch + phase) % 1.0 < share

    lines = strokes(turn) | (strokes(turn + math.pi / 2) if is_crossed else False)
    return lines.astype(np.float32) * np.float32(pressure)


def _wiped(rng: Random, size_wh: tuple[int, int]) -> np.ndarray:
    """HxW float32: faint strokes of what stood there before."""
    canvas = Image.new("L", size_wh, 0)
    draw, short = ImageDraw.Draw(canvas), min(size_wh)
    for _ in range(rng.randint(2, 9)):
        x, y, r = rng.uniform(0, size_wh[0]), rng.uniform(0, size_wh[1]), rng.uniform(0.05, 0.3) * short
        strength, width, start = rng.randint(30, 110), max(2, round(0.012 * short)), rng.uniform(0, 360)
        if rng.random() < 0.5:
            draw.arc((x - r, y - r, x + r, y + r), start, start + rng.uniform(60, 360), fill=strength, width=width)
        else:
            far = (x + 2 * r * math.cos(start), y + 2 * r * math.sin(start))
            draw.line([(x, y), far], fill=strength, width=width)
    return np.asarray(canvas.filter(ImageFilter.BoxBlur(SUPERSAMPLING))).astype(np.float32) / 255


def _grain(rng: Random, size_hw: tuple[int, ...]) -> np.ndarray:
    """HxW float32 from 0 to 1: chalk catches on the board's grain only; the grain is a pixel of the image wide."""
    coarse = np.random.default_rng(rng.getrandbits(32)).random(
        tuple(-(-side // SUPERSAMPLING) for side in size_hw), dtype=np.float32
    )
    caught = np.where(coarse < rng.uniform(0.6, 0.85), np.float32(1), np.float32(0.25))
    return caught.repeat(SUPERSAMPLING, 0).repeat(SUPERSAMPLING, 1)[: size_hw[0], : size_hw[1]]


def _clouds(rng: Random, size_wh: tuple[int, int]) -> np.ndarray:
    """HxW float32 from 0 to 1: chalk dust."""
    coarse = (np.random.default_rng(rng.getrandbits(32)).random((6, 6)) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size_wh, Image.Resampling.BICUBIC)).astype(np.float32) / 255
