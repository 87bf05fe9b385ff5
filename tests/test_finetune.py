"""Finetuning: what a batch of corrections holds, exact resume, the adapter there and back, refusals, the gate."""

from __future__ import annotations

import json
import logging
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import (
    BATCH,
    TOKENIZER,
    embed,
    leave_out_curves,
    micro,
    quicken_memory,
    save_micro,
    shorten_answers,
    use_folds,
)
from torch import nn

from calico.checkpoints import files
from calico.checkpoints.adapter import ALL_LINEARS, ENCODERS, choose_spec, load_adapted, load_over_base
from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import ADAPTER, checkpoint_version, weights_version
from calico.checkpoints.gate import Scores, Verdict, decide
from calico.checkpoints.registry import Registry
from calico.correspondence import co_segmentation, truth_of
from calico.data.groups import draw_group
from calico.drawings import draw
from calico.errors import CalicoError, CheckpointError, InputError
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig, calico_7b
from calico.model.generation import generate
from calico.model.inputs import ModelInputs
from calico.model.modes import PAPER_MODULES, PAPER_TARGETS
from calico.model.preprocessing import Preprocessor
from calico.part_memory.memory import load_memory
from calico.snapshots.records import AnnotatedGroup, ImageReference
from calico.snapshots.splits import TEST, Shares
from calico.snapshots.store import SAMPLES, Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.training.augmentation import augmented
from calico.training.batches import size_weights
from calico.training.challenge import challenge, components
from calico.training.corrected_groups import annotated, corrected
from calico.training.corrections import CorrectionBatches, class_weights, drawings, may_flip
from calico.training.curves import plot_curves
from calico.training.finetune import LOG, Finetune, FinetuneResult, FinetuneSettings, finetune
from calico.training.run_folder import RUN, STATE, RunState
from calico.training.scoring import group_score
from calico.training.starting_model import seen_groups
from calico.values import AnnotatedImage, CoSegmentation, ImageGroup, NamedMask
from scripts import finetune as verb

INPUTS = ModelInputs(Preprocessor(32, 32, 32), 2)
QUICK = FinetuneSettings(
    part_memory=False, steps=4, batch=BATCH, max_seg_prompts=6, num_validations=2, save_seconds=1e9, log_steps=1
)


def group_of(number: int, images: list[AnnotatedImage], accepted: bool = False) -> AnnotatedGroup:
    digests = ImageGroup(tuple(item.image for item in images)).digests
    references = tuple(
        ImageReference(f"/data/{d[:6]}.png", i.part_map.shape, d) for d, i in zip(digests, images, strict=True)
    )
    provenance = {"task": number, "annotator": "ann", "accepted_as_is": accepted}
    return AnnotatedGroup(f"1/{number}", references, truth_of(images), provenance, order=number)


