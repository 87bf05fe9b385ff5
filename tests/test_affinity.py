"""Clicks on what nobody taught: what belongs to the clicked pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_trunk import TOKENIZER, micro_small

from calico.errors import InputError
from calico.inference.clicks import agrees, mask_of_clicks, windows_of
from calico.inference.closer import Window, whole
from calico.inference.segmenter import CoSegmenter, PromptedMask
from calico.masks import iou
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.part_memory.affinity import AffinityHead, AffinityLook, cell_places, coarse_colours, geometry
from calico.part_memory.base import BaseMemory
from calico.part_memory.memory import MemoryCard
from calico.part_memory.pyramid import PyramidReader
from calico.training.affinity import AffinitySettings, fit_affinity, measured, pieces_of
from calico.values import AnnotatedImage

CONFIG = micro_small()
QUICK = AffinitySettings(looks=2, clicks=4, cells=64, steps=150, clicks_per_step=16, hidden=32)


def picture(seed: int, side: int = 96) -> AnnotatedImage:
    """Two blocks of one colour each on a dull ground; both are parts."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 120, (side, side, 3)).astype(np.uint8)
    part_map = np.ones((side, side), np.uint8)
    for code, left in ((2, 8), (3, side // 2 + 6)):
        top, height, width = (int(rng.integers(*bounds)) for bounds in ((8, 30), (24, 50), (20, 34)))
        block = (slice(top, top + height), slice(left, left + width))
        part_map[block] = code
        image[block] = rng.integers(0, 255, 3) // 2 * 2
    return AnnotatedImage(image, "toy", ("first", "second"), part_map)


@pytest.fixture(scope="module")
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(CONFIG).eval()


@pytest.fixture(scope="module")
def head(model: CalicoModel) -> AffinityHead:
    return fit_affinity(model, CONFIG, picture, 24, QUICK)


def clicked(
    head: AffinityHead, model: CalicoModel, image: np.ndarray, clicks: Sequence[tuple[tuple[float, float], bool]]
) -> tuple[np.ndarray, float]:
    reader = PyramidReader(model, CONFIG, CONFIG.grounding_encoder.image_size)

    def look(window: Window) -> AffinityLook:
        return head.look(window.of(image), reader(window.of(image)))

    return mask_of_clicks((image.shape[0], image.shape[1]), clicks, head, look)


def middle(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def test_pieces_of_pictures_never_seen_are_found_and_the_expectation_is_about_right(
    model: CalicoModel, head: AffinityHead
) -> None:
    overlap, expected, count = measured(head, model, CONFIG, [picture(seed) for seed in range(100, 112)])
    assert count == 12
    assert overlap > 0.75
    assert abs(overlap - expected) < 0.25


def test_a_second_click_adds_a_piece_and_a_negative_one_takes_it_away(model: CalicoModel, head: AffinityHead) -> None:
    item = picture(200)
    first, second = item.part_map == 2, item.part_map == 3
    one, _ = clicked(head, model, item.image, [(middle(first), True)])
    assert iou(one, first) > 0.7
    both, _ = clicked(head, model, item.image, [(middle(first), True), (middle(second), True)])
    assert iou(both, first | second) > 0.7
    clicks = [(middle(first), True), ((middle(second)), False)]
    without, _ = clicked(head, model, item.image, clicks)
    assert agrees(without, clicks)
    assert iou(without, first) > 0.7


def test_without_a_positive_click_nothing_is_found(model: CalicoModel, head: AffinityHead) -> None:
    mask, expected = clicked(head, model, picture(1).image, [((3.0, 3.0), False)])
    assert not mask.any()
    assert expected == 0


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 200), (40, 7), (900, 1200)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.999, 0.999), (1.0, 1.0)])
def test_any_image_and_any_place_on_it_will_do(
    model: CalicoModel, head: AffinityHead, size_hw: tuple[int, int], place: tuple[float, float]
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3)).astype(np.uint8)
    click = (place[0] * size_hw[1], place[1] * size_hw[0])
    mask, expected = clicked(head, model, image, [(click, True)])
    assert mask.shape == size_hw
    assert agrees(mask, [(click, True)])
    assert 0 <= expected <= 1


