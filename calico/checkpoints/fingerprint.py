"""The version of a checkpoint, told from its files alone: no torch, no weights loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from calico.checkpoints.registry import CARD
from calico.errors import CheckpointError
from calico.model.config import CalicoConfig

EMBEDDED = Path(__file__).parents[1] / "weights" / "calico-small"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter.safetensors"
ADAPTER_CARD = "adapter.json"
MEMORY = "memory.safetensors"  # a team's own parts, `calico.part_memory.memory`
MEMORY_CARD = "memory.json"


_BLOCK = 8 * 2**20
_STRIDE, _PROBE = 2**20, 4096


def fingerprint(weights: Path, *, ends_only: bool = False) -> str:
    """Eight hex digits of a weights file: of all of it up to 16 MiB. Of a larger one, so that 17 GB take a second: its
    size, its first and last 8 MiB, and 4 KiB at every MiB and at the start of every tensor between them.

    ends_only: without those between, as versions of before were named.
    """
    size = weights.stat().st_size
    with weights.open("rb") as file:
        head = file.read(_BLOCK)
        digest = hashlib.sha256(str(size).encode() + head)
        file.seek(max(0, size - _BLOCK))
        digest.update(file.read(_BLOCK))
        if size > 2 * _BLOCK and not ends_only:
            places = {*range(_BLOCK, size - _BLOCK, _STRIDE), *_tensor_starts(head, size)}
            for place in sorted(place for place in places if _BLOCK <= place < size - _BLOCK):
                file.seek(place)
                digest.update(file.read(_PROBE))
    return digest.hexdigest()[:8]


def _tensor_starts(head: bytes, size: int) -> list[int]:
    """Offsets of a safetensors file's tensors; none for another format or a header that is longer than `head`."""
    length = int.from_bytes(head[:8], "little")
    if not 0 < length <= min(len(head), size) - 8:
        return []
    try:
        header = json.loads(head[8 : 8 + length])
        return [8 + length + int(entry["data_offsets"][0]) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return []


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` lists. Raises `CheckpointError`."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.is_file():
        return [folder / WEIGHTS]
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({error!r}); copy the checkpoint again") from None
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(
            f"{index}: expected names of shards beside it, got {names[:3]}; copy the checkpoint again"
        )
    return [folder / name for name in names]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no checkpoint."""
    return (folder / ADAPTER_CARD).is_file() and not (folder / "config.json").is_file()


def weights_version(folder: Path, *, ends_only: bool = False) -> str:
    """Preset and hash of a checkpoint's weights: what an adapter says it was made on, wherever the folder lies.

    ends_only: as `fingerprint` takes it. Raises `CheckpointError` for a config that is missing or unreadable, OSError
    for missing weights.
    """
    prints = weights_print(folder, ends_only=ends_only)
    return f"{CalicoConfig.from_file(folder / 'config.json').preset}-{prints}"


def weights_print(folder: Path, *, ends_only: bool = False) -> str:
    """Eight hex digits of a checkpoint's weights or an adapter's. Raises OSError where there are none."""
    files = [folder / ADAPTER] if is_adapter(folder) else weight_files(folder)
    prints = [fingerprint(path, ends_only=ends_only) for path in files]
    return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()[:8]


def checkpoint_version(folder: Path | None = None) -> str:
    """What `CoSegmenter.version` will be once this checkpoint or adapter is loaded. folder None: the embedded default.

    In a registry it is the version's id, elsewhere preset and hash of the weights, and of the part memory
    where there is one, since names depend on it.
    Raises `CheckpointError` for a config or card that is missing or unreadable, OSError for missing weights.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    if (folder / CARD).is_file():
        return str(read_card(folder / CARD, "id")["id"])
    if is_adapter(folder):
        version = f"{read_card(folder / ADAPTER_CARD, 'preset')['preset']}-{weights_print(folder)}"
    else:
        version = weights_version(folder)
    if not (folder / MEMORY).is_file():
        return version
    preset, _, weights = version.rpartition("-")
    return f"{preset}-{hashlib.sha256((weights + fingerprint(folder / MEMORY)).encode()).hexdigest()[:8]}"


def read_card(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON object with at least these fields, or a `CheckpointError` that names the file."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy the version again") from None
    if not isinstance(card, dict) or (missing := [name for name in needed if name not in card]):
        lacks = ", ".join(missing) if isinstance(card, dict) else "everything"
        raise CheckpointError(f"{path}: lacks {lacks}; copy the version again")
    return card
