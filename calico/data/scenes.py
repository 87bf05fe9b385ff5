"""Annotated objects as other photographs would show them: another camera, light and background, things in front.

Made for training on renders and drawings: a whole image costs a few milliseconds at 256 px.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from calico.drawings.rendering import keep_visible
from calico.values import AnnotatedImage

OUTSIDE = 254  # in a part map on its way: not of the image; no object has so many parts

Other = Callable[[], AnnotatedImage]


@dataclass(frozen=True)
class SceneSettings:
    """How often each change comes, 0 to 1, and how far it goes.

    Attributes:
        background: another one behind the object.
        occluder: another object's cut-out in front.
        zoom: of the whole image, from and to.
        turn: degrees to either side.
        photometric: other light.
    """

    background: float = 0.35
    occluder: float = 0.15
    zoom: tuple[float, float] = (0.75, 1.5)
    turn: float = 15.0
    photometric: float = 0.85


def varied_scene(
    item: AnnotatedImage, rng: np.random.Generator, size: int, other: Other, settings: SceneSettings
) -> AnnotatedImage:
    """The item on a frame whose longest side is `size` pixels, seen and lit otherwise; `item` where nothing is left.

    other: a further annotated image by chance, for backgrounds and occluders. Parts left too small lose their names, as
    in drawings.
    """
    image, part_map = _taken(item, rng, size, settings)
    outside = part_map == OUTSIDE
    if outside.any() or rng.random() < settings.background:
        behind = outside if rng.random() >= settings.background else outside | (part_map == 0)
        image = _composed(_background(rng, image.shape[:2], other), image, ~behind)
        part_map = np.where(outside, 0, part_map).astype(np.uint8)
    if rng.random() < settings.occluder:
        image, part_map = _occluded(image, part_map, rng, other)
    part_map, names = keep_visible(part_map, item.part_names)
    if (part_map > 0).mean() < 0.01:
        return item
    return replace(item, image=_relit(image, rng, settings), part_map=part_map, part_names=names)


def _taken(
    item: AnnotatedImage, rng: np.random.Generator, size: int, settings: SceneSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Image and part map through another camera: mirrored, turned, stretched, nearer or farther; `OUTSIDE` beyond."""
    height, width = item.part_map.shape
    shorter = round(size * rng.uniform(0.7, 1.0))
    out_h, out_w = (size, shorter) if rng.random() < 0.5 else (shorter, size)
    ys, xs = np.nonzero(item.part_map)
    middle = np.array([xs.mean(), ys.mean()]) if len(xs) else np.array([width / 2, height / 2])
    centre = middle + rng.uniform(0, 1) * (np.array([width / 2, height / 2]) - middle)
    turn = np.deg2rad(rng.uniform(-settings.turn, settings.turn)) if rng.random() < 0.5 else 0.0
    zoom = np.exp(rng.uniform(*np.log(settings.zoom))) * max(out_h, out_w) / max(height, width)
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    # Output pixels to input pixels, as Pillow wants it.
    a, b = flip * np.cos(turn) / zoom * stretch, -np.sin(turn) / zoom
    c, d = flip * np.sin(turn) / zoom * stretch, np.cos(turn) / zoom
    target = np.array([out_w / 2, out_h / 2]) + rng.uniform(-0.08, 0.08, 2) * size
    data = (
        a, b, centre[0] - a * target[0] - b * target[1],
        c, d, centre[1] - c * target[0] - d * target[1],
    )  # fmt: skip
    frame, affine = (out_w, out_h), Image.Transform.AFFINE
    image = Image.fromarray(item.image).transform(frame, affine, data, Image.Resampling.BILINEAR)
    part_map = Image.fromarray(item.part_map).transform(
        frame, affine, data, Image.Resampling.NEAREST, fillcolor=OUTSIDE
    )
    return np.asarray(image), np.array(part_map)


