"""LAVIS: EVA-CLIP-g (`eva_vit_g.pth`, or under `visual_encoder.` in a whole model), Q-Former on BERT, projection."""

from __future__ import annotations

from calico.conversion.layouts.transformers import TEXT_BRANCH
from calico.conversion.rules import ZEROS, Family

_END = "EVA-CLIP-g's own end: LAVIS stops after 39 of its 40 blocks and has a norm of its own"
_EVA = "global_encoder.model"
_LAYER = f"{_EVA}.encoder.layers.{{n}}"
EVA_CLIP = Family(
    "EVA-CLIP (LAVIS)",
    anchor="blocks.0.attn.q_bias",
    rules=(
        (f"{_EVA}.embeddings.class_embedding", "cls_token"),
        (f"{_EVA}.embeddings.position_embedding", "pos_embed"),
        (f"{_EVA}.embeddings.patch_embedding.{{rest}}", "patch_embed.proj.{rest}"),
        (
            f"{_LAYER}.self_attn.qkv.bias",  # keys have no bias there
            "blocks.{n}.attn.q_bias",
            ZEROS,
            "blocks.{n}.attn.v_bias",
        ),
        (f"{_LAYER}.self_attn.qkv.weight", "blocks.{n}.attn.qkv.weight"),
        (f"{_LAYER}.self_attn.projection.{{rest}}", "blocks.{n}.attn.proj.{rest}"),
        (f"{_LAYER}.layer_norm1.{{rest}}", "blocks.{n}.norm1.{rest}"),
        (f"{_LAYER}.layer_norm2.{{rest}}", "blocks.{n}.norm2.{rest}"),
        (f"{_LAYER}.mlp.{{rest}}", "blocks.{n}.mlp.{rest}"),
    ),
    left_out={"blocks.39.": _END, "norm.": _END, "fc_norm.": _END, "head.": _END},
)
LN_VISION = Family(
    "EVA-CLIP's last norm (LAVIS)",
    anchor="ln_vision.weight",
    rules=((f"{_EVA}.post_layernorm.{{rest}}", "ln_vision.{rest}"),),
)

_BERT = "Qformer.bert.encoder.layer.{n}"
_OURS = "qformer.model.encoder.layer.{n}"
QFORMER = Family(
    "Q-Former (LAVIS)",
    anchor="Qformer.bert.encoder.layer.0.intermediate_query.dense.weight",
    rules=(
        ("qformer.model.embeddings.layernorm.{rest}", "Qformer.bert.embeddings.LayerNorm.{rest}"),
        (f"{_OURS}.attention.attention.{{rest}}", f"{_BERT}.attention.self.{{rest}}"),
        (f"{_OURS}.attention.output.{{rest}}", f"{_BERT}.attention.output.{{rest}}"),
        (f"{_OURS}.crossattention.attention.{{rest}}", f"{_BERT}.crossattention.self.{{rest}}"),
        (f"{_OURS}.crossattention.output.{{rest}}", f"{_BERT}.crossattention.output.{{rest}}"),
        (f"{_OURS}.intermediate_query.{{rest}}", f"{_BERT}.intermediate_query.{{rest}}"),
        (f"{_OURS}.output_query.{{rest}}", f"{_BERT}.output_query.{{rest}}"),
    ),
    left_out={
        "Qformer.bert.embeddings.word_embeddings.": TEXT_BRANCH,
        "Qformer.bert.embeddings.position_embeddings.": TEXT_BRANCH,
        "Qformer.bert.embeddings.position_ids": "counted anew",
        "Qformer.bert.encoder.layer.{n}.intermediate.": TEXT_BRANCH,
        "Qformer.bert.encoder.layer.{n}.output.": TEXT_BRANCH,
        "Qformer.cls.": TEXT_BRANCH,
    },
)
PROJECTION = Family(
    "projection (LAVIS)", anchor="llm_proj.weight", rules=(("image_projection.{rest}", "llm_proj.{rest}"),)
)

FAMILIES = (EVA_CLIP, LN_VISION, QFORMER, PROJECTION)
