"""Regions of one colour around clicks: what is clicked on a thing that no model knows."""

from __future__ import annotations

import numpy as np
import pytest

from calico.inference.regions import agrees, grown_regions, mask_of_clicks
from calico.masks import iou

HEIGHT, WIDTH = 200, 240
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH]
DISC = np.hypot(DOWN - 90, ACROSS - 80) < 34
BAR = (abs(DOWN - 90) < 16) & (ACROSS > 150) & (ACROSS < 215)
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def picture(*things: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), (90, 130, 170), float)
    for mask, colour in things:
        image[mask] = colour
    image += np.random.default_rng(0).normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8)


RED, GREEN = (200, 60, 50), (60, 160, 70)
IMAGE = picture((DISC, RED), (BAR, GREEN))
ON_DISC, ON_BAR, BESIDE = (80.0, 90.0), (180.0, 90.0), (20.0, 20.0)


@pytest.mark.parametrize(("click", "truth"), [(ON_DISC, DISC), (ON_BAR, BAR)])
def test_a_click_takes_the_thing_of_one_colour_under_it(click: tuple[float, float], truth: np.ndarray) -> None:
    assert iou(mask_of_clicks(IMAGE, [(click, True)], NOTHING), truth) > 0.9


def test_a_second_click_adds_and_a_negative_one_takes_away() -> None:
    both = mask_of_clicks(IMAGE, [(ON_DISC, True), (ON_BAR, True)], NOTHING)
    assert iou(both, DISC | BAR) > 0.9
    without = mask_of_clicks(IMAGE, [(ON_DISC, True), (ON_BAR, True), ((185.0, 92.0), False)], NOTHING)
    assert without[90, 80]
    assert not without[92, 185]


def test_a_large_image_is_answered_in_its_own_size() -> None:
    image, truth = (array.repeat(6, 0).repeat(6, 1) for array in (IMAGE, DISC))
    assert iou(mask_of_clicks(image, [((480.0, 540.0), True)], np.zeros_like(truth)), truth) > 0.9


def test_of_stable_regions_the_one_like_the_mask_decoders_is_taken() -> None:
    ring = (np.hypot(DOWN - 90, ACROSS - 80) < 60) & ~DISC
    image = picture((ring, (160, 60, 130)), (DISC, RED))
    assert iou(mask_of_clicks(image, [(ON_DISC, True)], DISC), DISC) > 0.9
    assert iou(mask_of_clicks(image, [(ON_DISC, True)], DISC | ring), DISC | ring) > 0.9


@pytest.mark.parametrize("clicks", [[(BESIDE, False)], []])
def test_without_a_positive_click_the_mask_decoder_decides(clicks: list[tuple[tuple[float, float], bool]]) -> None:
    assert (mask_of_clicks(IMAGE, clicks, BAR) == BAR).all()


def test_where_no_region_is_found_the_mask_decoder_decides() -> None:
    one_colour = np.full((50, 60, 3), 127, np.uint8)
    decoded = np.zeros((50, 60), bool)
    decoded[10:20, 10:20] = True
    assert (mask_of_clicks(one_colour, [((30.0, 30.0), True)], decoded) == decoded).all()


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 200), (40, 7), (1200, 900)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.999, 0.999), (1.0, 1.0)])
def test_any_image_and_any_place_on_it_will_do(size_hw: tuple[int, int], place: tuple[float, float]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3)).astype(np.uint8)
    click = (place[0] * size_hw[1], place[1] * size_hw[0])
    for region in grown_regions(image, click):
        assert region.mask.shape == size_hw
        assert region.growth >= 0
    assert mask_of_clicks(image, [(click, True)], np.zeros(size_hw, bool)).shape == size_hw


def test_a_mask_agrees_with_clicks_that_it_has_and_has_not() -> None:
    assert agrees(DISC, [(ON_DISC, True), (ON_BAR, False)])
    assert not agrees(DISC, [(ON_DISC, True), (ON_BAR, True)])
    assert not agrees(DISC, [(ON_DISC, False)])
