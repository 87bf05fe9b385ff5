"""Starts a script in several processes that talk over gloo, as `accelerate launch` would on a machine without a GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

WORLD = 2


def run_together(script: str, *arguments: Path) -> list[dict[str, Any]]:
    """`python SCRIPT *arguments REPORT` in each process; what each left in its own REPORT, a torch file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(__file__).parent
    common = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
              "ACCELERATE_USE_CPU": "true", "PYTHONPATH": f"{here}:{here.parent}"}  # fmt: skip
    files = [arguments[0].parent / f"report-{rank}.pt" for rank in range(WORLD)]
    processes = [
        subprocess.Popen(
            [sys.executable, here / script, *arguments, file],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(WORLD)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, file in enumerate(files)
    ]
    try:
        errors = [process.communicate(timeout=1000)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(errors)
    return [torch.load(file, weights_only=True) for file in files]
