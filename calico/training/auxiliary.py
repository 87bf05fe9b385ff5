"""Heads that exist only while the small model is born: dense part classes, and what an image and its regions show.

The paper's encoders come pretrained; ours start from nothing, and these losses are what makes them see within minutes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.calico import EncoderStates, ImageFeatures, mean_and_maximum
from calico.model.cam import ImageSlots

LOCAL_SCALE = 2.0  # brings the local loss to the size of the others
MAX_IMAGES = 4  # of a group, that are compared
MAX_COMPARED = 1024  # answer tokens of a step, at which images are compared
UNDECIDED_WEIGHT = 20.0  # of a part that half of a class's images show, to one that all or none show


class AnswerStates(NamedTuple):
    """states: A x D of the language model where it predicts an answer's tokens; row: A, the prompt of each; slots:
    which images the prompts show."""

    states: Tensor
    row: Tensor
    slots: ImageSlots


class AuxiliaryHeads(nn.Module):
    """num_classes: object classes. num_parts: part names; dense classes are background, rest of object, then parts."""

    def __init__(
        self,
        global_size: int,
        query_size: int,
        semantic_size: int,
        grounding_size: int,
        llm_size: int,
        num_classes: int,
        num_parts: int,
        one_view: bool = False,
    ) -> None:
        """one_view: whether the token encoders see the grounding encoder's frame, not an image squeezed to a square."""
        super().__init__()
        self.one_view = one_view
        self.num_parts = num_parts
        self.dense_grounding = nn.Conv2d(grounding_size, num_parts + 2, 1)
        self.dense_semantic = nn.Linear(semantic_size, num_parts + 2)
        self.pooled = nn.Linear(2 * global_size, num_classes + num_parts)  # mean and maximum over the positions
        self.local = nn.Linear(global_size, num_parts)  # at each position, the parts that it sees some of
        self.queried = nn.Linear(query_size, num_classes + num_parts)
        self.refined = nn.Linear(2 * global_size, num_classes + num_parts)  # of X'_global, which CAM reads
        self.compared = nn.Linear(llm_size, 2 * MAX_IMAGES * num_parts)  # where an answer is written
        self.part_share: Tensor  # of each class's images, those that show the part
        self.register_buffer("part_share", torch.full((num_classes, num_parts), 0.5))
        self.frequency: Tensor
        self.register_buffer("frequency", torch.full((num_parts + 2,), 1.0 / (num_parts + 2)))

    def forward(
        self,
        features: ImageFeatures,
        states: EncoderStates,
        answers: AnswerStates | None,
        class_ids: Tensor,
        part_ids: Tensor,
        presence: Tensor,
    ) -> dict[str, Tensor]:
        """answers: None where nothing was asked. part_ids: I x S x S; class_ids: I; presence: I x num_parts.

        Returns the loss terms.
        """
        weights, telling = self._class_weights(part_ids), self._telling(class_ids, presence)
        grounding = self.dense_grounding(features.grounding.embedding)
        if not self.one_view:  # its frame is large enough as it is
            grounding = F.interpolate(grounding, scale_factor=2, mode="bilinear", align_corners=False)
        side = int(states.semantic_tokens.shape[1] ** 0.5)
        semantic = self.dense_semantic(states.semantic_tokens).transpose(1, 2).unflatten(2, (side, side))
        squeezed_ids, tokens = part_ids if self.one_view else squeezed(part_ids), states.global_tokens

        def shown(logits: Tensor) -> Tensor:
            return shown_loss(logits, class_ids, presence, telling)

        terms = {
            "dense": dense_loss(grounding, part_ids, weights),
            "dense_semantic": dense_loss(semantic, squeezed_ids, weights),
            "local": local_loss(self.local(tokens), squeezed_ids, telling),
            "pooled": shown(self.pooled(mean_and_maximum(tokens))),
            "queried": shown(self.queried(states.query_states.mean(1))),
            "refined": shown(self.refined(mean_and_maximum(features.refined_tokens))),
        }
        if answers is not None:
            answers = _some(answers)
            terms["compared"] = compared_loss(self.compared(answers.states), answers, presence, telling)
        return terms

    @torch.no_grad()
    def _telling(self, class_ids: Tensor, presence: Tensor) -> Tensor:
        """I x num_parts with mean 1: what the class alone does not tell weighs most, or nobody would look for it."""
        has_class = class_ids >= 0
        if self.training:
            for class_id, parts in zip(class_ids[has_class].tolist(), presence[has_class], strict=True):
                self.part_share[class_id].lerp_(parts, 0.02)
        share = self.part_share[class_ids.clamp(min=0)]
        weights = 1 + UNDECIDED_WEIGHT * 4 * share * (1 - share) * has_class[:, None]
        return weights / weights.mean()

    @torch.no_grad()
    def _class_weights(self, part_ids: Tensor) -> Tensor:
        """Rare parts weigh more: one over the square root of the running pixel share."""
        counts = torch.bincount(part_ids[part_ids >= 0], minlength=self.num_parts + 2).float()
        if self.training:
            self.frequency.lerp_(counts / counts.sum(), 0.02)
        weights = (self.frequency + 1e-4).rsqrt()
        return weights / (weights * self.frequency).sum()


