"""The three encoders of a model with one trunk: each reads the trunk's maps instead of pixels of its own.

maps: of `Trunk`, at strides 1, 2, 4, ...; level k is the map at stride 2^k.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.encoders import FineContext, GroundingFeatures, Residual, sine_positions


class TrunkTokens(nn.Module):
    """Global or semantic encoder: one level of the trunk as tokens with sine positions."""

    def __init__(self, hidden_size: int, channels: Sequence[int], level: int, width: int) -> None:
        """channels: of the trunk's levels. width: channels of what stands between trunk and tokens."""
        super().__init__()
        self.level = level
        self.widen = nn.Conv2d(channels[level], width, 1)
        self.mix = Residual(width)
        self.projection = nn.Linear(width, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = self.mix(F.relu(self.widen(maps[self.level])))  # N x width x h x w
        tokens = self.projection(x.flatten(2).transpose(1, 2))  # N x hw x D
        height, width = x.shape[2:]
        return self.norm(tokens + sine_positions(height, width, tokens.shape[2], tokens.device, tokens.dtype))


class TrunkGrounding(nn.Module):
    """Grounding encoder: top-down from the coarsest level to `level`, with fine maps one and two levels below it.

    The trunk's maps end in linear layers: each step down mixes them with a residual block of its own.
    """

    def __init__(
        self, hidden_size: int, channels: Sequence[int], level: int, width: int, num_blocks: int, context_width: int
    ) -> None:
        """context_width: channels of the top-down path to the first fine map, half of them to the second."""
        super().__init__()
        self.level = level
        self.laterals = nn.ModuleList(nn.Conv2d(size, width, 1) for size in channels[level:])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(num_blocks))) for _ in channels[level:]
        )
        self.out = nn.Conv2d(width, hidden_size, 1)
        half, full = channels[level - 1], channels[level - 2]
        self.fine_half = nn.Conv2d(half, hidden_size // 4, 1)
        self.fine_full = nn.Conv2d(full, hidden_size // 8, 3, 1, 1)
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
        embedding = self.out(x)  # N x C x h x w
        half, full = maps[self.level - 1], maps[self.level - 2]
        added, mixed = self.contexts[0](half, embedding)
        return GroundingFeatures(
            embedding, (self.fine_half(half) + added, self.fine_full(full) + self.contexts[1](full, mixed)[0])
        )
