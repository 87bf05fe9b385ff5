"""Correspondence Adaptation Modules (paper, section 4.3) and how they enter a stock Llama.

A CAM stands before a decoder layer and adds to the hidden states at the image positions what the Q-Former finds in
X'_global for queries shifted by the instruction. It enters by forward pre-hooks, so the language model's own weights
and code stay as they are: the decoder is given a `CamBatch` as one more argument, hands it down, and the hook on each
layer takes it out. Being an argument it belongs to one call, and it is there again when a checkpointed layer is run
anew for its gradients. Who leaves it out, as cached steps do, runs the plain language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlamaModel

CAM_BATCH = "cam_batch"  # name of the decoder's argument


class CorrespondenceAdaptation(nn.Module):
    """Two linears, both started at zero; the queries and the Q-Former are shared."""

    def __init__(self, llm_size: int, query_size: int) -> None:
        super().__init__()
        self.extraction = nn.Linear(llm_size, query_size)
        self.reintegration = nn.Linear(query_size, llm_size)
        for linear in (self.extraction, self.reintegration):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


@dataclass(frozen=True)
class ImageSlots:
    """Where the images of a batch of prompts stand; M (row, image) pairs in all.

    row: M, the prompt's row. image: M, index into the encoded images. position: M x Q, the image's token positions.
    instruction: R, the position of each row's last instruction token (the last prompt token before the answer).
    """

    row: Tensor
    image: Tensor
    position: Tensor
    instruction: Tensor


class CamBatch(NamedTuple):
    """What the CAMs of one forward act on. refined_tokens: X'_global of all encoded images, I x T x D_g.

    cams: by the decoder layer that each stands before. queries: q_cam, num_queries x D_q, shared by all CAMs.
    qformer: (N x Q x D_q, N x T x D_g) -> N x Q x D_q, shared too.
    """

    slots: ImageSlots
    refined_tokens: Tensor
    cams: Mapping[int, CorrespondenceAdaptation]
    queries: Tensor
    qformer: Callable[[Tensor, Tensor], Tensor]

    def changed(self, hidden: Tensor, cam: CorrespondenceAdaptation) -> Tensor:
        """hidden: R x L x D, entering a layer. Returns it with what this CAM adds at the image positions."""
        slots, dtype = self.slots, cam.extraction.weight.dtype
        instruction = hidden[torch.arange(len(hidden), device=hidden.device), slots.instruction]  # R x D
        queries = self.queries + cam.extraction(instruction.to(dtype))[:, None]  # R x Q x D_q
        answers = self.qformer(queries[slots.row], self.refined_tokens[slots.image])  # M x Q x D_q
        change = cam.reintegration(answers.to(dtype)).to(hidden.dtype)  # M x Q x D
        return hidden.index_put((slots.row[:, None], slots.position), change, accumulate=True)


def hook_layers(decoder: LlamaModel) -> None:
    """Once per decoder: from then on it takes a `CamBatch` as the argument `CAM_BATCH`, or none.

    The hooks hold nothing, neither a model nor a call, so models are freed when dropped and threads do not meet.
    """
    for number, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(partial(_before_layer, number), with_kwargs=True)


def _before_layer(number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    batch: CamBatch | None = kwargs.pop(CAM_BATCH, None)
    if batch is None or number not in batch.cams:
        return args, kwargs
    return (batch.changed(args[0], batch.cams[number]), *args[1:]), kwargs
