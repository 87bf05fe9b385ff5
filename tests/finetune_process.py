"""What each process of a finetune does in `test_distributed_finetune.py`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import BATCH, leave_out_curves, quicken_memory, shorten_answers, use_folds
from test_finetune import QUICK
from training_process import watched, with_clock

from calico.checkpoints.registry import Registry
from calico.snapshots.store import Snapshot
from calico.training.finetune import Finetune, FinetuneSettings
from scripts import finetune as verb

PLAIN = replace(QUICK, steps=2, learning_rate=0.05, clip_norm=1e9, warmup_steps=1)
TIMED = replace(QUICK, steps=None, minutes=60.0)
EIGHT = replace(QUICK, steps=1, bits=8, precision="bf16", batch=replace(BATCH, num_images=8))


def opened(folder: Path, out: Path, settings: FinetuneSettings) -> Finetune:
    return Finetune(Snapshot(folder / "s"), folder / "base", out, settings)


def with_plain_descent(run: Finetune) -> Finetune:
    """AdamW's first steps turn rounding of small gradients into steps of full length."""
    groups = [{"params": group["params"], "share": group["share"]} for group in run.optimizer.param_groups]
    run.optimizer = torch.optim.SGD(groups, lr=0.0)
    return run


def weights(run: Finetune) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.trained.items()}


def plain(folder: Path) -> dict[str, Any]:
    """Two steps without Adam."""
    run = with_plain_descent(opened(folder, folder / "runs" / "plain", PLAIN))
    run.train()
    return {"weights": weights(run), "state": asdict(run.state)}


def timed(folder: Path) -> dict[str, Any]:
    """A clock that gives the main process two steps beside its looks, and the other one any number."""
    run = opened(folder, folder / "runs" / "timed", TIMED)
    with_clock(12 * 60.0 if run.processes.is_main else 1.0, run.train)
    return {"state": asdict(run.state), "size": run.finish().num_bytes}


def killed(folder: Path) -> dict[str, Any]:
    """The same run unbroken, and resumed after a kill before its third step was saved."""

    def kill(state: Any, *_: Any) -> None:
        if state.step == 3:
            raise KeyboardInterrupt

    whole = opened(folder, folder / "runs" / "whole", QUICK)
    whole.train()
    out = folder / "runs" / "killed"
    saving = replace(QUICK, save_seconds=0.0)
    with suppress(KeyboardInterrupt):
        opened(folder, out, saving).train(kill)
    again = opened(folder, out, saving)
    resumed_at = again.state.step
    again.train()
    return {"resumed_at": resumed_at, "whole": weights(whole), "again": weights(again)}


def cramped(folder: Path) -> dict[str, Any]:
    """Eight bits and bfloat16, and memory for four images at once on one of the processes only."""
    run = opened(folder, folder / "runs" / "cramped", EIGHT)
    real = run._loss

    def loss(batch: Any, name: Any = None) -> Any:
        if run.processes.index == 1 and len(batch.part_maps) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(batch, name)

    run._loss = loss  # type: ignore[method-assign]
    run.train()
    return {"state": asdict(run.state), "weights": weights(run)}


def asked(folder: Path) -> dict[str, Any]:
    """The whole verb, twice, and once more on a folder that holds another run."""
    out, report = folder / "runs" / "verb", folder / "runs" / "report.json"
    command = ["--data", str(folder / "s"), "--registry", str(folder / "registry"), "--out", str(out)]
    command += ["--steps", "1", "--base-groups", "1", "--json", str(report)]
    codes = [verb.main(command), verb.main(command), verb.main([*command[:5], str(folder / "runs" / "plain")])]
    return {"codes": codes, "versions": Registry(folder / "registry").ids()}


def all_of_them(folder: Path) -> dict[str, Any]:
    """What this process saw. folder: with `base`, a checkpoint, and `s`, a snapshot."""
    patch = pytest.MonkeyPatch()
    shorten_answers(patch)
    leave_out_curves(patch)
    quicken_memory(patch)
    use_folds(2, patch)
    written = watched(folder)
    reports = {part.__name__: part(folder) for part in (plain, timed, killed, cramped, asked)}
    return {**reports, "written": written}
