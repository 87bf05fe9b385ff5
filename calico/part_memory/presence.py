"""Whether an image shows a taught object at all, told by the image as a whole.

A pixel of a lamp's shade looks like one of an umbrella; the two images do not look alike. So a logistic regression of
the coarsest map's mean tells images of the taught objects from those that show nothing taught, and where it tells that
an object is not there, its heads are not asked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PENALTY = 1e-5  # on the squares of weights, for features of standard deviation 1 over the root of their number
MAX_CUTOFF = 0.8
MIN_IMAGES = 24  # that show what was taught: fewer tell too little of the next
USUAL_MISS = 0.03  # of images that show the object, those that the cutoff may lose, where it is below the greatest
DOUBT = 2.0  # standard errors
MAX_STEPS = 100


class Presence(nn.Linear):
    """C features of an image -> 1 + N logits: nothing taught, and each taught object."""

    @torch.inference_mode()
    def chances(self, whole: Tensor) -> Tensor:
        """whole: C, or I x C. Returns N (I x N): of each object, that it is shown rather than nothing taught."""
        logits = self(whole.float())
        return (logits[..., 1:] - logits[..., :1]).sigmoid()


def fit_presence(wholes: Tensor, shown: Tensor, folds: Tensor) -> tuple[Presence, float] | None:
    """The presence and the chance below which an object counts as not shown; None where no image shows nothing taught.

    wholes: I x C float32. shown: I int64, 0 for nothing taught, k + 1 for the k-th object. folds: I int64, the cutoff
    is chosen on images whose fold was left out.
    """
    if not bool((shown == 0).any()):
        return None
    num_objects = int(shown.max())
    sure: list[Tensor] = []
    for fold in sorted(set(folds.tolist())):
        others, own = folds != fold, (folds == fold) & (shown > 0)
        if bool((shown[others] == 0).any()) and bool(own.any()):
            chances = _fitted(wholes[others], shown[others], num_objects).chances(wholes[own])
            sure.append(chances.gather(1, shown[own, None] - 1).flatten().logit(1e-6))
    return _fitted(wholes, shown, num_objects), _cutoff(torch.cat(sure)) if sure else 0.0


def _cutoff(logits: Tensor) -> float:
    """Of few images the least sure one says little about the next: then it is lower, by what such a figure may err."""
    doubt = DOUBT * logits.std(correction=0) / len(logits) ** 0.5
    return min(MAX_CUTOFF, float((logits.quantile(USUAL_MISS) - doubt).sigmoid()))


def _fitted(wholes: Tensor, shown: Tensor, num_objects: int) -> Presence:
    """Each of the objects, and nothing taught, with the same weight."""
    mean, scale = wholes.mean(0), (wholes.std(0, correction=0) + 1e-3) * wholes.shape[1] ** 0.5
    rows = (wholes - mean) / scale
    counts = torch.bincount(shown, minlength=num_objects + 1)
    weights = len(shown) / (counts.clamp(min=1) * (counts > 0).sum())
    head = nn.Linear(wholes.shape[1], num_objects + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(head(rows), shown, weights) + PENALTY * head.weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    presence = Presence(wholes.shape[1], num_objects + 1)
    with torch.no_grad():
        presence.weight.copy_(head.weight / scale)
        presence.bias.copy_(head.bias - presence.weight @ mean)
    return presence.eval().requires_grad_(False)
