"""The paper's loss (supplement): 1.0 text cross-entropy + 2.0 mask term + 0.5 Dice; and what the small model adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossWeights:
    """text, mask, dice: the paper's. iou: the mask decoder's own quality estimate. auxiliary: each of the extra heads.

    by_token: the text loss is the mean over answer tokens, as in the paper's family; else their sum over the number of
    [SEG]s, about eight times as much, so that a name weighs the same in answers of any length.
    dice_pixels: what Dice adds above and below, in pixels; 0 for one.
    Mask losses are taken on the decoder's own grid rather than at the image's size: cheaper, and the target is exact.
    """

    text: float = 1.0
    mask: float = 2.0
    dice: float = 0.5
    iou: float = 0.0
    auxiliary: float = 0.0
    mask_term: str = "bce"  # or "focal"
    by_token: bool = False
    dice_pixels: float = 0.0


PAPER_WEIGHTS = LossWeights(by_token=True, dice_pixels=1e-3)
SMALL_MODEL_WEIGHTS = LossWeights(text=1.0, mask=4.0, dice=3.0, iou=0.5, auxiliary=2.0)


def text_loss(
    logits: Tensor,
    targets: Tensor,
    num_segs: int | None,
    taught: Tensor | None = None,
    is_taught: Tensor | None = None,
) -> Tensor:
    """Of the answer tokens, logits A x V: the sum over the number of [SEG]s, or where that is None the mean.

    taught: A x V, a teacher's logits. Where is_taught (A bool) its distribution is the target: the Kullback-Leibler
    divergence from it takes the place of the cross-entropy with the true token.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    if taught is not None and is_taught is not None:
        teacher = taught.float().log_softmax(-1)
        divergence = (teacher.exp() * (teacher - logits.float().log_softmax(-1))).sum(-1)
        losses = torch.where(is_taught, divergence, losses)
    return losses.mean() if num_segs is None else losses.sum() / max(1, num_segs)


def mask_loss(logits: Tensor, targets: Tensor, valid: Tensor, term: str = "bce") -> Tensor:
    """Mean per mask over the valid pixels, then over masks. logits, targets, valid: K x S x S."""
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if term == "focal":  # gamma 2, alpha 0.25
        probability = logits.sigmoid()
        right = probability * targets + (1 - probability) * (1 - targets)
        losses = losses * (1 - right) ** 2 * (0.25 * targets + 0.75 * (1 - targets))
    return ((losses * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).mean()


def dice_loss(logits: Tensor, targets: Tensor, valid: Tensor, pixels: float = 1.0) -> Tensor:
    """1 - Dice of the soft masks, mean over masks. logits, targets, valid: K x S x S. pixels: added above and below."""
    probability = logits.sigmoid() * valid
    overlap = (probability * targets).sum((1, 2))
    return (1 - (2 * overlap + pixels) / (probability.sum((1, 2)) + targets.sum((1, 2)) + pixels)).mean()


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """IoU of each mask at logit 0: K."""
    predicted, true = (logits > 0) & (valid > 0), (targets > 0) & (valid > 0)
    union = (predicted | true).sum((1, 2))
    return (predicted & true).sum((1, 2)) / union.clamp(min=1)
