"""What colours inside and around a box say: about things that no model was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from calico.inference.closer import tight_mask
from calico.inference.colours import LONGEST, colour_logits, smoothed, with_colours
from calico.masks import iou, tight_box_xyxy

SIZE = 120
UNSURE = np.full((SIZE, SIZE), -1, np.float32)  # of the mask decoder, the same everywhere
DOWN, ACROSS = np.mgrid[:SIZE, :SIZE]
SHAPES = {
    "window": (abs(DOWN - 60) < 22) & (abs(ACROSS - 58) < 30),
    "disc": np.hypot(DOWN - 60, ACROSS - 60) < 28,
    "blade": (abs(DOWN - ACROSS) < 4) & (abs(DOWN - 60) < 30),
    "ring": abs(np.hypot(DOWN - 60, ACROSS - 60) - 24) < 5,
}


def picture(shape: np.ndarray, thing: tuple[int, int, int] = (150, 140, 120), noise: float = 14) -> np.ndarray:
    """The shape before a sky that becomes lighter downwards."""
    rng = np.random.default_rng(0)
    sky = np.stack([80 + DOWN / 2, 110 + DOWN / 2, 160 + DOWN / 3], -1)
    image = np.where(shape[..., None], np.array(thing, float), sky) + rng.normal(0, noise, (SIZE, SIZE, 3))
    return image.clip(0, 255).astype(np.uint8)


def box_of(shape: np.ndarray) -> tuple[int, int, int, int]:
    box = tight_box_xyxy(shape)
    assert box is not None
    return box


@pytest.mark.parametrize("name", SHAPES)
def test_colours_find_what_the_mask_decoder_knows_nothing_about(name: str) -> None:
    shape = SHAPES[name]
    mask = tight_mask(with_colours(UNSURE, picture(shape), box_of(shape)), box_of(shape))
    assert iou(mask, shape) > 0.85


def test_where_the_colours_say_nothing_the_mask_decoder_decides() -> None:
    shape = SHAPES["disc"]
    grey = np.full((SIZE, SIZE, 3), 127, np.uint8)
    sure = np.where(shape, 8, -8).astype(np.float32)
    assert iou(tight_mask(with_colours(sure, grey, box_of(shape)), box_of(shape)), shape) > 0.95


def test_a_like_thing_beside_the_box_does_not_count_against_it() -> None:
    """A house has more than one window."""
    shape = SHAPES["window"]
    windows = shape | np.roll(shape, 66, 1) | np.roll(shape, -66, 1)
    mask = tight_mask(with_colours(UNSURE, picture(windows), box_of(shape)), box_of(shape))
    assert iou(mask, shape) > 0.85


def test_beside_the_box_nothing_changes() -> None:
    shape = SHAPES["disc"]
    logits = np.random.default_rng(1).normal(size=(SIZE, SIZE)).astype(np.float32)
    before = logits.copy()
    result = with_colours(logits, picture(shape), box_of(shape))
    left, top, right, bottom = box_of(shape)
    beside = np.ones((SIZE, SIZE), bool)
    beside[top:bottom, left:right] = False
    assert (result[beside] == logits[beside]).all()
    assert (result[~beside] != logits[~beside]).any()
    assert (logits == before).all()


@pytest.mark.parametrize("box", [(0, 0, SIZE, SIZE), (-9, -9, 500, 500), (1, 1, SIZE - 1, SIZE - 1)])
def test_a_box_with_hardly_anything_around_it_stays_with_the_mask_decoder(box: tuple[int, ...]) -> None:
    logits = np.random.default_rng(1).normal(size=(SIZE, SIZE)).astype(np.float32)
    assert (with_colours(logits, picture(SHAPES["disc"]), box) == logits).all()


@pytest.mark.parametrize(
    "box", [(50, 50, 50, 50), (119.6, 119.6, 119.9, 119.9), (0, 0, 1, 120), (40.4, 3.2, 42.1, 3.9)]
)
def test_any_box_has_finite_logits(box: tuple[float, ...]) -> None:
    assert np.isfinite(with_colours(UNSURE, picture(SHAPES["disc"]), box)).all()


@pytest.mark.parametrize("value", [0, 127, 255])
def test_one_colour_everywhere_has_finite_logits_that_do_not_tell_apart(value: int) -> None:
    evidence = colour_logits(np.full((40, 40, 3), value / 255, np.float32), (10, 30, 10, 30))
    assert evidence is not None
    assert np.isfinite(evidence).all()
    assert np.ptp(evidence) < 1e-3


def test_a_large_cutout_is_looked_at_smaller_and_answered_in_its_own_size() -> None:
    shape = SHAPES["disc"].repeat(12, 0).repeat(12, 1)
    image = picture(SHAPES["disc"]).repeat(12, 0).repeat(12, 1)
    assert max(shape.shape) > LONGEST
    result = with_colours(np.zeros(shape.shape, np.float32), image, box_of(shape))
    assert iou(tight_mask(result, box_of(shape)), shape) > 0.85


def test_neighbours_of_one_colour_mend_a_pixel_and_those_of_another_do_not() -> None:
    logits = np.full((21, 21), 2.0, np.float32)
    logits[10, 10] = -1
    colours = np.zeros((21, 21, 3), np.float32)
    assert smoothed(logits, colours)[10, 10] > 0
    colours[10, 10] = 1
    assert smoothed(logits, colours)[10, 10] < 0
