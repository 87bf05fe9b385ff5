"""The part memory: learns names from a few pictures, keeps them in a file, and has its say in a prediction."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_kinds import real_kinds
from test_finetune import TOKENIZER, micro
from test_trunk import micro_small
from torch import Tensor
from torch.nn import functional as F

from calico.checkpoints.files import save_checkpoint
from calico.checkpoints.fingerprint import MEMORY, MEMORY_CARD, checkpoint_version
from calico.correspondence import co_segmentation
from calico.errors import CheckpointError, InputError
from calico.inference.segmenter import CoSegmenter
from calico.language.words import mirrored_name
from calico.masks import iou
from calico.mean_field import mean_field
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory import fitting
from calico.part_memory.context import GRID, MAPS_PER_NAME, at, beside, context_of
from calico.part_memory.evidence import DOUBT, remembered
from calico.part_memory.fitting import MemorySettings, fit_memory, look_size
from calico.part_memory.head import PartHead, folded
from calico.part_memory.kept import KeptLooks
from calico.part_memory.lessons import Lesson, TaughtName, mirrored_codes, taught_names
from calico.part_memory.memory import PartMemory, SeenRegion, Sight, load_memory, save_memory
from calico.part_memory.pyramid import PyramidFeatures, PyramidReader
from calico.training import memory_fit
from calico.training.base_data import DRAWINGS
from calico.training.corrected_groups import CorrectedGroup
from calico.training.memory_fit import memory_finishers
from calico.values import AnnotatedImage, ImageGroup, NamedMask

FAST = MemorySettings(size=64, steps=120, rows_per_step=192, hidden=24, learning_rate=0.01, dropout=0.0)


def sign(seed: int, name: str = "sign") -> AnnotatedImage:
    """A red post with a blue board on it, on grey: what a model of random weights can tell by colour."""
    rng = np.random.default_rng(seed)
    image = np.full((64, 64, 3), 120, np.uint8) + rng.integers(0, 20, (64, 64, 3), np.uint8)
    part_map = np.zeros((64, 64), np.uint8)
    x, y = int(rng.integers(16, 40)), int(rng.integers(8, 20))
    part_map[y:60, x : x + 8] = 3
    part_map[y : y + 18, x - 8 : x + 16] = 2
    image[part_map == 3] = (200, 30, 30)
    image[part_map == 2] = (30, 30, 220)
    return AnnotatedImage(image, name, ("board", "post"), part_map)


def grey(seed: int) -> np.ndarray:
    return np.full((64, 64, 3), 110, np.uint8) + np.random.default_rng(seed).integers(0, 40, (64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(micro()).eval()


@pytest.fixture(scope="module")
def memory(model: CalicoModel) -> PartMemory:
    lessons = [Lesson(sign(k), k // 2) for k in range(12)]
    return fit_memory(model, micro(), lessons, FAST, negatives=[grey(k) for k in range(4)])


def test_names_are_learnt_from_a_few_pictures_and_the_estimate_is_about_right(
    model: CalicoModel, memory: PartMemory
) -> None:
    reader = PyramidReader(model, micro(), 64)
    overlaps = []
    for seed in range(100, 106):
        item = sign(seed)
        sight = memory.sight(reader(item.image), (64, 64))
        assert sight is not None
        assert sight.object_name == "sign"
        assert not sight.unseen
        overlaps += [iou(sight.parts[part].mask, item.part_map == k + 2) for k, part in enumerate(item.part_names)]
    assert np.mean(overlaps) > 0.7
    assert memory.card.num_measured == 12
    assert abs(memory.card.strict_miou_parts - np.mean(overlaps)) < 0.15


def test_nothing_is_seen_where_nothing_taught_is(model: CalicoModel, memory: PartMemory) -> None:
    reader = PyramidReader(model, micro(), 64)
    assert all(memory.sight(reader(grey(seed)), (64, 64)) is None for seed in range(50, 54))


def test_the_same_lessons_give_the_same_memory_and_leave_chance_as_it_was(model: CalicoModel) -> None:
    lessons, base = [Lesson(sign(k), k) for k in range(24)], [grey(0)]
    quick = MemorySettings(size=64, steps=5, rows_per_step=64, hidden=8)
    torch.manual_seed(3)
    first = fit_memory(model, micro(), lessons, quick, negatives=base)
    after = torch.rand(1)
    torch.manual_seed(9)
    again = fit_memory(model, micro(), lessons, quick, negatives=base)
    assert first.presence is not None
    for name, value in first.tensors().items():
        assert torch.equal(value, again.tensors()[name])
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_a_deleted_annotation_is_forgotten_at_the_next_fit(model: CalicoModel) -> None:
    lessons = [Lesson(sign(k), k) for k in range(4)] + [Lesson(sign(9, "poster"), 9)]
    quick = MemorySettings(size=64, steps=5, rows_per_step=64, hidden=8)
    assert "poster" in fit_memory(model, micro(), lessons, quick).card.object_names
    assert fit_memory(model, micro(), lessons[:4], quick).card.object_names == ("sign",)


def test_many_images_are_learnt_longer_and_not_all_are_measured(
    model: CalicoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[int] = []

    def counted(rows: torch.Tensor, codes: Any, chances: Any, num_codes: int, settings: MemorySettings) -> PartHead:
        learnt.append(settings.steps)
        return PartHead(rows.shape[1], 8, num_codes - 1)

    monkeypatch.setattr(fitting, "_fitted", counted)
    monkeypatch.setattr(fitting, "MIN_STEPS", 20)
    monkeypatch.setattr(fitting, "STEPS_PER_IMAGE", 5)
    quick = MemorySettings(size=64, steps=50, hidden=8, max_measured=8)
    measured = [
        fit_memory(model, micro(), [Lesson(sign(k), k) for k in range(count)], quick).card.num_measured
        for count in (4, 8, 20)
    ]
    assert learnt == [20] * 6 + [40] * 6 + [50] * 6  # two rounds of three heads
    assert measured == [4, 8, 7]


def test_encoders_that_take_their_own_size_only_are_learnt_on_too() -> None:
    """SAM's, at full size: a larger look is no size for it, and half a look is the image in a corner."""
    torch.manual_seed(0)
    config = real_kinds()
    seeing = build(config)
    assert look_size(config) == config.grounding_encoder.image_size
    quick = MemorySettings(steps=5, rows_per_step=64, hidden=8)
    found = fit_memory(seeing, config, [Lesson(sign(k), k) for k in range(4)], quick)
    assert found.card.object_names == ("sign",)
    reader, image = PyramidReader(seeing, config, found.card.size), sign(7).image
    assert found.sight(reader(image), image.shape[:2]) is not None
    whole, half = reader(image), reader(image, 0.5)
    assert [own.shape for own in half.maps] == [own.shape for own in whole.maps]
    assert half.extent == pytest.approx([side / 2 for side in whole.extent], abs=0.01)
    middle = torch.tensor([[0.5, 0.5]])
    assert torch.allclose(half.at(middle)[0, :3], whole.at(middle)[0, :3], atol=0.35)


