"""An adapter: what a finetune changed of a checkpoint, in adapter.safetensors and adapter.json.

It always stands on a checkpoint, never on another adapter: a finetune that starts from an adapter goes on with its
weights over the same base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calico.checkpoints.files import check_keys, load_checkpoint, read_safetensors, write_safetensors
from calico.checkpoints.fingerprint import ADAPTER, ADAPTER_CARD, EMBEDDED, read_card, weights_version
from calico.errors import CheckpointError
from calico.files import write_text
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.modes import PAPER_MODULES, PAPER_TARGETS, add_lora, merge_lora, set_mode

FORMAT_VERSION = 1
ALL_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ENCODERS = ("global_encoder", "semantic_encoder", "grounding_encoder", "qformer")
LORA_OPTIONS = ("r", "lora_alpha", "lora_dropout")
MAX_SMALL_BYTES = 3_000_000  # of a small model's adapter in fp16


@dataclass(frozen=True)
class AdapterSpec:
    """What changes. lora: r, lora_alpha and lora_dropout. targets: linears of the language model that have LoRA.

    whole: prefixes of the names of parameters that are held as a whole. encoders: blocks with LoRA on all they have.
    tokens: those whose rows of the embedding and the output are held (`TokenRows`).
    """

    lora: Mapping[str, Any]
    targets: tuple[str, ...]
    whole: tuple[str, ...]
    encoders: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class AdapterCard:
    """adapter.json. base: `weights_version` of the checkpoint. base_id: its id, where it is in a registry."""

    preset: str
    base: str
    spec: AdapterSpec
    base_id: str | None = None
    format_version: int = FORMAT_VERSION

    @classmethod
    def from_file(cls, path: Path) -> AdapterCard:
        raw = read_card(path, "preset", "base", "spec", "format_version")
        if raw["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path}: format {raw['format_version']}, expected {FORMAT_VERSION}; use the version that wrote it"
            )
        try:
            spec = raw["spec"]
            encoders = tuple(spec.get("encoders", ()))  # adapters of before have none
            tokens = tuple(int(i) for i in spec.get("tokens", ()))
            raw["spec"] = AdapterSpec(
                dict(spec["lora"]), tuple(spec["targets"]), tuple(spec["whole"]), encoders, tokens
            )
            for names, known in ((spec["lora"], LORA_OPTIONS), (spec["targets"], ALL_LINEARS), (encoders, ENCODERS)):
                if odd := sorted(set(names) - set(known)):
                    raise KeyError(f"{odd[0]}, expected some of {', '.join(known)}")
            return cls(**raw)
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path}: not an adapter's card ({error!r}); copy the version again") from None


def choose_spec(model: CalicoModel, config: CalicoConfig) -> AdapterSpec:
    """The paper's (LoRA on q and v, CEM, CAM, mask decoder), and what no base of it has trained.

    For a model of no full-size preset, and so small that all this stays under `MAX_SMALL_BYTES`, also LoRA on every
    linear of the language model and its output rows, and on compact encoders, which know no look but that of their
    training; a pretrained trunk under them stays as it is.
    """
    paper = AdapterSpec(config.lora, PAPER_TARGETS, (*PAPER_MODULES, *config.fresh), tokens=config.new_tokens)
    if config.is_full_size:
        return paper
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rows = names[id(model.llm.get_output_embeddings().weight)]
    kinds = {encoder.kind for encoder in (config.global_encoder, config.semantic_encoder, config.grounding_encoder)}
    small = AdapterSpec(
        config.lora, ALL_LINEARS, (*PAPER_MODULES, rows), ENCODERS if kinds <= {"conv", "trunk"} else ()
    )
    changed = [module for name, module in model.llm.named_modules() if name.rpartition(".")[2] in ALL_LINEARS]
    changed += [
        m for block in small.encoders for m in getattr(model, block).modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    num_lora = config.lora["r"] * sum(m.weight[0].numel() + m.weight.shape[0] for m in changed)
    num_whole = sum(p.numel() for name, p in model.named_parameters() if name.startswith(small.whole))
    if 2 * (num_lora + num_whole) <= MAX_SMALL_BYTES * 0.97:  # the rest for the file's header
        return small
    return paper


def attach(model: CalicoModel, spec: AdapterSpec, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Makes what the spec names trainable and all else not. tensors: an adapter's weights to start from."""
    add_lora(model, dict(spec.lora), spec.targets, spec.encoders, spec.tokens)
    set_mode(model, "paper", spec.whole)
    if tensors is not None:
        load_trained(model, tensors)


