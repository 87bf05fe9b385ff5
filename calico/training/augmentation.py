"""Annotated images changed so that they still mean the same: gently for corrections, strongly for drawings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from calico.drawings.rendering import keep_visible
from calico.language.words import mirrored_name
from calico.values import AnnotatedImage


def augmented(item: AnnotatedImage, rng: np.random.Generator, may_flip: bool) -> AnnotatedImage:
    """Half mirrored, half warped, small changes of light and colour, a margin now and then; no part is lost.

    Names that tell left from right change places in the mirror. may_flip: False where they must stay as they are.
    """
    if rng.random() < 0.5 and (warped := _warped(item, rng)).part_names == item.part_names:
        item = warped
    image, part_map = item.image, item.part_map
    if rng.random() < 0.5 and may_flip:
        image, part_map = image[:, ::-1], part_map[:, ::-1]
        names = tuple(mirrored_name(name) for name in item.part_names)
        item = replace(item, object_name=mirrored_name(item.object_name), part_names=names)
    if rng.random() < 0.5:
        gains, lift = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.85, 1.15), rng.uniform(-20, 20)
        image = np.clip(image * gains.astype(np.float32) + np.float32(lift), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        height, width = part_map.shape
        top, bottom = (rng.uniform(0, 0.12, 2) * height).astype(int)
        left, right = (rng.uniform(0, 0.12, 2) * width).astype(int)
        image = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
        part_map = np.pad(part_map, ((top, bottom), (left, right)), mode="edge")
    return replace(item, image=np.ascontiguousarray(image), part_map=np.ascontiguousarray(part_map))


def distorted(item: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
    """Shapes and looks that the drawing program does not have: half of the images warped, two thirds recoloured.

    What a warp leaves too small to be named loses its name, as in the drawings themselves.
    """
    if rng.random() < 0.5:
        item = _warped(item, rng)
    if rng.random() < 0.67:
        item = replace(item, image=_recoloured(item.image, rng))
    return item


def _warped(item: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
    """Turned, sheared and stretched about the middle, with a slow wave along each axis."""
    height, width = item.part_map.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = (y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5  # -0.5 to 0.5
    turn, shear = rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)
    across, down = rng.uniform(0.87, 1.18, 2)
    u = across * (np.cos(turn) * x - (np.sin(turn) + shear) * y)
    v = down * (np.sin(turn) * x + np.cos(turn) * y)
    for _ in range(2):
        amount, waves, phase = rng.uniform(0, 0.018), rng.uniform(1, 3), rng.uniform(0, 2 * np.pi)
        u, v = v, u + amount * np.sin(2 * np.pi * waves * v + phase)  # after both rounds each axis has its wave
    rows = np.clip((v + 0.5) * height - 0.5, 0, height - 1)
    columns = np.clip((u + 0.5) * width - 0.5, 0, width - 1)
    part_map, names = keep_visible(
        item.part_map[np.rint(rows).astype(int), np.rint(columns).astype(int)], item.part_names
    )
    if not (part_map > 0).any():
        return item
    return replace(item, image=_sampled(item.image, rows, columns), part_map=part_map, part_names=names)


def _sampled(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """HxWx3 uint8 at fractional rows and columns, each HxW and within the image, bilinear."""
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    down, across = (rows - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[bottom, left] * (1 - across) + image[bottom, right] * across
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


def _recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """HxWx3 uint8: one or two of other colours, a negative, grey, curves, flat tones, grain, soft or hard edges."""
    for kind in rng.choice(8, 2 if rng.random() < 0.4 else 1, replace=False):
        if kind == 0:
            image = image[..., rng.permutation(3)]
        elif kind == 1:
            image = 255 - image
        elif kind == 2:
            grey = image @ np.array([0.3, 0.59, 0.11], np.float32)
            keep = np.float32(rng.uniform(0, 0.3))
            image = np.rint(image * keep + grey[..., None] * (1 - keep)).astype(np.uint8)
        elif kind == 3:
            tones = (np.arange(256) / 255) ** np.exp(rng.uniform(-0.7, 0.7))
            image = np.rint(255 * tones).astype(np.uint8)[image]
        elif kind == 4:
            step = 255 / int(rng.integers(3, 7))
            image = np.rint(np.rint(image / step) * step).astype(np.uint8)
        elif kind == 5:
            coarse = int(rng.integers(4, 40))
            blotches = (rng.random((coarse, coarse)) * 255).astype(np.uint8)
            grain = np.asarray(Image.fromarray(blotches).resize(image.shape[1::-1], Image.Resampling.BICUBIC))
            amount = np.float32(rng.uniform(0.1, 0.4))
            image = np.clip(image * (1 + amount * (grain[..., None] / np.float32(127.5) - 1)), 0, 255).astype(np.uint8)
        elif kind == 6:
            image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))))
        else:
            sharp = ImageFilter.UnsharpMask(radius=rng.uniform(1, 3), percent=int(rng.integers(80, 300)), threshold=0)
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).filter(sharp))
    return np.ascontiguousarray(image)
