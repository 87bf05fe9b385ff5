"""Masks, shapes, sizes and configs that claim much and hold little: time and memory go by the image, not by claims."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from backend_fakes import PAIR_XML

from backend.codecs import brush_rle
from backend.codecs.annotation import Change, compare_with_prediction, decode_annotation
from backend.codecs.config import MAX_CONTROLS, read_config
from backend.codecs.config_writer import write_config
from backend.codecs.controls import MAX_LABELS
from backend.codecs.geometry import MAX_CROSSINGS, fill_polygon
from backend.codecs.palette import MAX_NAMES
from backend.codecs.parts import Vocabulary, with_parts
from backend.codecs.rows import mask_of_value
from calico.coco.segmentation import decode_segmentation
from calico.errors import InputError
from calico.masks import compressed_rle, decode_rle

CONFIG = read_config(PAIR_XML)
HUGE = [10**12, 10**9, 2**31, 2**63, 10**400, -1, 0, -(10**12)]


@contextmanager
def bounded(seconds: float = 2.0, megabytes: float = 200.0):
    """Of this thread's own time, since other programs may have the processor meanwhile."""
    tracemalloc.start()
    started = time.thread_time()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert time.thread_time() - started < seconds
    assert peak < megabytes


def polygon(identity: str, points, size, to_name="img1"):
    return {
        "id": identity,
        "type": "polygonlabels",
        "from_name": "polygon1",
        "to_name": to_name,
        "original_height": size[0],
        "original_width": size[1],
        "value": {"points": points, "polygonlabels": ["common part"]},
    }


SQUARE = [[10, 10], [60, 10], [60, 60], [10, 60]]
OTHER = [[20, 10], [60, 10], [60, 60], [10, 60]]


@pytest.mark.parametrize("height", HUGE)
@pytest.mark.parametrize("shape", ["points", "rle", "box"])
def test_no_memory_is_taken_for_a_size_that_a_row_claims(height, shape):
    value = {
        "points": {"points": SQUARE}, "rle": {"rle": [255] * 40, "format": "rle"},
        "box": {"x": 1, "y": 1, "width": 50, "height": 50},
    }[shape]  # fmt: skip
    before = {**polygon("a", SQUARE, (height, 10)), "value": {**value, "polygonlabels": ["common part"]}}
    after = {**before, "value": {**before["value"], "points": OTHER} if shape == "points" else {"points": OTHER}}
    with bounded(megabytes=20):
        [change] = compare_with_prediction([before], [after])
        assert change.change is Change.EDITED
        with pytest.raises(InputError):
            decode_annotation([before], CONFIG)
        decoded = decode_annotation([before], CONFIG, [(24, 32), (24, 32)])
        assert not decoded.cosegmentation.regions


@pytest.mark.parametrize(
    "rle", [[255, 255, 255, 255], [127, 255, 255, 255, 0, 0], "abcd", {"a": 1}, [None], 7, [], [300]]
)
def test_a_brush_without_a_size_is_compared_without_its_claim(rle):
    rows = [{"id": "a", "type": "brushlabels", "to_name": "img1", "value": {"rle": value}} for value in (rle, [0] * 9)]
    with bounded(megabytes=20):
        [change] = compare_with_prediction(rows[:1], rows[1:])
    assert change.iou == 0


def test_a_zigzag_over_a_large_image_is_filled_in_time():
    height, width = 2000, 2000
    x = np.linspace(0, width, 500)
    y = np.where(np.arange(500) % 2, 0, height)
    points = np.stack([x, y], 1)
    with bounded(seconds=3, megabytes=400):
        mask = fill_polygon(points, height, width)
    assert 0.2 < mask.mean() < 0.8
    rows = MAX_CROSSINGS // 7000 + 2
    many = np.stack([np.arange(rows) % 50, np.where(np.arange(rows) % 2, 0, 7000)], 1).astype(float)
    with bounded(megabytes=20), pytest.raises(InputError, match="cross the rows"):
        fill_polygon(many, 7000, 7000)


