"""Clicks on what the mask decoder does not know: what belongs to the clicked pixels, seen at three distances."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from calico.inference.closer import Window, around, whole
from calico.part_memory.affinity import AffinityHead, AffinityLook
from calico.part_memory.minimax import path_cost

# How they were chosen: docs/decisions.md ("A click on what is not known asks what belongs to it").
CLOSENESS = {1: 1.0, 2: 2.0, 4: 3.0}  # the image's longer side in a window's -> how much that look counts
LEAST_WINDOW = 48  # pixels
LONGEST = 512  # cells of the grid on which the looks are put together
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
SURELY_NOT = -9.0  # log-odds where nothing was looked at

Clicks = Sequence[tuple[tuple[float, float], bool]]


def agrees(mask: np.ndarray, clicks: Clicks) -> bool:
    """Whether a mask has every positive click (x, y) and no negative one."""
    return all(bool(mask[_pixel(place, mask.shape)]) == label for place, label in clicks)


def windows_of(size_hw: tuple[int, int], start_xy: tuple[float, float]) -> dict[Window, float]:
    """The windows that are looked at around a click, and how much each counts."""
    found = {}
    for closeness, weight in CLOSENESS.items():
        side = max(size_hw) / closeness
        if closeness == 1:
            found[whole(size_hw)] = weight
        elif side >= LEAST_WINDOW:
            found[around(start_xy, side, size_hw)] = weight
    return found


def mask_of_clicks(
    size_hw: tuple[int, int], clicks: Clicks, head: AffinityHead, look: Callable[[Window], AffinityLook]
) -> tuple[np.ndarray, float]:
    """HxW bool and the IoU that is expected of it: what is connected with the positive clicks, of what belongs to one
    of them rather than to a negative one.

    clicks: (x, y) in pixels, and whether it is in; at the first positive one is looked closer. look: of a window of
    the image. Without a positive click nothing is found.
    """
    clicks = [(_within(place, size_hw), label) for place, label in clicks]
    first = next((place for place, label in clicks if label), None)
    if first is None:
        return np.zeros(size_hw, bool), 0.0
    scale = min(1.0, LONGEST / max(size_hw))
    grid_hw = (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))
    looks = [(window, weight, look(window)) for window, weight in windows_of(size_hw, first).items()]
    odds = {True: np.full(grid_hw, SURELY_NOT, np.float32), False: np.full(grid_hw, 0, np.float32)}
    for place, label in clicks:
        own = _fused(head, looks, place, scale, grid_hw)
        odds[label] = np.maximum(odds[label], own)
    logits = odds[True] - odds[False]
    cells = {label: [_pixel(_scaled(place, scale), grid_hw) for place, own in clicks if own == label] for label in odds}
    for cell in cells[False]:
        logits[cell] = SURELY_NOT
    mask, expected = _likeliest(logits, cells[True])
    if scale < 1:
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(size_hw[::-1], Image.Resampling.BILINEAR)
        mask = np.asarray(large) > 127
        for place, label in clicks:
            mask[_pixel(place, size_hw)] = label
    return mask, min(1.0, expected * float(head.reliability))


def _within(place_xy: tuple[float, float], size_hw: tuple[int, int]) -> tuple[float, float]:
    x, y = (min(max(0.0, place), side - 0.5) for place, side in zip(place_xy, size_hw[::-1], strict=True))
    return x, y


def _pixel(place_xy: tuple[float, float], size_hw: Sequence[int]) -> tuple[int, int]:
    """Row and column."""
    return min(size_hw[0] - 1, max(0, int(place_xy[1]))), min(size_hw[1] - 1, max(0, int(place_xy[0])))


def _scaled(place_xy: tuple[float, float], scale: float) -> tuple[float, float]:
    return place_xy[0] * scale, place_xy[1] * scale


def _fused(
    head: AffinityHead,
    looks: Sequence[tuple[Window, float, AffinityLook]],
    place_xy: tuple[float, float],
    scale: float,
    grid_hw: tuple[int, int],
) -> np.ndarray:
    """Log-odds of each cell of the grid, the mean of the looks at it that hold the click."""
    total, weights = np.zeros(grid_hw, np.float32), np.zeros(grid_hw, np.float32)
    for window, weight, look in looks:
        if not window.holds(place_xy):
            continue
        height, width = window.bottom - window.top, window.right - window.left
        cell = look.cell(((place_xy[1] - window.top) / height, (place_xy[0] - window.left) / width))
        top, bottom = round(window.top * scale), max(round(window.top * scale) + 1, round(window.bottom * scale))
        left, right = round(window.left * scale), max(round(window.left * scale) + 1, round(window.right * scale))
        covered = total[top:bottom, left:right]
        logits = Image.fromarray(head.logits(look, cell))
        covered += weight * np.asarray(logits.resize(covered.shape[::-1], Image.Resampling.BILINEAR))
        weights[top:bottom, left:right] += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-6), SURELY_NOT)


def _likeliest(logits: np.ndarray, starts: Sequence[tuple[int, int]]) -> tuple[np.ndarray, float]:
    """Of what is connected with the starts above a threshold, the mask whose expected IoU is highest, and that."""
    chances = 1 / (1 + np.exp(-logits))
    reached = 1 - path_cost(1 - chances, starts)  # infinite at the starts
    total = float(chances.sum())
    best = np.zeros(logits.shape, bool), 0.0
    for threshold in THRESHOLDS:
        mask = reached > threshold
        inside = float(chances[mask].sum())
        expected = inside / max(1e-6, float(mask.sum()) + total - inside)
        if expected > best[1] or not best[0].any():
            best = mask, expected
    return best
