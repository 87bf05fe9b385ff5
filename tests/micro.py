"""The same architecture at sizes of no use: a training step takes tens of milliseconds. And what goes with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from calico.checkpoints.files import save_checkpoint
from calico.checkpoints.fingerprint import EMBEDDED
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.config import CalicoConfig, EncoderConfig, calico_tiny
from calico.model.generation import generate
from calico.part_memory import fitting
from calico.training.batches import BatchSettings
from calico.training.curves import plot_curves

TOKENIZER = CalicoTokenizer.train()
BATCH = BatchSettings(num_images=4, num_groups=4, num_points=2, num_boxes=2)


def micro(widths: tuple[int, ...] = (4, 4, 8), hidden_size: int = 16, llm_size: int = 32) -> CalicoConfig:
    """All images are 32 x 32, masks too; hidden_size: channels of the encoders and of the mask decoder."""
    tiny = calico_tiny(len(TOKENIZER))
    encoder = EncoderConfig("conv", 32, hidden_size, {"widths": list(widths), "num_blocks": [0, 0, 1]})
    return replace(
        tiny,
        global_encoder=encoder,
        semantic_encoder=encoder,
        grounding_encoder=encoder,
        num_queries=2,
        qformer=tiny.qformer
        | {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 16, "encoder_hidden_size": hidden_size},
        llm=tiny.llm
        | {"hidden_size": llm_size, "intermediate_size": llm_size, "num_hidden_layers": 2, "num_attention_heads": 2},
        cam_layers=(0, 1),
        mask_decoder=tiny.mask_decoder
        | {"hidden_size": hidden_size, "mlp_dim": hidden_size, "iou_head_hidden_dim": 16},
        num_mask_grid=32,
        data_version="drawings-v1",
    )


def save_micro(folder: Path, seed: int = 0, config: CalicoConfig | None = None) -> Path:
    """A checkpoint of random weights, the same for the same seed."""
    torch.manual_seed(seed)
    config = config or micro()
    save_checkpoint(folder, build(config), config, TOKENIZER)
    return folder


def embed(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """For every module that is loaded, the embedded checkpoint is the one in this folder."""
    _replace("EMBEDDED", EMBEDDED, folder, patch)


def shorten_answers(patch: pytest.MonkeyPatch, num_tokens: int = 4) -> None:
    """A model that knows nothing talks on and on: answers end after so many tokens."""

    def short(*args: Any, max_new_tokens: list[int], **options: Any) -> Any:
        return generate(*args, max_new_tokens=[num_tokens] * len(max_new_tokens), **options)

    _replace("generate", generate, short, patch)


def leave_out_curves(patch: pytest.MonkeyPatch) -> None:
    """The picture of its losses takes most of a short run's time."""
    _replace("plot_curves", plot_curves, lambda log, picture: None, patch)


def quicken_memory(patch: pytest.MonkeyPatch) -> None:
    """A part memory of few steps: for those who do not look at what it learnt."""
    quick = fitting.MemorySettings(steps=10, rows_per_step=96, hidden=8, rank=16, max_images=6, max_measured=2)
    patch.setattr("calico.training.memory_fit.THOROUGH", quick)


def use_folds(count: int, patch: pytest.MonkeyPatch) -> None:
    """A cross-validation by so many folds; each costs a finetune."""
    patch.setattr("calico.training.challenge.NUM_FOLDS", count)


def _replace(name: str, value: object, other: object, patch: pytest.MonkeyPatch) -> None:
    for module_name, module in list(sys.modules.items()):
        is_ours = module_name.partition(".")[0] in {"calico", "backend", "benchmarks", "scripts"}
        if is_ours and getattr(module, name, None) == value:
            patch.setattr(module, name, other)
