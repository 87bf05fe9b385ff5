"""The mean of checkpoints that were trained from the same weights, which is often better than any of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from calico.checkpoints.files import (
    CONFIG,
    TOKENIZER,
    check_keys,
    read_config,
    read_weights,
    tied_keys,
    write_safetensors,
)
from calico.checkpoints.fingerprint import WEIGHTS
from calico.errors import CheckpointError, InputError
from calico.files import write_text
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.config import CalicoConfig


def average_checkpoints(folders: Sequence[Path], out: Path, shares: Sequence[float] | None = None) -> CalicoConfig:
    """Writes the mean of every weight, in the width of the first, as a checkpoint folder; returns its config.

    shares: how much each counts, in proportion; None: alike. Between a checkpoint and what was trained from it they say
    how much of the training is kept (Wortsman et al. 2022, arXiv:2109.01903).

    Meant for runs of one recipe with different seeds, from one start: weights of runs that started apart do not
    correspond, and their mean is of no use. Nothing tells which is the case; measure the result. What counts steps is
    the first one's. ("Uniform soup", Wortsman et al. 2022, arXiv:2203.05482.)

    Raises `InputError` for fewer than two, twice the same or an `out` that is not empty, `CheckpointError` for folders
    that are no checkpoints or differ in config or tokenizer.
    """
    shares = [1.0] * len(folders) if shares is None else list(shares)
    if len(shares) != len(folders) or min(shares, default=0) <= 0:
        raise InputError(f"shares: expected a number above 0 for each of {len(folders)} checkpoints, got {shares}")
    places = {folder.resolve() for folder in folders}
    if len(folders) < 2 or len(places) < len(folders):
        raise InputError(f"expected two or more different checkpoints, got {', '.join(map(str, folders))}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; give the mean a folder of its own")
    config = read_config(folders[0])
    tokenizer = CalicoTokenizer.from_file(folders[0] / TOKENIZER)
    with torch.device("meta"):
        model = build(config)
    members: list[dict[str, Tensor]] = []
    for folder in folders:
        if read_config(folder) != config:
            raise CheckpointError(f"{folder / CONFIG}: differs from {folders[0] / CONFIG}; only equals have a mean")
        if (folder / TOKENIZER).read_bytes() != (folders[0] / TOKENIZER).read_bytes():
            raise CheckpointError(f"{folder / TOKENIZER}: differs from {folders[0] / TOKENIZER}; so do the ids")
        members.append(read_weights(folder))
        check_keys(folder / WEIGHTS, model.state_dict(), members[-1], tied_keys(model), config.preset)
    out.mkdir(parents=True, exist_ok=True)
    mean = {key: _mean([member[key] for member in members], shares) for key in members[0]}
    write_safetensors(out / WEIGHTS, mean, {"preset": config.preset})
    write_text(out / CONFIG, config.to_json())
    tokenizer.save(out / TOKENIZER)
    return config


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.contiguous()
    total = torch.zeros_like(first, dtype=torch.float32)
    for tensor, share in zip(tensors, shares, strict=True):
        total += tensor.float() * share
    return (total / sum(shares)).to(first.dtype).contiguous()