def test_filling_is_by_the_non_zero_rule():
    rng = np.random.default_rng(0)
    for _ in range(10):
        height, width = (int(v) for v in rng.integers(1, 25, 2))
        points = rng.uniform(-5, 30, (int(rng.integers(3, 40)), 2))
        slow = np.zeros((height, width), bool)  # the non-zero rule, pixel by pixel
        for row in range(height):
            for column in range(width):
                slow[row, column] = winding(points, column + 0.5, row + 0.5) != 0
        assert np.array_equal(fill_polygon(points, height, width), slow)


def winding(points, x, y):
    total = 0
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            total += 1 if y1 > y0 else -1
    return total


def test_a_dense_polygon_takes_the_other_way_and_agrees():
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 200, (3000, 2))
    mask = fill_polygon(points, 200, 200)
    for row, column in rng.integers(0, 200, (15, 2)).tolist():
        assert mask[row, column] == (winding(points, column + 0.5, row + 0.5) != 0)


def test_regions_of_an_annotation_are_bounded():
    rows = [polygon(str(n), SQUARE, (10, 10)) for n in range(1001)]
    with bounded(megabytes=20), pytest.raises(InputError, match="1001 regions"):
        decode_annotation(rows, CONFIG, [(10, 10), (10, 10)])
    with bounded(megabytes=20), pytest.raises(InputError, match="megapixels of masks"):
        decode_annotation(rows[:30], CONFIG, [(7000, 7000), (10, 10)])
    with bounded(seconds=4):
        decode_annotation(rows[:300], CONFIG, [(30, 30), (30, 30)])


# -- brush -------------------------------------------------------------------------------------------------------------


def stream(num_values: int, tokens: str, sizes=(3, 4, 8, 16)) -> list[int]:
    head = f"{num_values:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    bits = head + tokens
    return list(int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big"))


def test_a_brush_of_single_values_takes_little_more_than_its_mask():
    """Every value written by itself: eight bits each in runs of 65536."""
    side = 512
    values = np.zeros((side, side, 4), np.uint8)
    values[100:200, 50:300] = 255
    flat, tokens = values.ravel(), []
    for start in range(0, flat.size, 65536):
        part = flat[start : start + 65536]
        tokens.append("011" + f"{len(part) - 1:016b}" + "".join(f"{v:08b}" for v in part))
    data = bytes(stream(flat.size, "".join(tokens)))
    with bounded(seconds=4, megabytes=140):
        mask = brush_rle.decode(data, side, side)
    assert np.array_equal(mask, values[..., 3] > 0)


def test_tokens_beyond_the_image_are_not_walked():
    data = stream(4, "100" + "011" + f"{255:08b}") + [0] * 10  # one run for the one pixel, and padding
    assert brush_rle.decode(data, 1, 1).tolist() == [[True]]
    with bounded(megabytes=20), pytest.raises(InputError):
        brush_rle.decode(stream(4, "100" * 1000) + [255] * 100_000, 1, 1)


@pytest.mark.parametrize(
    "rle", [[300], [-1], ["a"], [None], [1.5], [[]], "text", {"counts": 1}, 7, [10**30], b"", [True] * 9]
)
def test_a_brush_of_odd_values_is_a_line(rle):
    with pytest.raises(InputError, match="brush RLE"):
        brush_rle.decode(rle, 3, 3)


# -- COCO --------------------------------------------------------------------------------------------------------------

ODD_COUNTS = [
    [2**62] * 4, [2**63 - 1, 2**63 - 1, 2, 12], [2**63], [2**64], [10**30], [-1, 13], [1e300], [float("nan")],
    [float("inf")], [6.5, 5.5], ["12"], [[12]] * 2 + [[3, 4]], [None], [True] * 12, {"a": 1}, "~" * 50, "\ud800", "é",
    7, [0] * 100_000 + [12],
]  # fmt: skip


@pytest.mark.parametrize("counts", ODD_COUNTS, ids=range(len(ODD_COUNTS)))
@pytest.mark.parametrize("read", [decode_rle, compressed_rle])
def test_odd_run_lengths_are_a_line(counts, read):
    with bounded(megabytes=20), pytest.raises(InputError):
        read({"size": [3, 4], "counts": counts})


@pytest.mark.parametrize("size", [[10**12, 10**12], [2**63, 2], [-3, -4], [3], [3, 4, 5], [float("nan"), 4],
                                  [float("inf"), 4], [None, 4], 12, [10**400, 1], [0, 0]])  # fmt: skip
def test_odd_sizes_of_run_lengths_are_a_line(size):
    with bounded(megabytes=20), pytest.raises(InputError):
        decode_rle({"size": size, "counts": [0, 12]})


def test_whole_numbers_written_as_fractions_are_counts():
    assert decode_rle({"size": [2, 2], "counts": [1.0, 3.0]}).sum() == 3


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10**400, 1, 2, 2, 3, 3]], [[1e308, 1, 2, 2, 3, 3]], [[float("nan")] * 6], [["1", "2", "a", "4", "5", "6"]],
        [[None] * 6], [[[1, 2], [3]]], [{}], {}, "polygon", 7, None, [[]], [[1, 2]], [[1, 2, 3]], [[{}] * 6],
    ],
)  # fmt: skip
def test_odd_polygons_are_a_line(segmentation):
    with bounded(megabytes=20), pytest.raises(InputError):
        decode_segmentation(segmentation, (20, 30))


