"""One training step's losses: answers, their masks, and masks from clicks and boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.model.calico import (
    CalicoModel,
    CalicoOutput,
    EncoderStates,
    ImageFeatures,
    Pixels,
    PromptBatch,
    Seen,
    Views,
)
from calico.model.segmentation import MaskLogits
from calico.training.auxiliary import AnswerStates, AuxiliaryHeads
from calico.training.batches import PADDING, ClickBatch, TrainingBatch
from calico.training.losses import LossWeights, dice_loss, mask_iou, mask_loss, text_loss

ASKED_TERMS = ("text", "token_acc", "seg_iou", "mask", "dice", "point_iou", "box_iou")


@dataclass(frozen=True)
class StepResult:
    """loss: what is minimised. terms: its parts and what is only watched (token accuracy, IoUs), as numbers.

    A batch without a [SEG] knows nothing of their masks: `seg_iou`, `mask` and `dice` are NaN then.
    """

    loss: Tensor
    terms: dict[str, float]


class TrainingStep(nn.Module):
    """Model and auxiliary heads together, so that one wrapper (DDP, accelerate) holds all that trains.

    asks: whether questions and clicks are trained; False: the encoders alone, by the heads.
    """

    def __init__(
        self,
        model: CalicoModel,
        heads: AuxiliaryHeads | None,
        weights: LossWeights,
        full_size: int,
        max_seg_prompts: int,
    ) -> None:
        super().__init__()
        self.model = model
        if model.device.type == "cpu":  # rows are short: the fused kernel is the slower one there
            model.llm.set_attn_implementation("eager")
            model.qformer.model.set_attn_implementation("eager")
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4 and (
                "_encoder." in name or name.startswith("trunk.")
            ):  # channels last: a third faster through them on a CPU
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.heads = heads
        self.weights = weights
        self.full_size = full_size
        self.max_seg_prompts = max_seg_prompts
        self.asks = True

    def see(self, batch: TrainingBatch) -> Seen:
        """What the encoders make of the batch's images."""
        return self.model.see(self.look(batch))

    def look(self, batch: TrainingBatch) -> Pixels | Views:
        """The batch's pixels; or what a trunk, which never trains, makes of them for all who see them."""
        if isinstance(batch.pixels, Views):
            return batch.pixels
        pixels = Pixels(*(view.contiguous(memory_format=torch.channels_last) for view in batch.pixels))
        if self.model.trunk is None:
            return pixels
        with torch.no_grad():
            return self.model.views(pixels)

    def forward(self, batch: TrainingBatch, taught: Tensor | None = None, seen: Seen | None = None) -> StepResult:
        """taught: A x V, what a teacher says of each answer token; counts in the rows that are about base data.

        seen: what `see` gave of the batch, where somebody needed it before.
        """
        features, states = self.model.features_of(self.see(batch) if seen is None else seen)
        if not self.asks:
            return self._seen(batch, features, states)
        num_segs = len(batch.seg_value)
        prompts: dict[str, tuple[MaskLogits, Tensor, Tensor]] = {}
        if num_segs:
            chosen = self._chosen(batch)
            output = self.model(features, batch.prompts, chosen)
            prompts["seg"] = (output.masks, output.seg_image, batch.seg_value[chosen])
        else:
            output = self._without_masks(features, batch.prompts)
        answer_row = batch.prompts.predicts.nonzero()[:, 0]
        is_taught = None if batch.is_base is None else batch.is_base[answer_row]
        per_seg = None if self.weights.by_token else num_segs
        text = text_loss(output.answer_logits, output.answer_ids, per_seg, taught, is_taught)
        terms = {"text": text, "token_acc": (output.answer_logits.argmax(-1) == output.answer_ids).float().mean()}
        if not num_segs:
            terms |= dict.fromkeys(("seg_iou", "mask", "dice"), torch.tensor(math.nan))
        for name, clicks in (("point", batch.points), ("box", batch.boxes)):
            if len(clicks.image):
                prompts[name] = (
                    self.click_masks(features, clicks, batch.part_maps[clicks.image]),
                    clicks.image,
                    clicks.value,
                )
        num_masks = sum(len(image) for _, image, _ in prompts.values())
        loss = self.weights.text * text
        for name, (masks, image, value) in prompts.items():
            share = len(image) / max(1, num_masks)
            mask_terms = self._mask_terms(masks, batch.part_maps[image], value)
            loss = loss + share * (
                self.weights.mask * mask_terms["mask"]
                + self.weights.dice * mask_terms["dice"]
                + self.weights.iou * mask_terms["iou_error"]
            )
            terms[f"{name}_iou"] = mask_terms["iou"]
            if name == "seg":
                terms |= {"mask": mask_terms["mask"], "dice": mask_terms["dice"]}
        if self.heads is not None:
            answers = AnswerStates(output.answer_states, answer_row, batch.prompts.slots)
            auxiliary = self.heads(features, states, answers, batch.class_ids, batch.part_ids, batch.presence)
            loss = loss + self.weights.auxiliary * sum(auxiliary.values())
            terms |= auxiliary
        return StepResult(loss, {name: float(value.detach()) for name, value in terms.items()})

    def _seen(self, batch: TrainingBatch, features: ImageFeatures, states: EncoderStates) -> StepResult:
        """What images show alone: the auxiliary losses of the encoders, a quarter of a step's price for an image."""
        if self.heads is None:
            raise ValueError("a phase without questions trains nothing without auxiliary heads")
        terms = self.heads(features, states, None, batch.class_ids, batch.part_ids, batch.presence)
        loss = self.weights.auxiliary * torch.stack(list(terms.values())).sum()
        unasked = dict.fromkeys(ASKED_TERMS, math.nan)
        return StepResult(loss, {**unasked, **{name: float(term.detach()) for name, term in terms.items()}})

    def _chosen(self, batch: TrainingBatch) -> Tensor:
        """Which of the batch's [SEG]s have their masks trained."""
        num_segs = len(batch.seg_value)
        if batch.seg_weight is None:
            return torch.randperm(num_segs, device=batch.seg_value.device)[: self.max_seg_prompts]
        return torch.multinomial(batch.seg_weight, min(num_segs, self.max_seg_prompts))

    def _without_masks(self, features: ImageFeatures, prompts: PromptBatch) -> CalicoOutput:
        """What the model gives where all answers say that there is nothing; the mask decoder takes no empty call."""
        logits, hidden = self.model.answer_logits(features, prompts)
        predicts = prompts.predicts
        none = MaskLogits(logits.new_zeros(0, 1, 1), logits.new_zeros(0))
        answer_ids = prompts.token_ids[:, 1:][predicts]
        return CalicoOutput(logits, hidden[:, :-1][predicts], answer_ids, none, answer_ids[:0])

    def click_masks(self, features: ImageFeatures, clicks: ClickBatch, part_maps: Tensor) -> MaskLogits:
        """Of the last click; each one after the first lies where the mask before it was wrong, as SAM is trained."""
        scale = self.full_size / part_maps.shape[1]  # prompts are told in pixels of the full-size frame
        decoder = self.model.pixel_decoder
        grounding = features.grounding.take(clicks.image)
        if clicks.boxes is not None:
            return decoder(grounding, decoder.prompts(boxes_xyxy=clicks.boxes * scale))
        if clicks.points is None:
            raise ValueError("a click batch holds points or boxes")
        points, labels = clicks.points[:, None], torch.ones_like(clicks.value)[:, None]
        masks: MaskLogits | None = None
        for _ in range(clicks.num_clicks - 1):
            with torch.no_grad():
                masks = decoder(grounding, decoder.prompts(points * scale, labels), decoder.seen(masks))
                point, label = next_clicks(masks, *true_masks(masks, part_maps, clicks.value), part_maps.shape[1])
            points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label[:, None]], 1)
        return decoder(grounding, decoder.prompts(points * scale, labels), decoder.seen(masks))

    def _mask_terms(self, masks: MaskLogits, part_maps: Tensor, value: Tensor) -> dict[str, Tensor]:
        targets, valid = true_masks(masks, part_maps, value)
        iou = mask_iou(masks.logits, targets, valid)
        return {
            "mask": mask_loss(masks.logits, targets, valid, self.weights.mask_term),
            "dice": dice_loss(masks.logits, targets, valid, self.weights.dice_pixels or 1.0),
            "iou_error": ((masks.iou - iou) ** 2).mean(),
            "iou": iou.mean(),
        }


