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

    @torch.no_grad()
    def over(self, features: PyramidFeatures, codes: Sequence[int] | None = None) -> Tensor:
        """(K + 1) x h x w logits on the finest map's grid, cut to the image; codes: of these alone, in their order.

        The first layer is linear: it is done at each map's own size. What it gives is enlarged (bilinear) to half the
        finest map's size and added there, and once more to the whole: in half the time of going there at once.
        """
        side = features.maps[0].shape[1]
        half = max(1, side // 2)
        weights = self.first.weight.split([len(own) for own in features.maps], 1)
        hidden = self.first.bias[:, None, None].repeat(1, half, half)
        for own, weight in sorted(zip(features.maps, weights, strict=True), key=lambda pair: pair[0].shape[1] == side):
            rows = own.float().flatten(1)
            if own.shape[1] != side:
                enlarging = _enlarging(own.shape[1], half, rows.device)
                hidden += enlarging @ (weight @ rows).unflatten(1, own.shape[1:]) @ enlarging.T
                continue
            if hidden.shape[1] != side:
                hidden = F.interpolate(hidden[None], size=(side, side), mode="bilinear", align_corners=False)[0]
            hidden.flatten(1).addmm_(weight, rows)
        chosen = slice(None) if codes is None else list(codes)
        shown = features.within(hidden).relu_()
        logits = self.second.weight[chosen] @ shown.flatten(1) + self.second.bias[chosen, None]
        return logits.unflatten(1, shown.shape[1:])


def _enlarging(size: int, larger: int, device: torch.device) -> Tensor:
    """larger x size: what makes of `size` values the `larger` ones that lie between them, as `F.interpolate` does."""
    identity = torch.eye(size, device=device)
    return F.interpolate(identity[None], size=larger, mode="linear", align_corners=False)[0].T


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
