"""transformers: InstructBLIP, BLIP-2, Llama, Dinov2WithRegisters and SamModel, as `save_pretrained` writes them.

Files from the hub and files written by newer versions differ in a prefix `model.`, which is found by the anchor, and in
the names of DINOv2's projections, which have two rules.
"""

from __future__ import annotations

from calico.conversion.rules import Family

TEXT_BRANCH = "the Q-Former's text branch; it runs with queries only"

VISION = Family(
    "InstructBLIP's EVA-CLIP (transformers)",
    anchor="vision_model.embeddings.class_embedding",
    rules=(("global_encoder.model.{rest}", "vision_model.{rest}"),),
)
QFORMER = Family(
    "InstructBLIP's Q-Former (transformers)",
    anchor="qformer.encoder.layer.0.intermediate_query.dense.weight",
    rules=(
        ("qformer.model.{rest}", "qformer.{rest}"),
        ("qformer.model.embeddings.layernorm.{rest}", "qformer.layernorm.{rest}"),  # BLIP-2's, which reads no text
    ),
    left_out={
        "qformer.embeddings.word_embeddings.": TEXT_BRANCH,
        "qformer.embeddings.position_embeddings.": TEXT_BRANCH,
        "qformer.embeddings.position_ids": "counted anew",
        "qformer.encoder.layer.{n}.intermediate.": TEXT_BRANCH,
        "qformer.encoder.layer.{n}.output.": TEXT_BRANCH,
    },
)
QUERIES = Family("learned queries (BLIP-2)", anchor="query_tokens", rules=(("qformer.queries", "query_tokens"),))
PROJECTION = Family(
    "InstructBLIP's projection (transformers)",
    anchor="language_projection.weight",
    rules=(("image_projection.{rest}", "language_projection.{rest}"),),
    left_out={"language_model.": "its own language model"},
)
LLAMA = Family(
    "Llama",
    anchor="layers.0.mlp.gate_proj.weight",
    rules=(
        ("llm.model.embed_tokens.{rest}", "embed_tokens.{rest}"),
        ("llm.model.layers.{n}.{rest}", "layers.{n}.{rest}"),
        ("llm.model.norm.{rest}", "norm.{rest}"),
    ),
    left_out={"layers.{n}.self_attn.rotary_emb.inv_freq": "computed anew"},
)
LLAMA_HEAD = Family("Llama's output rows", anchor="lm_head.weight", rules=(("llm.lm_head.weight", "lm_head.weight"),))

_LAYER = "semantic_encoder.model.encoder.layer.{n}.attention"
DINOV2 = Family(
    "DINOv2 with registers (transformers)",
    anchor="encoder.layer.0.layer_scale1.lambda1",
    rules=(
        (f"{_LAYER}.q_proj.{{rest}}", "encoder.layer.{n}.attention.attention.query.{rest}"),
        (f"{_LAYER}.k_proj.{{rest}}", "encoder.layer.{n}.attention.attention.key.{rest}"),
        (f"{_LAYER}.v_proj.{{rest}}", "encoder.layer.{n}.attention.attention.value.{rest}"),
        (f"{_LAYER}.o_proj.{{rest}}", "encoder.layer.{n}.attention.output.dense.{rest}"),
        ("semantic_encoder.model.encoder.layer.{n}.{rest}", "encoder.layer.{n}.{rest}"),
        ("semantic_encoder.model.embeddings.{rest}", "embeddings.{rest}"),
        ("semantic_encoder.model.layernorm.{rest}", "layernorm.{rest}"),
    ),
)
SAM_ENCODER = Family(
    "SAM's image encoder (transformers)",
    anchor="vision_encoder.neck.conv1.weight",
    rules=(("grounding_encoder.vision_encoder.{rest}", "vision_encoder.{rest}"),),
)
SAM_POSITIONS = "pixel_decoder.prompt_encoder.shared_embedding.positional_embedding"
SAM_DECODER = Family(
    "SAM's prompt encoder and mask decoder (transformers)",
    anchor="mask_decoder.upscale_conv1.weight",
    rules=(
        (SAM_POSITIONS, "prompt_encoder.shared_embedding.positional_embedding"),
        (SAM_POSITIONS, "shared_image_embedding.positional_embedding"),  # of which the other is a copy, often left out
        ("pixel_decoder.prompt_encoder.{rest}", "prompt_encoder.{rest}"),
        ("pixel_decoder.mask_decoder.{rest}", "mask_decoder.{rest}"),
    ),
    left_out={"shared_image_embedding.": "the same numbers as the prompt encoder's"},
)

FAMILIES = (VISION, QFORMER, QUERIES, PROJECTION, LLAMA, LLAMA_HEAD, DINOV2, SAM_ENCODER, SAM_DECODER)