def test_a_look_is_what_each_cell_reads(model: CalicoModel, head: AffinityHead) -> None:
    """Maps are brought to few features before they are enlarged; that is the same."""
    image = picture(5).image[:60]
    features = PyramidReader(model, CONFIG, 64)(image)
    look = head.look(image, features)
    rows = head.embedded(features.at(cell_places(look.grid_hw)))
    assert torch.allclose(look.embedded.flatten(0, 1), rows, atol=1e-4)
    assert look.cell((0.0, 0.999)) == (0, look.grid_hw[1] - 1)


def test_geometry_tells_what_is_reached_by_colours_alike() -> None:
    image = np.full((64, 64, 3), 40, np.uint8)
    image[:, 30:34] = 200  # a wall
    shape = geometry(coarse_colours(image), (64, 20))
    reached, own = shape[..., 0], shape[..., 2]
    assert own[64, 20] == own[64, 110]  # of the same colour
    assert reached[64, 110] > reached[64, 40]  # but behind the wall


def test_closer_windows_are_left_out_where_they_would_be_tiny() -> None:
    assert list(windows_of((100, 100), (50.0, 50.0))) == [whole((100, 100)), Window(25, 25, 75, 75)]
    assert len(windows_of((400, 300), (10.0, 10.0))) == 3


def test_pieces_lie_apart() -> None:
    part_map = np.ones((40, 40), np.uint8)
    part_map[5:15, 5:15] = part_map[25:35, 25:35] = 2
    part_map[20:22, 2:4] = 3  # too small
    pieces = list(pieces_of(part_map, (40, 40)))
    assert len(pieces) == 2
    assert not (pieces[0] & pieces[1]).any()


def test_the_same_seed_gives_the_same_head_and_nothing_to_click_on_is_one_line(model: CalicoModel) -> None:
    quick = replace(QUICK, steps=3)
    first, again = (fit_affinity(model, CONFIG, picture, 3, quick).state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    with pytest.raises(InputError, match="nothing to click on"):
        fit_affinity(model, CONFIG, lambda k: replace(picture(k), part_map=np.ones((96, 96), np.uint8)), 2, quick)


def test_a_segmenter_reads_an_image_once_for_clicks_in_one_place(
    model: CalicoModel, head: AffinityHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = MemoryCard((), CONFIG.grounding_encoder.image_size, 0, 0, (), (), is_base=True)
    segmenter = CoSegmenter(model, CONFIG, TOKENIZER, base_memory=BaseMemory([], card, affinity=head))
    monkeypatch.setattr(segmenter, "_looks_drawn", lambda image: False)
    item, read = picture(300), []
    own_read = PyramidReader._read
    monkeypatch.setattr(PyramidReader, "_read", lambda *given: read.append(1) or own_read(*given))
    first, second = middle(item.part_map == 2), middle(item.part_map == 3)
    one = segmenter.segment_prompts(item.image, [first], [True])
    assert iou(one.mask, item.part_map == 2) > 0.7
    assert len(read) == 2
    segmenter.segment_prompts(item.image, [first, second], [True, False])
    assert len(read) == 2
    segmenter.segment_prompts(item.image, [second], [True])
    assert len(read) == 3  # the window around it; the whole is known
    segmenter.segment_prompts(255 - item.image, [second], [True])
    assert len(read) == 5


@pytest.mark.parametrize("is_drawn", [False, True])
def test_on_a_drawing_the_mask_decoder_answers(
    model: CalicoModel, head: AffinityHead, monkeypatch: pytest.MonkeyPatch, is_drawn: bool
) -> None:
    card = MemoryCard((), CONFIG.grounding_encoder.image_size, 0, 0, (), (), is_base=True)
    segmenter = CoSegmenter(model, CONFIG, TOKENIZER, base_memory=BaseMemory([], card, affinity=head))
    decoded = PromptedMask(np.ones((96, 96), bool), 0.7)
    monkeypatch.setattr(segmenter, "_looks_drawn", lambda image: is_drawn)
    monkeypatch.setattr(segmenter, "_look", lambda *given: decoded)
    item = picture(300)
    found = segmenter.segment_prompts(item.image, [middle(item.part_map == 2)], [True])
    assert (found is decoded) == is_drawn
    assert segmenter.segment_prompts(item.image, box_xyxy=(1, 1, 9, 9)) is decoded  # as is a box, anywhere
    segmenter.base_memory = BaseMemory([], card)  # of before
    assert segmenter.segment_prompts(item.image, [(5, 5)], [True]) is decoded
