"""The [SEG] path: the state that predicts a [SEG] is one sparse prompt for SAM's mask decoder (paper, section 4.4)."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

from calico.model.encoders import GroundingFeatures


def seg_state_positions(seg_positions: Tensor) -> Tensor:
    """Where the state of a [SEG] is read: one position before the token itself, the state that predicts it."""
    return seg_positions - 1


class SegmentationProjection(nn.Sequential):
    """Hidden state -> 256-d prompt, as LISA's and GLaMM's `text_hidden_fcs`."""

    def __init__(self, llm_size: int, prompt_size: int) -> None:
        super().__init__(nn.Linear(llm_size, llm_size), nn.ReLU(inplace=True), nn.Linear(llm_size, prompt_size))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


class MaskLogits(NamedTuple):
    """logits: K x S x S on the padded square frame of the grounding branch. iou: K, the decoder's own estimate."""

    logits: Tensor
    iou: Tensor


FineMaps = tuple[Tensor, Tensor]
_FINE: ContextVar[FineMaps | None] = ContextVar("fine maps of the call", default=None)  # each thread has its own


class PixelDecoder(nn.Module):
    """SAM's prompt encoder and mask decoder; any prompts of any images in one call, one row per prompt.

    All of it is computed in the decoder's own precision, under autocast too: masks and coordinates suffer first from
    less.
    """

    def __init__(
        self, prompt_encoder: SamPromptEncoder, mask_decoder: SamMaskDecoder, mask_prompt: bool = False
    ) -> None:
        """mask_prompt: whether each click after the first also sees the mask before it."""
        super().__init__()
        self.mask_prompt = mask_prompt
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        mask_decoder.upscale_conv1.register_forward_hook(partial(_add_fine, 0))
        mask_decoder.upscale_conv2.register_forward_hook(partial(_add_fine, 1))

    @property
    def dtype(self) -> torch.dtype:
        return self.prompt_encoder.no_mask_embed.weight.dtype

    def forward(self, features: GroundingFeatures, sparse: Tensor, mask_input: Tensor | None = None) -> MaskLogits:
        """features: of K images (repeat an image for each of its prompts). sparse: K x P x C prompt tokens.

        mask_input: K x 1 x S x S logits of an earlier mask on the same grid, or None for the no-mask embedding.
        """
        with torch.autocast(sparse.device.type, enabled=False):
            return self._decoded(features, sparse, mask_input)

    def _decoded(self, features: GroundingFeatures, sparse: Tensor, mask_input: Tensor | None) -> MaskLogits:
        embedding = features.embedding.to(self.dtype)  # whatever the encoders are served in
        if mask_input is None:
            dense = self.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        else:
            dense = self.prompt_encoder.mask_embed(mask_input.to(self.dtype))
        before = _FINE.set(features.fine)
        try:
            masks, iou = self.mask_decoder(
                image_embeddings=embedding,
                image_positional_embeddings=self.position_codes(embedding),
                sparse_prompt_embeddings=sparse.to(self.dtype)[:, None],
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
        finally:
            _FINE.reset(before)
        return MaskLogits(masks[:, 0, 0], iou[:, 0, 0])

    def seen(self, previous: MaskLogits | None) -> Tensor | None:
        """What the next click is shown of the mask before it: K x 1 x S x S logits, or None."""
        return None if previous is None or not self.mask_prompt else previous.logits[:, None]

    def position_codes(self, like: Tensor) -> Tensor:
        """1 x C x h x w codes of the cell centres of a grounding embedding N x C x h x w."""
        height, width = like.shape[2:]
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # height x width x 2, (x, y)
        return self.prompt_encoder.shared_embedding(grid[None, :, :, :]).permute(0, 3, 1, 2)

    def prompts(
        self, points: Tensor | None = None, labels: Tensor | None = None, boxes_xyxy: Tensor | None = None
    ) -> Tensor:
        """points: K x P x 2 (x, y) in pixels of the full-size square frame; labels: K x P, 1 in, 0 out, -10 padding;
        boxes_xyxy: K x 4 in the same pixels. Returns the prompt tokens, K x T x C.

        T is P + 1 without a box, since SAM adds a padding point then; 2 for a box; P + 2 for both.
        """
        first = points if points is not None else boxes_xyxy
        if first is None:
            raise ValueError("a prompt is points, a box, or both")
        with torch.autocast(first.device.type, enabled=False):
            sparse, _ = self.prompt_encoder(
                None if points is None else points.to(self.dtype)[:, None],
                None if labels is None else labels[:, None],
                None if boxes_xyxy is None else boxes_xyxy.to(self.dtype)[:, None],
                None,
            )
        return sparse[:, 0]


def _add_fine(level: int, upscaling: nn.Module, args: tuple[Tensor, ...], upscaled: Tensor) -> Tensor:
    """The hook on the decoder's upscaling: a hook holds no model, and a call's maps are on no module."""
    fine = _FINE.get()
    return upscaled if fine is None else upscaled + fine[level].to(upscaled.dtype)
