"""DINOv2's own hub: `dinov2_vitb14_reg4_pretrain.pth` and its sizes with a plain feed-forward."""

from __future__ import annotations

from calico.conversion.rules import Family

_OURS = "semantic_encoder.model"
_LAYER = f"{_OURS}.encoder.layer.{{n}}"
DINOV2 = Family(
    "DINOv2 with registers (its own hub)",
    anchor="blocks.0.ls1.gamma",
    rules=(
        (f"{_OURS}.embeddings.cls_token", "cls_token"),
        (f"{_OURS}.embeddings.mask_token", "mask_token"),
        (f"{_OURS}.embeddings.register_tokens", "register_tokens"),
        (f"{_OURS}.embeddings.position_embeddings", "pos_embed"),
        (f"{_OURS}.embeddings.patch_embeddings.projection.{{rest}}", "patch_embed.proj.{rest}"),
        (f"{_LAYER}.norm1.{{rest}}", "blocks.{n}.norm1.{rest}"),
        (f"{_LAYER}.norm2.{{rest}}", "blocks.{n}.norm2.{rest}"),
        (f"{_LAYER}.attention.q_proj.{{rest}}", "blocks.{n}.attn.qkv.{rest}[0/3]"),
        (f"{_LAYER}.attention.k_proj.{{rest}}", "blocks.{n}.attn.qkv.{rest}[1/3]"),
        (f"{_LAYER}.attention.v_proj.{{rest}}", "blocks.{n}.attn.qkv.{rest}[2/3]"),
        (f"{_LAYER}.attention.o_proj.{{rest}}", "blocks.{n}.attn.proj.{rest}"),
        (f"{_LAYER}.layer_scale1.lambda1", "blocks.{n}.ls1.gamma"),
        (f"{_LAYER}.layer_scale2.lambda1", "blocks.{n}.ls2.gamma"),
        (f"{_LAYER}.mlp.{{rest}}", "blocks.{n}.mlp.{rest}"),
        (f"{_OURS}.layernorm.{{rest}}", "norm.{rest}"),
    ),
)

FAMILIES = (DINOV2,)
