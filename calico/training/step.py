"""One training step's losses: answers, their masks, and masks from clicks and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from calico.model.calico import CalicoModel, ImageFeatures
from calico.model.segmentation import MaskLogits
from calico.training.auxiliary import AuxiliaryHeads
from calico.training.batches import PADDING, ClickBatch, TrainingBatch
from calico.training.losses import LossWeights, dice_loss, mask_iou, mask_loss, text_loss


@dataclass(frozen=True)
class StepResult:
    """loss: what is minimised. terms: its parts and what is only watched (token accuracy, IoUs), as numbers."""

    loss: Tensor
    terms: dict[str, float]


class TrainingStep(nn.Module):
    """Model and auxiliary heads together, so that one wrapper (DDP, accelerate) holds all that trains."""

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
        self.heads = heads
        self.weights = weights
        self.full_size = full_size
        self.max_seg_prompts = max_seg_prompts

    def forward(self, batch: TrainingBatch) -> StepResult:
        features, states = self.model.encode_with_states(batch.pixels)
        num_segs = len(batch.seg_value)
        chosen = torch.randperm(num_segs, device=batch.seg_value.device)[: self.max_seg_prompts]
        output = self.model(features, batch.prompts, chosen)
        text = text_loss(output.answer_logits, output.answer_ids, num_segs)
        terms = {"text": text, "token_acc": (output.answer_logits.argmax(-1) == output.answer_ids).float().mean()}
        prompts = {"seg": (output.masks, output.seg_image, batch.seg_value[chosen])}
        for name, clicks in (("point", batch.points), ("box", batch.boxes)):
            if len(clicks.image):
                prompts[name] = (
                    self._click_masks(features, clicks, batch.part_maps.shape[1]),
                    clicks.image,
                    clicks.value,
                )
        num_masks = sum(len(image) for _, image, _ in prompts.values())
        loss = self.weights.text * text
        for name, (masks, image, value) in prompts.items():
            share = len(image) / max(1, num_masks)
            found = self._mask_terms(masks, batch.part_maps[image], value)
            loss = loss + share * (
                self.weights.mask * found["mask"]
                + self.weights.dice * found["dice"]
                + self.weights.iou * found["iou_error"]
            )
            terms[f"{name}_iou"] = found["iou"]
            if name == "seg":
                terms |= {"mask": found["mask"], "dice": found["dice"]}
        if self.heads is not None:
            auxiliary = self.heads(features, states, batch.class_ids, batch.part_ids, batch.presence)
            loss = loss + self.weights.auxiliary * sum(auxiliary.values())
            terms |= auxiliary
        return StepResult(loss, {name: float(value.detach()) for name, value in terms.items()})

    def _click_masks(self, features: ImageFeatures, clicks: ClickBatch, size: int) -> MaskLogits:
        scale = self.full_size / size  # prompts are told in pixels of the full-size frame
        decoder = self.model.pixel_decoder
        if clicks.points is not None and clicks.labels is not None:
            sparse = decoder.point_prompts(clicks.points * scale, clicks.labels)
        elif clicks.boxes is not None:
            sparse = decoder.box_prompts(clicks.boxes * scale)
        else:
            raise ValueError("a click batch holds points with labels, or boxes")
        return decoder(features.grounding.take(clicks.image), sparse)

    def _mask_terms(self, masks: MaskLogits, part_maps: Tensor, value: Tensor) -> dict[str, Tensor]:
        stride = part_maps.shape[1] // masks.logits.shape[1]
        part_maps = part_maps[:, stride // 2 :: stride, stride // 2 :: stride]
        inside = part_maps != PADDING
        value = value[:, None, None]
        targets = torch.where(value == 1, inside & (part_maps > 0), part_maps == value).float()
        valid = inside.float()
        iou = mask_iou(masks.logits, targets, valid)
        return {
            "mask": mask_loss(masks.logits, targets, valid, self.weights.mask_term),
            "dice": dice_loss(masks.logits, targets, valid),
            "iou_error": ((masks.iou - iou) ** 2).mean(),
            "iou": iou.mean() if len(iou) else masks.iou.sum(),
        }
