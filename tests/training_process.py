"""One of several processes of a training run; `test_distributed.py` starts it as `accelerate launch` would.

    python training_process.py FOLDER REPORT

REPORT: a torch file with the parameters at the end and what this process wrote inside FOLDER.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import TOKENIZER, leave_out_curves, micro
from test_finetune import BATCH

from calico.training.loop import Phase, Trainer, TrainingSettings

SETTINGS = TrainingSettings(
    minutes=60.0,  # of a clock that gives two steps
    phases=(Phase(1.0, 32),),
    batch=replace(BATCH, num_images=6),
    learning_rate=5e-4,
    clip_norm=1e9,  # a sum in place of a mean would not be seen otherwise
    warmup_steps=1,
    max_seg_prompts=6,
    num_workers=0,
)


def trainer(folder: Path) -> Trainer:
    """With plain gradient descent: AdamW's first steps turn rounding of small gradients into steps of full length."""
    run = Trainer(folder, SETTINGS, micro(), TOKENIZER)
    run.optimizer = run.accelerator.prepare(torch.optim.SGD(run.bare.parameters(), lr=0.0))
    return run


def watched(folder: Path) -> list[str]:
    """Grows by all that this process writes inside the folder."""
    written: list[str] = []

    def watch(event: str, args: tuple[object, ...]) -> None:
        writes = event in {"os.mkdir", "os.rename", "os.remove"}
        if event == "open":
            writes = isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and str(args[0]).startswith(f"{folder}/"):
            written.append(f"{event} {args[0]}")

    sys.addaudithook(watch)
    return written


def main(folder: Path, report: Path) -> None:
    written = watched(folder)
    torch.set_num_threads(1)
    leave_out_curves(pytest.MonkeyPatch())
    run = trainer(folder)
    clock = iter([30.0 * 60, 60.0 * 60] if run.accelerator.is_main_process else [1.0, 2.0])  # a slow and a quick one
    agreed = run._agreed
    run._agreed = lambda seconds: agreed(next(clock))  # type: ignore[method-assign]
    state = run.run()
    torch.save(
        {
            "parameters": {name: p.detach() for name, p in run.bare.named_parameters()},
            "written": written,
            "steps": state.step,
            "seconds": state.seconds,
            "world": run.accelerator.num_processes,
        },
        report,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
