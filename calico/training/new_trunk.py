"""A small model's start: a checkpoint with a pretrained trunk beside its encoders, which adds nothing at first.

So it gives what the checkpoint gave. Its tokenizer may know more: rows of tokens that both know are kept, a new token
starts as the mean of those that spelled it before.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from calico.checkpoints.files import load_checkpoint
from calico.conversion.backbone import backbone_levels, load_backbone
from calico.conversion.efficientnet_lite import load_pretrained, pretrained_file
from calico.errors import InputError
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig, calico_small
from calico.model.sizes import PRETRAINED

logger = logging.getLogger(__name__)
ADDED = ("trunk.", "global_encoder.", "semantic_encoder.", "grounding_encoder.")  # but for what is below `OWN`
OWN = ".own."
TOKEN_ROWS = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")


class TrunkStart(NamedTuple):
    """checkpoint: a folder, without a trunk. trunk: one that has a package, or a backbone's folder or hub name."""

    checkpoint: Path
    trunk: str


def small_on(vocab_size: int, trunk: str) -> CalicoConfig:
    """`calico-small` on a trunk as `TrunkStart` names it. Raises `InputError` where there is none of this name."""
    if trunk in PRETRAINED:
        return calico_small(vocab_size, trunk)
    levels = backbone_levels(trunk, calico_small().grounding_encoder.image_size)
    return calico_small(vocab_size, Path(trunk).name, json.loads(json.dumps(levels._asdict())))


def with_trunk(
    config: CalicoConfig, tokenizer: CalicoTokenizer, start: Path | None, trunk: str | None = None
) -> CalicoModel:
    """A model of `config`, its trunk pretrained. start: a checkpoint of the same sizes without a trunk; None: fresh
    weights. trunk: where a backbone's weights are. Raises `InputError` where a size is another or the trunk's weights
    are not to be had."""
    model = build(config)
    if config.backbone:
        load_backbone(model.trunk, trunk or config.trunk)
    elif config.trunk != "micro":
        load_pretrained(model.trunk, pretrained_file(config.trunk))  # type: ignore[arg-type]
    if start is not None:
        before, old_config, old_tokenizer = load_checkpoint(start)
        if old_config.trunk:
            raise InputError(f"{start}: has the trunk {old_config.trunk} already; to train it on, leave out --trunk")
        _take_over(model, before.state_dict(), old_tokenizer, tokenizer, start)
    return model


def _take_over(
    model: CalicoModel, tensors: dict[str, Tensor], old: CalicoTokenizer, new: CalicoTokenizer, start: Path
) -> None:
    weights = {}
    for key, own in model.state_dict().items():
        if key.startswith(ADDED) and OWN not in key:
            continue
        source = key.replace(OWN, ".", 1)
        value = moved_rows(tensors[key], own, old, new) if key in TOKEN_ROWS else tensors.get(source)
        if value is None or value.shape != own.shape:
            shape = "missing" if value is None else f"{tuple(value.shape)}"
            raise InputError(f"{start}: {key} is {shape}, a model with this trunk wants {tuple(own.shape)}")
        weights[key] = value
    model.load_state_dict(weights, strict=False)
    model.llm.tie_weights()
    logger.info("%s: %d tensors taken over", start, len(weights))


@torch.no_grad()
def moved_rows(rows: Tensor, own: Tensor, old: CalicoTokenizer, new: CalicoTokenizer) -> Tensor:
    """V_old x D rows for the tokens of another vocabulary: V_new x D, `own` where the old one cannot spell a token."""
    moved = own.clone()
    numbers = old.vocabulary
    for token, number in new.vocabulary.items():
        if token in numbers:
            moved[number] = rows[numbers[token]]
        elif spelled := old.ids(new.piece(number)) or None:
            moved[number] = rows[spelled].mean(0)
    return moved