WIDE = 10**400  # JSON holds it, no float does


@pytest.mark.parametrize(
    "value",
    [
        {"points": WIDE}, {"points": [[1, 1], [50, 1], [50, WIDE]]}, {"x": WIDE, "y": 1, "width": 4, "height": 4},
        {"x": 1, "y": 1, "width": 4, "height": 4, "rotation": WIDE}, {"x": 1, "y": 1, "radiusX": WIDE, "radiusY": 4},
        {"vertices": [{"x": 1, "y": 1}, {"x": 50, "y": 2}, {"x": WIDE, "y": 3}]},
        {"vertices": [{"x": 1, "y": 1}, {"x": 50, "y": 2},
                      {"x": 4, "y": 9, "isBezier": True, "controlPoint2": {"x": WIDE, "y": 2}}]},
    ],
)  # fmt: skip
def test_a_shape_of_huge_numbers_is_a_line(value):
    with pytest.raises(InputError, match="in percent"):
        mask_of_value(value, (24, 32))


@pytest.mark.parametrize(
    "parts",
    [
        [{"hint": "part"}], [{"hint": "part", "value": 7}], [{"hint": "part", "value": ["a"]}],
        [{"hint": "object", "value": {}}], [{"hint": ["part"], "value": "a"}], [7, None, [], "a"], "parts", {}, 7,
        [{"hint": "part", "value": "a" * 10**6, "background": "b" * 10**6, "of": "c" * 10**6}],
    ],
)  # fmt: skip
def test_odd_labels_of_a_task_are_no_labels(parts):
    """They ended the prediction of their task with an internal error."""
    config, vocabulary = read_config(write_config(2)), Vocabulary()
    labels = with_parts({"parts": parts}, None, config, vocabulary)["parts"]
    assert labels[-1]["value"] == "other part"
    assert all(isinstance(label["value"], str) for label in labels)
    assert not vocabulary.palette.colors
    assert not vocabulary.parts_of("c" * 10**6)


