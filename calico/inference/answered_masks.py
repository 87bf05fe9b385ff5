"""From answers to masks: each [SEG] on the image that its identifier names, all of a batch in few decoder calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calico.inference.reconcile import AnsweredMasks
from calico.language.answers import ParsedAnswer, parse_answer
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.encoders import GroundingFeatures
from calico.model.generation import Answer
from calico.model.out_of_memory import in_halves
from calico.model.preprocessing import fitted_size_hw
from calico.values import SubTask

RESTORED_BYTES = 256 * 2**20  # of masks that are resized together
COPIES = 16  # of an image's embedding that the mask decoder holds for one prompt, roughly


class Asked(NamedTuple):
    """One question about one group.

    group: its index. images: for each image of the group its index among the encoded ones. sizes_hw: of those images.
    """

    group: int
    sub_task: SubTask
    images: Sequence[int]
    sizes_hw: Sequence[tuple[int, int]]


class _Wanted(NamedTuple):
    """The mask of one [SEG]: of answer number `row`, its `number`-th, at `position` of the ids, on an encoded image."""

    row: int
    number: int
    position: int
    image: int
    size_hw: tuple[int, int]


class MaskWriter:
    """Masks of answers, at the images' own sizes."""

    def __init__(self, model: CalicoModel, tokenizer: CalicoTokenizer, longest: int, mask_bytes: int) -> None:
        """longest: side of the grounding branch's frame in pixels. mask_bytes: what one decoder call may take."""
        self._model = model
        self._tokenizer = tokenizer
        self._longest = longest
        self._mask_bytes = mask_bytes

    def __call__(
        self, questions: Sequence[Asked], answers: Sequence[Answer], grounding: GroundingFeatures, notices: list[str]
    ) -> list[AnsweredMasks]:
        """One per question, in order."""
        texts = [self._tokenizer.text(answer.ids) for answer in answers]
        parsed = [
            parse_answer(text, one.sub_task, len(one.images), finished=answer.finished)
            for text, one, answer in zip(texts, questions, answers, strict=True)
        ]
        segs = [[i for i, token in enumerate(a.ids) if token == self._tokenizer.seg_id] for a in answers]
        places = [
            _Wanted(row, number, segs[row][number], one.images[image], one.sizes_hw[image])
            for row, one in enumerate(questions)
            for number, image in _images_named(parsed[row]).items()
            if number < len(segs[row])
        ]
        masks = self._masks(places, answers, grounding, notices)
        nothing = (np.zeros((0, 0), bool), 0.0)
        results = []
        for row in range(len(questions)):
            pairs = [masks.get((row, number), nothing) for number in range(len(segs[row]))]
            results.append(AnsweredMasks(texts[row], parsed[row], [m for m, _ in pairs], [score for _, score in pairs]))
        return results

    def _masks(
        self, places: Sequence[_Wanted], answers: Sequence[Answer], grounding: GroundingFeatures, notices: list[str]
    ) -> dict[tuple[int, int], tuple[np.ndarray, float]]:
        """By (row, number): the mask and its score."""

        def decoded(batch: Sequence[_Wanted]) -> list[tuple[np.ndarray, float]]:
            states = torch.stack([answers[one.row].states[one.position] for one in batch])
            images = torch.tensor([one.image for one in batch], device=states.device)
            masks = self._model.segment(grounding, states, images)
            image_masks = restored_masks(masks.logits, [one.size_hw for one in batch], self._longest)
            return list(zip(image_masks, masks.iou.clamp(0, 1).tolist(), strict=True))

        per_mask = COPIES * 4 * grounding.embedding[0].numel()
        at_once = max(1, self._mask_bytes // per_mask)
        places = sorted(places, key=lambda one: one.image)  # masks of one size side by side
        masks: dict[tuple[int, int], tuple[np.ndarray, float]] = {}
        for start in range(0, len(places), at_once):
            batch = places[start : start + at_once]
            for one, (mask, iou) in zip(batch, in_halves(decoded, batch, "masks", notices), strict=True):
                probability = name_probability(answers[one.row], one.position, self._tokenizer)
                masks[one.row, one.number] = mask, iou * probability
        return masks


def name_probability(answer: Answer, seg: int, tokenizer: CalicoTokenizer) -> float:
    """Of the phrase that the [SEG] at this position of the ids belongs to, of the [SEG] and of its image identifier."""
    opened = max((i for i in range(seg) if answer.ids[i] == tokenizer.phrase_open_id), default=seg)
    closed = next((i for i in range(opened, seg) if answer.ids[i] == tokenizer.phrase_close_id), seg)
    end = seg + 1 + len(tokenizer.image_tag_ids[0])
    total = sum(answer.log_probs[opened : closed + 1]) + sum(answer.log_probs[max(seg, closed + 1) : end])
    return float(np.exp(total))


def _images_named(parsed: ParsedAnswer) -> Mapping[int, int]:
    """[SEG] number -> image of the group."""
    return {mention.seg_index: mention.image for mention in parsed.mentions}


def restored_logits(logits: Tensor, size_hw: tuple[int, int], longest: int) -> np.ndarray:
    """logits: S x S on the padded frame -> HxW float32 at the image's own size, as SAM undoes padding and resizing."""
    restored: np.ndarray = _restored(logits[None], size_hw, longest)[0].cpu().numpy()
    return restored


def restored_masks(logits: Tensor, sizes_hw: Sequence[tuple[int, int]], longest: int) -> list[np.ndarray]:
    """logits: K x S x S -> K masks, each HxW bool at its own size; runs of one size are resized together."""
    restored: list[np.ndarray] = []
    while len(restored) < len(sizes_hw):
        start = len(restored)
        size_hw = sizes_hw[start]
        most = max(1, RESTORED_BYTES // (4 * size_hw[0] * size_hw[1]))
        run = range(start, min(start + most, len(sizes_hw)))
        end = next((k for k in run if sizes_hw[k] != size_hw), run.stop)
        # Copies, so that a kept mask does not hold the others.
        restored += [mask.copy() for mask in (_restored(logits[start:end], size_hw, longest) > 0).cpu().numpy()]
    return restored


def _restored(logits: Tensor, size_hw: tuple[int, int], longest: int) -> Tensor:
    """K x S x S -> K x H x W float32."""
    height, width = fitted_size_hw(size_hw, longest)
    frame = logits[:, None].float()
    if frame.shape[2:] != (longest, longest):
        frame = F.interpolate(frame, (longest, longest), mode="bilinear", align_corners=False)
    return F.interpolate(frame[..., :height, :width], size_hw, mode="bilinear", align_corners=False)[:, 0]
