"""Greedy decoding: prefill with CAM, cached steps without; keeps just the state that predicts each token."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor

from calico.model.calico import CalicoModel, ImageFeatures, PromptBatch
from calico.model.cam import CAM_BATCH, ImageSlots
from calico.model.kv_cache import RoomyCache
from calico.model.out_of_memory import is_out_of_memory

logger = logging.getLogger(__name__)

AllowedTokens = Callable[[Sequence[int]], Set[int] | None]
KEEP_ABOVE = 0.75  # share of rows still being written below which the others leave the batch: leaving is a copy


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


class LanguageSteps:
    """The language model's prefill and single steps, the latter compiled where that is asked for and works.

    A step that cannot be compiled (no compiler, an unknown device) is logged once, and all go on uncompiled.
    """

    def __init__(self, model: CalicoModel, *, compiled: bool = False, backend: str = "inductor") -> None:
        """backend: of torch.compile."""
        self.model = model
        self.compile_failure = ""
        self._decoder = model.llm.get_decoder()
        parameters = inspect.signature(type(self._decoder).forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"  # renamed in transformers 5.24
        self._compiled: Callable[..., Tensor] | None = None
        if compiled:
            self._compiled = torch.compile(self._plain_step, dynamic=True, backend=backend)

    def prefill(self, features: ImageFeatures, batch: PromptBatch, cache: RoomyCache) -> Tensor:
        """R x D: the state behind each prompt. CAM acts here, and only here."""
        tokens = batch.attention_mask.bool()
        longest = tokens.shape[1]
        causal = torch.ones(longest, longest, dtype=torch.bool, device=tokens.device).tril()
        itself = torch.eye(longest, dtype=torch.bool, device=tokens.device)  # else padding would look at nothing
        hidden = self._decoder(
            inputs_embeds=self.model.embed(features, batch),
            attention_mask=self._as_bias((causal & tokens[:, None, :] | itself)[:, None]),
            position_ids=(batch.attention_mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            **{self._cache_argument: cache, CAM_BATCH: self.model.cam_batch(features, batch.slots)},
        ).last_hidden_state[:, -1]
        cache.open()
        return hidden

    def step(self, ids: Tensor, positions: Tensor, cache: RoomyCache) -> Tensor:
        """ids, positions: R, each row's newest token and its place. Returns R x D."""
        mask = self._as_bias(cache.advance())
        if self._compiled is not None:
            try:
                return self._compiled(ids, positions, mask, cache)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._compiled = None
                self.compile_failure = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                logger.warning("steps are not compiled: %s", self.compile_failure)
        return self._plain_step(ids, positions, mask, cache)

    def _as_bias(self, mask: Tensor) -> Tensor:
        """A bool mask, True where a token is seen, as what is added to the scores: every implementation of attention
        adds it, while a bool mask means that to some (sdpa) and is itself added by others (eager)."""
        dtype = self.model.llm.get_input_embeddings().weight.dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)

    def _plain_step(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: RoomyCache) -> Tensor:
        return self._decoder(
            input_ids=ids[:, None],
            attention_mask=mask,
            position_ids=positions[:, None],
            use_cache=True,
            **{self._cache_argument: cache},
        ).last_hidden_state[:, -1]


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
    steps: LanguageSteps | None = None,
) -> list[Answer]:
    """The most likely next token, again and again, for all prompts at once; rows that ended leave the batch.

    constraints: per prompt, from the tokens so far to those allowed next (None allows all).
    steps: how the language model runs, plain where None.
    """
    steps = steps or LanguageSteps(model)
    batch = collate_prompts(prompts, pad_id, model.device, left=True)
    cache = RoomyCache(model.llm.config.num_hidden_layers, batch.attention_mask)
    hidden = steps.prefill(features, batch, cache)
    positions = batch.attention_mask.sum(1) - 1  # R, of each row's newest token
    answers = [_Written() for _ in prompts]
    alive = list(range(len(prompts)))  # the prompt of each row
    while True:
        logits = model.token_logits(hidden).float()  # R x V
        if constraints:
            _forbid(logits, [_allowed(constraints[prompt], answers[prompt]) for prompt in alive])
        best = logits.log_softmax(-1).max(-1)
        tokens, values = best.indices.tolist(), best.values.tolist()
        for row, prompt in enumerate(alive):
            answer = answers[prompt]
            if answer.finished or len(answer.ids) >= max_new_tokens[prompt]:
                continue
            if tokens[row] == eos_id:
                answer.finished = True
            else:
                answer.add(tokens[row], values[row], hidden[row])
        running = [
            row
            for row, prompt in enumerate(alive)
            if not answers[prompt].finished and len(answers[prompt].ids) < max_new_tokens[prompt]
        ]
        if not running:
            return [answer.done(hidden) for answer in answers]
        ids = best.indices
        if len(running) <= KEEP_ABOVE * len(alive):
            rows = torch.tensor(running, device=ids.device)
            cache.keep_rows(rows)
            ids, positions = ids[rows], positions[rows]
            alive = [alive[row] for row in running]
        positions = positions + 1
        hidden = steps.step(ids, positions, cache)


class _Written:
    """An answer so far."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.states: list[Tensor] = []
        self.finished = False

    def add(self, token: int, log_prob: float, state: Tensor) -> None:
        self.ids.append(token)
        self.log_probs.append(log_prob)
        self.states.append(state)

    def done(self, like: Tensor) -> Answer:
        states = torch.stack(self.states) if self.states else like.new_zeros(0, like.shape[1])
        return Answer(self.ids, self.log_probs, states, self.finished)


def _allowed(constraint: AllowedTokens | None, answer: _Written) -> Set[int] | None:
    return None if constraint is None or answer.finished else constraint(answer.ids)


def _forbid(logits: Tensor, allowed: Sequence[Set[int] | None]) -> None:
    """In place: all but the allowed ids of each row become impossible; a row of None stays."""
    held = [(row, sorted(ids)) for row, ids in enumerate(allowed) if ids is not None]
    if held:
        rows = torch.tensor([row for row, ids in held for _ in ids], device=logits.device)
        columns = torch.tensor([i for _, ids in held for i in ids], device=logits.device)
        kept = logits[rows, columns]
        logits[torch.tensor([row for row, _ in held], device=logits.device)] = -torch.inf
        logits[rows, columns] = kept
