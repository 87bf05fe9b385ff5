"""Two processes train as one that takes the batches of both; the main one alone writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import WORLD, run_together
from training_process import SETTINGS, trained, trainer

from calico.model.modes import train_mode
from calico.training.trainer import CHECKPOINT, STATE


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of both processes, over gloo."""
    folder = tmp_path_factory.mktemp("run")
    reports = run_together(trained, folder)
    assert (folder / STATE).is_file()
    assert (folder / CHECKPOINT).is_dir()
    return reports


def test_processes_stop_together_with_equal_weights(reports: list[dict[str, Any]]) -> None:
    assert [(report["world"], report["steps"], report["seconds"]) for report in reports] == [(2, 2, 3600.0)] * 2
    first, second = (report["parameters"] for report in reports)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_main_process_alone_writes(reports: list[dict[str, Any]]) -> None:
    main, other = (report["written"] for report in reports)
    assert any(STATE in path for path in main)
    assert other == []


def test_together_they_do_what_one_does_with_both_batches(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    run = trainer(tmp_path)
    fresh = {name: p.detach().clone() for name, p in run.step_module.named_parameters()}
    for step in range(2):
        run.state.step, run.state.seconds = step, step * 1800.0
        run._set_rate()
        for rank in range(WORLD):
            torch.manual_seed(SETTINGS.seed * 1_000_003 + step)
            train_mode(run.model, "all")
            batch = run.stages[0].batch(step * WORLD + rank, 0, 1)
            (run.step_module(batch).loss / WORLD).backward()
        torch.nn.utils.clip_grad_norm_(run.step_module.parameters(), SETTINGS.clip_norm)
        run.optimizer.step()
        run.optimizer.zero_grad()
    found = reports[0]["parameters"]
    moved = {name: p.detach() for name, p in run.step_module.named_parameters()}
    assert found.keys() == moved.keys()
    for name, value in moved.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert max(float((moved[name] - fresh[name]).abs().max()) for name in moved) > 2e-3
