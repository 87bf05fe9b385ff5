"""Correspondence Adaptation Modules (paper, section 4.3) and how they enter a stock Llama.

A CAM stands before a decoder layer and adds to the hidden states at the image positions what the Q-Former finds in
X'_global for queries shifted by the instruction. It enters by forward pre-hooks, so the language model's own weights
and code stay as they are: one on the decoder hands the batch down as an argument, one on each layer takes it out. Being
an argument it is there again when a checkpointed layer is run anew for its gradients. They act only inside
`CamHooks.context`: in training and in the prefill, never in cached steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel

_BATCH = "cam_batch"  # the argument


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


class CamHooks:
    """Registers CAMs before their layers and carries the batch they act on. One forward at a time per model.

    decoder: hands the arguments it does not know on to its layers. queries: gives q_cam, num_queries x D_q, shared by
    all CAMs; asked at each call, since loading may replace it.
    """

    def __init__(
        self,
        decoder: LlamaModel,
        cam_layers: Sequence[int],
        cams: Sequence[CorrespondenceAdaptation],
        queries: Callable[[], Tensor],
        qformer: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._queries = queries
        self._qformer = qformer
        self._batch: tuple[ImageSlots, Tensor] | None = None
        decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        before = dict(zip(cam_layers, cams, strict=True))
        for number, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(self._before_layer(before.get(number)), with_kwargs=True)

    @contextmanager
    def context(self, slots: ImageSlots, refined_tokens: Tensor) -> Iterator[None]:
        """refined_tokens: X'_global of all encoded images, I x T x D_g."""
        self._batch = (slots, refined_tokens)
        try:
            yield
        finally:
            self._batch = None

    def _before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return None if self._batch is None else (args, {**kwargs, _BATCH: self._batch})

    def _before_layer(self, cam: CorrespondenceAdaptation | None) -> Callable[..., Any]:
        def before_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if _BATCH not in kwargs:
                return None
            slots, refined = kwargs.pop(_BATCH)
            if cam is None:
                return args, kwargs
            hidden = args[0]  # R x L x D
            instruction = hidden[torch.arange(len(hidden), device=hidden.device), slots.instruction]  # R x D
            queries = self._queries() + cam.extraction(instruction)[:, None]  # R x Q x D_q
            found = self._qformer(queries[slots.row], refined[slots.image])  # M x Q x D_q
            change = cam.reintegration(found).to(hidden.dtype)  # M x Q x D
            hidden = hidden.index_put((slots.row[:, None], slots.position), change, accumulate=True)
            return (hidden, *args[1:]), kwargs

        return before_layer
