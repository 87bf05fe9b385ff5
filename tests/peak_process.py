"""A finetune of calico-7b's kinds in a process of its own, for its memory; `test_real_kinds_together.py` starts it.

    python peak_process.py FOLDER REPORT

FOLDER: with `base`, a checkpoint, and `s`, a snapshot. REPORT: JSON of bytes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_finetune import QUICK

from benchmarks.process import resident_bytes, status_bytes
from calico.snapshots.store import Snapshot
from calico.training import finetune as module


def main(folder: Path, report: Path) -> None:
    torch.set_num_threads(1)
    module.mistaken_names = lambda *_: []  # a model that knows nothing talks on and on
    before = resident_bytes()
    settings = replace(QUICK, steps=24, num_validations=3, precision="no")
    result = module.finetune(Snapshot(folder / "s"), folder / "base", folder / "run", settings)
    report.write_text(json.dumps({"before": before, "peak": status_bytes("VmHWM"), "groups": result.num_groups}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
