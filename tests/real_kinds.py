"""calico-7b's kinds of encoders at sizes of no use, each with an input size of its own: 28, 42 and 64 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from micro import TOKENIZER

from benchmarks.workload import micro
from calico.checkpoints.files import save_checkpoint
from calico.model.builder import build
from calico.model.config import CalicoConfig


def real_kinds(preset: str = "calico-7b") -> CalicoConfig:
    """Knows drawings, as far as its config says: they are its base data."""
    return replace(micro(), preset=preset, data_version="drawings-v1")


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
