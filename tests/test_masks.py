"""Masks against pycocotools and against slow, plain definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from calico.errors import InputError
from calico.masks import (
    boundary_f,
    components,
    compressed_rle,
    decode_rle,
    deepest_point,
    dilate,
    encode_rle,
    inner_distance,
    iou,
    next_click,
    resize_mask,
    rle_area,
    tight_box_xyxy,
    union_rle,
)

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))
quick = settings(max_examples=60, deadline=None)


def rectangle(size_hw: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size_hw, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools' decode under numpy 2
@quick
@given(masks)
def test_rle_there_and_back(mask: np.ndarray) -> None:
    rle = encode_rle(mask)
    assert isinstance(rle["counts"], str)
    assert rle["size"] == list(mask.shape)
    assert np.array_equal(decode_rle(rle, size_hw=mask.shape), mask)
    assert np.array_equal(decode_rle(rle), coco_mask.decode(rle).astype(bool))


def test_long_runs_and_uncompressed_counts() -> None:
    mask = rectangle((900, 1100), 3, 1, 1050, 880)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)
    assert decode_rle({"size": [2, 3], "counts": [1, 2, 3]}).tolist() == [[False, True, False], [True, False, False]]


@quick
@given(st.data(), array_shapes(min_dims=2, max_dims=2, max_side=9), st.integers(1, 3))
def test_run_lengths_are_compressed_and_united_without_drawing(data, size_hw: tuple[int, int], number: int) -> None:
    drawn = [data.draw(arrays(np.bool_, size_hw)) for _ in range(number)]
    rles = []
    for mask in drawn:
        runs, value = [0], False
        for pixel in mask.T.ravel():
            if pixel != value:
                runs.extend([0, 0, 0] if len(runs) == 1 else [0])  # zero runs too
                value = bool(pixel)
            runs[-1] += 1
        rles.append(compressed_rle({"size": list(size_hw), "counts": runs}, size_hw=size_hw))
        assert np.array_equal(decode_rle(rles[-1]), mask)
    assert compressed_rle(encode_rle(drawn[0])) == encode_rle(drawn[0])
    united = union_rle(rles)
    assert np.array_equal(decode_rle(united), np.logical_or.reduce(drawn))
    assert rle_area(united) == np.logical_or.reduce(drawn).sum()


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 4]}, "expected a COCO RLE"),
        ({"size": [4], "counts": "04"}, "expected a COCO RLE"),
        ({"size": [4, 4], "counts": "ÿ"}, "expected a COCO RLE"),
        ({"size": [4, 4], "counts": "PPPPPPPPPPPP0"}, "40 bits"),
        ({"size": [4, 4], "counts": "P"}, "damaged"),
        ({"size": [4, 4], "counts": [20, -4]}, "add up to 16"),
        ({"size": [4, 4], "counts": [3, 4]}, "add up to 7, expected 4 x 4 = 16"),
        ({"size": [4, 4], "counts": ""}, "add up to 0"),
        ({"size": [0, 4], "counts": []}, "expected 1 to"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "expected 1 to 50,000,000 pixels"),
        ({"size": [4, 5], "counts": [20]}, "RLE is 4 x 5, expected 4 x 4"),
    ],
)
def test_damaged_rle_is_refused(rle: dict, message: str) -> None:
    for read in (decode_rle, compressed_rle):
        with pytest.raises(InputError, match=message):
            read(rle, size_hw=(4, 4))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=20))
def test_no_counts_string_does_harm(counts: str) -> None:
    try:
        mask = decode_rle({"size": [6, 6], "counts": counts})
    except InputError:
        return
    assert mask.shape == (6, 6)


def test_iou() -> None:
    a, b = rectangle((10, 10), 0, 0, 4, 4), rectangle((10, 10), 2, 0, 6, 4)
    assert iou(a, b) == pytest.approx(8 / 24)
    assert iou(a, a) == 1.0
    assert iou(a, ~a) == 0.0
    assert iou(a & ~a, b & ~b) == 1.0


def test_boundary_f() -> None:
    a = rectangle((100, 100), 20, 20, 60, 60)
    assert boundary_f(a, a) == 1.0
    shifted = rectangle((100, 100), 22, 20, 62, 60)  # two pixels: the tolerance is ceil(0.008 * 141.4) = 2
    assert boundary_f(a, shifted) == 1.0
    assert boundary_f(a, shifted, tolerance=0.001) < 0.7
    assert boundary_f(a, rectangle((100, 100), 70, 70, 90, 90)) == 0.0
    empty = np.zeros((100, 100), dtype=bool)
    assert boundary_f(a, empty) == 0.0
    assert boundary_f(empty, empty) == 1.0
    far_half = rectangle((100, 100), 20, 20, 60, 90)
    assert 0.5 < boundary_f(a, far_half) < 1.0


@quick
@given(masks, st.integers(0, 5))
def test_dilation_is_a_disk(mask: np.ndarray, radius: int) -> None:
    ys, xs = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    near = ((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2 <= radius**2).any(axis=-1)
    assert np.array_equal(dilate(mask, radius), near)


@quick
@given(masks)
def test_inner_distance_is_exact(mask: np.ndarray) -> None:
    ys, xs = np.nonzero(np.pad(~mask, 1, constant_values=True))
    y, x = np.indices(mask.shape) + 1
    expected = np.sqrt(((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2).min(axis=-1))
    assert np.allclose(inner_distance(mask), expected)


def test_the_deepest_point_of_a_large_mask_is_inside_it_and_deep() -> None:
    y, x = np.ogrid[:900, :1300]
    disk = (y - 420) ** 2 + (x - 700) ** 2 < 400**2
    found_x, found_y = deepest_point(disk)
    assert np.hypot(found_x - 700, found_y - 420) < 8  # two blocks of 3 pixels
    ring = disk & ((y - 420) ** 2 + (x - 700) ** 2 > 398**2)
    found_x, found_y = deepest_point(ring)
    assert ring[found_y, found_x]


@quick
@given(masks)
def test_components_are_connected_and_apart(mask: np.ndarray) -> None:
    labels, number = components(mask)
    assert np.array_equal(labels > 0, mask)
    assert set(np.unique(labels)) - {0} == set(range(1, number + 1))
    for label in range(1, number + 1):
        seed = np.zeros_like(mask)
        seed.flat[int((labels == label).argmax())] = True
        while True:  # flood fill by 8 neighbours
            padded = np.pad(seed, 1)
            grown = mask & np.any(
                [
                    padded[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
                    for dy in (-1, 0, 1)
                    for dx in (-1, 0, 1)
                ],
                axis=0,
            )
            if np.array_equal(grown, seed):
                break
            seed = grown
        assert np.array_equal(seed, labels == label)


def test_tight_box() -> None:
    assert tight_box_xyxy(rectangle((8, 9), 2, 3, 5, 7)) == (2, 3, 5, 7)
    assert tight_box_xyxy(np.zeros((3, 3), dtype=bool)) is None


def test_next_click_goes_where_it_is_most_wrong() -> None:
    truth = rectangle((40, 60), 10, 10, 21, 21) | rectangle((40, 60), 50, 5, 53, 8)
    nothing = np.zeros_like(truth)
    assert next_click(nothing, truth) == (15, 15, True)
    assert next_click(truth | rectangle((40, 60), 25, 24, 40, 37), truth) == (31, 30, False)
    assert next_click(truth, truth) is None
    # At the image's edge the centre stays inside: beyond the image counts as outside.
    assert next_click(nothing, rectangle((40, 60), 0, 0, 9, 9)) == (4, 4, True)


@settings(max_examples=30, deadline=None)
@given(masks, st.randoms(use_true_random=False))
def test_every_click_is_on_an_error(truth: np.ndarray, random) -> None:
    prediction = np.array([random.random() < 0.5 for _ in range(truth.size)]).reshape(truth.shape)
    click = next_click(prediction, truth)
    if click is None:
        assert np.array_equal(prediction, truth)
    else:
        assert truth[click.y, click.x] == click.positive != prediction[click.y, click.x]


def test_resize_mask() -> None:
    mask = rectangle((20, 30), 6, 4, 18, 16)
    assert np.array_equal(resize_mask(mask, (20, 30)), mask)
    larger = resize_mask(mask, (60, 90))
    assert larger.shape == (60, 90)
    assert iou(larger, np.kron(mask, np.ones((3, 3), bool))) > 0.95
    assert iou(resize_mask(larger, (20, 30)), mask) > 0.95
