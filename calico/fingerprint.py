"""The version of a checkpoint, told from its files alone: no torch, no weights loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from calico.model.config import CalicoConfig

EMBEDDED = Path(__file__).parent / "weights" / "calico-tiny"


def fingerprint(weights: Path) -> str:
    """Eight hex digits of a weights file: of its size and its first and last 8 MiB, so that 17 GB take no time."""
    block = 8 * 2**20
    size = weights.stat().st_size
    with weights.open("rb") as file:
        digest = hashlib.sha256(str(size).encode() + file.read(block))
        file.seek(max(0, size - block))
        digest.update(file.read(block))
    return digest.hexdigest()[:8]


def checkpoint_version(folder: Path | None = None) -> str:
    """What `CoSegmenter.version` will be once this checkpoint is loaded. folder None: the embedded default.

    Raises `CheckpointError` for a config that is missing or unreadable, OSError for missing weights.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    return f"{CalicoConfig.from_file(folder / 'config.json').preset}-{fingerprint(folder / 'model.safetensors')}"
