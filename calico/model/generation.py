"""Greedy decoding: prefill with CAM, cached steps without; keeps just the state that predicts each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from calico.model.calico import CalicoModel, ImageFeatures, PromptBatch
from calico.model.cam import ImageSlots

AllowedTokens = Callable[[Sequence[int]], Set[int] | None]


class Prompt(NamedTuple):
    """One prompt over a group.

    ids: its tokens. image_positions: for each image of the group the positions of its tokens. images: for each the
    index of the encoded image.
    """

    ids: Sequence[int]
    image_positions: Sequence[Sequence[int]]
    images: Sequence[int]


class Answer(NamedTuple):
    """ids: generated tokens, without the end token. log_probs: one each. states: T x D, the state that predicted each.

    finished: False where the token limit cut it off.
    """

    ids: list[int]
    log_probs: list[float]
    states: Tensor
    finished: bool


def collate_prompts(prompts: Sequence[Prompt], pad_id: int, device: torch.device, *, left: bool) -> PromptBatch:
    """Pads the rows to one length and gathers where the images stand; positions are shifted by left padding."""
    longest = max(len(prompt.ids) for prompt in prompts)
    token_ids = torch.full((len(prompts), longest), pad_id)
    attention_mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    rows, images, positions, instruction = [], [], [], []
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt.ids) if left else 0
        token_ids[row, start : start + len(prompt.ids)] = torch.tensor(prompt.ids)
        attention_mask[row, start : start + len(prompt.ids)] = 1
        instruction.append(start + len(prompt.ids) - 1)
        for image, where in zip(prompt.images, prompt.image_positions, strict=True):
            rows.append(row)
            images.append(image)
            positions.append([start + position for position in where])
    slots = ImageSlots(*(torch.tensor(values, device=device) for values in (rows, images, positions, instruction)))
    return PromptBatch(token_ids.to(device), attention_mask.to(device), slots)


@torch.no_grad()
def generate(
    model: CalicoModel,
    features: ImageFeatures,
    prompts: Sequence[Prompt],
    *,
    eos_id: int,
    pad_id: int,
    max_new_tokens: Sequence[int],
    constraints: Sequence[AllowedTokens | None] | None = None,
) -> list[Answer]:
    """The most likely next token, again and again, for all prompts at once.

    constraints: per prompt, from the tokens so far to those allowed next (None allows all).
    """
    batch = collate_prompts(prompts, pad_id, model.device, left=True)
    decoder, head = model.llm.get_decoder(), model.llm.get_output_embeddings()
    cache = DynamicCache(config=model.llm.config)
    mask = batch.attention_mask
    with model.cam_hooks.context(batch.slots, features.refined_tokens):
        hidden = decoder(
            inputs_embeds=model.embed(features, batch),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    num_rows = len(prompts)
    ids: list[list[int]] = [[] for _ in range(num_rows)]
    log_probs: list[list[float]] = [[] for _ in range(num_rows)]
    states: list[list[Tensor]] = [[] for _ in range(num_rows)]
    finished = [False] * num_rows
    while True:
        logits = head(hidden).float()  # R x V
        for row in range(num_rows):
            if constraints and (constraint := constraints[row]) and not finished[row]:
                allowed = constraint(ids[row])
                if allowed is not None:
                    keep = torch.full_like(logits[row], -torch.inf)
                    keep[list(allowed)] = 0
                    logits[row] = logits[row] + keep
        best = logits.log_softmax(-1).max(-1)
        tokens, values = best.indices.tolist(), best.values.tolist()
        for row in range(num_rows):
            if finished[row] or len(ids[row]) >= max_new_tokens[row]:
                continue
            if tokens[row] == eos_id:
                finished[row] = True
            else:
                ids[row].append(tokens[row])
                log_probs[row].append(values[row])
                states[row].append(hidden[row])
        running = [not finished[row] and len(ids[row]) < max_new_tokens[row] for row in range(num_rows)]
        if not any(running):
            break
        next_ids = torch.where(torch.tensor(running, device=best.indices.device), best.indices, pad_id)
        mask = torch.cat([mask, mask.new_ones(num_rows, 1)], 1)
        hidden = decoder(
            input_ids=next_ids[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    empty = hidden.new_zeros(0, hidden.shape[1])
    return [
        Answer(ids[row], log_probs[row], torch.stack(states[row]) if states[row] else empty, finished[row])
        for row in range(num_rows)
    ]
