"""The three image encoders behind one interface each, at full size (EVA-CLIP-g, DINOv2, SAM) and at tiny size.

All take normalised pixels N x 3 x H x W of their own branch (`calico.model.preprocessing`). The global and the semantic
encoder give tokens N x T x D, the grounding encoder gives `GroundingFeatures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroundingFeatures(NamedTuple):
    """What the mask decoder reads of an image.

    embedding: N x C x h x w. fine: feature maps at 2h x 2w (C/4 channels) and 4h x 4w (C/8), added inside the mask
    decoder's upscaling as SAM 2 does; tiny size only, None at full size.
    """

    embedding: Tensor
    fine: tuple[Tensor, Tensor] | None = None

    def take(self, index: Tensor) -> GroundingFeatures:
        """The features of the images in `index` (K), in that order."""
        fine = None if self.fine is None else (self.fine[0][index], self.fine[1][index])
        return GroundingFeatures(self.embedding[index], fine)


class TransformerTokens(nn.Module):
    """A transformers vision model as an encoder: its final normalised tokens, without the first `num_skipped`.

    EVA-CLIP keeps its class token (257 tokens at 224 px); DINOv2 drops class and register tokens, so that only patch
    tokens stay.
    """

    def __init__(self, model: nn.Module, num_skipped: int = 0) -> None:
        super().__init__()
        self.model = model
        self.num_skipped = num_skipped

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, self.num_skipped :]


_DINOV2_LINEARS = (  # in transformers 5.17, and in 5.24
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
)


class Dinov2Tokens(TransformerTokens):
    """DINOv2 with registers. Its keys are those of transformers 5.24 in any version, so that checkpoints fit all."""

    def __init__(self, model: nn.Module, num_register_tokens: int) -> None:
        super().__init__(model, num_skipped=1 + num_register_tokens)
        if any(_DINOV2_LINEARS[0][0] in name for name, _ in model.named_parameters()):
            self.register_state_dict_post_hook(_to_new_names)
            self.register_load_state_dict_pre_hook(_to_old_names)


def _to_new_names(module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    _rename(weights, prefix, _DINOV2_LINEARS)


def _to_old_names(module: nn.Module, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    _rename(weights, prefix, [(old, new) for new, old in _DINOV2_LINEARS])


def _rename(weights: dict[str, Tensor], prefix: str, names: Sequence[tuple[str, str]]) -> None:
    for key in [key for key in weights if key.startswith(prefix)]:
        for before, after in names:
            if before in key:
                weights[key.replace(before, after)] = weights.pop(key)


class SamGrounding(nn.Module):
    """SAM's image encoder: 1024 px in, 256 x 64 x 64 out."""

    def __init__(self, vision_encoder: nn.Module) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder

    def forward(self, pixels: Tensor) -> GroundingFeatures:
        return GroundingFeatures(self.vision_encoder(pixels).last_hidden_state)


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Starts as the identity on what a ReLU gave, so that one added to trained weights changes nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class ConvPyramid(nn.Module):
    """Stage i halves the resolution to stride 2^(i+1) and has widths[i] channels; returns every stage's map."""

    def __init__(self, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        channels = [3, *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(channels[i], channels[i + 1], 2), *(Residual(channels[i + 1]) for _ in range(n)))
            for i, n in enumerate(num_blocks)
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = []
        x = pixels
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def sine_positions(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(height x width) x channels sine position codes of cell centres in 0..1, so that any resolution fits."""
    num_bands = channels // 4
    frequencies = math.pi * 2 ** torch.linspace(0, 4, num_bands, device=device)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    codes_y = torch.cat([(y[:, None] * frequencies).sin(), (y[:, None] * frequencies).cos()], 1)
    codes_x = torch.cat([(x[:, None] * frequencies).sin(), (x[:, None] * frequencies).cos()], 1)
    codes = torch.cat([codes_y[:, None].expand(-1, width, -1), codes_x[None].expand(height, -1, -1)], 2)
    return codes.reshape(height * width, -1).to(dtype)


class ConvTokens(nn.Module):
    """Tiny global or semantic encoder: the last pyramid map as tokens with sine positions."""

    def __init__(self, hidden_size: int, widths: Sequence[int], num_blocks: Sequence[int]) -> None:
        super().__init__()
        self.pyramid = ConvPyramid(widths, num_blocks)
        self.projection = nn.Linear(widths[-1], hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        last = self.pyramid(pixels)[-1]
        tokens = self.projection(last.flatten(2).transpose(1, 2))
        height, width = last.shape[2:]
        return self.norm(tokens + sine_positions(height, width, tokens.shape[2], tokens.device, tokens.dtype))


class FineContext(nn.Module):
    """What the finer maps learn of the coarser ones: added to them, zero at first."""

    def __init__(self, fine_channels: int, coarse_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse_channels, width, 1)
        self.fine = nn.Conv2d(fine_channels, width, 3, 1, 1)
        self.mix = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True), _convolution(width, width))
        self.out = nn.Conv2d(width, out_channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """The addition to the fine map, and what the next finer level reads."""
        size = fine.shape[2:]
        own = self.fine(fine) + F.interpolate(self.coarse(coarse), size=size, mode="bilinear", align_corners=False)
        mixed = self.mix(own)
        return self.out(mixed), mixed


class ConvGrounding(nn.Module):
    """Tiny grounding encoder: a feature pyramid, top-down to stride 4, with fine maps at strides 2 and 1.

    context_width: channels of the top-down path to the fine maps at stride 2, half of them at stride 1; 0 = none.
    """

    def __init__(
        self, hidden_size: int, widths: Sequence[int], num_blocks: Sequence[int], context_width: int = 0
    ) -> None:
        super().__init__()
        self.pyramid = ConvPyramid(widths, num_blocks)
        self.laterals = nn.ModuleList(nn.Conv2d(width, hidden_size, 1) for width in widths[1:])
        self.smooth = nn.Sequential(_convolution(hidden_size, hidden_size), nn.Conv2d(hidden_size, hidden_size, 1))
        self.fine_half = nn.Conv2d(widths[0], hidden_size // 4, 1)
        self.fine_full = nn.Conv2d(3, hidden_size // 8, 3, 1, 1)
        self.contexts: nn.ModuleList | None = None
        if context_width:
            half, full = context_width, context_width // 2
            self.contexts = nn.ModuleList(
                [
                    FineContext(widths[0], hidden_size, half, hidden_size // 4),
                    FineContext(3, half, full, hidden_size // 8),
                ]
            )

    def forward(self, pixels: Tensor) -> GroundingFeatures:
        maps = self.pyramid(pixels)  # strides 2, 4, 8, ...
        x = self.laterals[-1](maps[-1])
        for lateral, finer in zip(list(self.laterals)[-2::-1], maps[-2:0:-1], strict=True):
            x = lateral(finer) + F.interpolate(x, size=finer.shape[2:], mode="bilinear", align_corners=False)
        embedding = x + self.smooth(x)  # N x C x H/4 x W/4
        half, full = self.fine_half(maps[0]), self.fine_full(pixels)
        if self.contexts is not None:
            added, mixed = self.contexts[0](maps[0], embedding)
            half = half + added
            full = full + self.contexts[1](pixels, mixed)[0]
        return GroundingFeatures(embedding, (half, full))