def write(folder: Path, numbers: range, shares: Shares | None = None, **options: Any) -> Snapshot:
    with SnapshotWriter(folder, shares=shares or Shares(0.3, 0.0)) as writer:
        for number in numbers:
            images = draw_group(number, group_size=2, size=48)
            writer.add(group_of(number, images, **options), [item.image for item in images])
        return writer.finish()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Several threads add up gradients in an order of their own, and the last bits differ from run to run."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        shorten_answers(patch)
        leave_out_curves(patch)
        quicken_memory(patch)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_micro(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    made = write(tmp_path_factory.mktemp("feedback") / "s", range(12))
    assert made.manifest["splits"]["train"] > 4
    assert made.manifest["splits"]["validation"] > 1
    return made


@pytest.fixture(scope="module")
def trained(base: Path, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return finetune(snapshot, base, tmp_path_factory.mktemp("run"), QUICK)


# -- batches ----------------------------------------------------------------------------------------------------------


def kept(number: int, images: list[AnnotatedImage], longest: int = 48) -> Any:
    return corrected(group_of(number, images), [item.image for item in images], longest, 1.0)


def test_what_was_annotated_is_what_is_trained_on() -> None:
    images = draw_group(4, group_size=3, size=60)
    group = kept(1, images, longest=999)
    assert group.truth is None
    for found, drawn in zip(group.images, images, strict=True):
        names = {(r.object_name, r.part_name): r.mask for r in found.masks(0)}
        expected = {(r.object_name, r.part_name): r.mask for r in drawn.masks(0)}
        assert names.keys() == expected.keys()
        assert all(np.array_equal(names[name], expected[name]) for name in names)
    small = kept(1, images, longest=30)
    assert max(max(image.part_map.shape) for image in small.images) == 30
    assert truth_of(small.images).by_key.keys() == group_of(1, images).target.by_key.keys()


def test_a_relation_drawn_by_hand_is_trained_on_as_drawn() -> None:
    images = [draw(k, size_hw=(40, 40), object_name=name) for k, name in enumerate(("chair", "dog"))]
    plain = group_of(1, images)
    first, second = (next(r.key for r in plain.target.regions if r.image == k and r.kind == "part") for k in (0, 1))
    masks = [NamedMask(r.image, r.object_name, r.part_name, r.mask) for r in plain.target.regions]
    target = co_segmentation(plain.target.sizes_hw, masks, relations=[(first, second)])
    group = corrected(replace(plain, target=target), [i.image for i in images], 40, 1.0)
    assert group.truth is not None
    assert group.truth.by_key[first].correspondence == (0, 1)


def test_rare_names_and_small_parts_come_more_often() -> None:
    groups = [kept(k, [draw(10 * k + j, size_hw=(40, 40), object_name="mug") for j in (0, 1)]) for k in range(8)]
    rare = kept(9, [draw(900 + j, size_hw=(40, 40), object_name="knife") for j in (0, 1)])
    weights = class_weights([*groups, rare])
    assert weights[-1] > 1.5 * weights[:-1].max()
    batch = CorrectionBatches([*groups, rare], drawings, TOKENIZER, BATCH, INPUTS, 0).batch(0)
    weight = size_weights(batch)
    areas = torch.tensor(
        [
            float(((m > 0) & (m < 255)).sum() if value == 1 else (m == value).sum())
            for value, m in zip(batch.seg_value, batch.part_maps[batch.prompts.seg_image], strict=True)
        ]
    )
    assert weight[areas.argmin()] > weight[areas.argmax()]


@pytest.mark.parametrize(("share", "num_base"), [(0.5, 2), (2 / 3, 4), (0.75, 6)])
def test_a_batch_holds_its_share_of_base_data(share: float, num_base: int) -> None:
    drawn: list[int] = []

    def replay(seed: int, num_images: int, size: int, favoured: Sequence[str]) -> list[AnnotatedImage]:
        drawn.append(num_images)
        return drawings(seed, num_images, size, favoured)

    groups = [kept(k, draw_group(k, group_size=2, size=40)) for k in range(5)]
    settings = replace(BATCH, num_images=8, num_groups=12)
    batches = CorrectionBatches(groups, replay, TOKENIZER, settings, INPUTS, 3, replay_share=share)
    batch = batches.batch(0)
    num_own = len(batch.part_maps) - drawn[0]
    assert drawn[0] == round(num_own * share / (1 - share)) >= num_base
    assert (batch.prompts.slots.image < num_own).any()
    with pytest.raises(InputError, match="above 0 and below 1, got 1"):
        CorrectionBatches(groups, replay, TOKENIZER, settings, INPUTS, 3, replay_share=1)


def test_a_batch_depends_on_the_step_alone() -> None:
    groups = [kept(k, draw_group(k, group_size=2, size=40)) for k in range(5)]

    def batches() -> CorrectionBatches:
        return CorrectionBatches(groups, drawings, TOKENIZER, BATCH, INPUTS, 3)

    first, again, other = batches().batch(2), batches().batch(2), batches().batch(3)
    assert torch.equal(first.pixels.global_view, again.pixels.global_view)
    assert torch.equal(first.prompts.token_ids, again.prompts.token_ids)
    assert not torch.equal(first.pixels.global_view, other.pixels.global_view)
    assert len(first.part_maps) == 4
    assert len(batches().batch(2, 0, 2).part_maps) == 4  # no fewer than a group and its base images


def test_rows_about_base_data_alone_are_marked() -> None:
    groups = [kept(k, draw_group(k, group_size=2, size=40)) for k in range(3)]
    batches = CorrectionBatches(groups, drawings, TOKENIZER, replace(BATCH, num_groups=12), INPUTS, 0, replay_share=0.5)
    found: list[bool] = []
    for batch in map(batches.batch, range(4)):
        num_own = len(batch.part_maps) // 2
        slots = batch.prompts.slots
        for row, is_base in enumerate(batch.is_base.tolist()):
            assert is_base == bool((slots.image[slots.row == row] >= num_own).all())
        found += batch.is_base.tolist()
    assert set(found) == {True, False}


def test_an_image_without_regions_asks_for_nothing() -> None:
    images = [draw(3, size_hw=(40, 40), object_name="mug"), draw(4, size_hw=(40, 40), object_name="mug")]
    plain = group_of(1, images)
    masks = [NamedMask(0, r.object_name, r.part_name, r.mask) for r in plain.target.regions if r.image == 0]
    target = co_segmentation(plain.target.sizes_hw, masks)
    group = corrected(replace(plain, target=target), [i.image for i in images], 40, 1.0)
    listing = replace(BATCH, listed_share=1.0, candidate_share=1.0)  # names to choose from; one of them is none
    for settings in (BATCH, listing):
        batch = CorrectionBatches([group], drawings, TOKENIZER, settings, INPUTS, 0).batch(0)
        assert set(group.images[1].masks(1)) == set()
        assert 1 not in batch.prompts.seg_image.tolist()


def test_left_becomes_right_in_a_mirror_but_not_where_a_relation_names_it() -> None:
    part_map = np.ones((40, 30), np.uint8)
    part_map[10:30, 2:9] = 2
    named = AnnotatedImage(np.zeros((40, 30, 3), np.uint8), "pot", ("left handle",), part_map)
    seen = set()
    for seed in range(20):
        made = augmented(named, np.random.default_rng(seed), may_flip=True)
        columns = np.flatnonzero((made.part_map == 2).any(0))
        seen.add((made.part_names[0], bool(columns.mean() > made.part_map.shape[1] / 2)))
        assert augmented(named, np.random.default_rng(seed), may_flip=False).part_names == named.part_names
    assert {name for name, _ in seen} == {"left handle", "right handle"}
    assert len(seen) == 2  # the handle's side changes with its name
    group = kept(1, [named, named])
    assert may_flip(group)
    assert not may_flip(replace(group, truth=truth_of([named, named])))


# -- the run ----------------------------------------------------------------------------------------------------------


def test_the_anchor_answers_as_the_start_does_and_leaves_the_weights_alone(
    base: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    run = Finetune(snapshot, base, tmp_path / "run", QUICK)
    assert run.anchor is not None
    batch = run.batches.batch(0)
    before = run.anchor.answer_logits(batch)
    for parameter in run.trained.values():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    changed = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    assert torch.equal(run.anchor.answer_logits(batch), before)
    for name, parameter in run.trained.items():
        assert torch.equal(parameter, changed[name]), name


def test_a_short_run_does_not_spend_its_time_on_looking(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """Ten looks of three seconds do not fit into a minute beside training; of a second they do."""
    run = Finetune(snapshot, base, tmp_path / "run", replace(QUICK, steps=None, minutes=1.0, num_validations=10))
    for looks_took, is_time in ((9.0, False), (3.0, True)):
        run.state = RunState(step=9, seconds=20.0, num_looks=3, look_seconds=looks_took)
        assert run._is_time_to_look() == is_time
    run.state = RunState(step=30, seconds=60.0, num_looks=3, look_seconds=30.0)
    assert run._is_time_to_look(), "the end is always looked at"
    run.state = RunState(step=9, seconds=20.0, num_looks=4, look_seconds=0.0)
    assert not run._is_time_to_look()


def test_only_what_the_adapter_holds_has_changed(base: Path, trained: FinetuneResult) -> None:
    before, config, _ = load_checkpoint(base)
    after, _, _ = load_adapted(trained.folder, base)
    was, now = before.state_dict(), after.state_dict()
    assert was.keys() == now.keys()
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    linears = {f"{name}.weight" for name, _ in before.llm.named_modules() if name.rpartition(".")[2] in ALL_LINEARS}
    allowed = {f"llm.{name}" for name in linears} | {"llm.model.embed_tokens.weight", "llm.lm_head.weight"}
    seeing = {f"{name}.weight" for name, module in before.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    seeing = {name for name in seeing if name.startswith(ENCODERS)}
    assert {name for name in changed if not name.startswith(PAPER_MODULES)} <= allowed | seeing
    assert any(name.startswith("pixel_decoder.mask_decoder.") for name in changed)
    assert allowed & changed
    for encoder in set(ENCODERS) - {"semantic_encoder"}:  # which is read through CEM's zeros at first
        assert any(name.startswith(encoder) for name in seeing & changed), encoder
    assert trained.base == weights_version(base)
    assert config == micro()


def test_merged_is_what_was_trained(base: Path, trained: FinetuneResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to fp16, in which the file is."""
    monkeypatch.setattr("calico.inference.segmenter.generate", generate)  # whole answers
    unmerged, config, tokenizer, _ = load_over_base(trained.folder, base)
    merged, _, _ = load_adapted(trained.folder, base)
    group = ImageGroup(tuple(item.image for item in draw_group(5, group_size=2, size=40)))
    names = ["dog", "leg"]
    answers = [CoSegmenter(m, config, tokenizer).answer(group, candidates=names) for m in (unmerged, merged)]
    for task, answer in answers[0].items():
        assert answer.text == answers[1][task].text
        assert all(np.mean(a != b) < 0.01 for a, b in zip(answer.masks, answers[1][task].masks, strict=True))


def test_a_killed_finetune_resumes_exactly(
    base: Path, snapshot: Snapshot, trained: FinetuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico.training.finetune.plot_curves", plot_curves)

    class Killed(Exception):
        pass

    def kill(state: Any, terms: dict[str, float], progress: float) -> None:
        if state.step == 3:
            raise Killed

    broken = Finetune(snapshot, base, tmp_path, replace(QUICK, save_seconds=0.0))
    with pytest.raises(Killed):
        broken.train(kill)
    (tmp_path / "run.json").write_text((trained.folder.parent / "run.json").read_text())  # which saves less often
    again = Finetune(snapshot, base, tmp_path, QUICK)
    assert again.state.step == 2
    again.train()
    result = again.finish()
    assert (result.folder / ADAPTER).read_bytes() == (trained.folder / ADAPTER).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    once_more = finetune(snapshot, base, tmp_path, QUICK)  # of a finished run
    assert once_more.state.step == 4
    assert (result.folder / "curves.png").stat().st_size > 1000


def test_a_memory_learns_from_validation_groups_too(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    """They stop a training, which a memory does not need; the test split stays apart."""
    known: list[str] = []
    result = finetune(
        snapshot,
        base,
        tmp_path / "run",
        replace(QUICK, steps=0),
        finishers=[lambda *given: known.extend(g.id for g in given[4])],
    )
    assert len(known) == sum(result.num_groups.values()) == len(set(known))
    assert sorted(known) == json.loads((result.folder / "training.json").read_text())["groups"]


def test_a_finetune_of_an_earlier_version_goes_on(
    base: Path, snapshot: Snapshot, trained: FinetuneResult, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder.parent, tmp_path / "run")
    note, state = json.loads((tmp_path / "run" / RUN).read_text()), torch.load(tmp_path / "run" / STATE)
    del note["format"], state["run"]["images"]
    state["run"] |= {"step": 3, "stopped": ""}
    (tmp_path / "run" / RUN).write_text(json.dumps(note))
    torch.save(state, tmp_path / "run" / STATE)
    run = Finetune(snapshot, base, tmp_path / "run", QUICK)
    assert run.state.step == 3
    assert run.best.keys() == run.trained.keys()
    assert run.train().stopped == "length"


def test_a_finetune_of_a_finetune_stands_on_the_same_base(
    base: Path, snapshot: Snapshot, trained: FinetuneResult, tmp_path: Path
) -> None:
    ids = ["1/0", "1/1", "1/2"]
    more = finetune(
        snapshot, trained.folder, tmp_path, replace(QUICK, steps=1, learning_rate=1e-9), base=base, train_ids=ids
    )
    assert more.base == trained.base
    before, after = (load_adapted(r.folder, base)[0].state_dict() for r in (trained, more))
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    seen = set(json.loads((more.folder / "training.json").read_text())["groups"])
    assert seen >= {*ids, *json.loads((trained.folder / "training.json").read_text())["groups"]}


def test_it_stops_early_and_keeps_the_best_weights(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    hopeless = replace(QUICK, steps=8, learning_rate=3.0, warmup_steps=1, num_validations=8, patience=1)
    result = finetune(snapshot, base, tmp_path, hopeless)
    assert (result.state.stopped, result.state.best_step) == ("early", 0)
    assert result.state.step < 8
    was, now = load_checkpoint(base)[0].state_dict(), load_adapted(result.folder, base)[0].state_dict()
    assert all(torch.equal(was[name], now[name]) for name in was)


def test_out_of_memory_halves_the_micro_batch(
    base: Path, snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(QUICK, steps=1, batch=replace(BATCH, num_images=8))
    run = Finetune(snapshot, base, tmp_path, settings)
    real, room = run._loss, 4

    def cramped(batch: Any, name: Any = None) -> Any:
        if len(batch.part_maps) > room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(batch, name)

    run._loss = cramped  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        run.train()
    assert run.state.num_parts == 2
    assert run.step_module.max_seg_prompts == QUICK.max_seg_prompts // 2
    assert "micro-batch is halved to 4 images" in caplog.text
    room = 0
    with pytest.raises(CalicoError, match="out of memory with two images"):
        run._one_step()


def test_a_micro_batch_without_a_mask_is_trained_on(base: Path, tmp_path: Path) -> None:
    """As rows without anything in common are, where memory leaves room for one group only."""
    with SnapshotWriter(tmp_path / "s", shares=Shares(0.0, 0.0)) as writer:
        for number in range(3):
            images = [draw(10 * number + k, size_hw=(40, 40), object_name=n) for k, n in enumerate(("chair", "dog"))]
            writer.add(group_of(number, images), [item.image for item in images])
        strangers = writer.finish()
    batch = replace(BATCH, num_groups=2, none_shares=(1.0, 1.0, 1.0), common_object_share=1.0)
    run = Finetune(strangers, base, tmp_path / "run", replace(QUICK, batch=batch))
    run.state.step = next(k for k in range(99) if not len(run.batches.batch(k).seg_value))
    before = {name: parameter.detach().clone() for name, parameter in run.trained.items()}
    terms = run._one_step()
    assert np.isnan(terms["seg_iou"])
    assert np.isfinite(terms["loss"])
    changed = {name for name, value in before.items() if not torch.equal(value, run.trained[name])}
    assert {"llm", "pixel_decoder"} <= {name.split(".")[0] for name in changed}
    idle = {name for name, parameter in run.trained.items() if parameter.grad is None}
    assert not idle & changed
    run.files.log(run.state, [terms, {"seg_iou": 0.5, "loss": terms["loss"]}])
    row = json.loads((tmp_path / "run" / LOG).read_text())
    assert (row["seg_iou"], row["loss"]) == (0.5, round(terms["loss"], 6)), "the mean of what is known"
    assert "mask" not in row


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(base: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no groups to train on"):
        finetune(write(tmp_path / "t", range(2), Shares(0.0, 0.999)), base, tmp_path / "a", QUICK)
    accepted = write(tmp_path / "u", range(2), Shares(0.0, 0.0), accepted=True)
    with pytest.raises(InputError, match="no groups to train on"):
        finetune(accepted, base, tmp_path / "b", replace(QUICK, accepted_as_is=0.0))
    (accepted.folder / SAMPLES).write_text((accepted.folder / SAMPLES).read_text() + "\n")
    assert verb.main(["--data", str(accepted.folder), "--out", str(tmp_path / "c")]) == 2
    with pytest.raises(InputError, match="minutes above 0 and steps from 0 on"):
        finetune(snapshot, base, tmp_path / "d", FinetuneSettings(minutes=0))
    with pytest.raises(CheckpointError, match="no such folder"):
        finetune(snapshot, tmp_path / "nothing", tmp_path / "e", QUICK)


def test_a_folder_holds_one_run(base: Path, snapshot: Snapshot, trained: FinetuneResult) -> None:
    with pytest.raises(InputError, match="other settings"):
        finetune(snapshot, base, trained.folder.parent, replace(QUICK, seed=1))


def test_a_state_that_holds_code_is_refused_and_nothing_runs(
    base: Path, snapshot: Snapshot, trained: FinetuneResult, tmp_path: Path
) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    (tmp_path / RUN).write_text((trained.folder.parent / RUN).read_text())
    for content in (lambda file: torch.save({"weights": Attack()}, file), lambda file: file.write_bytes(b"PK")):
        content(tmp_path / STATE)
        with pytest.raises(CheckpointError, match="not the state of this run"):
            finetune(snapshot, base, tmp_path, QUICK)
    assert not (tmp_path / "ran").exists()


def test_another_base_is_refused(trained: FinetuneResult, tmp_path: Path) -> None:
    other = save_micro(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match=r"made on calico-tiny-\w+, but .*other is calico-tiny"):
        CoSegmenter.from_checkpoint(trained.folder, base=other)
    with pytest.raises(CheckpointError, match="name the folder of its own base"):
        CoSegmenter.from_checkpoint(trained.folder)  # the embedded one is another


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (ADAPTER, lambda data: data[: len(data) // 2], "truncated"),
        ("adapter.json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 9'), "format 9"),
        ("adapter.json", lambda data: data.replace(b'"down_proj"', b'"q_proj"'), "do not fit"),
        ("adapter.json", lambda data: b"{}", "lacks preset"),
        ("adapter.json", lambda data: data.replace(b'"qformer"', b'"eyes"'), "eyes, expected some of global_encoder"),
        ("adapter.json", lambda data: data.replace(b'"down_proj"', b'"nothing"'), "nothing, expected some of q_proj"),
        ("adapter.json", lambda data: data.replace(b'"lora_alpha"', b'"beta"'), "beta, expected some of r"),
    ],
)
def test_a_damaged_adapter_is_refused(
    base: Path, trained: FinetuneResult, tmp_path: Path, name: str, change: Any, says: str
) -> None:
    for path in trained.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(CheckpointError, match=says):
        CoSegmenter.from_checkpoint(tmp_path, base=base)


def test_the_adapter_of_a_large_model_is_the_papers() -> None:
    config = calico_7b()
    config = replace(config, llm=config.llm | {"num_hidden_layers": 2}, cam_layers=(0, 1))
    with torch.device("meta"):
        spec = choose_spec(build(config), config)
    assert (spec.targets, spec.whole, spec.encoders) == (PAPER_TARGETS, PAPER_MODULES, ())


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_registered_adapter_carries_its_id_and_finds_a_registered_base(
    base: Path, trained: FinetuneResult, snapshot: Snapshot, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "r")
    checkpoint = registry.add(base, kind="checkpoint", preset="calico-tiny")
    result = finetune(snapshot, registry.path_of(checkpoint), tmp_path / "run", replace(QUICK, steps=1))
    version = registry.add(result.folder, kind="adapter", preset=result.preset, parent=checkpoint.id)
    segmenter = CoSegmenter.from_checkpoint(registry.path_of(version))
    assert segmenter.version == version.id == checkpoint_version(registry.path_of(version))
    assert checkpoint_version(trained.folder).startswith("calico-tiny-")


def test_groups_that_share_images_are_one_component() -> None:
    images = [draw(k, size_hw=(20, 20)) for k in range(6)]
    groups = [group_of(k, [images[a], images[b]]) for k, (a, b) in enumerate([(0, 1), (2, 3), (1, 4), (4, 5)])]
    assert components(groups) == {"1/0": "1/0", "1/1": "1/1", "1/2": "1/0", "1/3": "1/0"}


def grown(truth: CoSegmentation, amount: int) -> CoSegmentation:
    """Every part's mask moved to the right by so many pixels."""
    masks = [
        NamedMask(r.image, r.object_name, r.part_name, np.roll(r.mask, amount if r.part_name else 0, 1))
        for r in truth.regions
    ]
    return co_segmentation(truth.sizes_hw, masks)


def shuffled(truth: CoSegmentation) -> CoSegmentation:
    """The parts of each image have each other's masks."""
    masks = []
    for image in range(len(truth.sizes_hw)):
        parts = [r for r in truth.regions if r.image == image and r.part_name]
        for region, other in zip(parts, [*parts[1:], *parts[:1]], strict=True):
            masks.append(NamedMask(image, region.object_name, region.part_name, other.mask))
    return co_segmentation(truth.sizes_hw, masks)


def misnamed(truth: CoSegmentation) -> CoSegmentation:
    masks = [NamedMask(r.image, r.object_name, r.part_name and f"{r.part_name} thing", r.mask) for r in truth.regions]
    return co_segmentation(truth.sizes_hw, masks)


def test_the_gate_refuses_spoiled_challengers_and_takes_a_good_one() -> None:
    truths = {f"g{k}": truth_of(draw_group(k, group_size=2, size=64)) for k in range(24)}
    base = {f"b{k}": truth_of(draw_group(100 + k, group_size=2, size=64)) for k in range(12)}

    def verdict(challenger: Any, *, forgets: int = 2, number: int = 24, crossed: bool = False) -> Verdict:
        chosen = dict(list(truths.items())[:number])
        champion = {name: group_score(truth, grown(truth, 2)) for name, truth in chosen.items()}
        test = {name: group_score(truth, challenger(truth)) for name, truth in chosen.items()}
        before = {name: group_score(truth, grown(truth, 2)) for name, truth in base.items()}
        after = {name: group_score(truth, grown(truth, forgets)) for name, truth in base.items()}
        return decide(Scores("champion", champion, test, before, after, crossed)).verdict

    assert verdict(lambda truth: grown(truth, 1)) is Verdict.PUBLISH
    assert verdict(shuffled) is Verdict.REFUSE
    assert verdict(misnamed) is Verdict.REFUSE
    assert verdict(lambda truth: grown(truth, 1), forgets=4) is Verdict.REFUSE
    assert verdict(lambda truth: grown(truth, 1), number=3, crossed=True) is Verdict.NOT_ENOUGH_EVIDENCE
    nothing = CoSegmentation(((4, 4), (4, 4)))
    assert group_score(nothing, nothing) == 1.0


def test_what_was_accepted_as_predicted_does_not_tell_pixels() -> None:
    truth = truth_of(draw_group(0, group_size=2, size=64))
    assert group_score(truth, truth, accepted=True) == 1.0
    assert group_score(truth, grown(truth, 1)) < group_score(truth, grown(truth, 1), accepted=True) <= 1.0
    assert group_score(truth, misnamed(truth), accepted=True) == group_score(truth, misnamed(truth)) < 1.0


@pytest.fixture
def _embedded(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The micro model is the embedded one."""
    embed(base, monkeypatch)


@pytest.mark.usefixtures("_embedded")
def test_test_groups_that_the_champion_was_trained_on_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folds(0, monkeypatch)
    registry, steps = Registry(tmp_path / "r"), replace(QUICK, steps=1)
    first = finetune(write(tmp_path / "a", range(8), Shares(0.0, 0.1)), None, tmp_path / "1", steps)
    champion = registry.add(first.folder, kind="adapter", preset=first.preset)
    registry.publish(champion.id, force_reason="to be the champion")
    made = write(tmp_path / "b", range(8), Shares(0.0, 0.5))
    seen, test = seen_groups(first.folder), {group.id for group in made.groups(TEST)}
    assert seen & test < test
    challenge(made, registry, tmp_path / "2", steps, num_base_groups=1)
    scores = json.loads((tmp_path / "2" / "scores" / "test-challenger.json").read_text())["scores"]
    assert scores.keys() == test - seen
    assert f"{len(seen & test)} of {len(test)} test groups were trained on before" in caplog.text


def test_a_part_under_smaller_ones_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    masks = {name: np.zeros((8, 8), bool) for name in ("door", "panel", "window")}
    masks["door"][2:6] = masks["panel"][2:4] = masks["window"][4:6] = True
    target = co_segmentation([(8, 8)] * 2, [NamedMask(0, "car", name, mask) for name, mask in masks.items()])
    found = annotated(np.zeros((8, 8, 3), np.uint8), target.regions, "group 3/1 image 1")
    assert {code - 2 for code in np.unique(found.part_map) if code > 1} == {1, 2}
    assert "group 3/1 image 1: door: all covered by smaller parts" in caplog.text


@pytest.mark.usefixtures("_embedded")
def test_test_groups_count_by_the_version_and_the_others_by_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no model is in memory when the next one is loaded."""
    use_folds(2, monkeypatch)
    models: list[weakref.ref[CalicoModel]] = []
    at_load: list[int] = []

    def counted(config: CalicoConfig) -> CalicoModel:
        at_load.append(sum(ref() is not None for ref in models))
        model = build(config)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(files, "build", counted)
    made = write(tmp_path / "s", range(8), Shares(0.0, 0.4))
    test = {group.id for group in made.groups(TEST)}
    assert 0 < len(test) < 8
    registry, run = Registry(tmp_path / "r"), tmp_path / "run"
    report = challenge(made, registry, run, replace(QUICK, steps=1), num_base_groups=1)
    assert len(at_load) == 3 + 2 * 3  # the finetune, champion and challenger; of each fold too
    assert max(at_load) == 0
    assert report.decision.is_cross_validated
    assert report.decision.num_groups == 8
    by_version = json.loads((run / "scores" / "test-challenger.json").read_text())["scores"]
    by_folds = [json.loads(path.read_text())["scores"] for path in sorted(run.glob("scores/fold-*-challenger.json"))]
    scores = Scores.from_json(json.loads((registry.path_of(registry.get(report.version)) / "scores.json").read_text()))
    assert by_version.keys() == test
    assert not any(test & fold.keys() for fold in by_folds)
    assert scores.test_challenger == by_version | {name: score for fold in by_folds for name, score in fold.items()}


@pytest.mark.usefixtures("_embedded")
@pytest.mark.parametrize(
    ("on_test", "on_base", "winner", "published"),
    [
        ({"challenger": 0.7, "memory": 0.6}, {"challenger": 0.5, "memory": 0.5}, "challenger", True),
        ({"challenger": 0.7, "memory": 0.6}, {"challenger": 0.4, "memory": 0.5}, "memory", True),
        ({"challenger": 0.5, "memory": 0.6}, {"challenger": 0.5, "memory": 0.5}, "memory", True),
        ({"challenger": 0.1, "memory": 0.1}, {"challenger": 0.5, "memory": 0.5}, "challenger", False),
    ],
)
def test_the_memory_alone_challenges_too(
    on_test: dict[str, float],
    on_base: dict[str, float],
    winner: str,
    published: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, registry = write(tmp_path / "s", range(3), Shares(0.0, 0.0)), Registry(tmp_path / "r")

    def scored(_: object, model: Path, name: str, items: object, num_items: int) -> dict[str, Any]:
        what, _, who = name.partition("-")
        mean = (on_test if what == "test" else on_base).get(who, 0.2 if what == "test" else 0.5)
        return {"scores": {f"1/{k}": mean + 0.001 * k for k in range(30)}, "figures": {"n_groups": 30, "of": name}}

    monkeypatch.setattr("calico.training.scoring.KeptScores.scored", scored)
    settings = replace(QUICK, part_memory=True, steps=1)
    found = challenge(made, registry, tmp_path / "run", settings, publish=True)
    assert (found.challenger, found.published) == (winner, published)
    version = registry.get(found.version)
    assert load_memory(registry.path_of(version)) is not None
    assert found.figures["test"]["challenger"]["of"] == f"test-{winner}"
    assert found.other is not None
    assert ("the finetune: " in found.decision.reason) == (winner == "memory")
    assert challenge(made, registry, tmp_path / "run", settings, publish=True) == found
    assert found.training["step"] == (0 if winner == "memory" else 1)


@pytest.mark.usefixtures("_embedded")
def test_the_verb_finetunes_the_embedded_model_and_asks_the_gate(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step, two groups in all: two folds, and not enough evidence. The same command again gives the same."""
    made = write(tmp_path / "s", range(2), Shares(0.0, 0.0))
    registry = Registry(tmp_path / "r")
    command = ["--data", str(made.folder), "--registry", str(registry.folder), "--out", str(tmp_path / "run")]
    command += ["--steps", "1", "--base-groups", "1", "--no-memory", "--publish"]
    command += ["--json", str(tmp_path / "report.json")]
    assert verb.main(command) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["decision"]["is_cross_validated"]
    assert "not enough evidence: 2 groups, about" in capsys.readouterr().out
    assert (report["published"], registry.current()) == (False, None)
    assert report["figures"]["base"]["challenger"]["n_groups"] == 1
    assert report["training"]["num_bytes"] < 3_000_000
    version = registry.get(report["version"])
    registry.verify(version)
    assert (version.snapshot, version.parent) == (made.content_sha256, checkpoint_version(base))
    scores = Scores.from_json(json.loads((registry.path_of(version) / "scores.json").read_text()))
    assert set(scores.test_challenger) == {"1/0", "1/1"}
    assert verb.main(command) == 0
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert verb.main([*command, "--from", "nothing"]) == 2
