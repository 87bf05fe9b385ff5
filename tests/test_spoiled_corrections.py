"""Spoiled corrections make a version that the gate refuses: the real model, a real finetune, real scores.

Slow, so skipped unless CALICO_REQUIRE names `gate`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import is_required, require
from test_finetune import group_of, misnamed, shuffled

from calico.checkpoints.fingerprint import EMBEDDED
from calico.checkpoints.gate import MIN_TEST_GROUPS, Verdict
from calico.checkpoints.registry import Registry
from calico.data.groups import draw_group
from calico.snapshots.splits import Shares
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.training.challenge import challenge
from calico.training.finetune import FinetuneSettings
from calico.values import CoSegmentation

SHARES = Shares(0.0, 0.5)


def spoiled(folder: Path, spoil: Callable[[CoSegmentation], CoSegmentation]) -> Snapshot:
    """Drawings as the base was trained on; what is trained on is spoiled, what is tested on is right."""
    with SnapshotWriter(folder, shares=SHARES) as writer:
        for number in range(56):
            images = draw_group(number, group_size=2, size=128, stream="train")
            group = group_of(number, images)
            if SHARES.split_of(group.keys) == "train":
                group = replace(group, target=spoil(group.target))
            writer.add(group, [item.image for item in images])
        return writer.finish()


@pytest.mark.parametrize("spoil", [shuffled, misnamed])
def test_spoiled_corrections_are_refused(tmp_path: Path, spoil: Callable[[CoSegmentation], CoSegmentation]) -> None:
    """Trained without what else holds a finetune to its base: that alone nearly keeps wrong names from being learnt."""
    require("gate", is_required("gate"), "slow; CALICO_REQUIRE=gate runs it")
    require("gate", (EMBEDDED / "model.safetensors").exists(), f"{EMBEDDED} has no weights")
    snapshot, registry = spoiled(tmp_path / "s", spoil), Registry(tmp_path / "registry")
    assert snapshot.manifest["splits"]["test"] >= MIN_TEST_GROUPS
    unheld = FinetuneSettings(steps=120, replay_share=0.25, anchored=False)
    made = challenge(snapshot, registry, tmp_path / "run", unheld, publish=True, num_base_groups=24)
    print(
        f"\n{spoil.__name__}: {made.decision.reason}; {made.decision.difference:+.3f}, {made.training['seconds']:.0f} s"
    )
    assert made.decision.verdict is Verdict.REFUSE
    assert (made.published, registry.current()) == (False, None)
