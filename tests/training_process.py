"""What each process of a training run does in `test_distributed.py`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from micro import BATCH, TOKENIZER, leave_out_curves, micro

from calico.training import run as module
from calico.training.trainer import Phase, Trainer, TrainingSettings

T = TypeVar("T")
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
    run.optimizer = torch.optim.SGD(run.step_module.parameters(), lr=0.0)
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


def with_clock(tick: float, work: Callable[[], T]) -> T:
    """The clock of runs moves by so many seconds each time that it is read."""
    ticks = count()
    clock = SimpleNamespace(monotonic=lambda: tick * next(ticks), process_time=time.process_time)
    real, module.time = module.time, clock  # type: ignore[assignment]
    try:
        return work()
    finally:
        module.time = real


def trained(folder: Path) -> dict[str, Any]:
    """The parameters at the end and what this process wrote inside the folder."""
    written = watched(folder)
    leave_out_curves(pytest.MonkeyPatch())
    run = trainer(folder)
    state = with_clock(30 * 60.0 if run.processes.is_main else 1.0, run.run)  # a slow and a quick one
    return {
        "parameters": {name: p.detach() for name, p in run.step_module.named_parameters()},
        "written": written,
        "steps": state.step,
        "seconds": state.seconds,
        "world": run.processes.num,
    }
