"""One of several processes of a finetune of calico-7b's kinds; `test_real_kinds_together.py` starts it.

    python real_kinds_process.py FOLDER REPORT
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_finetune import QUICK

from calico.snapshots.store import Snapshot
from calico.training import finetune as module
from calico.training.finetune import Finetune


def main(folder: Path, report: Path) -> None:
    torch.set_num_threads(1)
    module.mistaken_names = lambda *_: []  # a model that knows nothing talks on and on
    run = Finetune(Snapshot(folder / "s"), folder / "base", folder / "run", replace(QUICK, steps=2, precision="bf16"))
    run.train()
    weights = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    torch.save({"weights": weights, "step": run.state.step, "dtype": str(run.model.dtype)}, report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
