"""What each process of a finetune of calico-7b's kinds does in `test_real_kinds_together.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from test_finetune import QUICK

from calico.snapshots.store import Snapshot
from calico.training import finetune as module
from calico.training.finetune import Finetune


def finetuned(folder: Path) -> dict[str, Any]:
    module.mistaken_names = lambda *_: []  # a model that knows nothing talks on and on
    run = Finetune(Snapshot(folder / "s"), folder / "base", folder / "run", replace(QUICK, steps=2, precision="bf16"))
    run.train()
    weights = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    return {"weights": weights, "step": run.state.step, "dtype": str(run.model.dtype)}
