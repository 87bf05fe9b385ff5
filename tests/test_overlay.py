"""Overlays and the page around them: what is where, in which colour, and that no text escapes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.pictures.contours import contours, smoothed
from calico.pictures.group_page import write_group_page
from calico.pictures.name_plates import _HiddenShare, _Label, _overlap, _place
from calico.pictures.overlay import PALETTE, colours_of, draw_overlay
from calico.values import CoSegmentation, ImageGroup, NamedMask, Problem, SubTask

GREY = 128


def box(x0: int, y0: int, x1: int, y1: int, size: int = 600) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def scene() -> tuple[list[np.ndarray], CoSegmentation]:
    masks = [
        NamedMask(0, "chair", None, box(50, 50, 550, 550)),
        NamedMask(0, "chair", "seat", box(100, 100, 500, 250)),
        NamedMask(0, "chair", "back", box(100, 300, 500, 500)),
        NamedMask(1, "stool", None, box(50, 50, 550, 550)),
        NamedMask(1, "stool", "seat", box(100, 100, 500, 250)),
    ]
    images = [np.full((600, 600, 3), GREY, np.uint8) for _ in range(2)]
    return images, co_segmentation(((600, 600), (600, 600)), masks)


@cache
def drawn_scene(index: int) -> np.ndarray:
    images, group = scene()
    return draw_overlay(images[index], group, index)


def mean_colour(drawn: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return drawn[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0)


def test_one_colour_per_correspondence_on_all_images() -> None:
    _, group = scene()
    first, second = drawn_scene(0), drawn_scene(1)
    # Away from plates and outlines: the fill of the seat is one flat colour, the same on both images.
    corner = (110, 110, 140, 140)
    expected = 0.55 * GREY + 0.45 * np.array(colours_of(group)["part:seat"])
    assert mean_colour(first, *corner) == pytest.approx(expected, abs=1)
    assert mean_colour(second, *corner) == pytest.approx(expected, abs=1)
    assert np.ptp(first[110:140, 110:140].reshape(-1, 3), axis=0).max() == 0


def test_unique_parts_are_hatched_and_objects_are_outlines_only() -> None:
    drawn = drawn_scene(0)
    assert len(np.unique(drawn[310:340, 110:140].reshape(-1, 3), axis=0)) == 2  # two tones of stripes
    assert (drawn[265:285, 60:90] == GREY).all()  # object, no part: untouched
    assert (drawn[:30, :30] == GREY).all()


def outline_share(drawn: np.ndarray, y: int, colour: tuple[int, int, int]) -> float:
    """The share of the upper edge of a part, on row y, that shows its full colour."""
    rows = drawn[y - 1 : y + 2, 120:480].astype(int)
    return float((np.abs(rows - colour).max(axis=-1) < 12).any(axis=0).mean())


def test_common_is_solid_and_unique_is_dashed() -> None:
    _, group = scene()
    drawn = drawn_scene(0)
    colours = colours_of(group)
    assert outline_share(drawn, 100, colours["part:seat"]) > 0.98
    assert 0.4 < outline_share(drawn, 300, colours["part:back"]) < 0.8


def test_names_are_written_white_on_dark() -> None:
    images, group = scene()
    bare = [r for r in group.regions if r.name != "seat"]
    with_name = drawn_scene(0)
    without = draw_overlay(images[0], CoSegmentation(group.sizes_hw, tuple(bare)), 0)
    for drawn, written in ((with_name, True), (without, False)):
        seat = drawn[100:250, 100:500]
        assert bool((seat > 240).all(axis=-1).sum() > 20) == written
        assert bool((seat < 60).all(axis=-1).sum() > 500) == written


def test_the_order_of_regions_changes_nothing() -> None:
    images, group = scene()
    turned = CoSegmentation(group.sizes_hw, group.regions[::-1])
    assert colours_of(turned) == colours_of(group)
    assert np.array_equal(draw_overlay(images[0], turned, 0), drawn_scene(0))


def test_colours_stay_apart_beyond_the_palette() -> None:
    names = [f"part {i:02d}" for i in range(2 * len(PALETTE))]
    masks = [NamedMask(i, "thing", name, np.ones((4, 4), bool)) for name in names for i in range(2)]
    colours = list(colours_of(co_segmentation(((4, 4), (4, 4)), masks)).values())
    distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(colours) for b in colours[:i]]
    assert len(set(colours)) == len(names)
    assert min(distances) > 30


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [((1, 1), (512, 512)), ((100, 200), (512, 1024)), ((600, 700), (600, 700)), ((1500, 3000), (1024, 2048)),
     ((2, 4000), (1, 2048))],
)  # fmt: skip
def test_any_size_is_drawn_readably(size_hw: tuple[int, int], expected_hw: tuple[int, int]) -> None:
    masks = [NamedMask(i, "dog", part, np.ones(size_hw, bool)) for i in range(2) for part in (None, "a long name")]
    masks.append(NamedMask(0, "dog", "tail", np.zeros(size_hw, bool)))
    group = co_segmentation((size_hw, size_hw), masks)
    drawn = draw_overlay(np.zeros((*size_hw, 3), np.uint8), group, 0)
    assert drawn.shape == (*expected_hw, 3)
    assert drawn.dtype == np.uint8
    assert drawn.any()


def test_another_picture_is_refused() -> None:
    _, group = scene()
    with pytest.raises(InputError, match=r"image 1: expected \(600, 600\)"):
        draw_overlay(np.zeros((6, 6, 3), np.uint8), group, 0)
    with pytest.raises(InputError, match="image 3 of a group of 2"):
        draw_overlay(np.zeros((600, 600, 3), np.uint8), group, 2)


def test_labels_keep_off_each_other() -> None:
    _images, group = scene()
    region = group.regions[0]
    hidden = _HiddenShare((600, 600), [box(280, 280, 320, 320)])
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(12):
        boxes.append(_place(_Label(region, (300, 300), (80, 24)), (600, 600), boxes, hidden))
    assert sum(_overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]) == 0
    assert all(0 <= x0 < x1 <= 600 and 0 <= y0 < y1 <= 600 for x0, y0, x1, y1 in boxes)
    # And off a small part that the first of them would hide.
    assert hidden.of(boxes[0]) < 0.3 < hidden.of((260, 288, 340, 312))


def area(line: np.ndarray) -> float:
    x, y = line.T.astype(float)
    return float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2)


@settings(max_examples=60, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=10)))
def test_contours_enclose_the_mask(mask: np.ndarray) -> None:
    lines = contours(mask)
    assert sum(area(line) for line in lines) == np.count_nonzero(mask)  # holes count negative
    for line in lines:
        steps = np.abs(np.roll(line, -1, axis=0) - line).sum(axis=1)
        assert (steps == 1).all()
    padded = np.pad(mask, 1).astype(int)
    perimeter = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    assert sum(len(line) for line in lines) == perimeter


def test_parts_that_touch_at_a_corner_have_a_line_each() -> None:
    for mask in (np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]):
        assert [len(line) for line in contours(mask)] == [4, 4, 4]


def test_smoothing_keeps_the_shape() -> None:
    (line,) = contours(box(5, 5, 45, 45, 50))
    smooth = smoothed(line, 5)
    assert smooth.shape == line.shape
    assert np.abs(smooth - line).max() < 2
    assert area(smooth) == pytest.approx(1600, rel=0.02)


def test_the_page_shows_all_and_escapes_all(tmp_path: Path) -> None:
    images, group = scene()
    evil = "<script>alert(1)</script>"
    masks = [NamedMask(r.image, r.object_name, r.part_name, r.mask, 0.25) for r in group.regions]
    masks.append(NamedMask(1, "stool", evil, box(300, 300, 320, 320)))
    answers = {SubTask.COMMON_PARTS: f"<p> the seat </p> [SEG] {evil}"}
    problems = [Problem(evil, f"{evil} & more", 1)]
    full = co_segmentation(group.sizes_hw, masks, answers=answers, problems=problems)
    page = write_group_page(tmp_path / "out", ImageGroup(tuple(images), (evil, "b.png")), full, title=evil)
    text = page.read_text()
    assert page == tmp_path / "out" / "index.html"
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "&lt;p&gt; the seat &lt;/p&gt;" in text
    assert not re.search(r"(src|href)=\"(?!overlay_\d\.png)", text)
    assert "1 common and 2 unique parts on 2 images" in text
    assert text.count("<tr>") == 1 + len({region.correspondence_id for region in full.regions})
    for index in range(2):
        with Image.open(tmp_path / "out" / f"overlay_{index}.png") as drawn:
            assert drawn.size == (600, 600)


def test_a_page_without_regions(tmp_path: Path) -> None:
    images, group = scene()
    empty = CoSegmentation(group.sizes_hw)
    text = write_group_page(tmp_path, ImageGroup(tuple(images)), empty).read_text()
    assert "named nothing" in text
    assert "Problems" not in text
