"""A closer look at what a box is about: small things fill few cells of the encoders' grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Chosen on held-out renders and drawings, see docs/measurements.md ("Clicks and boxes on photographs").
BOX_WINDOW = 2.5  # side of the window around a box, in its longer side
SIDE_SHARE = 0.1  # of a box's height or width: how deep its four sides are
SIDE_FILLED = 0.05  # share of each side that lies on what the box is tight around


class Window(NamedTuple):
    """Pixels of an image: left and top inside, right and bottom outside."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The image there, HxWx3."""
        return np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right])

    def holds(self, point_xy: tuple[float, float]) -> bool:
        return self.left <= point_xy[0] < self.right and self.top <= point_xy[1] < self.bottom

    def placed(self, mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """A mask of the window -> HxW bool of the image."""
        whole = np.zeros(size_hw, bool)
        whole[self.top : self.bottom, self.left : self.right] = mask
        return whole


def whole(size_hw: tuple[int, int]) -> Window:
    return Window(0, 0, size_hw[1], size_hw[0])


def around(center_xy: tuple[float, float], side: float, size_hw: tuple[int, int]) -> Window:
    """A square of that side, moved into the image and cut where the image is shorter."""
    (left, right), (top, bottom) = (
        _moved(center, min(side, length), length) for center, length in zip(center_xy, size_hw[::-1], strict=True)
    )
    return Window(left, top, right, bottom)


def _moved(center: float, side: float, length: int) -> tuple[int, int]:
    start = round(min(max(0.0, center - side / 2), length - side))
    return start, min(length, max(start + 1, round(start + side)))


def for_box(box_xyxy: Sequence[float], size_hw: tuple[int, int], least: int) -> Window:
    """least: pixels of a window's side, below which looking closer shows nothing new."""
    left, top, right, bottom = box_xyxy
    side = max(BOX_WINDOW * max(right - left, bottom - top), least)
    return around(((left + right) / 2, (top + bottom) / 2), side, size_hw)


def pixels_of(box_xyxy: Sequence[float] | np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """top, bottom, left, right: the rows and columns of an image that a box covers, at least one of each."""
    height, width = size_hw
    left, top = (max(0, min(int(low), most - 1)) for low, most in zip(box_xyxy[:2], (width, height), strict=True))
    right, bottom = max(left + 1, min(width, round(box_xyxy[2]))), max(top + 1, min(height, round(box_xyxy[3])))
    return top, bottom, left, right


def tight_mask(logits: np.ndarray, box_xyxy: Sequence[float] | np.ndarray) -> np.ndarray:
    """HxW bool: the mask within a box that is tight around it, so it reaches all four sides.

    logits: HxW, above 0 where the mask is seen. Where that reaches a side too little, what is believed is
    lowered until it does (the tightness prior of Lempitsky et al., ICCV 2009, by threshold).
    """
    top, bottom, left, right = pixels_of(box_xyxy, (logits.shape[0], logits.shape[1]))
    inside = logits[top:bottom, left:right]
    down, across = (max(1, round(SIDE_SHARE * length)) for length in inside.shape)
    sides = inside[:down], inside[-down:], inside[:, :across], inside[:, -across:]
    reached = min(float(np.quantile(side, 1 - SIDE_FILLED)) for side in sides)
    mask = np.zeros(logits.shape, bool)
    mask[top:bottom, left:right] = (inside > 0) | (inside >= reached)
    return mask
