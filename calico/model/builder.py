"""Config -> model. The only place that reads `CalicoConfig`."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder, SamVisionEncoder

from calico.model.backbone import BackboneTrunk
from calico.model.calico import CalicoModel
from calico.model.cam import CorrespondenceAdaptation
from calico.model.cem import CorrespondenceExtraction, NoExtraction
from calico.model.config import CalicoConfig, EncoderConfig
from calico.model.encoders import ConvGrounding, ConvTokens, Dinov2Tokens, SamGrounding, TransformerTokens
from calico.model.preprocessing import CLIP_MEAN_STD, IMAGENET_MEAN_STD, SAM_MEAN_STD
from calico.model.qformer import QFormer
from calico.model.segmentation import PixelDecoder, SegmentationProjection
from calico.model.sizes import BackboneLevels, MeanStd
from calico.model.trunk import build_trunk
from calico.model.trunk_encoders import OwnView, TrunkGrounding, TrunkTokens


def build(config: CalicoConfig) -> CalicoModel:
    """A model with fresh weights. Under `torch.device("meta")` it takes no memory."""
    llm = LlamaForCausalLM(LlamaConfig(**config.llm))
    qformer_config = InstructBlipQFormerConfig(**config.qformer)
    qformer_config._attn_implementation = "sdpa"
    queries = nn.Parameter(torch.randn(config.num_queries, qformer_config.hidden_size) * 0.02)
    llm_size = llm.config.hidden_size
    cam_layers = () if "cam" in config.without else config.cam_layers
    return CalicoModel(
        trunk=_trunk(config),
        global_encoder=_token_encoder(config.global_encoder, config, CLIP_MEAN_STD),
        qformer=QFormer(InstructBlipQFormerModel(qformer_config), queries),
        image_projection=nn.Linear(qformer_config.hidden_size, llm_size),
        llm=llm,
        semantic_encoder=_token_encoder(config.semantic_encoder, config, IMAGENET_MEAN_STD),
        cem=NoExtraction()
        if "cem" in config.without
        else CorrespondenceExtraction(
            config.global_encoder.hidden_size, config.semantic_encoder.hidden_size, config.cem_num_heads
        ),
        cams=nn.ModuleList(CorrespondenceAdaptation(llm_size, qformer_config.hidden_size) for _ in cam_layers),
        cam_layers=cam_layers,
        grounding_encoder=_grounding_encoder(config.grounding_encoder, config),
        seg_projection=SegmentationProjection(llm_size, config.grounding_encoder.hidden_size),
        pixel_decoder=_pixel_decoder(config),
    )


def _trunk(config: CalicoConfig) -> nn.Module | None:
    if config.backbone:
        return BackboneTrunk(BackboneLevels(**config.backbone))
    return build_trunk(config.trunk) if config.trunk else None


def _token_encoder(config: EncoderConfig, model: CalicoConfig, mean_std: MeanStd) -> nn.Module:
    if config.kind == "trunk":
        options = dict(config.options)
        own = ConvTokens(config.hidden_size, **options.pop("own"))
        view = OwnView(options.pop("own_stride"), model.trunk_mean_std, mean_std)
        channels = model.trunk_widths[options["level"] - 1]
        return TrunkTokens(own, view, config.hidden_size, channels, **options)
    if config.kind == "conv":
        return ConvTokens(config.hidden_size, **config.options)
    if config.kind == "eva_clip":
        return TransformerTokens(InstructBlipVisionModel(InstructBlipVisionConfig(**config.options)))
    if config.kind == "dinov2":
        dinov2 = Dinov2WithRegistersConfig(**config.options)
        return Dinov2Tokens(Dinov2WithRegistersModel(dinov2), dinov2.num_register_tokens)
    raise ValueError(f"unknown token encoder {config.kind!r}, expected trunk, conv, eva_clip or dinov2")


def _grounding_encoder(config: EncoderConfig, model: CalicoConfig) -> nn.Module:
    if config.kind == "trunk":
        options = dict(config.options)
        own = ConvGrounding(config.hidden_size, **options.pop("own"))
        view = OwnView(options.pop("own_stride"), model.trunk_mean_std, SAM_MEAN_STD)
        return TrunkGrounding(own, view, config.hidden_size, (3, *model.trunk_widths), **options)
    if config.kind == "conv":
        return ConvGrounding(config.hidden_size, **config.options)
    if config.kind == "sam":
        return SamGrounding(SamVisionEncoder(SamVisionConfig(**config.options)))
    raise ValueError(f"unknown grounding encoder {config.kind!r}, expected trunk, conv or sam")


def _pixel_decoder(config: CalicoConfig) -> PixelDecoder:
    size = config.grounding_encoder.hidden_size
    image_size = config.grounding_encoder.image_size
    # SAM draws its position frequencies with standard deviation 1; the library's default is another.
    vision = SamVisionConfig(hidden_size=size, num_pos_feats=size // 2, scale=1.0, image_size=image_size)
    prompt = SamPromptEncoderConfig(
        hidden_size=size, image_size=image_size, patch_size=4 * image_size // config.num_mask_grid
    )
    decoder = SamMaskDecoderConfig(**config.mask_decoder)
    sam = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    decoder._attn_implementation = "eager"  # one side of each attention is a few prompt tokens: no fused kernel pays
    return PixelDecoder(SamPromptEncoder(sam), SamMaskDecoder(decoder), config.mask_prompt)
