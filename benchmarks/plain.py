"""The plain path, for comparison only: what one writes first, with the libraries' own means.

Encoders image by image, nothing kept; each question by itself through transformers' `generate` with hidden states; one
mask-decoder call per mask. It gives what `CoSegmenter` gives, and a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calico.inference.answered_masks import name_probability, restored_masks
from calico.inference.encodings import join_features
from calico.inference.reconcile import AnsweredMasks, reconcile
from calico.language.answers import parse_answer
from calico.language.constraint import AnswerConstraint
from calico.language.questions import canonical_question, render_prompt
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel, ImageFeatures, Pixels
from calico.model.cam import CAM_BATCH
from calico.model.config import CalicoConfig
from calico.model.generation import Answer, Prompt, collate_prompts
from calico.model.preprocessing import Preprocessor
from calico.values import CoSegmentation, ImageGroup, SubTask


class PlainPath:
    def __init__(self, model: CalicoModel, config: CalicoConfig, tokenizer: CalicoTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._preprocess = Preprocessor.from_config(config)
        self._longest = config.grounding_encoder.image_size
        self._system = config.system_prompt

    @torch.inference_mode()
    def segment(self, group: ImageGroup, candidates: Sequence[str] | None = None) -> CoSegmentation:
        features = [self.encode(image) for image in group.images]
        answers = {}
        for sub_task in SubTask:
            answer = self.answer(join_features(features), sub_task, len(group), candidates)
            text = self.tokenizer.text(answer.ids)
            parsed = parse_answer(text, sub_task, len(group), finished=answer.finished)
            segs = [i for i, token in enumerate(answer.ids) if token == self.tokenizer.seg_id]
            masks, scores = [np.zeros((0, 0), bool) for _ in segs], [0.0 for _ in segs]
            for mention in parsed.mentions:
                if mention.seg_index < len(segs):
                    seg = segs[mention.seg_index]
                    state = answer.states[seg][None]
                    grounding = features[mention.image].grounding
                    decoded = self.model.segment(grounding, state, torch.zeros(1, dtype=torch.long))
                    size_hw = group.sizes_hw[mention.image]
                    [masks[mention.seg_index]] = restored_masks(decoded.logits[:1], [size_hw], self._longest)
                    probability = name_probability(answer, seg, self.tokenizer)
                    scores[mention.seg_index] = float(decoded.iou[0].clamp(0, 1)) * probability
            answers[sub_task] = AnsweredMasks(text, parsed, masks, scores)
        return reconcile(group.sizes_hw, answers)

    def encode(self, image: np.ndarray) -> ImageFeatures:
        views = (torch.from_numpy(view)[None] for view in self._preprocess(image))
        return self.model.encode(Pixels(*(view.to(self.model.device, self.model.dtype) for view in views)))

    @torch.inference_mode()
    def answer(
        self, features: ImageFeatures, sub_task: SubTask, num_images: int, candidates: Sequence[str] | None
    ) -> Answer:
        question = canonical_question(sub_task, num_images, candidates or ())
        text = render_prompt(question.text, num_images, system=self._system)
        encoded = self.tokenizer.encode_prompt(text, self.model.num_image_tokens)
        prompt = Prompt(encoded.ids, encoded.image_positions, range(num_images))
        batch = collate_prompts([prompt], self.tokenizer.pad_id, self.model.device, left=True)
        limit = 512 + 256 * (num_images - 2)
        constraint = None
        if candidates is not None:
            constraint = AnswerConstraint(self.tokenizer, sub_task, num_images, candidates)

        def allowed(row: int, ids: Tensor) -> list[int]:
            return sorted(constraint.allowed(ids.tolist())) if constraint else []

        cam_batch = [self.model.cam_batch(features, batch.slots)]  # for the prefill alone

        def before_decoder(decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return (args, {**kwargs, CAM_BATCH: cam_batch.pop()}) if cam_batch else None

        with ExitStack() as stack:
            hook = self.model.llm.get_decoder().register_forward_pre_hook(before_decoder, with_kwargs=True)
            stack.callback(hook.remove)
            generated = self.model.llm.generate(
                inputs_embeds=self.model.embed(features, batch),
                attention_mask=batch.attention_mask,
                max_new_tokens=limit,
                do_sample=False,
                num_beams=1,
                eos_token_id=self.tokenizer.eos_id,
                pad_token_id=self.tokenizer.pad_id,
                return_dict_in_generate=True,
                output_hidden_states=True,
                output_scores=True,
                prefix_allowed_tokens_fn=allowed if constraint else None,
            )
        ids = generated.sequences[0].tolist()
        finished = bool(ids) and ids[-1] == self.tokenizer.eos_id
        ids = ids[:-1] if finished else ids
        states = [step[-1][0, -1] for step in generated.hidden_states[: len(ids)]]
        scores = [float(s[0].float().log_softmax(-1)[i]) for s, i in zip(generated.scores, ids, strict=False)]
        empty = features.image_tokens.new_zeros(0, features.image_tokens.shape[2])
        return Answer(ids, scores, torch.stack(states) if states else empty, finished)
