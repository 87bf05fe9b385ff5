"""From images to the pixels of the three branches; Pillow and numpy only, so the same on every host.

The global and the semantic branch see the whole image squeezed to a square (bicubic). The grounding branch keeps the
aspect: longest side to the full size, zero padding right and bottom, as SAM does. A model with one trunk has one view,
the grounding branch's, normalised as its trunk was trained.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from calico.errors import InputError
from calico.model.config import CalicoConfig
from calico.model.sizes import MeanStd

CLIP_MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FIXED_SIZE_KINDS = {"eva_clip", "dinov2", "sam"}  # of encoders whose learnt positions are for one size
SAM_MEAN_STD = ((123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255))


class BranchPixels(NamedTuple):
    """One image for the three branches: each 3 x S x S float32, normalised; the same array where they share a view."""

    global_view: np.ndarray
    semantic_view: np.ndarray
    grounding_view: np.ndarray


class Preprocessor:
    """Sizes of the three branches in pixels; everything else is fixed."""

    def __init__(
        self, global_size: int, semantic_size: int, grounding_size: int, one_view: MeanStd | None = None
    ) -> None:
        """one_view: mean and standard deviation of the grounding branch's frame where all three branches see that."""
        self.global_size = global_size
        self.semantic_size = semantic_size
        self.grounding_size = grounding_size
        self.one_view = one_view

    @classmethod
    def from_config(cls, config: CalicoConfig, size: int | None = None) -> Preprocessor:
        """size: of the grounding view, where training starts with smaller pictures; the other views shrink alike.

        Raises `InputError` where an encoder's positions are learnt for one size.
        """
        encoders = config.global_encoder, config.semantic_encoder, config.grounding_encoder
        full = config.grounding_encoder.image_size
        size = full if size is None else size
        if size != full and (fixed := sorted({encoder.kind for encoder in encoders} & FIXED_SIZE_KINDS)):
            raise InputError(
                f"images of {size} px: encoders of kind {', '.join(fixed)} take their own size only, here {full} px"
            )
        first, second, third = (round(encoder.image_size * size / full) for encoder in encoders)
        return cls(first, second, third, config.trunk_mean_std if config.trunk else None)

    def __call__(self, image: np.ndarray) -> BranchPixels:
        """image: HxWx3 uint8 RGB, upright."""
        pillow = Image.fromarray(image)
        if self.one_view is not None:
            view = self._framed(pillow, self.one_view)
            return BranchPixels(view, view, view)
        return BranchPixels(
            _normalise(_squeeze(pillow, self.global_size), CLIP_MEAN_STD),
            _normalise(_squeeze(pillow, self.semantic_size), IMAGENET_MEAN_STD),
            self._framed(pillow, SAM_MEAN_STD),
        )

    def _framed(self, pillow: Image.Image, mean_std: MeanStd) -> np.ndarray:
        height, width = fitted_size_hw((pillow.height, pillow.width), self.grounding_size)
        resized = _normalise(pillow.resize((width, height), Image.Resampling.BILINEAR), mean_std)
        padded = np.zeros((3, self.grounding_size, self.grounding_size), np.float32)
        padded[:, :height, :width] = resized
        return padded


def fitted_size_hw(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) after the longest side became `longest`, as SAM's `ResizeLongestSide` rounds it; at least 1."""
    scale = longest / max(size_hw)
    return max(1, math.floor(size_hw[0] * scale + 0.5)), max(1, math.floor(size_hw[1] * scale + 0.5))


def fitted_points(points_xy: np.ndarray, size_hw: tuple[int, int], longest: int) -> np.ndarray:
    """Points P x 2 (x, y) in the image's own pixels -> pixels of the grounding branch's square frame."""
    height, width = fitted_size_hw(size_hw, longest)
    return np.asarray(points_xy, np.float32) * np.array([width / size_hw[1], height / size_hw[0]], np.float32)


def fitted_part_map(part_map: np.ndarray, size: int, padding: int = 255) -> np.ndarray:
    """HxW uint8 -> size x size uint8 on the grounding branch's square frame, nearest neighbour, padding marked."""
    height, width = fitted_size_hw((part_map.shape[0], part_map.shape[1]), size)
    resized = Image.fromarray(part_map).resize((width, height), Image.Resampling.NEAREST)
    padded = np.full((size, size), padding, np.uint8)
    padded[:height, :width] = np.asarray(resized)
    return padded


def _squeeze(pillow: Image.Image, size: int) -> Image.Image:
    return pillow.resize((size, size), Image.Resampling.BICUBIC)


def _normalise(pillow: Image.Image, mean_std: MeanStd) -> np.ndarray:
    mean, std = (np.asarray(values, np.float32) for values in mean_std)
    return np.ascontiguousarray(((np.asarray(pillow, np.float32) / 255 - mean) / std).transpose(2, 0, 1))
