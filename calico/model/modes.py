"""Which weights train.

`paper`: what the paper trains (LoRA, mask decoder, CEM, CAM). `all`: everything, as the small model is born, but for a
pretrained trunk, which has seen more photographs than any run of ours will show it. Where a model was joined from bases
that lack something (`CalicoConfig.fresh`, `new_tokens`), that trains in either mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from calico.model.calico import CalicoModel
from calico.model.token_rows import TokenRows

MODES = ("paper", "all")
FROZEN = ("trunk.", "global_encoder.own.", "semantic_encoder.own.", "grounding_encoder.own.")
PAPER_MODULES = ("cem.", "cams.", "cam_queries", "pixel_decoder.mask_decoder.")
TOKEN_ROWS = "token_rows."


PAPER_TARGETS = ("q_proj", "v_proj")


def add_lora(
    model: CalicoModel,
    lora: dict[str, Any],
    targets: Sequence[str] = PAPER_TARGETS,
    blocks: Sequence[str] = (),
    new_tokens: Sequence[int] = (),
) -> None:
    """LoRA on linears of the language model only, as the paper (section 5) on q_proj and v_proj unless told others.

    blocks: others of the model's modules, each of whose convolutions and linears gets LoRA too. new_tokens: whose rows
    train as a whole (`TokenRows`). Raises `CheckpointError` for tokens that the model has no rows for.
    """
    from peft import (  # with all its own 50 MB and seconds, which serving never needs
        LoraConfig,
        inject_adapter_in_model,
    )

    if new_tokens:
        model.token_rows = TokenRows(model.llm, new_tokens)
    inject_adapter_in_model(LoraConfig(target_modules=list(targets), **lora), model.llm)
    for block in map(model.get_submodule, blocks):
        names = [name for name, module in block.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        inject_adapter_in_model(LoraConfig(target_modules=names, **lora), block)


def merge_lora(model: CalicoModel) -> None:
    """Fold the adapters and the rows of new tokens into the model's own weights; its outputs stay."""
    from peft.tuners.lora import LoraLayer

    if model.token_rows is not None:
        model.token_rows.fold(model.llm)
        model.token_rows = None
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def set_mode(model: CalicoModel, mode: str, fresh: Sequence[str] = ()) -> None:
    """Set `requires_grad` of every parameter; in mode `paper` call `add_lora` first. fresh: beginnings of the names of
    weights that no base has trained, and so train too."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}, expected one of {', '.join(MODES)}")
    for name, parameter in model.named_parameters():
        in_paper = is_trained_in_paper(name) or name.startswith(tuple(fresh))
        parameter.requires_grad = in_paper or (mode == "all" and not name.startswith(FROZEN))


def is_trained_in_paper(name: str) -> bool:
    return name.startswith((*PAPER_MODULES, TOKEN_ROWS)) or ".lora_" in name


def train_mode(model: CalicoModel, mode: str) -> None:
    """Frozen encoders keep their running statistics and drop nothing."""
    model.train(mode == "all")
    if mode == "paper":
        for module in (model.llm, model.cem, model.cams, model.pixel_decoder.mask_decoder):
            module.train()
    for name, module in model.named_children():
        if name.endswith("_encoder") and isinstance(own := getattr(module, "own", None), nn.Module):
            own.eval()


def trained_share(model: nn.Module) -> tuple[int, int]:
    """(number of trained weights, number of all weights)."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