def test_heads_are_no_wider_than_a_file_can_hold(
    model: CalicoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trunks of many channels, and many names."""
    quick = MemorySettings(size=64, steps=2, rows_per_step=64, hidden=64, second_hidden=512)
    monkeypatch.setattr(fitting, "WEIGHT_BYTES", 60_000)
    found = fit_memory(model, micro(), [Lesson(sign(k), k) for k in range(4)], quick)
    sizes = [sum(2 * value.numel() for value in head.parameters()) for head in (*found.heads, *found.second)]
    assert sum(sizes[:3]) <= 30_000
    assert 50_000 < sum(sizes) <= 60_000
    monkeypatch.setattr(fitting, "WEIGHT_BYTES", 2_000_000)
    found = fit_memory(model, micro(), [Lesson(sign(k), k) for k in range(4)], quick)
    assert [head.first.out_features for head in (*found.heads, *found.second)] == [64] * 3 + [512] * 3


def test_heads_leave_room_for_the_presence_of_many_objects(model: CalicoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = MemorySettings(size=64, steps=2, rows_per_step=64, hidden=512, max_measured=2)
    monkeypatch.setattr(fitting, "WEIGHT_BYTES", 30_000)
    monkeypatch.setattr(fitting, "MAX_AROUND", 1)
    lessons = [
        Lesson(replace(sign(k, f"sign {k}"), part_names=(), part_map=np.minimum(sign(k).part_map, 1)), k)
        for k in range(60)
    ]
    found = fit_memory(model, micro(), lessons, quick, negatives=[grey(0)])
    assert found.presence is not None
    assert 28_000 < sum(2 * value.numel() for value in found.tensors().values()) <= 30_000


def test_no_width_is_none_at_all() -> None:
    with pytest.raises(InputError, match="second_hidden: expected 1 or more, got 0"):
        MemorySettings(second_hidden=0)


def test_few_groups_are_learnt_without_an_estimate(model: CalicoModel) -> None:
    found = fit_memory(model, micro(), [Lesson(sign(0), 0), Lesson(sign(1), 0)], FAST)
    assert (len(found.heads), found.second, found.card.strict_miou_parts, found.card.num_measured) == (1, [], None, 0)
    with pytest.raises(InputError, match="no corrected image has a named object"):
        fit_memory(model, micro(), [])


def test_the_first_layer_at_each_maps_own_size_is_the_head_at_each_pixel() -> None:
    torch.manual_seed(1)
    features = PyramidFeatures((torch.randn(3, 8, 8), torch.randn(5, 8, 8)), (1.0, 0.5))
    head = PartHead(8, 6, 2)
    places = torch.tensor([[(y + 0.5) / 8, (x + 0.5) / 4] for y in range(8) for x in range(4)])
    expected = head(features.at(places)).T.reshape(3, 8, 4)
    assert torch.allclose(head.over(features), expected, atol=1e-5)
    mean, basis = torch.randn(8), torch.randn(8, 4)
    inner, rows = PartHead(4, 6, 2), torch.randn(7, 8)
    assert torch.allclose(folded(inner, mean, basis)(rows), inner((rows - mean) @ basis), atol=1e-4)


def test_coarser_maps_are_enlarged_by_way_of_half_the_size_and_give_nearly_the_same() -> None:
    torch.manual_seed(1)
    maps = tuple(torch.randn(4, side, side) for side in (64, 8, 16, 1, 32))  # in any order
    features, head = PyramidFeatures(maps, (1.0, 0.75)), PartHead(20, 6, 2)
    places = torch.tensor([[(y + 0.5) / 64, (x + 0.5) / 48] for y in range(64) for x in range(48)])
    expected = head(features.at(places)).T.reshape(3, 64, 48)
    found = head.over(features)
    assert (found - expected).abs().mean() < 0.1 * expected.std()
    assert torch.allclose(head.over(features, [2, 0]), found[[2, 0]], atol=1e-5)


def test_heads_are_asked_on_a_coarser_grid_and_edges_found_on_the_finest(
    model: CalicoModel, memory: PartMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = PyramidReader(model, micro(), 64)(sign(3).image)
    asked, followed = [], []

    def over(head: PartHead, features: PyramidFeatures) -> Tensor:
        asked.append(features.maps[0].shape[1])
        return own(head, features)

    def steps(logits: Tensor, colours: Tensor) -> Tensor:
        followed.append((logits.shape[1:], colours.shape[1:]))
        return mean_field(logits, colours)

    own = PartHead.over
    monkeypatch.setattr(PartHead, "over", over)
    monkeypatch.setattr("calico.part_memory.memory.mean_field", steps)
    assert memory.second
    assert memory.sight(features, (64, 64)) is not None
    finest = features.maps[0].shape[1:]
    assert asked[len(memory.heads) :] == [finest[0] // 2] * len(memory.second), (
        "four times the work for no better masks"
    )
    assert followed == [(finest, finest)]


def test_what_lies_around_a_pixel_is_read_from_where_it_lies() -> None:
    chances = torch.zeros(2, GRID, GRID)
    chances[0] = 1.0
    chances[:, 12:16, 4:8] = torch.tensor([0.0, 1.0])[:, None, None]  # the second name, left of the middle
    context = context_of(chances)
    assert context.shape == (2 * MAPS_PER_NAME, GRID, GRID)
    beside_it, away = context[1::2, 14, 11], context[1::2, 14, 25]  # what both see of the second name
    assert beside_it[0] == away[0] == pytest.approx(math.log(1e-3), abs=1e-3)  # at the pixel itself nothing
    assert beside_it.max() > 0.6  # six to the left, over a square of five
    assert away[1:].max() < 0.2  # of its row and of the image
    flipped = context_of(chances.flip(2))
    assert not torch.allclose(flipped.flip(2)[1::2, 14, 11], beside_it)  # left is told from right


@pytest.mark.parametrize("extent", [(1.0, 1.0), (1.0, 0.5), (0.53, 1.0)])
def test_the_context_lies_over_the_image_in_its_frame(extent: tuple[float, float]) -> None:
    torch.manual_seed(0)
    smooth = F.interpolate(torch.randn(1, 5, 4, 4), size=(GRID, GRID), mode="bicubic")[0]
    features = beside(PyramidFeatures((torch.zeros(3, 64, 64),), extent), smooth)
    places = 0.1 + 0.8 * torch.rand(50, 2)
    assert features.maps[-1].shape == (5, GRID, GRID)
    assert torch.allclose(features.at(places)[:, 3:], at(smooth, places), atol=0.15)


def test_images_are_read_once_and_anew_when_annotated_anew(model: CalicoModel) -> None:
    looks = KeptLooks(PyramidReader(model, micro(), 64))
    for seed in (0, 1, 0, 1):
        looks.pyramid(grey(seed))
        looks.rows(sign(seed))
    assert (looks.pyramids.num_read, looks.row_shelf.num_read) == (2, 2)
    item = sign(0)
    looks.rows(replace(item, part_map=np.minimum(item.part_map, 1)))
    assert looks.row_shelf.num_read == 3
    small = KeptLooks(PyramidReader(model, micro(), 64), pyramid_bytes=1)
    small.pyramid(grey(0))
    assert small.pyramids.num_bytes == 0


def test_left_and_right_change_places_in_a_mirror() -> None:
    names = (TaughtName("car", None), TaughtName("car", "left door"), TaughtName("car", "right door"))
    assert mirrored_name("front left wheel") == "front right wheel"
    assert mirrored_codes(names).tolist() == [0, 1, 3, 2]
    assert mirrored_codes(names[:2]).tolist() == [0, 1, -1]
    assert taught_names([Lesson(sign(0), 0)])[0] == TaughtName("sign", None)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, model: CalicoModel, memory: PartMemory) -> Iterator[Path]:
    save_checkpoint(tmp_path, model, micro(), TOKENIZER)
    save_memory(tmp_path, memory)
    return tmp_path


def test_finetunes_of_one_trunk_fit_the_memory_of_the_same_groups_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [CorrectedGroup(f"{k}", (sign(2 * k), sign(2 * k + 1)), None, keys=(f"{k}",)) for k in range(3)]
    fits: list[int] = []

    def fit(model: CalicoModel, config: CalicoConfig, lessons: list[Lesson], *given: Any, **options: Any) -> PartMemory:
        fits.append(len(lessons))
        return fit_memory(model, config, lessons, FAST)

    monkeypatch.setattr(memory_fit, "fit_memory", fit)
    for config, expected in (
        (micro_small(), [6, 4]),
        (micro(), [6, 4, 6, 6]),
    ):  # an encoder may learn, a trunk does not
        fits.clear()
        (finish,) = memory_finishers(True, DRAWINGS)
        for run, own in enumerate((groups, groups[1:], groups, groups)):
            torch.manual_seed(run)
            weights, folder = build(config), tmp_path / config.preset / f"{run}"
            save_checkpoint(folder, weights, config, TOKENIZER, torch.float32)
            finish(folder, weights, config, TOKENIZER, own)
            kept = load_memory(folder)  # it says which weights it stands beside
            assert kept is not None
            assert kept.card.num_images == len(own) * 2
        assert fits == expected


def test_a_memory_is_kept_beside_its_weights_and_refused_on_others(
    folder: Path, model: CalicoModel, memory: PartMemory
) -> None:
    found = load_memory(folder)
    assert found is not None
    assert found.card == memory.card
    assert len(found.second) == len(memory.second) == 3
    features = PyramidReader(model, micro(), 64)(sign(3).image)
    assert torch.allclose(found.probabilities(features), memory.probabilities(features), atol=0.02)
    assert (folder / MEMORY).stat().st_size < 1_000_000
    with_memory = checkpoint_version(folder)
    torch.manual_seed(5)
    save_checkpoint(folder / "other", build(micro()), micro(), TOKENIZER)
    for name in (MEMORY, MEMORY_CARD):
        shutil.copy(folder / name, folder / "other")
    assert load_memory(folder / "other") is None
    save_checkpoint(folder, model, micro(), TOKENIZER)
    assert not (folder / MEMORY).exists()
    assert checkpoint_version(folder) != with_memory


def test_a_memory_that_is_too_large_leaves_no_file(
    folder: Path, memory: PartMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / MEMORY).unlink()
    monkeypatch.setattr("calico.part_memory.memory.MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="bytes, expected 1000 at most"):
        save_memory(folder, memory)
    assert not (folder / MEMORY).exists()


def test_a_damaged_card_is_one_line(folder: Path) -> None:
    text = (folder / MEMORY_CARD).read_text()
    (folder / MEMORY_CARD).write_text(text.replace('"areas"', '"area"'))
    with pytest.raises(CheckpointError, match=MEMORY_CARD):
        load_memory(folder)


@pytest.mark.parametrize("around", ["[99]", "[-1]", "[]", "[0]"])
def test_a_second_round_that_reads_other_names_than_there_are_is_one_line(folder: Path, around: str) -> None:
    card = json.loads((folder / MEMORY_CARD).read_text())
    assert card["around"]
    card["around"] = json.loads(around)
    (folder / MEMORY_CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="copy"):
        load_memory(folder)


def test_a_segmenter_calls_things_as_they_were_taught(folder: Path) -> None:
    segmenter = CoSegmenter.from_checkpoint(folder, "cpu")
    items = sign(200), sign(201)
    found = segmenter.segment(ImageGroup(tuple(item.image for item in items)))
    assert {(r.object_name, r.part_name) for r in found.regions} >= {
        ("sign", None),
        ("sign", "board"),
        ("sign", "post"),
    }
    assert all(region.occurrence == "common" for region in found.regions if region.part_name in ("board", "post"))
    only = segmenter.segment(ImageGroup(tuple(item.image for item in items)), candidates=["sign", "board"])
    assert "post" not in {region.part_name for region in only.regions}


# -- evidence ---------------------------------------------------------------------------------------------------------


def half(upper: bool) -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[: 4 if upper else 8] = upper
    mask[4:] |= not upper
    return mask


def test_what_is_seen_is_proposed_and_what_is_not_is_doubted() -> None:
    said = co_segmentation(
        [(8, 8)] * 2,
        [
            NamedMask(0, "lamp", None, half(True), 0.9),
            NamedMask(0, "lamp", "shade", half(True), 0.9),
            NamedMask(0, "lamp", "board", half(False), 0.3),
            NamedMask(1, "sign", None, half(True), 0.8),
            NamedMask(1, "sign", "post", half(False), 0.8),
            NamedMask(1, "sign", "bolt", half(False), 0.7),
        ],
    )
    whole = SeenRegion(np.ones((8, 8), bool), 0.6)
    sights = [
        Sight("sign", whole, {"board": SeenRegion(half(True), 0.5)}, frozenset({"post"})),
        Sight("sign", whole, {"board": SeenRegion(half(True), 0.5)}, frozenset({"post"})),
    ]
    found = remembered(said, sights, ["sign"])
    kept = {(r.image, r.object_name, r.part_name): r for r in found.regions}
    assert kept.keys() == {
        (0, "sign", None), (0, "sign", "board"), (1, "sign", None), (1, "sign", "board"), (1, "sign", "post"),
        (1, "sign", "bolt"),
    }  # fmt: skip
    assert np.array_equal(kept[0, "sign", "board"].mask, half(True))  # the higher estimate
    assert kept[1, "sign", None].score == 0.8
    assert kept[1, "sign", "post"].score == pytest.approx(0.8 * DOUBT)
    assert kept[1, "sign", "bolt"].score == 0.7
    assert {key for key, region in kept.items() if not region.is_taught} == {(1, "sign", "post"), (1, "sign", "bolt")}
    assert {problem.code for problem in found.problems} == {"memory_object", "memory_doubt"}


def test_another_thing_that_the_model_is_surer_of_stays_and_the_same_thing_is_called_as_taught() -> None:
    leg = np.zeros((8, 8), bool)
    leg[7, 3:5] = True
    masks = [NamedMask(k, "bird", part, half(True), 0.9) for k in (0, 1, 2) for part in (None, "wing")]
    said = co_segmentation([(8, 8)] * 3, [*masks, NamedMask(2, "bird", "tail", half(False), 0.9)])
    sights = [
        Sight("sign", SeenRegion(leg, 0.6), {"post": SeenRegion(leg, 0.5)}, frozenset()),  # elsewhere, less sure
        Sight("sign", SeenRegion(half(True), 0.6), {}, frozenset()),  # the same thing under a name of before
        Sight("sign", SeenRegion(leg, 0.95), {"post": SeenRegion(leg, 0.5)}, frozenset()),  # elsewhere, surer
    ]
    found = remembered(said, sights, ["sign"])
    names = [{(r.object_name, r.part_name) for r in found.regions if r.image == k} for k in range(3)]
    assert names == [{("bird", None), ("bird", "wing")}, {("sign", None)}, {("sign", "post"), ("sign", None)}]
    assert [problem.image for problem in found.problems if problem.code == "memory_object"] == [1, 2]
    mistaken = co_segmentation([(8, 8)], [NamedMask(0, "sign", None, half(True), 0.9)])
    again = remembered(mistaken, sights[:1], ["sign"])  # what was taught is the memory's to tell
    assert {region.part_name for region in again.regions} == {None, "post"}


def test_a_taught_object_that_is_not_seen_is_doubted_and_other_names_go_on() -> None:
    said = co_segmentation(
        [(8, 8)] * 2, [NamedMask(0, "sign", None, half(True), 0.8), NamedMask(1, "lamp", None, half(True), 0.9)]
    )
    found = remembered(said, [None, None], ["sign"])
    assert [(region.name, region.score) for region in found.regions] == [("sign", 0.4), ("lamp", 0.9)]
