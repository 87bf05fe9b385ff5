"""The outlines of a mask as closed lines, holes too."""

from __future__ import annotations

import numpy as np


def contours(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines around every part and every hole of a HxW bool mask, along the edges of its pixels.

    Each K x 2 float32 (x, y) in corner coordinates (pixel (x, y) covers x..x+1, y..y+1), unit steps, the mask on the
    right hand; the first point is not repeated. Parts that touch at a corner only are apart.
    """
    pitch = mask.shape[1] + 1
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    follow: dict[int, list[int]] = {}

    def add(pixels: np.ndarray, start: int, end: int) -> None:
        """One edge for each pixel, from one of its corners to the next, given as offsets from the upper left."""
        ys, xs = np.nonzero(pixels)
        for corner in (ys * pitch + xs).tolist():
            follow.setdefault(corner + start, []).append(corner + end)

    add(inside & ~padded[:-2, 1:-1], 0, 1)  # upper edges, to the right
    add(inside & ~padded[1:-1, 2:], 1, pitch + 1)  # right edges, down
    add(inside & ~padded[2:, 1:-1], pitch + 1, pitch)  # lower edges, to the left
    add(inside & ~padded[1:-1, :-2], pitch, 0)  # left edges, up
    turned_right = {1: pitch, pitch: -1, -1: -pitch, -pitch: 1}

    lines = []
    while follow:
        start = next(iter(follow))
        line, here, step = [], start, 0
        while True:
            line.append(here)
            ends = follow[here]
            right = here + turned_right.get(step, 0)
            there = ends.pop(ends.index(right) if right in ends else 0)
            if not ends:
                del follow[here]
            step, here = there - here, there
            if here == start:
                break
        corners = np.array(line)
        lines.append(np.stack([corners % pitch, corners // pitch], axis=1).astype(np.float32))
    return lines


def smoothed(line: np.ndarray, window: int) -> np.ndarray:
    """A closed line (K x 2) with every point replaced by the mean of `window` points around it; short lines less so."""
    half = min(window, len(line) // 4) // 2
    if half < 1:
        return line
    wrapped = np.concatenate([line[-half:], line, line[:half]]).astype(np.float64)
    sums = np.cumsum(np.concatenate([np.zeros((1, 2)), wrapped]), axis=0)
    return ((sums[2 * half + 1 :] - sums[: -2 * half - 1]) / (2 * half + 1)).astype(np.float32)


def simplified(corners: np.ndarray, tolerance: float) -> np.ndarray:
    """Douglas-Peucker on a closed line, K x 2 corners, split at the point farthest from the first.

    tolerance: how far a corner that is left out may lie from the line, in the corners' unit. At least three stay.
    """
    if tolerance <= 0 or len(corners) < 5:
        return corners
    far = int(np.argmax(((corners - corners[0]) ** 2).sum(1)))
    closed = np.concatenate([corners, corners[:1]])
    keep = np.zeros(len(closed), np.bool_)
    keep[[0, far]] = True
    stack = [(0, far), (far, len(closed) - 1)]
    while stack:
        a, b = stack.pop()
        if b - a < 2:
            continue
        base, inner = closed[b] - closed[a], closed[a + 1 : b] - closed[a]
        length = float(np.hypot(*base))
        offset = np.hypot(*inner.T) if length == 0 else np.abs(base[0] * inner[:, 1] - base[1] * inner[:, 0]) / length
        worst = int(np.argmax(offset))
        if offset[worst] > tolerance:
            middle = a + 1 + worst
            keep[middle] = True
            stack += [(a, middle), (middle, b)]
    kept = corners[keep[:-1]]
    return kept if len(kept) >= 3 else corners
