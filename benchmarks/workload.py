"""Models and groups to measure with: a checkpoint, or a preset with random weights; drawings that groups share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from calico.data.groups import draw_group
from calico.errors import InputError
from calico.inference.options import ServingOptions
from calico.inference.segmenter import DTYPES, CoSegmenter
from calico.language.tokenizer import VOCAB_SIZE, CalicoTokenizer
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import PRESETS, CalicoConfig, EncoderConfig
from calico.model.precision import FULL_PRECISION, check_device, quantise_llm
from calico.values import ImageGroup

NAMES = ("dog", "chair", "leg", "seat", "head", "back", "wheel", "tail")
"""Candidates for random weights: the grammar then holds their answers, which would else never name a thing."""


def config_of(preset: str) -> CalicoConfig:
    """Of a preset, or of `micro`."""
    return micro() if preset == "micro" else PRESETS[preset]()


def micro() -> CalicoConfig:
    """calico-7b's kinds of encoders at sizes of no use, each with an input size of its own: 28, 42 and 64 pixels.

    To try on a CPU, in a minute, what is meant for a GPU.
    """
    return CalicoConfig(
        preset="calico-7b",
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
        llm={"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": False},
        cem_num_heads=2,
        cam_layers=(0, 1),
        mask_decoder={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
        num_mask_grid=16,
        mask_prompt=True,
    )  # fmt: skip


def segmenter_of(
    preset: str | None, checkpoint: Path | None, device: str | None, options: ServingOptions
) -> tuple[CoSegmenter, tuple[str, ...] | None]:
    """The segmenter, and the candidates that its answers have to be held to (None for trained weights)."""
    if preset is None:
        return CoSegmenter.from_checkpoint(checkpoint, device, options=options), None
    if checkpoint is not None:
        raise InputError("--preset has random weights, --checkpoint its own: give one of them")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    config = config_of(preset)
    tokenizer = CalicoTokenizer.train()
    model = random_model(config, device, DTYPES[options.dtype])
    if options.llm_bits is not None:
        quantise_llm(model, options.llm_bits, device)
    return CoSegmenter(model, config, tokenizer, version=f"{preset} with random weights", options=options), NAMES


def random_model(config: CalicoConfig, device: torch.device | str, dtype: torch.dtype | None = None) -> CalicoModel:
    """Frozen. dtype: of all but the mask decoder, which is float32; None: bfloat16 on a GPU, else float32."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or (torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32))
    try:
        with torch.device(device):
            model = build(config)
    finally:
        torch.set_default_dtype(before)
    for name in FULL_PRECISION:
        model.get_submodule(name.rstrip(".")).float()
    return model.requires_grad_(False)


def shared_groups(num_groups: int, sizes: Sequence[int] = (2,), images_per_group: float = 0.5) -> list[ImageGroup]:
    """Groups over a pool of held-out drawings, so that each drawing is in several; the same for the same numbers."""
    rng = np.random.default_rng(0)
    num_images = max(*sizes, round(num_groups * images_per_group))
    pool = [item.image for seed in range((num_images + 1) // 2) for item in draw_group(seed, group_size=2)][:num_images]
    return [
        ImageGroup(tuple(pool[i] for i in rng.choice(num_images, sizes[k % len(sizes)], replace=False)))
        for k in range(num_groups)
    ]
