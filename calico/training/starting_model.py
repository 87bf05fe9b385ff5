"""What a finetune starts from: a checkpoint with a fresh adapter, or an adapter over its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from calico.checkpoints.adapter import AdapterCard, attach, choose_spec, find_base, load_over_base
from calico.checkpoints.files import load_checkpoint, read_config, stored_dtype
from calico.checkpoints.fingerprint import ADAPTER_CARD, EMBEDDED, is_adapter, read_card, weights_version
from calico.checkpoints.registry import CARD
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.precision import check_bits, quantise_llm, widen_trained

TRAINING = "training.json"


def start_config(start: Path | None, base: Path | None = None) -> CalicoConfig:
    """The config that `open_start` will give, before 17 GB of weights are read. Raises `CheckpointError`."""
    return read_config(start_folder(start, base))


def start_folder(start: Path | None, base: Path | None = None) -> Path:
    """The checkpoint's, also where `start` is an adapter over it. Raises `CheckpointError`."""
    folder = EMBEDDED if start is None else Path(start)
    if is_adapter(folder):
        return find_base(folder, AdapterCard.from_file(folder / ADAPTER_CARD), base)
    return folder


def open_start(
    start: Path | None,
    base: Path | None,
    device: torch.device,
    bits: int | None = None,
    *,
    halved: bool = False,
) -> tuple[CalicoModel, CalicoConfig, CalicoTokenizer, AdapterCard]:
    """The model with an adapter attached, in float32: the one in `start`, or a fresh one on the checkpoint there.

    bits: of the frozen language model, which a GPU then never holds whole. halved: frozen weights are bfloat16 where
    the files hold them so. Raises `InputError` where the device cannot.
    """
    check_bits(bits, device)
    folder = EMBEDDED if start is None else Path(start)
    is_half = halved and stored_dtype(start_folder(start, base)) == torch.bfloat16
    dtype = torch.bfloat16 if is_half else torch.float32
    places: dict[str, Any] = {"dtype": dtype, "llm_device": None if bits is None else "cpu"}
    if is_adapter(folder):
        model, config, tokenizer, card = load_over_base(folder, base, device, **places)
    else:
        model, config, tokenizer = load_checkpoint(folder, device, **places)
        spec = choose_spec(model, config)
        attach(model, spec)
        base_id = str(read_card(folder / CARD, "id")["id"]) if (folder / CARD).is_file() else None
        card = AdapterCard(config.preset, weights_version(folder), spec, base_id)
    if bits is not None:
        quantise_llm(model, bits, device)
    widen_trained(model)
    return model, config, tokenizer, card


def seen_groups(start: Path | None) -> set[str]:
    """Ids of the groups that a version's weights were trained on or chosen by; none for a checkpoint."""
    path = None if start is None else Path(start) / TRAINING
    return set(read_card(path, "groups")["groups"]) if path is not None and path.is_file() else set()
