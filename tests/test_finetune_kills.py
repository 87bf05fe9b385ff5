"""kill -9 of a finetune at ten random moments: the registry stays whole, and the end is that of an unbroken run.

Slow, so skipped unless CALICO_REQUIRE names `kills`.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path

import torch
from conftest import is_required, require

from calico.checkpoints.registry import Registry
from calico.correspondence import truth_of
from calico.data.groups import draw_group
from calico.snapshots.records import AnnotatedGroup, ImageReference
from calico.snapshots.splits import Shares
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.training.batches import BatchSettings
from calico.training.challenge import RESULT, challenge
from calico.training.finetune import FinetuneSettings
from calico.values import ImageGroup

NUM_KILLS = 10
BATCH = BatchSettings(num_images=4, num_groups=4, num_points=2, num_boxes=2)
SETTINGS = FinetuneSettings(steps=12, batch=BATCH, max_seg_prompts=6, num_validations=3, save_seconds=0.2)


def finetuned(snapshot: Path, registry: Path, out: Path) -> None:
    torch.set_num_threads(1)
    challenge(Snapshot(snapshot), Registry(registry), out, SETTINGS, num_base_groups=2)


def write(folder: Path) -> Path:
    with SnapshotWriter(folder, shares=Shares(0.2, 0.2)) as writer:
        for number in range(6):
            items = draw_group(number, group_size=2, size=64)
            images = [item.image for item in items]
            references = tuple(
                ImageReference(f"/data/{digest[:6]}.png", item.part_map.shape, digest)
                for digest, item in zip(ImageGroup(tuple(images)).digests, items, strict=True)
            )
            told = {"task": number, "annotator": "ann", "accepted_as_is": False}
            writer.add(AnnotatedGroup(f"1/{number}", references, truth_of(items), told, order=number), images)
        return writer.finish().folder


def adapters(registry: Registry) -> set[tuple[str, str]]:
    """Weights and scores of all versions, by their hashes; the curves tell wall time, so they always differ."""
    return {(v.files["adapter.safetensors"], v.files["scores.json"]) for v in registry.versions()}


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    require("kills", is_required("kills"), "slow; CALICO_REQUIRE=kills runs it")
    snapshot, rng = write(tmp_path / "s"), random.Random(0)
    process_of = multiprocessing.get_context("fork").Process

    def start(name: str) -> multiprocessing.process.BaseProcess:
        process = process_of(target=finetuned, args=(snapshot, tmp_path / f"{name}-registry", tmp_path / name))
        process.start()
        return process

    started = time.monotonic()
    whole = start("whole")
    whole.join()
    duration = time.monotonic() - started
    assert whole.exitcode == 0
    registry, moments, num_killed = Registry(tmp_path / "broken-registry"), [], 0
    while num_killed < NUM_KILLS:
        process = start("broken")
        moments.append(rng.uniform(0, 2 * duration / NUM_KILLS))
        process.join(moments[-1])
        if process.is_alive():
            process.kill()
            num_killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        for version in registry.versions():
            registry.verify(version)
        if (tmp_path / "broken" / RESULT).exists():  # came to its end: the rest of the kills meet it afresh
            assert adapters(registry) == adapters(Registry(tmp_path / "whole-registry"))
            (tmp_path / "broken").rename(tmp_path / f"done-{num_killed}")
            registry = Registry(tmp_path / "broken-registry")
    last = start("broken")
    last.join()
    assert last.exitcode == 0
    assert adapters(registry) == adapters(Registry(tmp_path / "whole-registry"))
    assert not list(registry.folder.glob(".incoming-*"))
