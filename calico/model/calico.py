"""CALICO: a large vision-language model for part-focused semantic co-segmentation (CVPR 2025, arXiv 2412.19331).

Images are encoded once (`encode`), then any number of prompts read them: `forward` for training, with the answer given;
`calico.model.generation` writes the answer. Both send every [SEG] through `segment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from calico.model.cam import CAM_BATCH, CamBatch, CorrespondenceAdaptation, ImageSlots, hook_layers
from calico.model.cem import CorrespondenceExtraction, NoExtraction
from calico.model.encoders import GroundingFeatures
from calico.model.qformer import QFormer
from calico.model.segmentation import MaskLogits, PixelDecoder, SegmentationProjection, seg_state_positions
from calico.model.token_rows import TokenRows

MIN_LOT_ROWS = 8  # fewer are not worth a pass of their own


class Pixels(NamedTuple):
    """Normalised inputs of the three branches, each I x 3 x S x S with its own S; one and the same with a trunk."""

    global_view: Tensor
    semantic_view: Tensor
    grounding_view: Tensor


class Views(NamedTuple):
    """What the three encoders read: each its own pixels, or all three the same list of the trunk's maps."""

    global_view: Tensor | list[Tensor]
    semantic_view: Tensor | list[Tensor]
    grounding_view: Tensor | list[Tensor]


class ImageFeatures(NamedTuple):
    """What prompts read of the images; all per image, so it can be cached by image content.

    refined_tokens: I x T x D_g, X'_global after CEM, for CAM. image_tokens: I x Q x D, the language model's input for
    the image. grounding: for the mask decoder.
    """

    refined_tokens: Tensor
    image_tokens: Tensor
    grounding: GroundingFeatures


class Seen(NamedTuple):
    """What the encoders give of I images: X_global, X_sem and the grounding embedding."""

    global_tokens: Tensor
    semantic_tokens: Tensor
    grounding: GroundingFeatures


class EncoderStates(NamedTuple):
    """The encoders' own outputs: global_tokens I x T x D_g, semantic_tokens I x S x D_s, query_states I x Q x D_q."""

    global_tokens: Tensor
    semantic_tokens: Tensor
    query_states: Tensor


