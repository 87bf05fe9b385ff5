"""One process in a group: whether NCCL (on a CPU gloo) starts here, and how fast it adds the gradients of an adapter.

python -m benchmarks.process_group --device cuda --json FILE
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks.machine import best_seconds, processor

NUM_WEIGHTS = 27_000_000  # of calico-7b's adapter


def measure(device: str) -> dict[str, Any]:
    backend = "nccl" if device.startswith("cuda") else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            gradients = torch.ones(NUM_WEIGHTS, device=device)
            seconds = best_seconds(lambda: distributed.all_reduce(gradients))
        finally:
            distributed.destroy_process_group()
    return {
        "backend": backend,
        "processor": processor(),
        "num_bytes": 4 * NUM_WEIGHTS,
        "all_reduce_seconds": seconds,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    args.json.write_text(json.dumps(measure(args.device), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
