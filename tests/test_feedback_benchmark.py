"""The benchmark of `calico feedback`: both sources, at a tiny size; its figures are docs/measurements.md's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import benchmark


@pytest.mark.parametrize("source", ["export", "project"])
def test_annotated_groups_go_through_feedback(tmp_path: Path, source: str) -> None:
    target = tmp_path / "report.json"
    assert benchmark.main(["feedback", "--groups", "10", "--source", source, "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert report["num_groups"] == report["num_tasks"] == 10
    assert [row["groups"] for row in report["rows"]] == [*range(1, 11)]
    assert all(row["processor_seconds_per_group"] > 0 for row in report["rows"])
    assert report["num_edited_regions"] > 10
    assert report["again_is_the_same"]


def test_no_groups_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["feedback", "--groups", "0"]) == 2
    assert "--groups" in capsys.readouterr().err
