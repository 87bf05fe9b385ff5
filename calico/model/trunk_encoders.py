"""The three encoders of a model with one trunk: what their own convolutions see, and what the trunk's maps add.

maps: of `Trunk`, at strides 1, 2, 4, ...; level k is the map at stride 2^k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.encoders import FineContext, GroundingFeatures, Residual
from calico.model.sizes import MeanStd


class OwnView(nn.Module):
    """The trunk's pixels as another encoder wants them: averaged over `stride` pixels a side, normalised anew."""

    def __init__(self, stride: int, trunk: MeanStd, own: MeanStd) -> None:
        super().__init__()
        self.stride = stride
        (mean, std), (own_mean, own_std) = trunk, own
        self.gain = [a / b for a, b in zip(std, own_std, strict=True)]
        self.shift = [(a - b) / c for a, b, c in zip(mean, own_mean, own_std, strict=True)]

    def forward(self, pixels: Tensor) -> Tensor:
        gain, shift = (pixels.new_tensor(values)[:, None, None] for values in (self.gain, self.shift))
        return F.avg_pool2d(pixels, self.stride) * gain + shift


class TrunkTokens(nn.Module):
    """Global or semantic encoder: tokens of its own convolutions, to which one level of the trunk adds; nothing at
    first."""

    def __init__(self, own: nn.Module, view: OwnView, hidden_size: int, channels: int, level: int, width: int) -> None:
        """channels: of the trunk's level. width: channels of what stands between trunk and tokens."""
        super().__init__()
        self.own, self.view, self.level = own, view, level
        self.widen = nn.Conv2d(channels, width, 1)
        self.mix = Residual(width)
        self.projection = zeroed(nn.Linear(width, hidden_size))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.mix(F.relu(self.widen(maps[self.level])))  # N x width x h x w
        return self.own(self.view(maps[0])) + self.projection(x.flatten(2).transpose(1, 2))  # N x hw x D


class TrunkGrounding(nn.Module):
    """Grounding encoder: maps of its own convolutions, to which the trunk adds; nothing at first.

    What is added comes top-down from the coarsest level to `level`, with fine maps one and two levels below it. The
    trunk's maps end in linear layers: each step down mixes them with a residual block of its own.
    """

    def __init__(
        self,
        own: nn.Module,
        view: OwnView,
        hidden_size: int,
        channels: Sequence[int],
        level: int,
        width: int,
        num_blocks: int,
        context_width: int,
    ) -> None:
        """channels: of the trunk's levels. context_width: channels of the top-down path to the first fine map, half of
        them to the second."""
        super().__init__()
        self.own, self.view, self.level = own, view, level
        self.laterals = nn.ModuleList(nn.Conv2d(size, width, 1) for size in channels[level:])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(num_blocks))) for _ in channels[level:]
        )
        self.out = zeroed(nn.Conv2d(width, hidden_size, 1))
        half, full = channels[level - 1], channels[level - 2]
        self.fine_half = zeroed(nn.Conv2d(half, hidden_size // 4, 1))
        self.fine_full = zeroed(nn.Conv2d(full, hidden_size // 8, 3, 1, 1))
        self.contexts = nn.ModuleList(
            [
                FineContext(half, hidden_size, context_width, hidden_size // 4),
                FineContext(full, context_width, context_width // 2, hidden_size // 8),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> GroundingFeatures:
        x: Tensor | None = None
        for lateral, block, finer in reversed(list(zip(self.laterals, self.blocks, maps[self.level :], strict=True))):
            own = lateral(finer)
            if x is not None:
                own = own + F.interpolate(x, size=own.shape[2:], mode="bilinear", align_corners=False)
            x = block(F.relu(own))
        own = self.own(self.view(maps[0]))
        embedding = own.embedding + self.out(x)  # N x C x h x w
        half, full = maps[self.level - 1], maps[self.level - 2]
        added, mixed = self.contexts[0](half, embedding)
        fine_half = own.fine[0] + self.fine_half(half) + added
        fine_full = own.fine[1] + self.fine_full(full) + self.contexts[1](full, mixed)[0]
        return GroundingFeatures(embedding, (fine_half, fine_full))


def zeroed(module: nn.Linear | nn.Conv2d) -> Any:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
