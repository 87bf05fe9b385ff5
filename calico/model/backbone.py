"""A backbone of `transformers` as the one trunk: its maps brought to strides 2, 4, 8, 16 and 32.

`BackboneLevels` says which stage stands at which stride; `calico.conversion.backbone` finds that out once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoBackbone, AutoConfig

from calico.model.sizes import PIXELS, BackboneLevels


class BackboneTrunk(nn.Module):
    """Pixels I x 3 x S x S -> maps at strides 1 (the pixels themselves), 2, 4, 8, 16 and 32, as `Trunk` gives them.

    A stage of another stride is averaged or enlarged to its level's. It is never trained, so norms and drop-outs stay
    as they are in use, whatever mode the model around it is in.
    """

    def __init__(self, levels: BackboneLevels) -> None:
        super().__init__()
        self.levels = levels
        raw = dict(levels.config)
        config = AutoConfig.for_model(raw.pop("model_type"), **raw)
        self.backbone = AutoBackbone.from_config(config)
        _compute_buffers(self.backbone, config)
        self.train(False)

    def train(self, mode: bool = True) -> BackboneTrunk:
        super().train(False)
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        side = pixels.shape[-1]
        view = pixels if self.levels.scale == 1 else _sized(pixels, round(side * self.levels.scale))
        names = list(self.backbone.out_features)
        stage_maps = dict(zip(names, self.backbone(view).feature_maps, strict=True))
        maps = [pixels]
        for k, stage in enumerate(self.levels.stages, 1):
            level = F.pixel_unshuffle(pixels, 2**k) if stage == PIXELS else _sized(stage_maps[stage], side >> k)
            maps.append(level)
        return maps


def _sized(x: Tensor, side: int) -> Tensor:
    """I x C x s x s -> I x C x side x side, averaged where that is fewer."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=x.shape[-1] > side)


def _compute_buffers(backbone: nn.Module, config: Any) -> None:
    """What no checkpoint holds (frequencies, say) is computed, though the weights be built without memory."""
    lacking = [
        (name, key)
        for name, module in backbone.named_modules()
        for key in module._non_persistent_buffers_set
        if (buffer := module._buffers.get(key)) is not None and buffer.is_meta
    ]
    if lacking:
        with torch.device("cpu"):
            other = AutoBackbone.from_config(config)
        for name, key in lacking:
            backbone.get_submodule(name)._buffers[key] = other.get_submodule(name)._buffers[key]
