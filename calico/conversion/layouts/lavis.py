"""LAVIS: EVA-CLIP-g, the Q-Former on BERT and the projection, as in `instruct_blip_vicuna7b_trimmed.pth`."""

from __future__ import annotations

from calico.conversion.layouts.transformers import TEXT_BRANCH
from calico.conversion.rules import ZEROS, Family

_EVA = "global_encoder.model"
_LAYER = f"{_EVA}.encoder.layers.{{n}}"
EVA_CLIP = Family(
    "EVA-CLIP (LAVIS)",
    anchor="visual_encoder.blocks.0.attn.q_bias",
    rules=(
        (f"{_EVA}.embeddings.class_embedding", "visual_encoder.cls_token"),
        (f"{_EVA}.embeddings.position_embedding", "visual_encoder.pos_embed"),
        (f"{_EVA}.embeddings.patch_embedding.{{rest}}", "visual_encoder.patch_embed.proj.{rest}"),
        (
            f"{_LAYER}.self_attn.qkv.bias",  # keys have no bias there
            "visual_encoder.blocks.{n}.attn.q_bias",
            ZEROS,
            "visual_encoder.blocks.{n}.attn.v_bias",
        ),
        (f"{_LAYER}.self_attn.qkv.weight", "visual_encoder.blocks.{n}.attn.qkv.weight"),
        (f"{_LAYER}.self_attn.projection.{{rest}}", "visual_encoder.blocks.{n}.attn.proj.{rest}"),
        (f"{_LAYER}.layer_norm1.{{rest}}", "visual_encoder.blocks.{n}.norm1.{rest}"),
        (f"{_LAYER}.layer_norm2.{{rest}}", "visual_encoder.blocks.{n}.norm2.{rest}"),
        (f"{_LAYER}.mlp.{{rest}}", "visual_encoder.blocks.{n}.mlp.{rest}"),
    ),
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
