"""Two linear layers for each pixel, over maps of several strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.part_memory.pyramid import PyramidFeatures


class PartHead(nn.Module):
    """D features of a pixel -> K + 1 logits: nothing of these, and each taught name."""

    def __init__(self, num_features: int, hidden: int, num_names: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_features, hidden)
        self.second = nn.Linear(hidden, num_names + 1)

    def forward(self, rows: Tensor) -> Tensor:
        """rows: M x D, as `PyramidFeatures.at` gives them. Returns M x (K + 1)."""
        logits: Tensor = self.second(F.relu(self.first(rows)))
        return logits

    def over(self, features: PyramidFeatures, codes: Sequence[int] | None = None) -> Tensor:
        """(K + 1) x h x w logits on the finest map's grid, cut to the image; codes: of these alone, in their order.

        The first layer is done at each map's own size, since it is linear: what it gives is then enlarged and added.
        """
        height, width = features.maps[0].shape[1:]
        start = 0
        hidden: Tensor | None = None
        for own in features.maps:
            weight = self.first.weight[:, start : start + len(own), None, None]
            start += len(own)
            part = F.conv2d(own[None].float(), weight)
            if part.shape[2:] != (height, width):
                part = F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)
            hidden = part if hidden is None else hidden + part
        assert hidden is not None
        rows = max(1, round(height * features.extent[0]))
        columns = max(1, round(width * features.extent[1]))
        hidden = F.relu(hidden[:, :, :rows, :columns] + self.first.bias[:, None, None])
        chosen = slice(None) if codes is None else list(codes)
        return F.conv2d(hidden, self.second.weight[chosen, :, None, None], self.second.bias[chosen])[0]


@torch.no_grad()
def folded(head: PartHead, mean: Tensor, basis: Tensor) -> PartHead:
    """The same function of features that were not brought to the basis first. head: of (rows - mean) @ basis; mean: D;
    basis: D x R."""
    own = PartHead(len(basis), head.first.out_features, head.second.out_features - 1)
    weight = head.first.weight @ basis.T  # H x D
    own.first.weight.copy_(weight)
    own.first.bias.copy_(head.first.bias - weight @ mean)
    own.second.load_state_dict(head.second.state_dict())
    return own.eval().requires_grad_(False)