@dataclass(frozen=True)
class PromptBatch:
    """R rows of tokens over I encoded images, right-padded for training, left-padded for generation.

    token_ids, attention_mask: R x L. slots: where the images stand. labels: R x L, the answer's tokens, -100 elsewhere.
    seg_row, seg_position, seg_image: K each, every [SEG] of the answers and the index of its image.
    """

    token_ids: Tensor
    attention_mask: Tensor
    slots: ImageSlots
    labels: Tensor | None = None
    seg_row: Tensor | None = None
    seg_position: Tensor | None = None
    seg_image: Tensor | None = None

    @property
    def predicts(self) -> Tensor:
        """R x (L - 1) bool: the positions whose next token is one of the answer's."""
        if self.labels is None:
            raise ValueError("a batch without labels predicts no answer")
        return self.labels[:, 1:] != -100

    def rows_by_length(self, max_lots: int) -> list[Tensor]:
        """All rows in lots of like length, the shortest first, so that none is padded to the longest of the batch.

        One lot where rows are few or padded on the left.
        """
        num_lots = min(max_lots, len(self.token_ids) // MIN_LOT_ROWS)
        if num_lots < 2 or not bool(self.attention_mask[:, 0].all()):
            return [torch.arange(len(self.token_ids), device=self.token_ids.device)]
        return list(self.attention_mask.sum(1).argsort(stable=True).tensor_split(num_lots))

    def take(self, rows: Tensor) -> PromptBatch:
        """These rows alone, right-padded to the longest of them, without their answers."""
        length = int(self.attention_mask[rows].sum(1).max())
        number = torch.full_like(self.token_ids[:, 0], -1)
        number[rows] = torch.arange(len(rows), device=rows.device)
        kept = number[self.slots.row] >= 0
        slots = ImageSlots(
            number[self.slots.row[kept]],
            self.slots.image[kept],
            self.slots.position[kept],
            self.slots.instruction[rows],
        )
        return PromptBatch(self.token_ids[rows, :length], self.attention_mask[rows, :length], slots)


class CalicoOutput(NamedTuple):
    """answer_logits: A x V at the A positions that predict an answer token, row after row; answer_ids: A;
    answer_states: A x D, what the logits are read from.

    masks: of the K chosen [SEG]s; seg_image: K, the image of each.
    """

    answer_logits: Tensor
    answer_states: Tensor
    answer_ids: Tensor
    masks: MaskLogits
    seg_image: Tensor


class CalicoModel(nn.Module):
    """The whole model, put together by `calico.model.builder`."""

    max_lots = 4  # of rows of like length, in which a training step reads them

    def __init__(
        self,
        *,
        trunk: nn.Module | None = None,
        global_encoder: nn.Module,
        qformer: QFormer,
        image_projection: nn.Linear,
        llm: LlamaForCausalLM,
        semantic_encoder: nn.Module,
        cem: CorrespondenceExtraction | NoExtraction,
        cams: nn.ModuleList,
        cam_layers: tuple[int, ...],
        grounding_encoder: nn.Module,
        seg_projection: SegmentationProjection,
        pixel_decoder: PixelDecoder,
    ) -> None:
        """trunk: reads the one view of an image; the encoders are then given its maps instead of pixels."""
        super().__init__()
        self.trunk = trunk
        self.global_encoder = global_encoder
        self.qformer = qformer
        self.image_projection = image_projection
        self.llm = llm
        self.semantic_encoder = semantic_encoder
        self.cem = cem
        self.cams = cams
        self.cam_layers = cam_layers
        self.cam_queries = nn.Parameter(qformer.queries.detach().clone())
        self.grounding_encoder = grounding_encoder
        self.seg_projection = seg_projection
        self.pixel_decoder = pixel_decoder
        self.token_rows: TokenRows | None = None  # while new tokens train: `calico.model.modes.add_lora`
        hook_layers(llm.model)

    def cam_batch(self, features: ImageFeatures, slots: ImageSlots) -> CamBatch:
        """What the language model's forward is given as the argument `CAM_BATCH`, so that CAM acts in it."""
        cams = [cam for cam in self.cams if isinstance(cam, CorrespondenceAdaptation)]
        by_layer = dict(zip(self.cam_layers, cams, strict=True))
        return CamBatch(slots, features.refined_tokens, by_layer, self.cam_queries, self.qformer)

    @property
    def num_image_tokens(self) -> int:
        return self.qformer.queries.shape[0]

    @property
    def device(self) -> torch.device:
        return self.cam_queries.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the encoders and the states; what an adapter trains and the mask decoder may be wider."""
        return self.qformer.queries.dtype

    def encode(self, pixels: Pixels) -> ImageFeatures:
        """All that depends on the images alone."""
        return self.encode_with_states(pixels)[0]

    @property
    def has_frozen_encoders(self) -> bool:
        """Whether no weight that `see` reads is trained."""
        modules = (self.trunk, self.global_encoder, self.semantic_encoder, self.grounding_encoder)
        return not any(p.requires_grad for module in modules if module is not None for p in module.parameters())

    def encode_with_states(self, pixels: Pixels) -> tuple[ImageFeatures, EncoderStates]:
        """All that depends on the images alone, and the encoders' own outputs."""
        return self.features_of(self.see(pixels))

    def see(self, pixels: Pixels | Views) -> Seen:
        """The encoders alone, most of the work. pixels: or what `views` made of them before."""
        views = pixels if isinstance(pixels, Views) else self.views(pixels)
        global_tokens = self.global_encoder(views.global_view)  # I x T x D_g
        semantic_tokens = self.semantic_encoder(views.semantic_view)  # I x S x D_s
        return Seen(global_tokens, semantic_tokens, self.grounding_encoder(views.grounding_view))

    def features_of(self, seen: Seen) -> tuple[ImageFeatures, EncoderStates]:
        """The language model's tokens use plain X_global, CAM uses X'_global (paper, section 4.2)."""
        global_tokens, semantic_tokens, grounding = seen
        queries = self.qformer.queries.expand(len(global_tokens), -1, -1)
        query_states = self.qformer(queries, global_tokens)  # I x Q x D_q
        features = ImageFeatures(
            refined_tokens=self.cem(global_tokens, semantic_tokens),
            image_tokens=self._projected(query_states),  # I x Q x D
            grounding=grounding,
        )
        return features, EncoderStates(global_tokens, semantic_tokens, query_states)

    def _projected(self, query_states: Tensor) -> Tensor:
        """By a projection that may be wider than the states, where it trains."""
        wide = query_states.to(self.image_projection.weight.dtype)
        projected: Tensor = self.image_projection(wide)
        return projected.to(query_states.dtype)

    def views(self, pixels: Pixels) -> Views:
        """What each encoder reads: pixels of its own, or the maps of the one trunk, computed once."""
        pixels = Pixels(*(view.to(self.dtype) for view in pixels))
        if self.trunk is None:
            return Views(*pixels)
        maps = self.trunk(pixels.grounding_view)
        return Views(maps, maps, maps)

    def embed(self, features: ImageFeatures, batch: PromptBatch) -> Tensor:
        """R x L x D: token embeddings, each image's placeholders replaced by its tokens."""
        embedded = self.llm.get_input_embeddings()(batch.token_ids)
        index = (batch.slots.row[:, None], batch.slots.position)
        return embedded.index_put(index, features.image_tokens[batch.slots.image].to(embedded.dtype))

    def forward(self, features: ImageFeatures, batch: PromptBatch, chosen: Tensor | None = None) -> CalicoOutput:
        """Training: the answer is part of the rows.

        chosen: indices into the batch's [SEG]s whose masks are wanted; all where None.
        """
        if batch.labels is None or batch.seg_row is None or batch.seg_position is None or batch.seg_image is None:
            raise ValueError(
                "training needs a batch with labels and [SEG] positions; generation is calico.model.generation"
            )
        logits, hidden = self.answer_logits(features, batch)
        row, position, image = batch.seg_row, batch.seg_position, batch.seg_image
        if chosen is not None:
            row, position, image = row[chosen], position[chosen], image[chosen]
        states = hidden[row, seg_state_positions(position)]  # K x D
        masks = self.segment(features.grounding, states, image)
        predicts = batch.predicts
        return CalicoOutput(logits, hidden[:, :-1][predicts], batch.labels[:, 1:][predicts], masks, image)

    def answer_logits(self, features: ImageFeatures, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """A x V at the positions that predict an answer token, row after row; and all `hidden_states`, R x L x D."""
        hidden = self.hidden_states(features, batch)
        return self.token_logits(hidden[:, :-1][batch.predicts]), hidden

    def token_logits(self, states: Tensor) -> Tensor:
        """... x D -> ... x V, by output rows that may be wider than the states, where an adapter trains them."""
        head = self.llm.get_output_embeddings()
        return head(states.to(head.weight.dtype))

    def hidden_states(self, features: ImageFeatures, batch: PromptBatch) -> Tensor:
        """R x L x D: the last layer's normalised states, CAM included, no cache; of no meaning at padding."""
        lots = batch.rows_by_length(self.max_lots)
        if len(lots) == 1:
            return self._hidden_states(features, batch)
        states_of_lots = [self._hidden_states(features, batch.take(rows)) for rows in lots]
        length = batch.token_ids.shape[1]
        padded = torch.cat([F.pad(states, (0, 0, 0, length - states.shape[1])) for states in states_of_lots])
        return padded[torch.cat(lots).argsort()]

    def _hidden_states(self, features: ImageFeatures, batch: PromptBatch) -> Tensor:
        return self.llm.get_decoder()(
            inputs_embeds=self.embed(features, batch),
            attention_mask=batch.attention_mask,
            use_cache=False,
            **{CAM_BATCH: self.cam_batch(features, batch.slots)},
        ).last_hidden_state

    def segment(self, grounding: GroundingFeatures, states: Tensor, image: Tensor) -> MaskLogits:
        """states: K x D of the [SEG]s; image: K, the encoded image of each. All masks in one decoder call."""
        with torch.autocast(states.device.type, enabled=False):
            prompts = self.seg_projection(states.to(self.seg_projection.dtype))  # K x C
        return self.pixel_decoder(grounding.take(image), prompts[:, None])


def mean_and_maximum(tokens: Tensor) -> Tensor:
    """Over the positions: I x T x D -> I x 2D."""
    return torch.cat([tokens.mean(1), tokens.amax(1)], 1)
