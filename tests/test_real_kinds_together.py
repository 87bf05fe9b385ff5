"""calico-7b's kinds on several processes and after a kill; the script that measures on a GPU.

Slow, so skipped unless CALICO_REQUIRE names `kinds`, but for what the encoders remember.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, is_required, require
from gloo import run_together
from micro import shorten_answers
from real_kinds import TOKENIZER, real_kinds, save_real_kinds
from real_kinds_process import finetuned
from test_finetune import QUICK, group_of, write

from calico.checkpoints import files
from calico.checkpoints.fingerprint import ADAPTER
from calico.checkpoints.registry import Registry
from calico.data.groups import draw_group
from calico.inference.encodings import EncodingCache, ImageEncoder
from calico.inference.segmenter import CoSegmenter
from calico.model import memory
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig, calico_7b
from calico.model.preprocessing import Preprocessor
from calico.snapshots.splits import Shares
from calico.snapshots.writer import SnapshotWriter
from calico.training import finetune as module
from calico.training.challenge import challenge
from calico.training.run_folder import RunState
from calico.values import ImageGroup


def require_kinds() -> None:
    require("kinds", is_required("kinds"), "slow; CALICO_REQUIRE=kinds runs it")


def test_two_processes_of_real_kinds_end_with_equal_weights(tmp_path: Path) -> None:
    require_kinds()
    folder = tmp_path / "f"
    save_real_kinds(folder / "base")
    write(folder / "s", range(4))
    first, second = run_together(finetuned, folder)
    assert (first["step"], first["dtype"]) == (second["step"], second["dtype"]) == (2, "torch.bfloat16")
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())


def test_a_finetune_of_real_kinds_after_kill_minus_nine_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by itself right after a step and right before the next save: no handler, no `finally` runs."""
    require_kinds()
    monkeypatch.setattr(module, "mistaken_names", lambda *_: [])
    torch.set_num_threads(1)
    base, snapshot = save_real_kinds(tmp_path / "base"), write(tmp_path / "s", range(4))
    settings = replace(QUICK, steps=4, precision="bf16", save_seconds=0.0)

    def run(name: str, killed_at: int | None = None) -> int | None:
        def kill(state: RunState, *_: object) -> None:
            if state.step == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        process = multiprocessing.get_context("fork").Process(
            target=module.finetune, args=(snapshot, base, tmp_path / name, settings, kill)
        )
        process.start()
        process.join(300)
        return process.exitcode

    assert run("whole") == 0
    assert [run("broken", step) for step in (2, 3, None)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    files = [tmp_path / name / module.VERSION_FOLDER / ADAPTER for name in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / module.LOG).read_text().splitlines()]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4]


def test_four_hundred_groups_take_as_much_memory_as_ten(tmp_path: Path) -> None:
    """They are decoded as they are drawn, and all that is known of them at once is a line each."""
    require_kinds()
    images = [draw_group(number, group_size=2, size=128) for number in range(5)]
    peaks = {}
    for count in (10, 400):
        folder = tmp_path / str(count)
        save_real_kinds(folder / "base")
        rng = np.random.default_rng(0)
        with SnapshotWriter(folder / "s", shares=Shares(0.3, 0.0)) as writer:
            for number in range(count):
                noise = rng.integers(0, 3, (2, 128, 128, 3), np.uint8)  # so that no two pictures are one
                own = [replace(i, image=i.image ^ n[: i.image.shape[0], : i.image.shape[1]])
                       for i, n in zip(images[number % 5], noise, strict=True)]  # fmt: skip
                writer.add(group_of(number, own), [item.image for item in own])
            writer.finish()
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "OMP_NUM_THREADS": "1"}
        report = folder / "report.json"
        command = [sys.executable, str(ROOT / "tests" / "peak_process.py"), str(folder), str(report)]
        subprocess.run(command, env=environment, check=True, timeout=600)
        peaks[count] = json.loads(report.read_text())
    assert peaks[400]["groups"]["train"] > 200
    ten, many = (peaks[count]["peak"] - peaks[count]["before"] for count in (10, 400))
    assert peaks[400]["peak"] < 1.15 * peaks[10]["peak"]
    assert many - ten < 64 * 2**20


