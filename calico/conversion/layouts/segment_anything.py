"""segment-anything: `sam_vit_h_4b8939.pth`, and SAM inside LISA, GLaMM and their kin."""

from __future__ import annotations

from calico.conversion.rules import Family

_ENCODER = "grounding_encoder.vision_encoder"
_PROMPT = "pixel_decoder.prompt_encoder"
_DECODER = "pixel_decoder.mask_decoder"
_LAYER = f"{_DECODER}.transformer.layers.{{n}}"
_MLP = f"{_DECODER}.output_hypernetworks_mlps.{{n}}"
_IOU = f"{_DECODER}.iou_prediction_head"

ENCODER = Family(
    "SAM's image encoder (segment-anything)",
    anchor="image_encoder.neck.0.weight",
    rules=(
        (f"{_ENCODER}.pos_embed", "image_encoder.pos_embed"),
        (f"{_ENCODER}.patch_embed.projection.{{rest}}", "image_encoder.patch_embed.proj.{rest}"),
        (f"{_ENCODER}.layers.{{n}}.layer_norm1.{{rest}}", "image_encoder.blocks.{n}.norm1.{rest}"),
        (f"{_ENCODER}.layers.{{n}}.layer_norm2.{{rest}}", "image_encoder.blocks.{n}.norm2.{rest}"),
        (f"{_ENCODER}.layers.{{n}}.attn.{{rest}}", "image_encoder.blocks.{n}.attn.{rest}"),
        (f"{_ENCODER}.layers.{{n}}.mlp.{{rest}}", "image_encoder.blocks.{n}.mlp.{rest}"),
        (f"{_ENCODER}.neck.conv1.{{rest}}", "image_encoder.neck.0.{rest}"),
        (f"{_ENCODER}.neck.layer_norm1.{{rest}}", "image_encoder.neck.1.{rest}"),
        (f"{_ENCODER}.neck.conv2.{{rest}}", "image_encoder.neck.2.{rest}"),
        (f"{_ENCODER}.neck.layer_norm2.{{rest}}", "image_encoder.neck.3.{rest}"),
    ),
)
DECODER = Family(
    "SAM's prompt encoder and mask decoder (segment-anything)",
    anchor="mask_decoder.output_upscaling.0.weight",
    rules=(
        (
            f"{_PROMPT}.shared_embedding.positional_embedding",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (f"{_PROMPT}.point_embed.{{rest}}", "prompt_encoder.point_embeddings.{rest}"),
        (f"{_PROMPT}.mask_embed.conv1.{{rest}}", "prompt_encoder.mask_downscaling.0.{rest}"),
        (f"{_PROMPT}.mask_embed.layer_norm1.{{rest}}", "prompt_encoder.mask_downscaling.1.{rest}"),
        (f"{_PROMPT}.mask_embed.conv2.{{rest}}", "prompt_encoder.mask_downscaling.3.{rest}"),
        (f"{_PROMPT}.mask_embed.layer_norm2.{{rest}}", "prompt_encoder.mask_downscaling.4.{rest}"),
        (f"{_PROMPT}.mask_embed.conv3.{{rest}}", "prompt_encoder.mask_downscaling.6.{rest}"),
        (f"{_PROMPT}.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
        (f"{_PROMPT}.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
        (f"{_LAYER}.layer_norm{{m}}.{{rest}}", "mask_decoder.transformer.layers.{n}.norm{m}.{rest}"),
        (
            f"{_DECODER}.transformer.layer_norm_final_attn.{{rest}}",
            "mask_decoder.transformer.norm_final_attn.{rest}",
        ),
        (f"{_DECODER}.transformer.{{rest}}", "mask_decoder.transformer.{rest}"),
        (f"{_DECODER}.iou_token.weight", "mask_decoder.iou_token.weight"),
        (f"{_DECODER}.mask_tokens.weight", "mask_decoder.mask_tokens.weight"),
        (f"{_DECODER}.upscale_conv1.{{rest}}", "mask_decoder.output_upscaling.0.{rest}"),
        (f"{_DECODER}.upscale_layer_norm.{{rest}}", "mask_decoder.output_upscaling.1.{rest}"),
        (f"{_DECODER}.upscale_conv2.{{rest}}", "mask_decoder.output_upscaling.3.{rest}"),
        (f"{_MLP}.proj_in.{{rest}}", "mask_decoder.output_hypernetworks_mlps.{n}.layers.0.{rest}"),
        (f"{_MLP}.layers.0.{{rest}}", "mask_decoder.output_hypernetworks_mlps.{n}.layers.1.{rest}"),
        (f"{_MLP}.proj_out.{{rest}}", "mask_decoder.output_hypernetworks_mlps.{n}.layers.2.{rest}"),
        (f"{_IOU}.proj_in.{{rest}}", "mask_decoder.iou_prediction_head.layers.0.{rest}"),
        (f"{_IOU}.layers.0.{{rest}}", "mask_decoder.iou_prediction_head.layers.1.{rest}"),
        (f"{_IOU}.proj_out.{{rest}}", "mask_decoder.iou_prediction_head.layers.2.{rest}"),
    ),
)

FAMILIES = (ENCODER, DECODER)
