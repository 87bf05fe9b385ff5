"""Our wiring against the libraries that own the blocks, on equal weights."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from calico.model.encoders import GroundingFeatures, SamGrounding, TransformerTokens
from calico.model.qformer import QFormer
from calico.model.segmentation import PixelDecoder

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
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
}


def randomise(module: nn.Module) -> None:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)


@torch.no_grad()
def test_qformer_path_equals_instructblip() -> None:
    llm = LlamaConfig(vocab_size=64, hidden_size=40, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    config = InstructBlipConfig(
        vision_config=VISION, qformer_config=QFORMER, text_config=llm.to_dict(), num_query_tokens=6
    )
    theirs = InstructBlipForConditionalGeneration(config).eval()
    randomise(theirs)
    pixels = torch.randn(3, 3, 28, 28)
    image = theirs.vision_model(pixel_values=pixels).last_hidden_state
    query = theirs.query_tokens.expand(3, -1, -1)
    expected = theirs.qformer(input_ids=None, query_embeds=query, encoder_hidden_states=image).last_hidden_state
    projected = theirs.language_projection(expected)

    encoder = TransformerTokens(theirs.vision_model)
    ours = QFormer(theirs.qformer, nn.Parameter(theirs.query_tokens[0]))
    found = ours(ours.queries.expand(3, -1, -1), encoder(pixels))
    torch.testing.assert_close(encoder(pixels), image)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(theirs.language_projection(found), projected, atol=1e-6, rtol=1e-5)
    assert not [name for name in ours.state_dict() if "word_embeddings" in name or ".intermediate." in name]


def sam_config() -> SamConfig:
    return SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=4,
            output_channels=32,
            mlp_dim=64,
            global_attn_indexes=[1],
            num_pos_feats=16,
            window_size=4,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=4),
        mask_decoder_config=SamMaskDecoderConfig(hidden_size=32, mlp_dim=64, iou_head_hidden_dim=32),
    )


@torch.no_grad()
def test_sam_path_equals_sam_model() -> None:
    theirs = SamModel(sam_config()).eval()
    randomise(theirs)
    pixels, points = torch.randn(2, 3, 64, 64), torch.rand(2, 3, 1, 2) * 64
    labels = torch.tensor([[[1], [0], [1]], [[1], [1], [0]]])
    boxes = torch.tensor([[[4.0, 6.0, 30.0, 40.0]], [[10.0, 2.0, 60.0, 50.0]]])
    by_point = theirs(pixel_values=pixels, input_points=points, input_labels=labels, multimask_output=False)
    by_box = theirs(pixel_values=pixels, input_boxes=boxes, multimask_output=False)

    grounding = SamGrounding(theirs.vision_encoder)(pixels)
    ours = PixelDecoder(theirs.prompt_encoder, theirs.mask_decoder)
    images = torch.tensor([0, 0, 0, 1, 1, 1])
    found = ours(grounding.take(images), ours.prompts(points.flatten(0, 1), labels.flatten(0, 1)))
    torch.testing.assert_close(found.logits, by_point.pred_masks.flatten(0, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.iou, by_point.iou_scores.flatten(), atol=1e-4, rtol=1e-4)
    found = ours(grounding, ours.prompts(boxes_xyxy=boxes[:, 0]))
    torch.testing.assert_close(found.logits, by_box.pred_masks.flatten(0, 2), atol=1e-4, rtol=1e-4)
    masks = torch.randn(2, 1, 64, 64)
    mask_too = theirs(pixel_values=pixels, input_boxes=boxes, input_masks=masks, multimask_output=False)
    found = ours(grounding, ours.prompts(boxes_xyxy=boxes[:, 0]), masks)
    torch.testing.assert_close(found.logits, mask_too.pred_masks.flatten(0, 2), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_fine_maps_enter_the_upscaling_and_leave_no_trace() -> None:
    theirs = SamModel(sam_config()).eval()
    randomise(theirs)
    ours = PixelDecoder(theirs.prompt_encoder, theirs.mask_decoder)
    embedding, sparse = torch.randn(1, 32, 16, 16), torch.randn(1, 1, 32)
    plain = ours(GroundingFeatures(embedding), sparse).logits
    fine = ours(GroundingFeatures(embedding, (torch.randn(1, 8, 32, 32), torch.randn(1, 4, 64, 64))), sparse).logits
    assert (plain - fine).abs().max() > 1e-3
    torch.testing.assert_close(ours(GroundingFeatures(embedding), sparse).logits, plain)
