"""A group of images in, a co-segmentation out: three questions over one encoding, safe under threads."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calico.encodings import EncodingCache, join_features, split_features
from calico.errors import InputError
from calico.fingerprint import EMBEDDED, checkpoint_version, is_adapter
from calico.language.answers import parse_answer
from calico.language.constraint import AnswerConstraint
from calico.language.questions import canonical_question, render_prompt
from calico.language.tokenizer import CalicoTokenizer
from calico.model.adapter import load_adapted
from calico.model.calico import CalicoModel, ImageFeatures, Pixels
from calico.model.checkpoint import load_checkpoint
from calico.model.config import CalicoConfig
from calico.model.generation import Answer, Prompt, generate
from calico.preprocessing import Preprocessor, fitted_points, fitted_size_hw
from calico.reconcile import AnsweredMasks, reconcile
from calico.values import CoSegmentation, ImageGroup, SubTask, image_digest

ENCODED_AT_ONCE = 8
CACHE_BYTES = 256 * 2**20


class PromptedMask(NamedTuple):
    """mask: HxW bool at the image's own size. score: the mask decoder's estimate of its IoU, 0 to 1."""

    mask: np.ndarray
    score: float


class CoSegmenter:
    """Holds one model; its methods may be called from any thread, one runs at a time.

    version: as predictions carry it; preset and a hash of the weights, or a registry's id.
    """

    def __init__(
        self,
        model: CalicoModel,
        config: CalicoConfig,
        tokenizer: CalicoTokenizer,
        *,
        version: str = "unsaved",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.model = model.eval()
        self.config = config
        self.tokenizer = tokenizer
        self.version = version
        self._preprocess = Preprocessor.from_config(config)
        self._lock = threading.Lock()
        self._encodings = EncodingCache(cache_bytes)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path | None = None, device: str | None = None, *, base: str | Path | None = None
    ) -> Self:
        """path: a checkpoint's folder, or that of an adapter; None: the embedded default. device None: a GPU where
        there is one. base: the checkpoint that an adapter was made on; None: see `calico.model.adapter.find_base`.

        Raises `CheckpointError`.
        """
        folder = EMBEDDED if path is None else Path(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if is_adapter(folder):
            model, config, tokenizer = load_adapted(folder, None if base is None else Path(base), device)
        else:
            model, config, tokenizer = load_checkpoint(folder, device)
        return cls(model, config, tokenizer, version=checkpoint_version(folder))

    def segment(self, group: ImageGroup, *, candidates: Sequence[str] | None = None) -> CoSegmentation:
        """All three sub-tasks, reconciled by the rule of `calico.reconcile`.

        candidates: a fixed vocabulary of object and part names; decoding is then constrained to it. A region's score is
        the probability of its name times the mask decoder's IoU estimate: an estimate of its true IoU, wrong names 0.
        """
        return reconcile(group.sizes_hw, self.answer(group, candidates=candidates))

    def answer(
        self,
        group: ImageGroup,
        sub_tasks: Sequence[SubTask] = tuple(SubTask),
        *,
        candidates: Sequence[str] | None = None,
        constrained: bool | None = None,
    ) -> Mapping[SubTask, AnsweredMasks]:
        """Each question's own answer and masks. constrained: hold the grammar; None: where candidates are given."""
        names = None if candidates is None else tuple(candidates)
        hold = names is not None if constrained is None else constrained
        with self._lock, torch.inference_mode():
            features = self._encode(group)
            prompts = [self._prompt(sub_task, len(group), names or ()) for sub_task in sub_tasks]
            limit = 512 + 256 * (len(group) - 2)
            answers = generate(
                self.model,
                features,
                prompts,
                eos_id=self.tokenizer.eos_id,
                pad_id=self.tokenizer.pad_id,
                max_new_tokens=[limit] * len(prompts),
                constraints=[
                    AnswerConstraint(self.tokenizer, sub_task, len(group), names).allowed if hold else None
                    for sub_task in sub_tasks
                ],
            )
            return self._answered(group, features, dict(zip(sub_tasks, answers, strict=True)))

    def segment_prompts(
        self,
        image: np.ndarray,
        points_xy: Sequence[tuple[float, float]] = (),
        labels: Sequence[bool] = (),
        box_xyxy: tuple[float, float, float, float] | None = None,
    ) -> PromptedMask:
        """A mask from clicks or a box on one image (HxWx3 uint8), in its own pixels. labels: True in, False out.

        A click means the part under it, a box what it is tight around. Where both are given they are used together.
        """
        if len(points_xy) != len(labels) or (not len(points_xy) and box_xyxy is None):
            raise InputError(
                f"expected one label per point, or a box; got {len(points_xy)} points, {len(labels)} labels, "
                f"box {box_xyxy}"
            )
        size_hw = (image.shape[0], image.shape[1])
        longest = self.config.grounding_encoder.image_size
        decoder, device = self.model.pixel_decoder, self.model.device
        with self._lock, torch.inference_mode():
            features = self._encode_images([image], [image_digest(image)])
            box = points = None
            if box_xyxy is not None:
                corners = fitted_points(np.array(box_xyxy, np.float32).reshape(2, 2), size_hw, longest)
                box = torch.from_numpy(corners).reshape(1, 1, 4).to(device)
            if len(points_xy):
                points = torch.from_numpy(fitted_points(np.array(points_xy, np.float32), size_hw, longest))[
                    None, None
                ].to(device)
            marks = None if points is None else torch.tensor([[[int(label) for label in labels]]], device=device)
            masks = None
            for seen in range(1 if decoder.mask_prompt and len(points_xy) else len(points_xy), len(points_xy) + 1):
                if points is None or marks is None:
                    sparse, _ = decoder.prompt_encoder(None, None, box, None)
                else:
                    sparse, _ = decoder.prompt_encoder(points[:, :, :seen], marks[:, :, :seen], box, None)
                masks = decoder(features.grounding, sparse[:, 0], decoder.seen(masks))
            assert masks is not None
            mask = restored_mask(masks.logits[0], size_hw, longest)
            return PromptedMask(mask, float(masks.iou[0].clamp(0, 1)))

    def _prompt(self, sub_task: SubTask, num_images: int, candidates: Sequence[str]) -> Prompt:
        question = canonical_question(sub_task, num_images, candidates)
        encoded = self.tokenizer.encode_prompt(render_prompt(question.text, num_images), self.config.num_queries)
        return Prompt(encoded.ids, encoded.image_positions, range(num_images))

    def _answered(
        self, group: ImageGroup, features: ImageFeatures, answers: Mapping[SubTask, Answer]
    ) -> Mapping[SubTask, AnsweredMasks]:
        """Masks of all answers in one decoder call, each [SEG] on the image that its identifier names."""
        texts = {sub_task: self.tokenizer.text(answer.ids) for sub_task, answer in answers.items()}
        parsed = {
            sub_task: parse_answer(texts[sub_task], sub_task, len(group), finished=answer.finished)
            for sub_task, answer in answers.items()
        }
        image_of = {
            (sub_task, mention.seg_index): mention.image
            for sub_task in answers
            for mention in parsed[sub_task].mentions
        }
        segs = {
            sub_task: [i for i, token in enumerate(answer.ids) if token == self.tokenizer.seg_id]
            for sub_task, answer in answers.items()
        }
        wanted = [key for key in image_of if key[1] < len(segs[key[0]])]
        masks: dict[tuple[SubTask, int], tuple[np.ndarray, float]] = {}
        if wanted:
            states = torch.stack([answers[task].states[segs[task][number]] for task, number in wanted])
            images = torch.tensor([image_of[key] for key in wanted], device=states.device)
            found = self.model.segment(features.grounding, states, images)
            longest = self.config.grounding_encoder.image_size
            for key, logits, iou in zip(wanted, found.logits, found.iou.clamp(0, 1).tolist(), strict=True):
                probability = self._name_probability(answers[key[0]], segs[key[0]][key[1]])
                masks[key] = restored_mask(logits, group.sizes_hw[image_of[key]], longest), iou * probability
        nothing = np.zeros((0, 0), bool)
        return {
            sub_task: AnsweredMasks(
                texts[sub_task],
                parsed[sub_task],
                [masks.get((sub_task, n), (nothing, 0.0))[0] for n in range(len(segs[sub_task]))],
                [masks.get((sub_task, n), (nothing, 0.0))[1] for n in range(len(segs[sub_task]))],
            )
            for sub_task in answers
        }

    def _name_probability(self, answer: Answer, seg: int) -> float:
        """Of the phrase that this [SEG] belongs to, of the [SEG] and of its image identifier."""
        opened = max((i for i in range(seg) if answer.ids[i] == self.tokenizer.phrase_open_id), default=seg)
        closed = next((i for i in range(opened, seg) if answer.ids[i] == self.tokenizer.phrase_close_id), seg)
        total = sum(answer.log_probs[opened : closed + 1]) + sum(answer.log_probs[max(seg, closed + 1) : seg + 2])
        return float(np.exp(total))

    def _encode(self, group: ImageGroup) -> ImageFeatures:
        return self._encode_images(group.images, group.digests)

    def _encode_images(self, images: Sequence[np.ndarray], digests: Sequence[str]) -> ImageFeatures:
        ready = {digest: features for digest in set(digests) if (features := self._encodings.get(digest)) is not None}
        missing = {d: image for d, image in zip(digests, images, strict=True) if d not in ready}
        for start in range(0, len(missing), ENCODED_AT_ONCE):
            some = dict(list(missing.items())[start : start + ENCODED_AT_ONCE])
            views = zip(*(self._preprocess(image) for image in some.values()), strict=True)
            pixels = Pixels(*(torch.from_numpy(np.stack(view)).to(self.model.device) for view in views))
            features = self.model.encode(pixels)
            for digest, own in zip(some, split_features(features), strict=True):
                ready[digest] = own
                self._encodings.put(digest, own)
        return join_features([ready[digest] for digest in digests])


def restored_mask(logits: Tensor, size_hw: tuple[int, int], longest: int) -> np.ndarray:
    """logits: S x S on the padded frame -> HxW bool at the image's own size, as SAM undoes padding and resizing."""
    height, width = fitted_size_hw(size_hw, longest)
    frame = F.interpolate(logits[None, None].float(), (longest, longest), mode="bilinear", align_corners=False)
    own = F.interpolate(frame[..., :height, :width], size_hw, mode="bilinear", align_corners=False)
    return (own[0, 0] > 0).cpu().numpy()
