"""EfficientNet-Lite0's body, the small model's one look at an image, written anew with its batch norms folded in.

Architecture: MBConv blocks (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excite, ReLU6, TensorFlow's "same"
padding. Weights: `calico.conversion.efficientnet_lite`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.sizes import TRUNKS, TrunkSize


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow does: ceil(size / stride) out, what is uneven on the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        down, across = (max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in x.shape[2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class MBConv(nn.Module):
    """Widen, look around each channel by itself, narrow; the input is added where shape and stride allow."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = SameConv2d(in_channels, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv2d(inner, out_channels, 1)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out = self.project(F.relu6(self.depthwise(inner)))
        return x + out if self.is_residual else out


class Trunk(nn.Module):
    """Pixels I x 3 x S x S -> maps at strides 1 (the pixels themselves), 2, 4, 8, 16 and 32."""

    def __init__(self, size: TrunkSize) -> None:
        super().__init__()
        self.size = size
        self.stem = SameConv2d(3, size.stem, 3, 2)
        channels, stages = size.stem, []
        for stage in size.stages:
            blocks = []
            for k in range(stage.num_blocks):
                stride = stage.stride if k == 0 else 1
                blocks.append(MBConv(channels, stage.width, stage.kernel, stride, stage.expansion))
                channels = stage.width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = [pixels]
        x = F.relu6(self.stem(pixels))
        for stage, module in zip(self.size.stages, self.stages, strict=True):
            if stage.stride > 1:
                maps.append(x)
            x = module(x)
        return [*maps, x]


def build_trunk(name: str) -> Trunk:
    """One of ours; another is `calico.model.backbone`'s."""
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}, expected one of {', '.join(TRUNKS)}")
    return Trunk(TRUNKS[name])


@torch.no_grad()
def folded(
    convolution: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what a convolution and its batch norm in evaluation mode did."""
    gain = scale / (var + eps).sqrt()
    return convolution * gain[:, None, None, None], shift - mean * gain
