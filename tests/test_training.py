"""Training: what a batch says is true of its drawings, the losses have their known values, a run resumes exactly."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import TOKENIZER, leave_out_curves, micro

from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.correspondence import truth_of
from calico.data.groups import GroupPlan, choose_groups, draw_batch
from calico.errors import CheckpointError, InputError
from calico.language.answers import parse_answer
from calico.model.builder import build
from calico.model.cam import ImageSlots
from calico.model.inputs import ModelInputs
from calico.model.segmentation import MaskLogits
from calico.training.auxiliary import MAX_IMAGES, AnswerStates, AuxiliaryHeads, compared_loss, local_loss, shown_loss
from calico.training.batches import (
    PADDING,
    BatchSettings,
    TrainingBatch,
    build_batch,
    candidate_names,
    region_mask,
    with_invented_name,
)
from calico.training.losses import SMALL_MODEL_WEIGHTS, LossWeights, dice_loss, mask_iou, mask_loss, text_loss
from calico.training.run_folder import RUN, RunState
from calico.training.sources import Batches, DrawnImages
from calico.training.step import StepResult, TrainingStep, next_clicks
from calico.training.trainer import LOG, STATE, Phase, Trainer, TrainingSettings
from calico.values import SubTask

CONFIG = micro()
SIZE = CONFIG.grounding_encoder.image_size
SMALL = BatchSettings(num_images=6, num_groups=4, num_points=3, num_boxes=3)


def test_a_batch_means_what_its_drawings_show() -> None:
    images = draw_batch(3, num_images=8, size=64)
    rng = np.random.default_rng(0)
    plans = choose_groups(images, rng, num_groups=9)
    settings = replace(SMALL, candidate_share=0.0)
    batch = build_batch(images, plans, settings, TOKENIZER, ModelInputs.from_config(CONFIG, 64), rng)
    prompts = batch.prompts
    seg = 0
    for row, plan in enumerate(plans):
        labels = prompts.labels[row]
        answer = [token for token in labels.tolist() if token != -100]
        assert answer[-1] == TOKENIZER.eos_id
        first = int((labels != -100).nonzero()[0])
        assert int(prompts.slots.instruction[row]) == first - 1
        parsed = parse_answer(TOKENIZER.text(answer[:-1]), plan.sub_task, len(plan.indices), finished=True)
        assert not parsed.problems
        truth = truth_of([images[i] for i in plan.indices])
        assert {mention.key for mention in parsed.mentions} == set(truth.restricted_to(plan.sub_task).by_key)
        for mention in parsed.mentions:  # in the order of the [SEG]s, since there are no problems
            number = seg + mention.seg_index
            image = plan.indices[mention.image]
            assert int(prompts.seg_image[number]) == image
            assert int(prompts.token_ids[row, prompts.seg_position[number]]) == TOKENIZER.seg_id
            found = region_mask(batch.part_maps[image].numpy(), int(batch.seg_value[number]))
            expected = truth.by_key[mention.key].mask
            assert np.array_equal(found[: expected.shape[0], : expected.shape[1]], expected)
        seg += parsed.num_segs
    assert seg == len(batch.seg_value)


def test_image_tokens_stand_where_the_pictures_are_listed() -> None:
    batch = batch_at(0)
    slots = batch.prompts.slots
    for row, positions in zip(slots.row.tolist(), slots.position.tolist(), strict=True):
        assert {int(batch.prompts.token_ids[row, p]) for p in positions} == {TOKENIZER.image_id}
        assert positions == list(range(positions[0], positions[0] + CONFIG.num_queries))


def batch_at(step: int) -> TrainingBatch:
    return Batches(DrawnImages(), TOKENIZER, SMALL, ModelInputs.from_config(CONFIG, SIZE), seed=5).batch(step)


def test_a_step_has_one_batch_and_steps_differ() -> None:
    first, again, other = batch_at(2), batch_at(2), batch_at(3)
    assert torch.equal(first.pixels.global_view, again.pixels.global_view)
    assert torch.equal(first.prompts.token_ids, again.prompts.token_ids)
    assert not torch.equal(first.pixels.global_view, other.pixels.global_view)


def test_clicks_lie_on_what_they_mean_and_boxes_are_tight() -> None:
    batch = batch_at(1)
    clicks = batch.points
    for image, value, (x, y) in zip(clicks.image, clicks.value, clicks.points.long().tolist(), strict=True):
        assert region_mask(batch.part_maps[image].numpy(), int(value))[y, x]
        assert batch.part_maps[image, y, x] != PADDING
    for image, value, box in zip(batch.boxes.image, batch.boxes.value, batch.boxes.boxes, strict=True):
        ys, xs = np.nonzero(region_mask(batch.part_maps[image].numpy(), int(value)))
        assert np.abs(box.numpy() - [xs.min(), ys.min(), xs.max(), ys.max()]).max() <= 1


def test_the_next_click_lies_where_the_mask_is_wrong() -> None:
    target = torch.zeros(3, 48, 48)
    target[:, 10:30, 10:30] = 1
    found = torch.where(target > 0, 5.0, -5.0)
    found[0, 10:30, 18:30] = -5.0  # lacks the right
    found[1, 35:45, 35:45] = 5.0  # has too much at the bottom
    masks = MaskLogits(found, torch.zeros(3))
    points, labels = next_clicks(masks, target, torch.ones_like(target), 96)
    assert labels.tolist() == [1, 0, -10]
    assert 18 < points[0, 0] / 2 < 29
    assert 10 < points[0, 1] / 2 < 29
    assert (points[1] / 2 > 35).all()
    assert (points[1] / 2 < 45).all()


def test_an_invented_name_is_consistent_and_a_candidate() -> None:
    images = draw_batch(1, num_images=6, size=64)
    rng = np.random.default_rng(1)
    group = [images[0], next(i for i in images[1:] if i.object_name != images[0].object_name)]
    for sub_task in SubTask:
        renamed = with_invented_name(group, sub_task, rng)
        before = {name for i in group for name in (i.object_name, *i.part_names)}
        after = {name for i in renamed for name in (i.object_name, *i.part_names)}
        assert [len(after - before), len(before - after)] == [1, 1]
        assert all(np.array_equal(a.part_map, b.part_map) for a, b in zip(group, renamed, strict=True))
        offered = set(candidate_names(renamed, sub_task, rng))
        needed = {i.object_name for i in renamed} if sub_task is SubTask.COMMON_OBJECT else after
        assert needed <= offered


def test_losses_have_their_known_values() -> None:
    zeros, ones = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    assert mask_loss(zeros, ones, ones).item() == pytest.approx(math.log(2))
    assert mask_loss(zeros, ones, ones, "focal").item() == pytest.approx(math.log(2) * 0.25 * 0.25)
    assert mask_loss(zeros, zeros, ones, "focal").item() == pytest.approx(math.log(2) * 0.25 * 0.75)
    assert dice_loss(zeros, ones, ones).item() == pytest.approx(1 - (2 * 8 + 1) / (8 + 16 + 1))
    half = torch.cat([torch.ones(2, 2, 4), -torch.ones(2, 2, 4)], 1)
    assert mask_iou(half, ones, ones).tolist() == [0.5, 0.5]
    assert mask_iou(half, ones, (half > 0).float()).tolist() == [1.0, 1.0]
    assert text_loss(torch.zeros(6, 8), torch.zeros(6, dtype=torch.long), 3).item() == pytest.approx(2 * math.log(8))


def test_one_group_is_overfitted() -> None:
    torch.manual_seed(0)
    config = micro(widths=(8, 16, 32), hidden_size=32, llm_size=64)
    images = [image for image in draw_batch(11, num_images=4, size=SIZE) if image.object_name == "chair"]
    pair = [GroupPlan((0, 1), SubTask.COMMON_OBJECT)]
    plain = BatchSettings(num_points=1, num_boxes=1, candidate_share=0.0, dropout_share=0.0)
    batch = build_batch(images, pair, plain, TOKENIZER, ModelInputs.from_config(config, SIZE), np.random.default_rng(0))
    step = TrainingStep(build(config), None, replace(SMALL_MODEL_WEIGHTS, auxiliary=0.0), SIZE, 64).train()
    optimizer = torch.optim.AdamW(step.parameters(), lr=6e-3)
    for _ in range(100):
        result = step(batch)
        if result.terms["seg_iou"] > 0.95 and result.terms["token_acc"] == 1:
            return
        optimizer.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(step.parameters(), 2.0)
        optimizer.step()
    pytest.fail(f"not learnt by heart in 100 steps: {result.terms}")


def test_an_answer_like_the_teachers_costs_nothing_where_it_is_taught() -> None:
    logits, truth = torch.randn(5, 7), torch.tensor([0, 1, 2, 3, 4])
    is_taught = torch.tensor([True, True, False, True, False])
    alike = text_loss(logits, truth, 1, logits, is_taught)
    assert torch.allclose(alike, text_loss(logits[~is_taught], truth[~is_taught], 1))
    assert float(text_loss(logits, truth, 1, logits.flip(1), is_taught)) > float(alike) + 0.1


def test_the_local_loss_knows_which_cell_sees_which_part() -> None:
    part_ids = torch.zeros(1, 8, 8, dtype=torch.long)
    part_ids[0, 0, 0] = 2  # a single pixel of part 0 in the first of four cells
    part_ids[0, 4:, 4:] = 3  # part 1 fills the last
    part_ids[0, :, 7] = -100
    right = torch.full((1, 4, 2), -9.0)
    right[0, 0, 0] = right[0, 3, 1] = 9.0
    weights = torch.ones(1, 2)
    assert float(local_loss(right, part_ids, weights)) < 0.01
    for cell, part in ((0, 0), (3, 1), (1, 0), (2, 1)):
        wrong = right.clone()
        wrong[0, cell, part] *= -1
        assert float(local_loss(wrong, part_ids, weights)) > 1


def test_a_scaled_batch_has_every_count_in_proportion_and_none_at_zero() -> None:
    settings = BatchSettings(num_images=6, num_groups=8, num_points=3, num_boxes=1, listed_share=0.1)
    half = settings.scaled(0.5)
    assert half == replace(settings, num_images=3, num_groups=4, num_points=2, num_boxes=1)
    assert settings.scaled(1.0) == settings


def test_an_answer_is_asked_which_parts_each_of_its_images_shows_alone_or_shares() -> None:
    presence = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    nowhere = torch.zeros(0, dtype=torch.long)
    slots = ImageSlots(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 0, 2, 1, 0]), nowhere, nowhere)
    answers = AnswerStates(torch.zeros(3, 1), torch.tensor([0, 1, 1]), slots)
    alone, shared = torch.full((2, 3, MAX_IMAGES, 2), -9.0)
    shared[0, :2, 0] = alone[0, 1, 1] = 9.0  # of two images, the second alone shows part 1
    shared[1:, [1, 2], 0] = shared[1:, [0, 2], 1] = 9.0

    def loss(alone: torch.Tensor, weights: torch.Tensor) -> float:
        return float(compared_loss(torch.cat([alone, shared], 1).flatten(1), answers, presence, weights))

    even = torch.ones(3, 2)
    assert loss(alone, even) < 0.01
    wrong = alone.clone()
    wrong[0, 1, 1] = -9.0
    assert loss(wrong, even) == pytest.approx(loss(alone, even) + 2 * 9 / 32, abs=0.01)  # of 4 + 6 + 6 pairs, twice
    assert loss(wrong, torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])) < 0.01, "image 0's part 1 has no weight"
    beyond = alone.clone()
    beyond[0, 2:] = beyond[1:, 3:] = 9.0
    assert loss(beyond, even) < 0.01, "places without an image are not asked about"


def test_parts_that_the_class_does_not_tell_weigh_most() -> None:
    """Of class 0 every image shows part 0 and half show part 1; of class 1 none shows any."""
    heads = AuxiliaryHeads(4, 4, 4, 4, 4, num_classes=2, num_parts=2).train()
    class_ids = torch.tensor([0, 0, 1])
    presence = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    for _ in range(500):
        weights = heads._telling(class_ids, presence)
    assert torch.isclose(weights.mean(), torch.tensor(1.0))
    assert float(weights[0, 1]) > 10 * float(weights[0, 0])
    assert float(weights[0, 0]) == pytest.approx(float(weights[2, 1]), rel=0.1)
    unknown = heads._telling(torch.tensor([-100]), presence[:1])
    assert unknown.tolist() == [[1.0, 1.0]], "an unknown class tells nothing of any part"
    wrong = torch.zeros(3, 4)
    certain, undecided = wrong.clone(), wrong.clone()
    certain[0, 2], undecided[0, 3] = -5.0, -5.0
    losses = [float(shown_loss(logits, class_ids, presence, weights)) for logits in (wrong, certain, undecided)]
    assert losses[2] - losses[0] > 10 * (losses[1] - losses[0]) > 0


def test_under_autocast_masks_come_in_full_precision() -> None:
    batch = batch_at(0)
    step = TrainingStep(build(CONFIG), None, replace(SMALL_MODEL_WEIGHTS, auxiliary=0.0), SIZE, 4)
    seen: list[torch.dtype] = []
    decoder = step.model.pixel_decoder.mask_decoder
    decoder.upscale_conv2.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = step(batch).loss
    loss.backward()
    assert seen
    assert set(seen) == {torch.float32}
    assert step.model.seg_projection[0].weight.grad is not None


@pytest.mark.parametrize("is_weighted", [False, True])
def test_answers_without_a_mask_are_trained_on_too(is_weighted: bool) -> None:
    images = draw_batch(1, num_images=6, size=64)
    pair = [images[0], next(i for i in images[1:] if i.object_name != images[0].object_name)]
    plans = [GroupPlan((0, 1), SubTask.COMMON_OBJECT)]
    batch = build_batch(pair, plans, SMALL, TOKENIZER, ModelInputs.from_config(CONFIG, SIZE), np.random.default_rng(0))
    assert not len(batch.seg_value)
    step = TrainingStep(build(CONFIG), None, LossWeights(), SIZE, 4)
    result = step(replace(batch, seg_weight=torch.zeros(0, dtype=torch.float64) if is_weighted else None))
    result.loss.backward()
    assert {name for name, value in result.terms.items() if math.isnan(value)} == {"seg_iou", "mask", "dice"}
    assert result.loss.isfinite()
    gradients = {name: p.grad for name, p in step.model.named_parameters() if p.requires_grad}
    assert all(g.isfinite().all() for g in gradients.values() if g is not None)
    idle = {name for name, g in gradients.items() if g is None}
    assert {name.split(".")[0] for name in idle} <= {"seg_projection", "pixel_decoder"}
    assert not [name for name in idle if name.startswith("pixel_decoder.mask_decoder.")], "clicks train it"


def settings(steps: int, **fields) -> TrainingSettings:  # type: ignore[no-untyped-def]
    defaults = {"phases": (Phase(1.0, 32),), "batch": SMALL, "num_workers": 0, "log_steps": 1, "warmup_steps": 2}
    return TrainingSettings(steps=steps, **(defaults | fields))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads add up gradients in an order of their own, and the last bits differ from run to run."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def _without_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.function is not test_a_killed_run_resumes_exactly:
        leave_out_curves(monkeypatch)


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    whole = Trainer(tmp_path / "whole", settings(4), CONFIG, TOKENIZER)
    whole.run()

    class Killed(Exception):
        pass

    def kill(state, terms, progress) -> None:  # type: ignore[no-untyped-def]
        if state.step == 3:  # one step after the last save: that step is lost
            raise Killed
        broken.save()

    broken = Trainer(tmp_path / "broken", settings(4), CONFIG, TOKENIZER)
    with pytest.raises(Killed):
        broken.run(kill)
    resumed = Trainer(tmp_path / "broken", settings(4), CONFIG, TOKENIZER)
    assert resumed.state.step == 2
    resumed.run()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    rows = [json.loads(line) for line in (tmp_path / "broken" / LOG).read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    _, config, _ = load_checkpoint(tmp_path / "broken" / "checkpoint")
    assert config == CONFIG
    assert (tmp_path / "broken" / "curves.png").stat().st_size > 1000


@pytest.mark.usefixtures("one_thread")
def test_memory_that_runs_out_halves_the_micro_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(tmp_path, settings(2), CONFIG, TOKENIZER)
    whole, sizes = trainer._loss, []

    def cramped(batch: TrainingBatch, name: object = None) -> StepResult:
        sizes.append(len(batch.part_maps))
        if len(batch.part_maps) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return whole(batch, name)

    trainer._loss = cramped  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        state = trainer.run()
    assert (state.num_parts, state.images, sizes) == (2, 12, [6, 3, 3, 3, 3])
    assert "micro-batch is halved to 3 images" in caplog.text
    assert Trainer(tmp_path, settings(3), CONFIG, TOKENIZER).state.num_parts == 2


def test_paper_mode_trains_adapters_and_exports_them_merged(tmp_path: Path) -> None:
    Trainer(tmp_path / "base", settings(1), CONFIG, TOKENIZER).run()
    paper = settings(2, mode="paper", weights=LossWeights(), gradient_checkpointing=True)
    trainer = Trainer(tmp_path / "paper", paper, CONFIG, TOKENIZER, start=tmp_path / "base" / "checkpoint")
    frozen = trainer.model.global_encoder.state_dict()
    frozen = {name: tensor.clone() for name, tensor in frozen.items()}
    trainer.run()
    for name, tensor in trainer.model.global_encoder.state_dict().items():
        assert torch.equal(tensor, frozen[name]), name  # running statistics too
    load_checkpoint(tmp_path / "paper" / "checkpoint")


def test_a_foreign_state_is_refused(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    torch.save({"weights": {}}, tmp_path / STATE)
    with pytest.raises(CheckpointError, match="not the state of this run"):
        Trainer(tmp_path, settings(1), CONFIG, TOKENIZER)


def test_a_run_of_two_images_goes_on_where_nothing_is_in_common(tmp_path: Path) -> None:
    few = replace(SMALL, num_images=2, num_groups=1, images_per_class=1.0, common_object_share=1.0)
    trainer = Trainer(tmp_path, settings(3, batch=few), CONFIG, TOKENIZER)
    seen: list[float] = []
    trainer.run(lambda state, terms, progress: seen.append(terms["seg_iou"]))
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert any(math.isnan(iou) for iou in seen)
    assert ["seg_iou" not in row for row in rows] == [math.isnan(iou) for iou in seen]
    assert all(math.isfinite(value) for row in rows for value in row.values())


# -- a folder holds one run -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    Trainer(folder, settings(1), CONFIG, TOKENIZER).run()
    return folder


@pytest.fixture
def used(trained: Path, tmp_path: Path) -> Path:
    """A folder of a run of one step."""
    shutil.copytree(trained, tmp_path / "used")
    return tmp_path / "used"


def test_a_folder_of_another_run_is_refused(used: Path) -> None:
    before = {path.name: path.read_bytes() for path in used.iterdir() if path.is_file()}
    start = used / "checkpoint"
    others = {
        r"other settings\.seed;": (settings(1, seed=7), None),
        r"other settings\.learning_rate;": (settings(1, learning_rate=1e-5), None),
        r"other settings\.batch\.num_images;": (settings(1, batch=replace(SMALL, num_images=5)), None),
        "other start;": (settings(1), start),
        r"other start, settings\.seed, settings\.learning_rate; use another --out, or the same options": (
            settings(400, seed=7, learning_rate=1e-5),
            start,
        ),
    }
    for says, (asked, begin) in others.items():
        with pytest.raises(InputError, match=says):
            Trainer(used, asked, CONFIG, TOKENIZER, start=begin)
    with pytest.raises(InputError, match=r"other config\.without;"):
        Trainer(used, settings(1), replace(CONFIG, without=("auxiliary",)), TOKENIZER)
    assert {path.name: path.read_bytes() for path in used.iterdir() if path.is_file()} == before


def test_a_run_may_be_lengthened(used: Path) -> None:
    by_minutes = replace(settings(1), steps=None, minutes=60.0, save_seconds=9.0)
    assert Trainer(used, by_minutes, CONFIG, TOKENIZER).state.step == 1
    longer = Trainer(used, settings(2), CONFIG, TOKENIZER)
    assert longer.progress == 0.5
    assert longer.run().step == 2


def test_a_start_that_moved_is_the_same(trained: Path, tmp_path: Path) -> None:
    Trainer(tmp_path / "run", settings(1), CONFIG, TOKENIZER, start=trained / "checkpoint").run()
    shutil.copytree(trained / "checkpoint", tmp_path / "moved")
    assert Trainer(tmp_path / "run", settings(1), CONFIG, TOKENIZER, start=tmp_path / "moved").progress == 1
    torch.manual_seed(5)
    save_checkpoint(tmp_path / "moved", build(CONFIG), CONFIG, TOKENIZER)
    with pytest.raises(InputError, match="other start;"):
        Trainer(tmp_path / "run", settings(1), CONFIG, TOKENIZER, start=tmp_path / "moved")


def test_a_folder_that_does_not_say_which_run_it_holds_resumes_and_then_does(
    used: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = (used / RUN).read_text()
    (used / RUN).unlink()
    with caplog.at_level(logging.WARNING):
        assert Trainer(used, settings(1), CONFIG, TOKENIZER).state.step == 1
    assert "does not say how its run was started" in caplog.text
    assert (used / RUN).read_text() == told
    with pytest.raises(InputError, match="seed"):
        Trainer(used, settings(1, seed=7), CONFIG, TOKENIZER)
    (used / RUN).write_text("")
    with pytest.raises(CheckpointError, match=r"run\.json: not readable as JSON .*use another --out"):
        Trainer(used, settings(1), CONFIG, TOKENIZER)
    (used / RUN).write_text('{"snapshot": "of a finetune"}')
    with pytest.raises(InputError, match="another kind of run; use another --out"):
        Trainer(used, settings(1), CONFIG, TOKENIZER)


def test_a_run_of_an_earlier_version_goes_on(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its note has no format, its settings had another name for `save_seconds`, its state no micro-batches."""
    note, state = json.loads((used / RUN).read_text()), torch.load(used / STATE, weights_only=True)
    del note["format"], note["settings"]["num_validations"], note["settings"]["patience"], state["best"]
    state["run"] = {name: state["run"][name] for name in ("step", "seconds", "images")}
    (used / RUN).write_text(json.dumps(note))
    torch.save(state, used / STATE)
    with pytest.raises(InputError, match=r"a run of another version of calico with other settings\.seed;"):
        Trainer(used, settings(2, seed=7), CONFIG, TOKENIZER)
    with caplog.at_level(logging.INFO):
        longer = Trainer(used, settings(2), CONFIG, TOKENIZER)
    assert "a run of an earlier version goes on" in caplog.text
    assert longer.state == RunState(step=1, seconds=state["run"]["seconds"], images=6, num_parts=1)
    assert longer.run().step == 2
    assert json.loads((used / RUN).read_text())["format"] == 2


