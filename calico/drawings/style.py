"""How a drawing looks: palette, background, outlines, textures, and what a camera or a file format adds."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

# Colours that some parts often have; used now and then, so that colour helps but never decides.
_USUAL: dict[str, Colour] = {
    "wheel": (45, 45, 50),
    "window": (170, 210, 235),
    "light": (250, 225, 120),
    "blade": (190, 195, 200),
    "beak": (240, 160, 40),
    "shade": (245, 225, 170),
}


def _distance(a: Colour, b: Colour) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or, towards white, lighter (factor > 1)."""
    if factor <= 1.0:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    rest = min(factor - 1.0, 1.0) * 0.6
    return (
        int(colour[0] + (255 - colour[0]) * rest),
        int(colour[1] + (255 - colour[1]) * rest),
        int(colour[2] + (255 - colour[2]) * rest),
    )


def random_colour(rng: Random) -> Colour:
    saturation = rng.choice((rng.uniform(0.0, 0.25), rng.uniform(0.25, 1.0)))
    r, g, b = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.15, 1.0))
    return (int(r * 255), int(g * 255), int(b * 255))


def _apart(rng: Random, others: Sequence[Colour], least: int) -> Colour:
    colour = random_colour(rng)
    for _ in range(12):
        if all(_distance(colour, other) >= least for other in others):
            break
        colour = random_colour(rng)
    return colour


@dataclass(frozen=True)
class Style:
    """background: flat or mean colour. fills: each part's. line_width: a share of the shorter side, 0 = none."""

    background: Colour
    fills: dict[str, Colour]
    line: Colour
    line_width: float
    line_art: bool


def choose_style(rng: Random, parts: Sequence[str], difficulty: str) -> Style:
    """parts: the names in drawing order, "" among them."""
    names = list(dict.fromkeys(parts))
    if difficulty == "outline":
        paper = rng.choice(((255, 255, 255), (255, 255, 255), (244, 240, 228), random_colour(rng)))
        dark = sum(paper) < 300
        ink = rng.choice(((20, 20, 20), (20, 20, 20), (25, 30, 90), (90, 40, 20))) if not dark else (235, 235, 230)
        tint = shade(paper, 1.0) if rng.random() < 0.75 else _apart(rng, [ink], 250)
        return Style(paper, dict.fromkeys(names, tint), ink, rng.uniform(0.008, 0.022), True)
    background = (255, 255, 255) if rng.random() < 0.15 else random_colour(rng)
    palette = rng.choice(("parts", "parts", "parts", "two", "mono"))
    base = _apart(rng, [background], 170)
    fills: dict[str, Colour] = {}
    if palette == "parts":
        for name in names:
            fills[name] = _apart(rng, [background, *fills.values()], 120)
    else:
        second = base if palette == "mono" else _apart(rng, [background, base], 150)
        for name in names:
            colour = rng.choice((base, second))
            fills[name] = shade(colour, rng.uniform(0.75, 1.25))
            if _distance(fills[name], background) < 110:
                fills[name] = colour
    usual = rng.random() < 0.5
    for name in names:
        if (
            name in _USUAL
            and usual
            and palette != "mono"
            and rng.random() < 0.8
            and _distance(_USUAL[name], background) > 90
        ):
            fills[name] = _USUAL[name]
    lined = rng.random() < (0.75 if palette != "parts" else 0.5)
    line = shade(base, 0.25) if rng.random() < 0.5 else (15, 15, 15)
    if sum(line) < 200 and sum(background) < 160 and rng.random() < 0.7:
        line = (230, 230, 230)
    return Style(background, fills, line, rng.uniform(0.005, 0.018) if lined else 0.0, False)


def _random_shape(draw: ImageDraw.ImageDraw, rng: Random, width: int, height: int, low: float, high: float) -> None:
    size = rng.uniform(low, high) * min(width, height)
    x, y = rng.uniform(-0.1, 1.1) * width, rng.uniform(-0.1, 1.1) * height
    colour, kind, aspect = random_colour(rng), rng.randrange(5), rng.uniform(0.4, 1.6)
    turn = rng.uniform(0, math.tau)
    corner = [
        (x + size * math.cos(turn + a) / 2, y + size * aspect * math.sin(turn + a) / 2) for a in (0.0, 1.8, 3.1, 4.6)
    ]
    filled = rng.random() < 0.75
    line = max(1, int(size * 0.08))
    if kind == 0:
        box = (x - size / 2, y - size * aspect / 2, x + size / 2, y + size * aspect / 2)
        draw.ellipse(box, fill=colour if filled else None, outline=colour, width=line)
    elif kind == 1:
        draw.polygon(corner[:3], fill=colour)
    elif kind == 4:
        draw.line([corner[0], corner[2]], fill=colour, width=line * 2)
    elif filled:
        draw.polygon(corner, fill=colour)
    else:
        draw.line([*corner, corner[0]], fill=colour, width=line)


