"""That the benchmarks run and say what they ran on; their figures are docs/measurements.md's."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from backend_fakes import FakeSegmenter
from micro import micro

from backend.prediction.engine import Engine
from backend.telemetry.prometheus import Metrics
from benchmarks import cluster
from calico.errors import InputError
from calico.model.config import PRESETS
from calico.training.batches import BatchSettings
from scripts import benchmark


def report_of(tmp_path: Path, *argv: str) -> dict:
    target = tmp_path / "report.json"
    assert benchmark.main([*argv, "--json", str(target)]) == 0
    return json.loads(target.read_text())


def test_the_model_is_held_against_the_plain_path_and_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.model.memory_bandwidth", lambda device: 1e9)
    monkeypatch.setattr("benchmarks.model.peak_flops", lambda device, dtype: 1e9)
    report = report_of(
        tmp_path, "model", "--preset", "calico-tiny", "--device", "cpu", "--groups", "1", "--batch-sizes", "1"
    )
    assert report["model"] == "calico-tiny with random weights"
    assert report["against_plain"]["groups_with_equal_names"] == report["num_groups"] == 1
    assert report["against_plain"]["least_mask_iou"] >= 0.999
    limits = report["limits"]
    assert limits["decode_share_of_bandwidth"] == pytest.approx(
        limits["weight_bytes_per_step"] / 1e9 / limits["step_seconds"]
    )
    assert limits["prefill_flops"] > 1e8
    assert report["latency"]["tokens"] >= report["latency"]["steps"] > 0


def test_scale_is_measured_after_many_groups(tmp_path: Path) -> None:
    report = report_of(tmp_path, "scale", "--device", "cpu", "--after", "1", "300", "--sample", "1")
    assert [row["groups_before"] for row in report["rows"]] == [1, 300]
    assert all(row["seconds_per_group"] > 0 for row in report["rows"])


def test_training_is_measured_after_a_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training.BatchSettings", partial(BatchSettings, 2, 3, 2, 2))
    monkeypatch.setitem(PRESETS, "calico-tiny", micro)
    report = report_of(tmp_path, "train", "--steps", "1")
    assert (report["num_steps"], report["images_per_step"], report["mode"]) == (1, 2, "all")
    assert report["peak_bytes"] > 0
    assert report["lots_to_whole"] > 0
    assert benchmark.main(["train", "--steps", "0"]) == 2


def test_an_adapter_over_fewer_bits_is_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "calico-tiny", micro)
    report = report_of(
        tmp_path, "train", "--mode", "adapter", "--bits", "8", "--steps", "1", "--gradient-checkpointing"
    )
    assert (report["num_steps"], report["images_per_step"], report["llm_bits"]) == (1, 2, 8)
    assert report["steps_per_second"] > 0
    assert benchmark.main(["train", "--bits", "8"]) == 2
    assert "--mode adapter" in capsys.readouterr().err


def test_a_preset_and_a_checkpoint_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["model", "--preset", "calico-tiny", "--checkpoint", "somewhere"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_real_workers_are_counted_from_their_first_answers_on(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenters = {1: FakeSegmenter(delay_s=0.02), 2: FakeSegmenter(delay_s=0.01)}
    monkeypatch.setattr(cluster, "_pool", lambda number, load: (SimpleNamespace(close=lambda: None), engine_of(number)))

    def engine_of(number: int) -> Engine:
        return Engine(lambda: segmenters[number], Metrics(), queue_size=100)

    first, second = cluster.benchmark_real([1, 2], 0.3, longest_start_s=10.0)["throughput"]
    assert 3 <= first["n"] <= 15
    assert 1.2 < second["times_the_first"] < 3


def test_workers_that_answer_nothing_or_fail_are_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    slow, broken = FakeSegmenter(delay_s=0.5), FakeSegmenter()
    monkeypatch.setattr(broken, "segment_many", fail)
    pool, segmenter = SimpleNamespace(close=lambda: None), slow
    monkeypatch.setattr(cluster, "_pool", lambda number, load: (pool, Engine(lambda: segmenter, Metrics())))
    with pytest.raises(InputError, match="1 workers did not answer 2 groups in 0 s"):
        cluster.benchmark_real([1], 0.1, longest_start_s=0.1)
    segmenter = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        cluster.benchmark_real([1], 0.1, longest_start_s=10.0)