def trained(model: CalicoModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that an adapter holds, by the names that they have in its file."""
    return {name.replace(".default.", "."): p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def load_trained(model: CalicoModel, tensors: Mapping[str, Tensor]) -> None:
    """Copies them over the trainable parameters; the names have to be the same."""
    for name, parameter in trained(model).items():
        parameter.copy_(tensors[name])


def save_adapter(folder: Path, card: AdapterCard, tensors: Mapping[str, Tensor]) -> None:
    """fp16. Raises `CheckpointError` where a weight does not fit into it or a small model's file grew too large."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.detach().to(torch.float16).contiguous().cpu() for name, tensor in sorted(tensors.items())}
    if wrong := [name for name, tensor in halves.items() if not tensor.isfinite().all()]:
        raise CheckpointError(f"{folder / ADAPTER}: {wrong[0]} is not finite in fp16; lower the learning rate")
    write_safetensors(folder / ADAPTER, halves, {})  # more metadata would stand in any order: other bytes each time
    if card.spec.targets == ALL_LINEARS and (size := (folder / ADAPTER).stat().st_size) > MAX_SMALL_BYTES:
        raise CheckpointError(f"{folder / ADAPTER}: {size} bytes, expected {MAX_SMALL_BYTES} at most; lower LoRA's r")
    write_text(folder / ADAPTER_CARD, json.dumps(asdict(card), indent=2) + "\n")


def read_adapter(folder: Path) -> tuple[AdapterCard, dict[str, Tensor]]:
    """Card and weights, in memory: the file may change. Raises `CheckpointError`."""
    weights = {name: tensor.clone() for name, tensor in read_safetensors(folder / ADAPTER).items()}
    return AdapterCard.from_file(folder / ADAPTER_CARD), weights


def find_base(folder: Path, card: AdapterCard, base: Path | None = None) -> Path:
    """The checkpoint that an adapter was made on: `base`, else the embedded one, else the one beside it in a registry.

    Raises `CheckpointError` where its fingerprint is another.
    """
    beside = [folder.parent / card.base_id] if card.base_id and Path(card.base_id).name == card.base_id else []
    others = []
    for place in [base] if base is not None else [EMBEDDED, *beside]:
        try:
            version = weights_version(place)
        except OSError as error:
            version = f"not readable ({error})"
        except CheckpointError:
            if base is not None:
                raise
            version = "no checkpoint"
        if version == card.base or _was_named(place, card.base):
            return place
        others.append(f"{place} is {version}")
    raise CheckpointError(
        f"{folder / ADAPTER_CARD}: made on {card.base}, but {'; '.join(others)}; name the folder of its own base"
    )


def _was_named(place: Path, base: str) -> bool:
    """Whether an adapter of before, when large files were named by their ends, means this checkpoint."""
    try:
        return weights_version(place, ends_only=True) == base
    except (OSError, CheckpointError):
        return False


def load_over_base(
    folder: Path,
    base: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    llm_device: torch.device | str | None = None,
) -> tuple[CalicoModel, CalicoConfig, CalicoTokenizer, AdapterCard]:
    """The base with the adapter attached, not merged: what a finetune goes on with."""
    card, tensors = read_adapter(folder)
    model, config, tokenizer = load_checkpoint(find_base(folder, card, base), device, dtype, llm_device)
    attach(model, card.spec)
    check_keys(folder / ADAPTER, trained(model), tensors, (), config.preset)
    load_trained(model, tensors)
    return model, config, tokenizer, card


def load_adapted(
    folder: Path,
    base: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    llm_device: torch.device | str | None = None,
) -> tuple[CalicoModel, CalicoConfig, CalicoTokenizer]:
    """The base with the adapter merged into it, in evaluation mode; the rest as `load_checkpoint` takes it.

    Raises `CheckpointError`.
    """
    model, config, tokenizer, _ = load_over_base(folder, base, device, dtype, llm_device)
    merge_lora(model)
    return model.eval().requires_grad_(False), config, tokenizer