def paint_background(rng: Random, style: Style, size_wh: tuple[int, int], cluttered: bool) -> Image.Image:
    """An RGB canvas: flat, a gradient, or clutter of random shapes."""
    kind = rng.random()
    if not style.line_art and kind < (0.6 if cluttered else 0.4):
        corners = [shade(style.background, rng.uniform(0.8, 1.2)) for _ in range(4)]
        canvas = Image.fromarray(np.array(corners, dtype=np.uint8).reshape(2, 2, 3)).resize(
            size_wh, Image.Resampling.BILINEAR
        )
    else:
        canvas = Image.new("RGB", size_wh, style.background)
    draw = ImageDraw.Draw(canvas)
    if cluttered:
        if rng.random() < 0.3:  # a floor
            y = int(size_wh[1] * rng.uniform(0.5, 0.85))
            draw.rectangle((0, y, *size_wh), fill=random_colour(rng))
        for _ in range(rng.randint(5, 22)):
            _random_shape(draw, rng, *size_wh, 0.06, 0.5)
    elif rng.random() < 0.2 and not style.line_art:
        for _ in range(rng.randint(1, 3)):
            _random_shape(draw, rng, *size_wh, 0.05, 0.2)
    return canvas


def _pattern(rng: Random, height: int, width: int) -> np.ndarray:
    """HxW float32 brightness factors around 1: a gradient, stripes, dots or blotches; the scale follows the image."""
    y, x = np.ogrid[:height, :width]
    unit = np.float32(1.0 / min(height, width))
    kind, turn, amount = rng.randrange(4), rng.uniform(0, math.tau), np.float32(rng.uniform(0.12, 0.35))
    pitch, seed = rng.uniform(40, 130), rng.getrandbits(32)
    along = x.astype(np.float32) * unit * np.float32(math.cos(turn)) + y.astype(np.float32) * unit * np.float32(
        math.sin(turn)
    )
    if kind == 0:
        return 1 + 2 * amount * (along - along.mean())
    if kind == 1:
        return 1 + amount * np.sign(np.sin(along * pitch))
    if kind == 2:
        across = y.astype(np.float32) * unit * np.float32(math.cos(turn)) - x.astype(np.float32) * unit * np.float32(
            math.sin(turn)
        )
        return 1 + amount * ((np.sin(along * pitch) * np.sin(across * pitch)) > 0.3)
    coarse = (np.random.default_rng(seed).random((10, 10)) * 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return 1 + 2 * amount * (smooth / 255 - np.float32(0.5))


def apply_textures(rng: Random, pixels: np.ndarray, part_map: np.ndarray, style: Style) -> np.ndarray:
    """Textures on the whole object or on some parts. pixels: HxWx3 uint8. part_map: HxW uint8 codes."""
    if style.line_art or rng.random() < 0.55:
        return pixels
    chosen = rng.random()
    codes = part_map > 0 if chosen < 0.5 else part_map == rng.randint(2, 4)
    factor = np.where(codes, _pattern(rng, *part_map.shape), np.float32(1))
    return np.clip(pixels * factor[..., None], 0, 255).astype(np.uint8)


def finish(rng: Random, pixels: np.ndarray) -> np.ndarray:
    """Blur, light, noise and JPEG, each now and then. pixels: HxWx3 uint8, returned likewise."""
    blur, light, noise, jpeg = (rng.random() for _ in range(4))
    radius, gain, sigma, quality = (
        rng.uniform(0.3, 0.9),
        rng.uniform(0.75, 1.25),
        rng.uniform(2, 14),
        rng.randint(30, 95),
    )
    seed, lift = rng.getrandbits(32), rng.uniform(-25, 25)
    if light < 0.25:
        table = np.clip(np.arange(256) * gain + lift, 0, 255).astype(np.uint8)
        pixels = table[pixels]
    if blur < 0.12:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
    if noise < 0.35:
        grain = np.random.default_rng(seed).standard_normal(
            pixels.shape[:2] + ((3,) if noise < 0.12 else (1,)), dtype=np.float32
        )
        pixels = np.clip(pixels + grain * np.float32(sigma), 0, 255).astype(np.uint8)
    if jpeg < 0.35:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
    return np.ascontiguousarray(pixels)