class Attack:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


def test_a_damaged_state_is_refused_and_nothing_of_it_runs(used: Path, tmp_path: Path) -> None:
    whole = (used / STATE).read_bytes()
    damages: tuple[Callable[[Path], object], ...] = (
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(whole[: len(whole) // 2]),
        lambda file: file.write_bytes(b"not a state"),
        lambda file: torch.save([], file),
        lambda file: torch.save({"weights": Attack(tmp_path / "ran")}, file),
    )
    for damage in damages:
        damage(used / STATE)
        with pytest.raises(CheckpointError, match=r"state\.pt: not the state of this run \(.+\); use another --out"):
            Trainer(used, settings(1), CONFIG, TOKENIZER)
    assert not (tmp_path / "ran").exists()


def test_a_log_line_that_was_cut_off_is_forgotten(used: Path) -> None:
    row = (used / LOG).read_text()
    (used / LOG).write_text(row + row.replace('"step": 1', '"step": 2') + row[:20])
    Trainer(used, settings(2), CONFIG, TOKENIZER)
    assert (used / LOG).read_text() == row
    (used / LOG).write_text(row[:20])  # killed before anything was saved
    (used / STATE).unlink()
    Trainer(used, settings(2), CONFIG, TOKENIZER).run()
    assert [json.loads(line)["step"] for line in (used / LOG).read_text().splitlines()] == [1, 2]
