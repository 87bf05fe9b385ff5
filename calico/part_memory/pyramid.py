"""Feature maps of an image at several strides, from the encoders that a model has. They are read, never trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.precision import uses_bf16
from calico.model.preprocessing import FIXED_SIZE_KINDS, Preprocessor, fitted_size_hw

STEP = 32  # pixels: sizes that every stride divides
WHOLE_SCALE = 0.5  # of a look that takes in the image as a whole


class PyramidFeatures(NamedTuple):
    """Of one image. maps: each C_k x h_k x w_k over the padded square frame of the grounding branch, fine to coarse.

    extent: the share of the frame, down and across, that the image fills; the rest is padding. whole: C, the mean of
    the coarsest map at `WHOLE_SCALE`, where that is read.
    """

    maps: tuple[Tensor, ...]
    extent: tuple[float, float]
    whole: Tensor | None = None

    def at(self, places: Tensor) -> Tensor:
        """places: P x 2 (down, across) from 0 to 1 of the image itself. Returns P x sum(C_k) float32, bilinear."""
        down, across = (places[:, k] * self.extent[k] * 2 - 1 for k in (0, 1))
        grid = torch.stack([across, down], -1)[None, None]  # 1 x 1 x P x 2
        rows = [
            F.grid_sample(own[None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
            for own in self.maps
        ]
        return torch.cat(rows).T

    def within(self, frame: Tensor) -> Tensor:
        """frame: C x h x w over the padded frame. Returns what of it lies over the image."""
        height, width = (max(1, round(n * share)) for n, share in zip(frame.shape[1:], self.extent, strict=True))
        return frame[:, :height, :width]

    @property
    def mean(self) -> Tensor:
        """C, of the coarsest map over the image."""
        return self.within(self.maps[-1]).mean((1, 2))

    def coarser(self, stride: int) -> PyramidFeatures:
        """On a grid of the first map's side over `stride`: finer maps are averaged to it."""
        side = self.maps[0].shape[1] // stride
        maps = (F.avg_pool2d(own, own.shape[1] // side) if own.shape[1] > side else own for own in self.maps)
        return self._replace(maps=tuple(maps))

    def half(self) -> PyramidFeatures:
        return self._replace(maps=tuple(own.half() for own in self.maps))

    @property
    def num_bytes(self) -> int:
        return sum(own.numel() * own.element_size() for own in self.maps)


class PyramidReader:
    """Images -> `PyramidFeatures`. size: longest side in pixels at which they are looked at; an encoder that takes its
    own size only looks at that, and at a smaller scale at an image that fills less of it.
    has_context: with one map more, of 1 x 1: the mean of the coarsest one over the image. has_whole: with the whole.

    In bfloat16 where the device is faster in it: what is read is never trained.
    """

    def __init__(
        self, model: CalicoModel, config: CalicoConfig, size: int, has_context: bool = False, has_whole: bool = False
    ) -> None:
        self._model, self._config, self._size = model, config, size
        self._has_context, self._has_whole = has_context, has_whole
        self._is_fixed = config.grounding_encoder.kind in FIXED_SIZE_KINDS
        self._is_bf16 = uses_bf16("auto", model.device)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, scale: float = 1.0) -> PyramidFeatures:
        """image: HxWx3 uint8 RGB. scale: of the size. The maps are on the CPU, float32."""
        features = self._with_context(self._read(image, scale))
        return features._replace(whole=self._read(image, WHOLE_SCALE).mean) if self._has_whole else features

    @torch.inference_mode()
    def of_maps(self, maps: Sequence[Tensor], size_hw: tuple[int, int]) -> PyramidFeatures:
        """The same of what the one trunk gave of an image already, at this reader's size, without the whole.

        maps: each C_k x h_k x w_k, the pixels first. size_hw: of the image.
        """
        height, width = fitted_size_hw(size_hw, self._size)
        fine = F.avg_pool2d(maps[0][None], 2)[0]
        own = tuple(one.float().cpu() for one in (fine, *maps[1:]))
        return self._with_context(PyramidFeatures(own, (height / self._size, width / self._size)))

    def _with_context(self, features: PyramidFeatures) -> PyramidFeatures:
        if not self._has_context:
            return features
        return features._replace(maps=(*features.maps, features.mean[:, None, None]))

    def _read(self, image: np.ndarray, scale: float) -> PyramidFeatures:
        share = (1.0, 1.0)
        if self._is_fixed:
            size = self._config.grounding_encoder.image_size
            image, share = _on_larger(image, scale)
        else:
            size = max(STEP, round(self._size * scale / STEP) * STEP)
        preprocess = Preprocessor.from_config(self._config)
        preprocess.grounding_size = size
        view = torch.from_numpy(preprocess(image).grounding_view)[None].to(self._model.device, self._model.dtype)
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(view.device.type, torch.bfloat16, enabled=self._is_bf16):
            maps = _maps(self._model, view)
        height, width = fitted_size_hw((image.shape[0], image.shape[1]), size)
        extent = (height / size * share[0], width / size * share[1])
        return PyramidFeatures(tuple(own[0].float().cpu() for own in maps), extent)


def _on_larger(image: np.ndarray, scale: float) -> tuple[np.ndarray, tuple[float, float]]:
    """The image in the corner of a black one, of whose longest side it fills `scale` at most; and its share of both
    sides."""
    if scale >= 1:
        return image, (1.0, 1.0)
    height, width = image.shape[:2]
    larger = np.zeros((round(height / scale), round(width / scale), 3), np.uint8)
    larger[:height, :width] = image
    return larger, (height / larger.shape[0], width / larger.shape[1])


def has_frozen_maps(model: CalicoModel) -> bool:
    """Whether what is read stays the same whatever is trained: the trunk's maps do, an encoder's may not."""
    return isinstance(getattr(model, "trunk", None), nn.Module)


def _maps(model: CalicoModel, view: Tensor) -> Sequence[Tensor]:
    """view: 1 x 3 x S x S. Colours at stride 2, then the maps of the one trunk or of the grounding encoder's pyramid,
    or SAM's embedding."""
    colours = F.avg_pool2d(view, 2)
    trunk = getattr(model, "trunk", None)
    if isinstance(trunk, nn.Module):
        return [colours, *list(trunk(view))[1:]]  # the first map is the pixels themselves
    pyramid = getattr(model.grounding_encoder, "pyramid", None)
    if isinstance(pyramid, nn.Module):
        return [colours, *pyramid(view)]
    return [colours, model.grounding_encoder(view).embedding]