def _background(rng: np.random.Generator, size_hw: tuple[int, int], other: Other) -> np.ndarray:
    """Any picture, a piece of it enlarged, often out of focus; sometimes a slope of two colours."""
    height, width = size_hw
    if rng.random() < 0.2:
        first, second = rng.uniform(0, 255, (2, 3))
        slope = (
            np.linspace(0, 1, height)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, width)[None, :, None]
        )
        return np.broadcast_to(first * (1 - slope) + second * slope, (height, width, 3)).astype(np.uint8)
    picture = other().image
    share = rng.uniform(0.4, 1.0)
    h, w = (max(8, int(side * share)) for side in picture.shape[:2])
    top, left = (int(rng.integers(0, side - inner + 1)) for side, inner in zip(picture.shape[:2], (h, w), strict=True))
    pillow = Image.fromarray(np.ascontiguousarray(picture[top : top + h, left : left + w]))
    if rng.random() < 0.5:
        pillow = pillow.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.15:
        pillow = pillow.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    pillow = pillow.resize((width, height), Image.Resampling.BILINEAR)
    if rng.random() < 0.4:
        pillow = pillow.filter(ImageFilter.BoxBlur(rng.uniform(1, 5)))
    return np.asarray(pillow)


def _composed(behind: np.ndarray, front: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`front` where `shown` (HxW bool), with an edge one pixel soft."""
    alpha = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).filter(ImageFilter.BoxBlur(0.6))
    return np.asarray(Image.composite(Image.fromarray(np.ascontiguousarray(front)), Image.fromarray(behind), alpha))


def _occluded(
    image: np.ndarray, part_map: np.ndarray, rng: np.random.Generator, other: Other
) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out of another object laid over a piece of this one, at most half of it hidden."""
    item = other()
    ys, xs = np.nonzero(item.part_map)
    own_ys, own_xs = np.nonzero(part_map)
    if not len(ys) or not len(own_ys):
        return image, part_map
    box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
    span = max(np.ptp(own_ys), np.ptp(own_xs)) + 1
    scale = rng.uniform(0.25, 0.6) * span / max(np.ptp(ys) + 1, np.ptp(xs) + 1)
    cut, mask = item.image[box], item.part_map[box] > 0
    w, h = (max(2, int(side * scale)) for side in mask.shape[::-1])
    small = np.asarray(Image.fromarray(np.ascontiguousarray(cut)).resize((w, h), Image.Resampling.BILINEAR))
    cover = np.asarray(Image.fromarray(mask).resize((w, h), Image.Resampling.NEAREST))
    at = int(rng.integers(len(own_ys)))
    top, left = int(own_ys[at]) - h // 2, int(own_xs[at]) - w // 2
    rows = slice(max(0, top), min(part_map.shape[0], top + h))
    columns = slice(max(0, left), min(part_map.shape[1], left + w))
    inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    covers = cover[inner]
    if (covers & (part_map[rows, columns] > 0)).sum() > 0.5 * len(own_ys):
        return image, part_map
    image, part_map = image.copy(), part_map.copy()
    image[rows, columns] = np.where(covers[..., None], small[inner], image[rows, columns])
    part_map[rows, columns][covers] = 0
    return image, part_map


def _relit(image: np.ndarray, rng: np.random.Generator, settings: SceneSettings) -> np.ndarray:
    """Exposure, contrast, gamma, white balance and saturation; now and then soft, coarse, grainy or compressed."""
    if rng.random() >= settings.photometric:
        return np.ascontiguousarray(image)
    tones = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.4, 0.4))
    tones = (tones - 0.5) * np.exp(rng.uniform(-0.35, 0.35)) + 0.5 + rng.uniform(-0.12, 0.12)
    gains = np.exp(rng.uniform(-0.15, 0.15, 3))
    tables = np.clip(255 * tones[None] * gains[:, None], 0, 255).astype(np.uint8)
    pillow = Image.fromarray(np.ascontiguousarray(image)).point(tables.ravel().tolist())
    if rng.random() < 0.5:
        pillow = ImageEnhance.Color(pillow).enhance(rng.uniform(0.0, 1.8) if rng.random() < 0.9 else 0.0)
    kind = rng.random()
    if kind < 0.15:
        pillow = pillow.filter(ImageFilter.BoxBlur(rng.uniform(0.4, 1.4)))
    elif kind < 0.3:
        share = rng.uniform(0.35, 0.8)
        coarse = (max(8, int(pillow.width * share)), max(8, int(pillow.height * share)))
        pillow = pillow.resize(coarse, Image.Resampling.BILINEAR).resize(pillow.size, Image.Resampling.BICUBIC)
    elif kind < 0.45:
        buffer = io.BytesIO()
        pillow.save(buffer, "JPEG", quality=int(rng.integers(25, 80)))
        pillow = Image.open(buffer)
    elif kind < 0.6:
        grain = rng.normal(0, rng.uniform(2, 14), image.shape[:2])[..., None]
        return np.clip(np.asarray(pillow) + grain, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.asarray(pillow))
