"""Labels of pixels that hear their neighbours, those of their own colour most."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_STEPS = 3
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (2, 2), (2, -2), (0, 4), (4, 0), (4, 4), (4, -4))


def mean_field(logits: Tensor, colours: Tensor) -> Tensor:
    """K x H x W chances, which add up to 1 at each pixel; arguments as `hearing` takes them."""
    return hearing(logits, colours).softmax(0)


def hearing(logits: Tensor, colours: Tensor) -> Tensor:
    """K x H x W log-chances up to a constant, after all have heard their neighbours. logits: the same before.
    colours: C x H x W, of any scale.

    Mean-field steps (Krähenbühl and Koltun, NeurIPS 2011) of a conditional random field over near pixels, with the
    contrast term of GrabCut (Rother et al., SIGGRAPH 2004).
    """
    height, width = logits.shape[1:]
    pairs = []
    for down, across in NEIGHBOURS:
        if down < height and abs(across) < width:
            first = (slice(None), slice(height - down), slice(max(0, -across), width - max(0, across)))
            second = (slice(None), slice(down, None), slice(max(0, across), width - max(0, -across)))
            contrast = (colours[first] - colours[second]).square().sum(0)
            pairs.append((first, second, float(down * down + across * across) ** 0.5, contrast))
    near = [contrast.mean() for _, _, distance, contrast in pairs if distance == 1]
    usual = torch.stack(near).mean() if near else torch.tensor(0.0)
    weights = [torch.exp(-contrast / (2 * usual + 1e-6)) / distance for _, _, distance, contrast in pairs]
    result = logits
    for _ in range(NUM_STEPS):
        chances, heard = result.softmax(0), torch.zeros_like(logits)
        for (first, second, _, _), weight in zip(pairs, weights, strict=True):
            heard[first] += weight * chances[second]
            heard[second] += weight * chances[first]
        result = logits + heard
    return result
