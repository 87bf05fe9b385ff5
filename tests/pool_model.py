"""A stand-in for a model in a worker, in a file of its own: every worker imports it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from backend_fakes import Named

from calico.errors import CheckpointError


def make(folder: Path | None, *, delay_s: float = 0.0, notes: Path | None = None, broken: str = ""):
    """A stand-in that writes into `notes` which process answered what."""

    class Noting(Named):
        def segment_many(self, groups, *, candidates):
            if notes is not None:
                for one in groups:
                    with (notes / str(os.getpid())).open("a") as file:
                        file.write(one.digests[0] + "\n")
                if (notes / "die").exists():
                    (notes / "die").unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().segment_many(groups, candidates=candidates)

    if broken and folder is not None and broken in (folder / "model.safetensors").read_text():
        raise CheckpointError(f"{broken} is cut short")
    return Noting(folder, delay_s=delay_s)


def make_micro(folder: Path | None):
    """A real model of no use, whose part memories take a second to fit."""
    import torch
    from test_finetune import TOKENIZER, micro
    from test_part_memories import QUICK

    from calico.inference.segmenter import CoSegmenter
    from calico.model.builder import build
    from calico.part_memory import fitting

    torch.manual_seed(0)
    fitting.MemorySettings = lambda **_: QUICK
    return CoSegmenter(build(micro()), micro(), TOKENIZER, version="m1")
