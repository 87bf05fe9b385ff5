"""Small models in their owners' formats: transformers, segment-anything, LAVIS, the DINOv2 hub, GLaMM."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from calico.model.config import CalicoConfig, EncoderConfig
from calico.model.encoders import Dinov2Tokens

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QFORMER = {
    "vocab_size": 40,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "cross_attention_frequency": 2,
}
LLM = {
    "vocab_size": 300,
    "hidden_size": 40,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
DINOV2 = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_register_tokens": 4,
}
SAM_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 32,
    "mlp_dim": 64,
    "global_attn_indexes": [1],
    "window_size": 2,
}
DECODER = {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32}
GLAMM_TOKENS = ("<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>")


def small_config() -> CalicoConfig:
    """The kinds of calico-7b at a size for tests."""
    return CalicoConfig(
        preset="calico-7b",
        global_encoder=EncoderConfig("eva_clip", 28, 32, VISION),
        semantic_encoder=EncoderConfig("dinov2", 28, 24, DINOV2),
        grounding_encoder=EncoderConfig("sam", 64, 32, SAM_VISION),
        num_queries=6,
        qformer=QFORMER,
        llm=LLM,
        cem_num_heads=4,
        cam_layers=(0, 1),
        mask_decoder=DECODER,
        num_mask_grid=16,
    )


def randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def instructblip() -> InstructBlipForConditionalGeneration:
    llm = LlamaConfig(**LLM | {"num_hidden_layers": 1}).to_dict()
    config = InstructBlipConfig(vision_config=VISION, qformer_config=QFORMER, text_config=llm, num_query_tokens=6)
    model = InstructBlipForConditionalGeneration(config).eval()
    randomise(model, 1)
    with torch.no_grad():  # keys have no bias in EVA-CLIP
        for layer in model.vision_model.encoder.layers:
            layer.self_attn.qkv.bias[32:64] = 0
    return model


def blip2() -> Blip2ForConditionalGeneration:
    """Its own language model is an OPT, its Q-Former reads no text."""
    text = OPTConfig(vocab_size=40, hidden_size=24, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2,
                     word_embed_proj_dim=24, max_position_embeddings=16, pad_token_id=1)  # fmt: skip
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=Blip2QFormerConfig(**QFORMER).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=6,
    )
    model = Blip2ForConditionalGeneration(config).eval()
    randomise(model, 6)
    return model


def sam() -> SamModel:
    vision = SamVisionConfig(**SAM_VISION, num_pos_feats=16, scale=1.0)
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16)
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=SamMaskDecoderConfig(**DECODER)
    )
    model = SamModel(config).eval()
    randomise(model, 2)
    return model


def dinov2() -> Dinov2WithRegistersModel:
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**DINOV2)).eval()
    randomise(model, 3)
    return model


def llama(num_rows: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(**LLM | {"vocab_size": num_rows})).eval()
    randomise(model, 4)
    return model


def renamed(weights: dict[str, Tensor], *pairs: tuple[str, str]) -> dict[str, Tensor]:
    """Names written as another library has them: plain replacements, one after the other."""
    found = {}
    for key, tensor in weights.items():
        for old, new in pairs:
            key = key.replace(old, new)
        found[key] = tensor.contiguous().clone()
    return found


def in_segment_anything(model: SamModel) -> dict[str, Tensor]:
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("shared_image_embedding")}
    weights = renamed(
        weights,
        ("vision_encoder.layers.", "image_encoder.blocks."),
        ("vision_encoder.neck.conv1", "image_encoder.neck.0"),
        ("vision_encoder.neck.layer_norm1", "image_encoder.neck.1"),
        ("vision_encoder.neck.conv2", "image_encoder.neck.2"),
        ("vision_encoder.neck.layer_norm2", "image_encoder.neck.3"),
        ("vision_encoder.", "image_encoder."),
        ("patch_embed.projection", "patch_embed.proj"),
        ("shared_embedding.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
        ("encoder.point_embed.", "encoder.point_embeddings."),
        ("mask_embed.conv1", "mask_downscaling.0"),
        ("mask_embed.layer_norm1", "mask_downscaling.1"),
        ("mask_embed.conv2", "mask_downscaling.3"),
        ("mask_embed.layer_norm2", "mask_downscaling.4"),
        ("mask_embed.conv3", "mask_downscaling.6"),
        ("upscale_conv1", "output_upscaling.0"),
        ("upscale_layer_norm", "output_upscaling.1"),
        ("upscale_conv2", "output_upscaling.3"),
        ("layer_norm_final_attn", "norm_final_attn"),
        ("layer_norm", "norm"),
    )
    mlps = {}
    for key, tensor in weights.items():
        if "hypernetworks" in key or "iou_prediction_head" in key:
            key = key.replace(".layers.0.", ".layers.1.")
            key = key.replace(".proj_in.", ".layers.0.").replace(".proj_out.", ".layers.2.")
        mlps[key] = tensor
    return mlps


def in_lavis(model: InstructBlipForConditionalGeneration) -> dict[str, Tensor]:
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("language_model")}
    weights = renamed(
        weights,
        ("vision_model.post_layernorm", "ln_vision"),
        ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision_model.encoder.layers.", "visual_encoder.blocks."),
        ("self_attn.projection", "attn.proj"),
        ("self_attn.qkv", "attn.qkv"),
        (".layer_norm", ".norm"),
        ("attention.attention.", "attention.self."),
        ("qformer.embeddings.layernorm", "qformer.embeddings.LayerNorm"),
        ("qformer.", "Qformer.bert."),
        ("language_projection", "llm_proj"),
    )
    for key in [key for key in weights if key.endswith("attn.qkv.bias")]:
        q, _, v = weights.pop(key).chunk(3)
        weights[key.replace("qkv.bias", "q_bias")] = q.clone()
        weights[key.replace("qkv.bias", "v_bias")] = v.clone()
    weights["Qformer.cls.predictions.bias"] = torch.zeros(3)
    return weights


def in_dinov2_hub(model: Dinov2WithRegistersModel) -> dict[str, Tensor]:
    weights = renamed(
        Dinov2Tokens(model, 0).state_dict(),
        ("model.", ""),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.", ""),
        ("encoder.layer.", "blocks."),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("attention.o_proj", "attn.proj"),
        ("layernorm", "norm"),
    )
    for key in [key for key in weights if "attention.q_proj" in key]:
        parts = [weights.pop(key.replace("q_proj", name)) for name in ("q_proj", "k_proj", "v_proj")]
        weights[key.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return weights


def glamm_weights() -> dict[str, Tensor]:
    """Llama, SAM in segment-anything's names, the [SEG] projection, and a bit of GLaMM's own eyes."""
    weights = {k: v.clone() for k, v in llama(num_tokens()).state_dict().items()}
    weights |= {f"model.grounding_encoder.{k}": v for k, v in in_segment_anything(sam()).items()}
    generator = torch.Generator().manual_seed(5)
    for layer, rows in ((0, 40), (2, 32)):
        weights[f"model.text_hidden_fcs.0.{layer}.weight"] = torch.randn(rows, 40, generator=generator)
        weights[f"model.text_hidden_fcs.0.{layer}.bias"] = torch.randn(rows, generator=generator)
    weights["model.mm_projector.0.weight"] = torch.zeros(2, 2)
    return weights


def llama_tokenizer(*added: str) -> Tokenizer:
    plain = ["<unk>", "<s>", "</s>", *(chr(i) for i in range(33, 127)), "\u2581"]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(plain)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def num_tokens() -> int:
    return llama_tokenizer(*GLAMM_TOKENS).get_vocab_size()
