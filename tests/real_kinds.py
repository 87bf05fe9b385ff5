"""calico-7b's kinds of encoders at sizes of no use, each with an input size of its own: 28, 42 and 64 pixels."""

from __future__ import annotations

from pathlib import Path

import torch

from calico.checkpoints.files import save_checkpoint
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.config import CalicoConfig, EncoderConfig

TOKENIZER = CalicoTokenizer.train()


def real_kinds(preset: str = "calico-7b") -> CalicoConfig:
    """Knows drawings, as far as its config says: they are its base data."""
    return CalicoConfig(
        preset=preset,
        global_encoder=EncoderConfig(
            "eva_clip",
            28,
            32,
            {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "patch_size": 14, "image_size": 28, "qkv_bias": True},
        ),
        semantic_encoder=EncoderConfig(
            "dinov2",
            42,
            24,
            {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 42,
             "num_register_tokens": 2, "mlp_ratio": 1},
        ),
        grounding_encoder=EncoderConfig(
            "sam",
            64,
            16,
            {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "global_attn_indexes": [1],
             "window_size": 2, "image_size": 64, "patch_size": 16, "output_channels": 16, "mlp_dim": 24},
        ),
        num_queries=3,
        qformer={"vocab_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 16, "cross_attention_frequency": 2, "encoder_hidden_size": 32,
                 "max_position_embeddings": 4},
        llm={"vocab_size": len(TOKENIZER), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False},
        cem_num_heads=2,
        cam_layers=(0, 1),
        mask_decoder={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        num_mask_grid=16,
        mask_prompt=True,
        data_version="drawings-v1",
    )  # fmt: skip


def save_real_kinds(folder: Path, dtype: torch.dtype = torch.bfloat16, config: CalicoConfig | None = None) -> Path:
    """A checkpoint of random weights, the same each time, as `weights assemble` writes them: bfloat16."""
    torch.manual_seed(0)
    config = config or real_kinds()
    model = build(config)
    with torch.no_grad():  # as trained ones: CEM and CAM that do something
        for parameter in (*model.cem.parameters(), *model.cams.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_checkpoint(folder, model, config, TOKENIZER, dtype)
    return folder
