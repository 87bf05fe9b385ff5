"""Regions of one colour around a click: what a click may mean on a thing that the mask decoder does not know.

The region that is connected to a click within a threshold of its colour grows with the threshold; the ones that grow
least are the likeliest (maximally stable extremal regions, Matas et al., BMVC 2002, here of the distance to the click's
colour).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from calico.inference.closer import around, for_box, tight_mask, whole
from calico.inference.colours import LONGEST, with_colours
from calico.masks import components, iou, tight_box_xyxy

# Chosen on held-out renders and drawings, see docs/decisions.md ("A click on what is not known takes a region of one
# colour").
CLOSENESS = (1, 2, 4)  # the image's longer side in those of the windows that are looked at around a click
LEAST_WINDOW = 48  # pixels
SIDE = 96  # pixels of a window's longer side, on which regions grow
THRESHOLDS = np.geomspace(0.03, 0.6, 16)  # distances between colours of 0 to 1
AREAS = 0.004, 0.6  # of a window, that a region has
DECODER_SHARE = 2.0  # of the overlap with the mask decoder's mask, beside how little a region grows

Clicks = Sequence[tuple[tuple[float, float], bool]]


class GrownRegion(NamedTuple):
    """mask: HxW bool of the image. growth: logarithm of the area at the next threshold over that at the one before.
    is_cut: whether it goes on beyond what was looked at."""

    mask: np.ndarray
    growth: float
    is_cut: bool


def agrees(mask: np.ndarray, clicks: Clicks) -> bool:
    """Whether a mask has every positive click (x, y) and no negative one."""
    height, width = mask.shape
    return all(
        mask[min(height - 1, max(0, int(y))), min(width - 1, max(0, int(x)))] == label for (x, y), label in clicks
    )


def mask_of_clicks(image: np.ndarray, clicks: Clicks, decoded: np.ndarray) -> np.ndarray:
    """HxW bool: the likeliest region of one colour around the first positive click, and what further clicks add to it
    and take from it.

    image: HxWx3 uint8. decoded: HxW bool, the mask decoder's mask, to which a region is likelier the more alike it is;
    it is the answer where no region is found.
    """
    scale = min(1.0, LONGEST / max(decoded.shape))
    if scale == 1:
        found = _found(image, clicks, decoded)
    else:
        small_wh = [max(1, round(side * scale)) for side in decoded.shape[::-1]]
        small = np.asarray(Image.fromarray(image).resize(small_wh, Image.Resampling.BILINEAR))
        found = _found(
            small, [((x * scale, y * scale), label) for (x, y), label in clicks], _in_size(decoded, small_wh)
        )
    return decoded if found is None else _in_size(found, decoded.shape[::-1])


def _found(image: np.ndarray, clicks: Clicks, decoded: np.ndarray) -> np.ndarray | None:
    first = next((click for click in clicks if click[1]), None)
    mask = None if first is None else _region(image, first, clicks, decoded)
    if mask is None:
        return None
    for click in clicks:
        if not agrees(mask, [click]) and (region := _region(image, click, clicks, np.zeros_like(mask))) is not None:
            mask = mask | region if click[1] else mask & ~region
    return mask


def _in_size(mask: np.ndarray, size_wh: Sequence[int]) -> np.ndarray:
    large = Image.fromarray(mask.astype(np.uint8) * 255).resize((size_wh[0], size_wh[1]), Image.Resampling.BILINEAR)
    return np.asarray(large) > 127


def _region(
    image: np.ndarray, click: tuple[tuple[float, float], bool], clicks: Clicks, like: np.ndarray
) -> np.ndarray | None:
    """The likeliest one around a click that has no click of the other kind."""
    others = [(place, False) for place, label in clicks if label != click[1]]
    fitting = [region for region in grown_regions(image, click[0]) if agrees(region.mask, others)]
    fitting = [region for region in fitting if not region.is_cut] or fitting
    if not fitting:
        return None
    best = max(fitting, key=lambda region: DECODER_SHARE * iou(region.mask, like) - region.growth).mask
    refined = _with_borders(image, best)
    return refined if agrees(refined, [*others, (click[0], True)]) else best


def grown_regions(image: np.ndarray, start_xy: tuple[float, float]) -> list[GrownRegion]:
    """Of every window and threshold, where it is neither tiny nor most of the window. image: HxWx3 uint8."""
    size_hw = (image.shape[0], image.shape[1])
    regions = []
    for closeness in CLOSENESS:
        side = max(size_hw) / closeness
        if closeness > 1 and side < LEAST_WINDOW:
            continue
        window = whole(size_hw) if closeness == 1 else around(start_xy, side, size_hw)
        cutout = Image.fromarray(window.of(image))
        scale = SIDE / max(cutout.size)
        small = cutout.resize([max(1, round(length * scale)) for length in cutout.size], Image.Resampling.BILINEAR)
        colours = np.asarray(small.filter(ImageFilter.BoxBlur(1)), np.float32) / 255
        across, down = (
            min(length - 1, max(0, int((place - corner) * scale)))
            for place, corner, length in zip(start_xy, window[:2], small.size, strict=True)
        )
        apart = np.sqrt(((colours - colours[down, across]) ** 2).sum(-1))
        for mask, growth in _stepwise(apart, (down, across)):
            is_cut = bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
            regions.append(GrownRegion(window.placed(_in_size(mask, cutout.size), size_hw), growth, is_cut))
    return regions


def _stepwise(apart: np.ndarray, start: tuple[int, int]) -> list[tuple[np.ndarray, float]]:
    """apart: HxW, distances to the start's colour. Each mask connected to the start once, with its growth."""
    masks = []
    for threshold in THRESHOLDS:
        numbers, _ = components(apart <= threshold)
        masks.append(numbers == numbers[start])
    areas = np.array([mask.sum() for mask in masks])
    least, most = (share * apart.size for share in AREAS)
    found, before = [], 0
    for k in range(1, len(masks) - 1):
        if least <= areas[k] <= most and areas[k] != before:
            found.append((masks[k], float(np.log(areas[k + 1] / areas[k - 1]))))
            before = areas[k]
    return found


def _with_borders(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask, as a box around it is answered: by all colours in it and around it (`calico.inference.colours`)."""
    box = tight_box_xyxy(mask)
    if box is None:
        return mask
    size_hw = (image.shape[0], image.shape[1])
    window = for_box(box, size_hw, LEAST_WINDOW)
    cutout, own_box = window.of(image), np.array(box) - np.tile(window[:2], 2)
    logits = np.where(mask[window.top : window.bottom, window.left : window.right], 1, -1).astype(np.float32)
    return window.placed(tight_mask(with_colours(logits, cutout, own_box), own_box), size_hw)
