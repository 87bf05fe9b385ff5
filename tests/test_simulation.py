"""The simulated loop: the annotator's errors, what is measured, resuming; on a model of no use, in a few steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import BATCH, embed, leave_out_curves, save_micro, shorten_answers, use_folds

from calico.checkpoints.registry import Registry
from calico.correspondence import co_segmentation, truth_of
from calico.data import unseen
from calico.errors import InputError
from calico.masks import iou
from calico.simulation import loop, report
from calico.simulation.annotator import Correction, Habits, correct, shaken
from calico.simulation.loop import Simulation, simulate
from calico.simulation.pool import PART_NAMES, held_out, pool_group
from calico.snapshots.store import Snapshot
from calico.training.finetune import FinetuneSettings
from calico.values import CoSegmentation, NamedMask
from scripts import simulate_loop

NEVER = Habits(miss=0, wrong_name=0, skip=0)


def truth(seed: int, domain: str = "umbrella") -> CoSegmentation:
    return truth_of(unseen.draw_group(seed, domain=domain, stream="train", size=64))


def nothing(of: CoSegmentation) -> CoSegmentation:
    return CoSegmentation(of.sizes_hw)


# -- the annotator ----------------------------------------------------------------------------------------------------


def test_edges_shake_by_about_the_given_pixels_and_nothing_vanishes() -> None:
    disc = np.hypot(*(np.mgrid[:120, :100] - np.array([60, 50])[:, None, None])) < 30
    overlap = {
        px: np.mean([iou(disc, shaken(disc, px, np.random.default_rng(k))) for k in range(8)]) for px in (0, 1.5, 4)
    }
    assert overlap[0] == 1.0
    assert 0.9 < overlap[1.5] < 0.99
    assert overlap[4] < overlap[1.5]
    dot = np.zeros((20, 20), bool)
    dot[3, 3] = True
    assert all(shaken(dot, 3.0, np.random.default_rng(k)).any() for k in range(10))


def test_a_careful_annotator_names_all_and_draws_nearly_the_truth() -> None:
    wanted = truth(1)
    found = correct(wanted, nothing(wanted), PART_NAMES, NEVER, 0)
    assert found.target is not None
    assert found.target.by_key.keys() == wanted.by_key.keys()
    overlaps = [iou(region.mask, found.target.by_key[key].mask) for key, region in wanted.by_key.items()]
    assert 0.5 < np.mean(overlaps) < 1.0
    assert found.num_redrawn == len(wanted.regions)
    again = correct(wanted, nothing(wanted), PART_NAMES, NEVER, 0)
    assert again.target is not None
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(found.target.regions, again.target.regions, strict=True))


def test_what_is_nearly_right_is_kept_and_a_wrong_name_is_not() -> None:
    wanted = truth(1)
    right = correct(wanted, wanted, PART_NAMES, NEVER, 0)
    assert (right.num_kept, right.num_redrawn, right.is_untouched) == (len(wanted.regions), 0, True)
    masks = [NamedMask(r.image, "mug", r.part_name, r.mask) for r in wanted.regions]
    other = correct(wanted, co_segmentation(wanted.sizes_hw, masks), PART_NAMES, NEVER, 0)
    assert (other.num_kept, other.is_untouched) == (0, False)
    assert other.target is not None
    assert {region.object_name for region in other.target.regions} == {"umbrella"}


def test_errors_come_in_their_shares_and_are_counted() -> None:
    habits = Habits(miss=0.5, small=0.05, wrong_name=0.2, skip=0.3)
    counts: Counter[str] = Counter()
    for seed in range(60):
        wanted = truth(seed % 6)
        found: Correction = correct(wanted, nothing(wanted), PART_NAMES, habits, seed)
        if found.target is None:
            counts["skipped"] += 1
            continue
        small = [r for r in wanted.regions if r.part_name and r.mask.mean() < habits.small]
        counts += Counter(parts=sum(bool(r.part_name) for r in wanted.regions), small=len(small))
        counts += Counter(missed=found.num_missed, misnamed=found.num_misnamed)
        assert len(found.target.regions) == len(wanted.regions) - found.num_missed
        odd = found.target.by_key.keys() - wanted.by_key.keys()
        assert len(odd) == found.num_misnamed
    assert 8 <= counts["skipped"] <= 30
    assert counts["missed"] / counts["small"] == pytest.approx(0.5, abs=0.15)
    assert counts["misnamed"] / (counts["parts"] - counts["missed"]) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("bad", [{"jitter_px": -1}, {"skip": 1.5}, {"keep_iou": -0.1}], ids=str)
def test_habits_out_of_range_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))}: expected"):
        Habits(**bad)


def test_the_pool_holds_its_share_of_the_domain_and_never_what_is_held_out() -> None:
    pool = [pool_group("guitar", 0, k, unseen_share=0.25, size=24) for k in range(8)]
    assert [group.is_unseen for group in pool] == [False, False, False, True] * 2
    assert [{i.object_name for i in g.images} == {"guitar"} for g in pool] == [g.is_unseen for g in pool]
    digests = {digest for group in pool for digest in group.group.digests}
    assert digests.isdisjoint(digest for _, group, _ in held_out("guitar", 3, size=24) for digest in group.digests)


# -- the loop --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module", autouse=True)
def _of_no_use(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A micro model instead of the embedded one; its answers, which nobody reads here, end early."""
    with pytest.MonkeyPatch.context() as patch:
        embed(save_micro(tmp_path_factory.mktemp("base")), patch)
        shorten_answers(patch)
        leave_out_curves(patch)
        yield