def true_masks(masks: MaskLogits, part_maps: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """True masks and the valid pixels, both K x S x S in 0 and 1, on the grid of the logits."""
    stride = part_maps.shape[1] // masks.logits.shape[1]
    part_maps = part_maps[:, stride // 2 :: stride, stride // 2 :: stride]
    inside = part_maps != PADDING
    value = value[:, None, None]
    return torch.where(value == 1, inside & (part_maps > 0), part_maps == value).float(), inside.float()


def next_clicks(masks: MaskLogits, targets: Tensor, valid: Tensor, map_size: int) -> tuple[Tensor, Tensor]:
    """A click well inside what is wrong of each mask: points K x 2 (x, y) in pixels of part maps of `map_size` a side,
    which the grid of the logits divides, and labels K, 1 where the mask lacks it, 0 where it has too much, -10 (SAM's
    padding) where nothing is wrong."""
    size = masks.logits.shape[1]
    wrong = ((masks.logits > 0).float() != targets).float() * valid
    window = 2 * (size // 24) + 1
    depth = F.avg_pool2d(wrong[:, None], window, 1, window // 2)[:, 0] * wrong
    best = (depth * (0.7 + 0.3 * torch.rand_like(depth))).flatten(1).argmax(1)
    stride = map_size // size
    points = (torch.stack([best % size, best // size], 1) * stride + stride // 2).float()
    missing = targets.flatten(1).gather(1, best[:, None])[:, 0].long()
    return points, torch.where(wrong.flatten(1).any(1), missing, torch.full_like(missing, -10))