def test_a_challenge_with_folds_holds_one_model_and_its_version_serves(tmp_path: Path) -> None:
    """The whole way of the verb: finetune, both sides scored, folds, registered, published, served."""
    require_kinds()
    registry = Registry(tmp_path / "registry")
    first = registry.add(save_real_kinds(tmp_path / "base"), kind="checkpoint", preset="calico-7b")
    registry.publish(first.id, force_reason="what the test starts from")
    alive: list[weakref.ref[CalicoModel]] = []
    at_load: list[int] = []

    def counted(config: CalicoConfig) -> CalicoModel:
        at_load.append(sum(ref() is not None for ref in alive))
        model = build(config)
        alive.append(weakref.ref(model))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "build", counted)
        shorten_answers(patch)
        outcome = challenge(
            write(tmp_path / "s", range(3), Shares(0.0, 0.0)),
            registry,
            tmp_path / "run",
            replace(QUICK, steps=1, num_validations=1),
            num_base_groups=1,
        )
    assert len(at_load) >= 6  # the finetune, champion and challenger, folds
    assert max(at_load) == 0
    registry.publish(outcome.version, force_reason="the test's")
    served = CoSegmenter.from_checkpoint(registry.path_of(outcome.version))
    assert served.version == outcome.version
    group = ImageGroup(tuple(item.image for item in draw_group(5, group_size=2, size=48)))
    with pytest.MonkeyPatch.context() as patch:
        shorten_answers(patch)
        served.answer(group, candidates=["dog", "leg"])


def test_the_gpu_script_runs_dry_is_cut_and_goes_on(tmp_path: Path) -> None:
    """On a CPU, every path but the GPU's own; one measurement is there already."""
    require_kinds()
    (tmp_path / "training.json").write_text("{}")
    environment = {**os.environ, "DRY_RUN": "1", "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), str(tmp_path)]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "training: is there" in run.stdout
    assert "failed" not in run.stdout
    measured = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    names = {"serving", "serving-8-bits", "training", "doctor", "process-group"}
    if find_spec("bitsandbytes"):
        names |= {"serving-4-bits", "training-4-bits"}
        assert measured["training-4-bits"]["estimated_bytes"] > 0
    assert set(measured) == names
    assert measured["serving"]["latency"]["num_groups"] == 1
    assert measured["serving"]["limits"]["decode_share_of_bandwidth"] > 0
    assert measured["process-group"]["backend"] == "gloo"
    assert all(check["ok"] for check in measured["doctor"]["checks"])
    assert not [*tmp_path.glob("*.part"), *tmp_path.glob("checkpoint/*")]
    real = {name: value for name, value in environment.items() if name != "DRY_RUN"}
    if not torch.cuda.is_available():
        run = subprocess.run(command, env=real, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert (run.returncode, "DRY_RUN=1" in run.stdout) == (2, True)


def test_the_number_of_images_that_fitted_is_remembered() -> None:
    config = real_kinds()
    encoder = ImageEncoder(build(config).eval(), Preprocessor.from_config(config), EncodingCache(0), 4)
    real, sizes = encoder._encoded, []

    def cramped(images: list[np.ndarray]) -> object:
        sizes.append(len(images))
        if len(images) > 2:
            raise RuntimeError("CUDA out of memory")
        return real(images)

    encoder._encoded = cramped  # type: ignore[assignment,method-assign]
    images = [np.full((20, 20, 3), k, np.uint8) for k in range(6)]
    notices: list[str] = []
    with torch.inference_mode():
        encoder(images, [str(k) for k in range(6)], notices)
        encoder(images, [f"again {k}" for k in range(6)], notices)
    assert sizes == [4, 2, 2, 2, 2, 2, 2]
    assert len(notices) == 1
    assert len(TOKENIZER)


def test_images_at_once_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for free, expected in ((80 * 2**30, 8), (4 * 2**30, 2), (2**20, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.images_that_fit(calico_7b(), gpu, torch.bfloat16, 8) == expected
    assert memory.images_that_fit(calico_7b(), torch.device("cpu"), torch.float32, 8) == 8