def _some(answers: AnswerStates) -> AnswerStates:
    """At most `MAX_COMPARED` of the answer tokens, by chance: with many part names all of them take long."""
    if len(answers.states) <= MAX_COMPARED:
        return answers
    chosen = torch.randperm(len(answers.states), device=answers.states.device)[:MAX_COMPARED]
    return answers._replace(states=answers.states[chosen], row=answers.row[chosen])


def shown_loss(logits: Tensor, class_ids: Tensor, presence: Tensor, weights: Tensor) -> Tensor:
    """Class and parts of each image. logits: I x (classes + parts); weights: I x parts, of `presence`'s entries."""
    num_classes = logits.shape[1] - presence.shape[1]
    classes = F.cross_entropy(logits[:, :num_classes], class_ids, ignore_index=-100)
    return classes + 2 * F.binary_cross_entropy_with_logits(logits[:, num_classes:], presence, weights)


def compared_loss(logits: Tensor, answers: AnswerStates, presence: Tensor, weights: Tensor) -> Tensor:
    """For each image of an answer's group, the parts that it alone shows and those that it shares with another.

    The answer names a few of them, one after the other; a loss on its tokens alone takes long to teach comparing.
    logits: A x (2 * MAX_IMAGES * P); presence: I x P; weights: I x P, of its entries.
    """
    rows, places = answers.slots.row, place_in_row(answers.slots.row)
    rows, places, images = (x[places < MAX_IMAGES] for x in (rows, places, answers.slots.image))
    shape = (int(answers.slots.row.max()) + 1, MAX_IMAGES, presence.shape[1])
    presences, weight = (presence.new_zeros(shape).index_put((rows, places), x[images]) for x in (presence, weights))
    shared = presences * (presences.sum(1, keepdim=True) > 1)
    target = torch.cat([presences - shared, shared], 1)[answers.row]  # A x 2 MAX_IMAGES x P
    weight = weight.repeat(1, 2, 1)[answers.row]
    losses = F.binary_cross_entropy_with_logits(logits.float().view_as(target), target, weight, reduction="sum")
    return 2 * losses / weight.sum().clamp(min=1)


def place_in_row(row: Tensor) -> Tensor:
    """Of each image of each prompt, which of its prompt's images it is: 0 0 0 1 1 -> 0 1 2 0 1."""
    index = torch.arange(len(row), device=row.device)
    return index - torch.searchsorted(row, row)


def squeezed(part_ids: Tensor) -> Tensor:
    """From the padded frame to the semantic branch's squeezed one: each image's valid corner fills the square."""
    size = part_ids.shape[1]
    valid = part_ids != -100
    heights, widths = valid.any(2).sum(1), valid.any(1).sum(1)
    grid = torch.arange(size, device=part_ids.device)
    rows = grid[None] * heights[:, None] // size  # I x S
    columns = grid[None] * widths[:, None] // size
    return part_ids[
        torch.arange(len(part_ids), device=part_ids.device)[:, None, None], rows[:, :, None], columns[:, None]
    ]


def dense_loss(logits: Tensor, part_ids: Tensor, weights: Tensor) -> Tensor:
    """logits: I x C x h x w; part_ids: I x S x S, read at the cells' centres."""
    stride = part_ids.shape[1] // logits.shape[2]
    target = part_ids[:, stride // 2 :: stride, stride // 2 :: stride]
    return F.cross_entropy(logits, target, weight=weights, ignore_index=-100)


def local_loss(logits: Tensor, part_ids: Tensor, weights: Tensor) -> Tensor:
    """Which parts each position of a token grid sees some pixel of: a small part is lost in a mean over the image.

    logits: I x T x P, T a square grid over the frame of part_ids: I x S x S. What is there counts up to ten times;
    weights: I x P, on top of it.
    """
    num_images, num_tokens, num_parts = logits.shape
    side = math.isqrt(num_tokens)
    cells = torch.arange(part_ids.shape[1], device=part_ids.device) * side // part_ids.shape[1]
    image, row, column = (part_ids >= 2).nonzero(as_tuple=True)
    token = (image * side + cells[row]) * side + cells[column]
    seen = torch.zeros(num_images * num_tokens, num_parts, device=logits.device)
    seen[token, part_ids[image, row, column] - 2] = 1.0
    share = seen.mean(0)
    balance = ((1 - share) / (share + 1e-3)).sqrt().clamp(max=10)
    losses = F.binary_cross_entropy_with_logits(
        logits.flatten(0, 1).float(), seen, weights.repeat_interleave(num_tokens, 0), pos_weight=balance
    )
    return losses * LOCAL_SCALE
