"""Learning while people label: a memory for each project, fitted anew after every submitted group, and forgetting."""

from __future__ import annotations

import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_finetune import TOKENIZER, micro
from test_part_memory import sign

from backend.http.dashboard_page import _memories
from backend.learning import part_memories
from backend.learning.part_memories import PartMemories, project_of
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.part_memory import fitting
from calico.training.corrected_groups import CorrectedGroup
from calico.values import CoSegmentation, ImageGroup

ROOT = Path(__file__).resolve().parent.parent
QUICK = fitting.MemorySettings(steps=120, rows_per_step=192, hidden=24, learning_rate=0.01, dropout=0.0)


def groups_of(count: int, name: str = "sign") -> list[CorrectedGroup]:
    return [
        CorrectedGroup(str(k), (sign(2 * k, name), sign(2 * k + 1, name)), None, 1.0, (f"a{k}", f"b{k}"))
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def segmenter() -> CoSegmenter:
    torch.manual_seed(0)
    return CoSegmenter(build(micro()), micro(), TOKENIZER, version="m1")


@pytest.fixture
def team(segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the project has now in `groups`, how often it was asked, and its memories."""
    monkeypatch.setattr(fitting, "MemorySettings", lambda **_: QUICK)
    monkeypatch.setattr(part_memories, "QUIET_S", 0.05)
    made = SimpleNamespace(groups=groups_of(6), num_asked=0, segmenter=segmenter)

    def gather(project: int, longest: int) -> list[CorrectedGroup]:
        made.num_asked += 1
        return list(made.groups)

    engine: Any = SimpleNamespace(segmenter=lambda: made.segmenter)
    made.memories = PartMemories(engine, gather)
    return made


def asked(team: SimpleNamespace, project: str = "7.1", model: str = "m1") -> tuple[CoSegmentation, str]:
    group = ImageGroup((sign(100).image, sign(101).image))
    found: tuple[CoSegmentation, str] = team.memories.remembered(
        project, model, group, CoSegmentation(group.sizes_hw), ()
    )
    return found


def test_a_memory_does_not_hold_the_model_that_it_was_fitted_on(team: SimpleNamespace) -> None:
    torch.manual_seed(0)
    team.segmenter = CoSegmenter(build(micro()), micro(), TOKENIZER, version="m2")
    team.memories.fit(7)
    assert team.memories.version(7, "m2") == "m2+6 groups"
    model = weakref.ref(team.segmenter.model)
    team.segmenter = None
    assert model() is None


def test_the_next_prediction_after_a_submit_shows_what_was_taught(team: SimpleNamespace) -> None:
    assert asked(team)[1] == "m1"
    for _ in range(3):
        team.memories.notice({"action": "ANNOTATION_CREATED", "project": {"id": 7}})
    team.memories.notice({"action": "PROJECT_UPDATED", "project": {"id": 8}})
    until = time.monotonic() + 30
    while team.memories.version(7, "m1") == "m1" and time.monotonic() < until:
        time.sleep(0.02)
    found, version = asked(team)
    assert version == "m1+6 groups" == team.memories.version(7, "m1")
    assert {region.part_name for region in found.regions} == {None, "board", "post"}
    assert team.num_asked == 1  # three events, one fit
    assert asked(team, "8.1")[1] == "m1"
    team.memories.close()


def test_a_click_does_not_look_at_the_images_again(team: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    team.memories.fit(7)
    first, _ = asked(team)
    with monkeypatch.context() as without:
        without.delattr("calico.part_memory.pyramid.PyramidReader.__call__")
        again, _ = asked(team)
    assert [(r.key, r.is_taught, int(r.mask.sum())) for r in again.regions] == [
        (r.key, r.is_taught, int(r.mask.sum())) for r in first.regions
    ]
    team.groups = groups_of(7)
    team.memories.fit(7)
    monkeypatch.delattr("calico.part_memory.pyramid.PyramidReader.__call__")
    with pytest.raises(TypeError):
        asked(team)


def test_what_was_deleted_is_forgotten_and_a_vocabulary_is_kept(team: SimpleNamespace) -> None:
    team.groups = groups_of(6) + groups_of(1, "poster")
    team.memories.fit(7)
    (told,) = team.memories.as_json()
    assert "poster: board" in told["names"]
    assert told["estimate"] is not None
    team.groups = groups_of(6)
    team.memories.fit(7)
    assert "poster: board" not in team.memories.as_json()[0]["names"]
    group = ImageGroup((sign(100).image, sign(101).image))
    nothing = CoSegmentation(group.sizes_hw)
    only, _ = team.memories.remembered("7", "m1", group, nothing, ["sign", "post"])
    assert {region.part_name for region in only.regions} == {None, "post"}
    team.groups = []
    team.memories.fit(7)
    assert team.memories.version(7, "m1") == "m1"
    assert team.memories.as_json()[0]["problem"] == "no submitted group names an object yet"


def test_another_model_is_learnt_for_anew(team: SimpleNamespace) -> None:
    team.memories.fit(7)
    assert team.memories.version(7, "m2") == "m2"  # and asks for a fit
    team.memories.close()
    assert asked(team, model="m1")[1] == "m1+6 groups"


def test_only_new_images_are_read_again(team: SimpleNamespace) -> None:
    team.memories.fit(7)
    before = team.memories.looks.kept.row_shelf.num_read
    team.groups = groups_of(7)
    team.memories.fit(7)
    assert team.memories.looks.kept.row_shelf.num_read == before + 2
    team.memories.fit(8)  # of another project: what is kept is bounded over all, and shared
    assert team.memories.looks.kept.row_shelf.num_read == before + 2


def test_a_prediction_that_an_older_memory_saw_is_seen_by_the_newer_one(
    team: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which was fitted meanwhile, and may have answered somebody already."""
    team.memories.fit(7)
    sights, seen = team.memories.looks.sights, []

    def slow(segmenter: Any, memory: Any, group: ImageGroup) -> Any:
        seen.append(memory)
        if len(seen) == 1:
            team.groups = groups_of(7)
            team.memories.fit(7)
        return sights(segmenter, memory, group)

    monkeypatch.setattr(team.memories.looks, "sights", slow)
    assert asked(team)[1] == "m1+7 groups"
    assert len(set(map(id, seen))) == len(seen) == 2


def test_projects_that_events_only_name_are_not_kept_for_ever(
    team: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_memories, "MAX_KNOWN", 3)
    team.memories.fit(7)
    team.memories.close()
    for project in range(100, 120):
        team.memories.notice({"action": "ANNOTATION_CREATED", "project": {"id": project}})
    assert [own["project"] for own in team.memories.as_json()] == [7, 118, 119]


def test_a_failed_fit_is_said_and_the_memory_before_goes_on(
    team: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.memories.fit(7)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of pencils")

    monkeypatch.setattr(fitting, "fit_memory", broken)
    team.memories.fit(7)
    (told,) = team.memories.as_json()
    assert told["state"] == "failed"
    assert "out of pencils" in told["problem"]
    assert asked(team)[1] == "m1+6 groups"
    team.memories.close()


def test_nothing_heavy_is_imported_beside_a_model_that_loads() -> None:
    """After a restart the first fit is wanted at once; importing transformers on two threads made the model fail."""
    code = """
import sys
from types import SimpleNamespace
from backend.learning.part_memories import PartMemories

def segmenter():
    assert not {"torch", "transformers"} & set(sys.modules)
    raise RuntimeError("loads still")

memories = PartMemories(SimpleNamespace(segmenter=segmenter), lambda project, longest: [])
memories.fit(7)
assert "loads still" in memories.as_json()[0]["problem"], memories.as_json()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_page_tells_what_was_learnt(team: SimpleNamespace) -> None:
    team.memories.fit(7)
    page = "".join(_memories(team.memories.as_json()))
    assert "Learnt while people label" in page
    assert "sign: board" in page
    assert [project_of(text) for text in ("12.1699", "3", "", "x.1")] == [12, 3, None, None]
