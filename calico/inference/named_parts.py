"""A part asked for by its name: the answer is written for the model, and what it makes of it is read.

Where `<p> the wheel </p> [SEG] (IMAGE1)` is forced instead of decoded, the state that predicts the [SEG] is the prompt
of the mask, as ever; how likely the model finds the [SEG] and the image's identifier there says whether the image shows
the part (`segment_named`). One pass over the rows, nothing is decoded step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from calico.language import PHRASE_CLOSE, PHRASE_OPEN, SEG, image_tag, spoken_name
from calico.language.tokenizer import CalicoTokenizer
from calico.language.wordings import LEADS, OBJECTS_LEADS
from calico.model.calico import CalicoModel, ImageFeatures
from calico.model.generation import Prompt, collate_prompts
from calico.values import SubTask


class Forced(NamedTuple):
    """One row: the image asked about (of the window), the sub-task it is a part of, and the forced answer's text."""

    image: int
    sub_task: SubTask
    text: str


class Read(NamedTuple):
    """states: K x D, of the last [SEG] of each row. likelihood: K, of its [SEG] and image identifier together."""

    states: torch.Tensor
    likelihood: list[float]


def forced_answer(name: str, image: int, shown: Sequence[int], objects: Mapping[int, str]) -> Forced:
    """The answer up to the identifier of `image`, in the canonical wording.

    shown: images that are known to show the part; those before `image` stand before it, as in any answer. objects: the
    object's name of each image of the window.
    """
    names: dict[str, list[int]] = {}
    for i, object_name in sorted(objects.items()):
        names.setdefault(object_name, []).append(i)
    listed = [f"{PHRASE_OPEN} the {spoken_name(n)} {PHRASE_CLOSE} {_segs(where)}" for n, where in names.items()]
    earlier = [i for i in sorted(set(shown)) if i < image]
    is_common = bool(set(shown) - {image})
    sub_task = SubTask.COMMON_PARTS if is_common else SubTask.UNIQUE_PARTS
    phrase = f"{PHRASE_OPEN} the {spoken_name(name)} {PHRASE_CLOSE} {_segs([*earlier, image])}"
    text = f"{OBJECTS_LEADS[0][0]} {', '.join(listed)}. {LEADS[sub_task][0][0]} {phrase}"
    return Forced(image, sub_task, text)


def _segs(images: Sequence[int]) -> str:
    return " ".join(f"{SEG} {image_tag(i)}" for i in images)


def read_forced(
    model: CalicoModel,
    tokenizer: CalicoTokenizer,
    features: ImageFeatures,
    prompts: Sequence[Prompt],
    rows: Sequence[Forced],
) -> Read:
    """One pass. prompts: of each row's question. The rows' last two tokens are [SEG] and the image's identifier."""
    answers = [tokenizer.ids(row.text) for row in rows]
    whole = [prompt._replace(ids=[*prompt.ids, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    batch = collate_prompts(whole, tokenizer.pad_id, model.device, left=False)
    instruction = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=model.device)
    batch = replace(batch, slots=replace(batch.slots, instruction=instruction))
    hidden = model.hidden_states(features, batch)
    ends = torch.tensor([len(prompt.ids) for prompt in whole], device=hidden.device)
    index = torch.arange(len(rows), device=hidden.device)
    states = hidden[index, ends - 3]  # predicts the [SEG]
    head = model.llm.get_output_embeddings()
    tokens = batch.token_ids[index, ends - 1]
    before = head(states).float().log_softmax(-1)[index, tokenizer.seg_id]
    after = head(hidden[index, ends - 2]).float().log_softmax(-1)[index, tokens]
    return Read(states, (before + after).exp().tolist())
