"""Two processes finetune as one that takes the batches of both; the main one alone validates, writes and registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_process import PLAIN, all_of_them, opened, weights, with_plain_descent
from gloo import WORLD, run_together
from micro import save_micro
from test_finetune import write

from calico.checkpoints.registry import Registry
from calico.model.modes import train_mode
from calico.snapshots.splits import Shares


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("together") / "f"
    made.mkdir()
    save_micro(made / "base")
    write(made / "s", range(5), Shares(0.3, 0.0))
    registry = Registry(made / "registry")
    base = registry.add(made / "base", kind="checkpoint", preset="calico-tiny")
    registry.publish(base.id, force_reason="what the test starts from")
    return made


@pytest.fixture(scope="module")
def reports(folder: Path) -> list[dict[str, Any]]:
    """Of both processes, over gloo."""
    return run_together(all_of_them, folder)


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_processes_end_with_equal_weights(reports: list[dict[str, Any]]) -> None:
    first, second = (report["plain"] for report in reports)
    assert_equal(first["weights"], second["weights"])
    assert first["state"] == second["state"]


def test_together_they_do_what_one_does_with_both_batches(
    folder: Path, reports: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = with_plain_descent(opened(folder, tmp_path / "alone", PLAIN))
    fresh = weights(run)
    for step in range(2):
        run.state.step = step
        run._set_rate()
        run.optimizer.zero_grad()
        for rank in range(WORLD):
            torch.manual_seed(PLAIN.seed * 1_000_003 + step)
            train_mode(run.model, "paper")
            (run._loss(run.batches.batch(step * WORLD + rank)).loss / WORLD).backward()
        run.optimizer.step()
    moved = weights(run)
    for name, value in reports[0]["plain"]["weights"].items():
        torch.testing.assert_close(value, moved[name], atol=1e-5, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    assert max(float((moved[name] - fresh[name]).abs().max()) for name in moved) > 1e-3


def test_the_main_process_tells_the_time(reports: list[dict[str, Any]]) -> None:
    first, second = (report["timed"] for report in reports)
    assert first == second
    assert (first["state"]["step"], first["state"]["seconds"]) == (4, 6 * 12 * 60.0)  # four steps, a look at either end
    assert first["state"]["best_validation"] > 0


def test_a_killed_run_resumes_exactly(reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["killed"]["resumed_at"] == 2
        assert_equal(report["killed"]["again"], report["killed"]["whole"])
    assert_equal(*(report["killed"]["again"] for report in reports))


def test_memory_that_runs_out_on_one_halves_the_micro_batch_of_all(reports: list[dict[str, Any]]) -> None:
    first, second = (report["cramped"] for report in reports)
    assert [side["state"]["num_parts"] for side in (first, second)] == [2, 2]
    assert_equal(first["weights"], second["weights"])


def test_the_verb_registers_once_and_refuses_everywhere(folder: Path, reports: list[dict[str, Any]]) -> None:
    for report in reports:
        assert report["asked"]["codes"] == [0, 0, 2]
        assert len(report["asked"]["versions"]) == 2  # the start's and the finetune's
    assert (folder / "runs" / "report.json").is_file()


def test_the_main_process_alone_writes(reports: list[dict[str, Any]]) -> None:
    main, other = (report["written"] for report in reports)
    assert any("state.pt" in path for path in main)
    assert other == []
