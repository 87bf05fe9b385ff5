"""Trained rows of tokens that no base knows: a plain Llama has no [SEG], and frozen rows would never mean anything.

Wrapped around the embedding and the output by hooks, so that the other rows stay frozen in their own dtype, and the
checkpoint's names stay as they are. `fold` writes them into both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from calico.errors import CheckpointError


class TokenRows(nn.Module):
    """input, output: N x D, float32, for the tokens `ids`; output is None where the embedding serves as the output."""

    place: Tensor

    def __init__(self, llm: LlamaForCausalLM, ids: Sequence[int]) -> None:
        """They start as the model's own rows. Raises `CheckpointError` for ids that it has no rows for."""
        super().__init__()
        embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
        if len(set(ids)) < len(ids) or not all(0 <= i < len(embedding) for i in ids):
            raise CheckpointError(f"new tokens {list(ids)}: expected different rows of {len(embedding)}")
        row_ids = torch.tensor(list(ids), device=embedding.device)
        place = torch.full((len(embedding),), -1, device=embedding.device)
        place[row_ids] = torch.arange(len(ids), device=embedding.device)
        self.ids = tuple(ids)
        self.register_buffer("place", place, persistent=False)
        self.input = nn.Parameter(embedding.detach()[row_ids].float().clone())
        self.output = nn.Parameter(head.detach()[row_ids].float().clone()) if head is not embedding else None
        self._handles = (
            llm.get_input_embeddings().register_forward_hook(partial(_embedded, self)),
            llm.get_output_embeddings().register_forward_hook(partial(_scored, self)),
        )

    def fold(self, llm: LlamaForCausalLM) -> None:
        """Writes the rows into the model, which then does by itself what it did with them."""
        for hook in self._handles:
            hook.remove()
        row_ids = torch.tensor(self.ids, device=self.place.device)
        outputs = [] if self.output is None else [(llm.get_output_embeddings(), self.output)]
        for module, rows in ((llm.get_input_embeddings(), self.input), *outputs):
            module.weight.data[row_ids] = rows.detach().to(module.weight.dtype)


def _embedded(rows: TokenRows, module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
    place = rows.place[args[0]]
    new_rows = rows.input[place.clamp(min=0)].to(embedded.dtype)
    return torch.where((place >= 0)[..., None], new_rows, embedded)


def _scored(rows: TokenRows, module: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
    weight = rows.input if rows.output is None else rows.output
    new_logits = F.linear(args[0].to(weight.dtype), weight).to(logits.dtype)
    return logits.index_copy(-1, torch.tensor(rows.ids, device=logits.device), new_logits)