def test_what_is_learnt_of_tasks_labels_is_bounded():
    vocabulary = Vocabulary()
    for task in range(4):
        item = {"hint": "part", "of": "lamp", "background": "#000000"}
        vocabulary.learn_from([{**item, "value": f"{task} {n}"} for n in range(4000)])
    assert len(vocabulary.parts_of("lamp")) == len(vocabulary.palette.colors) == MAX_NAMES
    vocabulary.learn("lamp", ["0 7", "0 7"])
    assert vocabulary.parts_of("lamp")[0] == "0 7"
    with pytest.raises(InputError, match="more than 5,000 labels"):
        with_parts({"parts": [{**item, "value": f"{n}"} for n in range(5001)]}, None, read_config(PAIR_XML), vocabulary)


def test_an_endless_outline_is_refused_before_it_is_walked():
    points = [c for k in range(100_000) for c in ((0, 0) if k % 2 else (999, 999))]
    with bounded(megabytes=50), pytest.raises(InputError, match="outline of"):
        decode_segmentation([points], (20, 30))


# -- configs -----------------------------------------------------------------------------------------------------------

BRUSH = '<BrushLabels name="b{0}" toName="i{0}"><Label value="x"/></BrushLabels>'
HOSTILE_CONFIGS = {
    "4,000 images": "".join(f'<Image name="i{n}" value="$i"/>' + BRUSH.format(n) for n in range(4000)),
    "9 images": "".join(f'<Image name="i{n}" value="$i"/>' + BRUSH.format(n) for n in range(9)),
    "nested repeaters": "<Repeater>" * 20_000 + '<Image name="i" value="$i"/>' + "</Repeater>" * 20_000,
    "many repeaters": '<Image name="i1" value="$i"/>' + "<Repeater/>" * 50_000,
    "many controls": '<Image name="i" value="$i"/>' + '<Rectangle name="r" toName="i"/>' * (MAX_CONTROLS + 1),
    "many names in one": '<Image name="i" value="$i"/><Brush name="b" toName="' + "i," * 300_000 + '"/>',
    "many labels": '<Image name="i0" value="$i"/><BrushLabels name="b" toName="i0">'
    + "".join(f'<Label value="l{n}"/>' for n in range(MAX_LABELS + 1)) + "</BrushLabels>",
    "deep": "<View>" * 50_000 + "</View>" * 50_000,
    "long attribute": f'<Image name="{"a" * 900_000}" value="$i"/>',
}  # fmt: skip


@pytest.mark.parametrize("config", HOSTILE_CONFIGS.values(), ids=HOSTILE_CONFIGS)
def test_configs_are_refused_in_time(config):
    with bounded(seconds=2.5, megabytes=200), pytest.raises(InputError) as caught:
        read_config(f"<View>{config}</View>")
    assert "\n" not in str(caught.value)


def test_as_many_labels_as_there_may_be_are_read_in_time():
    labels = "".join(f'<Label value="l{n}"/>' for n in range(MAX_LABELS))
    xml = f'<View><Image name="i0" value="$i"/><BrushLabels name="b" toName="i0">{labels}</BrushLabels></View>'
    with bounded(seconds=4):
        assert len(read_config(xml).candidates({})) == MAX_LABELS + 1


def test_labels_of_a_task_are_bounded():
    xml = '<View><Image name="i0" value="$i"/><BrushLabels name="b" toName="i0" value="$parts"/></View>'
    config = read_config(xml)
    assert len(config.candidates({"parts": ["a", "b"]})) == 3
    with bounded(megabytes=50), pytest.raises(InputError, match="labels"):
        config.candidates({"parts": [f"l{n}" for n in range(50_000)]})


def test_the_repeater_of_the_images_is_found():
    inner = '<Image name="i{{idx}}" value="$images[{{idx}}]"/><BrushLabels name="b{{idx}}" toName="i{{idx}}">'
    inner += '<Label value="x"/></BrushLabels>'
    xml = f'<View><Repeater on="$x"><Text name="t"/></Repeater><Repeater on="$images">{inner}</Repeater></View>'
    config = read_config(xml)
    assert config.layout == "C"
    assert config.image_of("i7") == 7
    for name in ("i" + "9" * 5000, "i٣", "i-1", "i"):
        assert config.image_of(name) is None
