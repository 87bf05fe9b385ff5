"""A checkpoint of random weights in bfloat16, to measure how long one of that size takes to load.

python -m benchmarks.checkpoint FOLDER --preset calico-7b
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.workload import config_of, random_model
from calico.checkpoints.files import save_checkpoint
from calico.language.tokenizer import CalicoTokenizer


def write(folder: Path, preset: str, device: str) -> int:
    """Returns the bytes that it takes."""
    tokenizer, config = CalicoTokenizer.train(), config_of(preset)
    config = replace(config, new_tokens=(), data_version="nothing: random weights")
    model = random_model(config, device, torch.bfloat16)
    with torch.no_grad():  # as trained ones: CEM and CAM that do something
        for parameter in (*model.cem.parameters(), *model.cams.parameters()):
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_checkpoint(folder, model, config, tokenizer, torch.bfloat16)
    return sum(path.stat().st_size for path in folder.iterdir())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", default="calico-7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    started = time.monotonic()
    size = write(args.folder, args.preset, args.device)
    print(f"{args.folder}: {size / 2**30:.2f} GiB in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