SMALL = Simulation(
    domain="umbrella",
    strategies=("mix",),
    seeds=(0,),
    num_rounds=2,
    groups_per_round=2,
    pool_factor=2,
    gate="skip",
    num_held_out=1,
    num_base=1,
    image_size=48,
    habits=replace(NEVER, skip=0.2),
    finetune=FinetuneSettings(
        steps=2, batch=BATCH, max_seg_prompts=6, num_validations=1, save_seconds=1e9, log_steps=1, part_memory=False
    ),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("simulation")
    found = simulate(SMALL, out, command="test")
    report.save(found, out)
    return out, found


def test_rounds_grow_the_snapshot_and_go_on_from_the_version_before(done: tuple[Path, dict[str, Any]]) -> None:
    out, found = done
    assert [(run["strategy"], run["round"], run["num_corrected"]) for run in found["runs"]] == [
        ("mix", 1, 2),
        ("mix", 2, 4),
    ]
    for strategy in SMALL.strategies:
        registry = Registry(out / f"{strategy}-0" / "registry")
        runs = [run for run in found["runs"] if run["strategy"] == strategy]
        assert registry.current() == runs[-1]["version"]
        assert registry.get(runs[1]["version"]).parent == runs[0]["version"]
        first, second = (Snapshot(out / f"{strategy}-0" / f"round-{k}" / "snapshot") for k in (1, 2))
        before, after = ({record["id"]: record["split"] for record in s.records()} for s in (first, second))
        assert before.items() <= after.items()
        assert registry.get(runs[1]["version"]).snapshot == second.content_sha256
    choices = json.loads((out / "mix-0" / "round-1" / loop.CHOICES).read_text())["choices"]
    assert choices[0]["strategy"] == "least_confidence"
    assert all(choice["reason"] for choice in choices)
    held = found["before"]["held_out"]["scores"]
    assert all(run["held_out"]["scores"].keys() == held.keys() for run in found["runs"])


def test_a_finished_step_is_not_done_again(done: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, found = done

    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError("done before")

    for name in ("finetune", "score", "correct"):
        monkeypatch.setattr(loop, name, refuse)
    assert simulate(SMALL, out)["runs"] == found["runs"]
    last = out / "mix-0" / "round-2" / loop.ROUND
    version = json.loads(last.read_text())["version"]
    last.unlink()  # as if it had been killed before the end of the last round
    monkeypatch.undo()
    monkeypatch.setattr(loop, "correct", refuse)
    assert simulate(SMALL, out)["runs"][-1]["version"] == version


def test_another_simulation_does_not_mix_with_this_one(done: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(InputError, match=r"holds another simulation \(groups_per_round 2 there, 4 asked"):
        simulate(replace(SMALL, groups_per_round=4), done[0])


def test_the_gate_is_asked_and_its_word_is_kept_from_another_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folds(2, monkeypatch)
    save_micro(tmp_path / "other", seed=1)
    asked = replace(SMALL, strategies=("random",), num_rounds=1, groups_per_round=2, gate="ask")
    [run] = simulate(asked, tmp_path, checkpoint=tmp_path / "other")["runs"]
    assert run["decision"]["verdict"] in {"refuse", "not enough evidence", "publish"}
    assert run["published"] == (run["decision"]["verdict"] == "publish")
    registry = Registry(tmp_path / "random-0" / "registry")
    assert (registry.current() == run["version"]) == run["published"]
    assert registry.get(run["version"]).parent == registry.history()[0].version


def test_the_report_has_means_spread_and_n_and_a_picture(done: tuple[Path, dict[str, Any]]) -> None:
    out, found = done
    summarised = json.loads((out / "summary.json").read_text())
    assert [(row["strategy"], row["round"]) for row in summarised["rows"]] == [
        (run["strategy"], run["round"]) for run in found["runs"]
    ]
    assert summarised["n_held_out"] == 1
    assert (out / "curves.png").stat().st_size > 2000
    told = report.text(summarised)
    assert "before" in told
    assert "mix 2" in told
    assert report.spread([1.0, 3.0, None]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "n": 2}
    assert report.spread([0.5])["sd"] is None
    assert report.spread([None]) == {"mean": None, "sd": None, "n": 0}


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table(
    done: tuple[Path, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[Simulation] = []

    def fake(settings: Simulation, out: Path, **options: Any) -> dict[str, Any]:
        asked.append(settings)
        return dict(done[1])

    monkeypatch.setattr(loop, "simulate", fake)
    options = [
        "--scenario",
        "class",
        "--seconds",
        "60",
        "--groups",
        "15",
        "--skip",
        "0",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert simulate_loop.main(["--out", str(tmp_path), *options]) == 0
    assert (asked[0].domain, asked[0].finetune.minutes, asked[0].habits.skip) == ("umbrella", 1.0, 0.0)
    assert "published" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--strategies", "best"], "strategies: expected some of random"),
        (["--seconds", "0"], "above 0"),
        (["--seeds", "1", "1"], "each once"),
        (["--unseen-share", "0"], "unseen_share: expected"),
        (["--scenario", "class", "--object", "mug"], "domain: expected one of style"),
    ],
)
def test_wrong_options_are_named(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate_loop.main(["--out", str(tmp_path / "o"), "--scenario", "style", *options]) == 2
    assert told in capsys.readouterr().err
