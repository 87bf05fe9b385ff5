"""A checkpoint folder written shard by shard: what was finished before a stop is not written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from calico.checkpoints.files import write_safetensors
from calico.checkpoints.fingerprint import INDEX, WEIGHTS
from calico.errors import InputError
from calico.files import write_text

PLAN = "plan"
"""Key in a shard's metadata: a hash of all that decides its content."""


class Slot(NamedTuple):
    """One tensor of the checkpoint as it will be stored."""

    name: str
    shape: torch.Size
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


def shards_of(slots: Iterable[Slot], max_bytes: int) -> dict[str, list[Slot]]:
    """File name -> its tensors, in order; a tensor larger than max_bytes has a file of its own."""
    groups: list[list[Slot]] = [[]]
    for slot in slots:
        if groups[-1] and sum(other.num_bytes for other in groups[-1]) + slot.num_bytes > max_bytes:
            groups.append([])
        groups[-1].append(slot)
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    stem = Path(WEIGHTS).stem
    return {f"{stem}-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def write_shards(
    folder: Path,
    shards: Mapping[str, list[Slot]],
    read: Callable[[Slot], Tensor],
    plan: str,
    metadata: Mapping[str, str],
    on_shard: Callable[[str, bool], None] = lambda name, was_there: None,
) -> None:
    """Every shard whole or not at all, then the index. Only one shard is in memory at a time.

    on_shard: called after each, with its name and whether it was there already. Raises `InputError` for a folder that
    holds other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = {path.name: _plan_of(path) for path in folder.glob("*.safetensors")}
    if other := next((name for name, other_plan in sorted(present.items()) if other_plan != plan), None):
        raise InputError(f"{folder}: holds other weights ({other}); choose an empty folder, or remove them")
    for name, slots in shards.items():
        was_there = name in present
        if not was_there:
            tensors = {slot.name: read(slot).to(slot.dtype).contiguous().clone() for slot in slots}
            write_safetensors(folder / name, tensors, {PLAN: plan, **metadata})
            del tensors
        on_shard(name, was_there)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(slot.num_bytes for slots in shards.values() for slot in slots)},
            "weight_map": {slot.name: name for name, slots in shards.items() for slot in slots},
        }
        write_text(folder / INDEX, json.dumps(index, indent=1) + "\n")


def _plan_of(path: Path) -> str | None:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(PLAN)
    except SafetensorError:
        return None
