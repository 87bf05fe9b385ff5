"""Windows around boxes, and the mask that a box is tight around."""

from __future__ import annotations

import numpy as np
import pytest

from calico.inference.closer import Window, around, for_box, tight_mask

SIZE_HW = (300, 500)


@pytest.mark.parametrize("center_xy", [(0, 0), (499, 299), (250, 150), (250, 0)])
@pytest.mark.parametrize("side", [8, 64, 300, 499.6, 9000])
def test_a_window_lies_in_the_image_and_is_as_large_as_it_can_be(center_xy: tuple[int, int], side: float) -> None:
    window = around(center_xy, side, SIZE_HW)
    assert 0 <= window.left < window.right <= SIZE_HW[1]
    assert 0 <= window.top < window.bottom <= SIZE_HW[0]
    assert abs(window.right - window.left - min(side, SIZE_HW[1])) <= 1
    assert abs(window.bottom - window.top - min(side, SIZE_HW[0])) <= 1
    assert window.holds((min(499, max(0, center_xy[0])), min(299, max(0, center_xy[1]))))


def test_what_is_found_in_a_window_goes_back_to_its_place() -> None:
    image = np.arange(300 * 500 * 3).reshape(300, 500, 3).astype(np.uint8)
    window = for_box((100, 50, 140, 90), SIZE_HW, least=64)
    assert window == Window(70, 20, 170, 120)
    assert (window.of(image) == image[20:120, 70:170]).all()
    mask = np.zeros((100, 100), bool)
    mask[30:70, 30:70] = True
    placed = window.placed(mask, SIZE_HW)
    assert placed[50:90, 100:140].all()
    assert placed.sum() == 1600


def test_a_tiny_box_is_looked_at_no_closer_than_pays_and_a_large_one_whole() -> None:
    assert for_box((100, 50, 104, 53), SIZE_HW, least=64) == Window(70, 20, 134, 84)
    assert for_box((10, 10, 400, 290), SIZE_HW, least=64) == Window(0, 0, 500, 300)


def logits(inside: np.ndarray) -> np.ndarray:
    rows = np.full((100, 100), -8.0, np.float32)
    rows[20:60, 30:80] = inside
    return rows


BOX = (30.0, 20.0, 80.0, 60.0)


def test_a_mask_that_reaches_all_sides_of_its_box_stays_and_keeps_within() -> None:
    rows = logits(np.full((40, 50), 3.0))
    rows[:, :10] = 5.0  # beside the box
    mask = tight_mask(rows, BOX)
    assert mask[20:60, 30:80].all()
    assert mask.sum() == 2000


def test_one_that_does_not_is_believed_more_until_it_does() -> None:
    down, across = np.mgrid[-1:1:40j, -1:1:50j]
    radius = np.hypot(down, across)
    mask = tight_mask(logits(2 - 6 * radius), BOX)  # above 0 up to a third of the way to the sides
    inside = mask[20:60, 30:80]
    for side in (inside[:4], inside[-4:], inside[:, :5], inside[:, -5:]):
        assert side.any()
    assert not inside[0, 0], "the corners are believed least"
    assert mask.sum() == inside.sum() < 2000


@pytest.mark.parametrize("box", [(-5, -5, 1000, 1000), (99.6, 99.6, 99.9, 99.9), (3, 3, 3, 3)])
def test_a_box_beside_the_image_or_of_no_size_is_cut_to_what_there_is(box: tuple[float, ...]) -> None:
    assert tight_mask(np.full((100, 100), -1.0, np.float32), box).any()
