"""Brush RLE: against a slow reference written from the format, against label-studio-sdk, and on real files."""

from __future__ import annotations

import contextlib
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import FIXTURES, all_of

from backend.codecs import brush_rle
from calico.errors import InputError


def bits_of(values, runs, sizes=(3, 4, 8, 16)):
    """A stream as text of bits. runs: (repeats, length, index of the size); values: 8-bit numbers, one per element."""
    out = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    at = 0
    for repeats, length, choice in runs:
        out += f"{int(repeats)}{choice:02b}{length - 1:0{sizes[choice]}b}"
        out += "".join(f"{value:08b}" for value in values[at : at + (1 if repeats else length)])
        at += length
    assert at == len(values)
    return out + "0" * (8 - len(out) % 8)


def bytes_of(bits):
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def reference_encode(mask):
    """Maximal runs of the four-fold repeated values, each in the smallest size that holds it, cut at 65536."""
    values = [255 * bool(pixel) for pixel in mask.ravel().tolist() for _ in range(4)]
    runs, at = [], 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at]:
            end += 1
        length = end - at
        choice = 0 if length <= 8 else 1 if length <= 16 else 2 if length <= 256 else 3
        while length > 65536:
            runs.append((True, 65536, 3))
            length -= 65536
        runs.append((True, length, choice))
        at = end
    return bytes_of(bits_of(values, runs))


masks = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1), st.sampled_from([0, 0.03, 0.5, 1]))


def random_mask(height, width, seed, share):
    return np.random.default_rng(seed).random((height, width)) < share


@given(masks)
@settings(max_examples=150, deadline=None)
def test_encodes_like_the_reference_and_back(case):
    mask = random_mask(*case)
    rle = brush_rle.encode(mask)
    assert rle == reference_encode(mask)
    assert (brush_rle.decode(rle, *mask.shape) == mask).all()


@pytest.mark.parametrize(
    "runs",
    [[16384], [16385], [4], [64], [65], [3, 1, 2], [16384, 16384 * 2, 16383, 16384 * 3 + 1], [300, 2, 70000]],
    ids=str,
)
def test_runs_at_the_limits_of_every_size(runs):
    mask = np.repeat(np.arange(len(runs)) % 2 == 0, runs)[None]
    rle = brush_rle.encode(mask)
    assert rle == reference_encode(mask)
    assert (brush_rle.decode(rle, 1, mask.size) == mask).all()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_reads_any_stream_of_the_format(data):
    """Literals, runs that cut pixels, other size tables, and values whose R, G, B are not their alpha."""
    sizes = tuple(data.draw(st.lists(st.integers(1, 16), min_size=4, max_size=4)))
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    values, runs = [], []
    while len(values) < 4 * height * width:
        choice = data.draw(st.integers(0, 3))
        length = data.draw(st.integers(1, min(1 << sizes[choice], 4 * height * width - len(values))))
        repeats = data.draw(st.booleans())
        drawn = data.draw(st.lists(st.sampled_from([0, 1, 255]), min_size=1 if repeats else length, max_size=length))
        values += [drawn[0]] * length if repeats else drawn
        runs.append((repeats, length, choice))
    expected = np.array(values).reshape(height, width, 4)[..., 3] > 0
    rle = bytes_of(bits_of(values, runs, sizes))
    assert (brush_rle.decode(rle, height, width) == expected).all()
    assert (brush_rle.decode(rle + [0], height, width) == expected).all(), "one more byte of padding"


@given(st.lists(st.integers(0, 255), max_size=60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_mask_or_an_input_error(tail, with_header):
    head = [0, 0, 0, 4 * 5 * 7, 0b00111001, 0b10110111, 0b11111000] if with_header else []
    with contextlib.suppress(InputError):
        assert brush_rle.decode(head + tail, 5, 7).shape == (5, 7)


def test_thin_parts_holes_and_single_pixels_survive():
    mask = np.zeros((37, 53), np.bool_)
    mask[5:30, 10:40] = True
    mask[12:20, 15:30] = False  # a hole
    mask[:, 45:48] = True  # three pixels wide
    mask[36, 0] = mask[0, 52] = mask[16, 20] = True  # single pixels
    assert (brush_rle.decode(brush_rle.encode(mask), 37, 53) == mask).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rle: rle[:5], "at least 7 bytes"),
        (lambda rle: rle[: len(rle) // 2], "values where the header says|end within a run"),
        (lambda rle: [255, 255, 255, 255, *rle[4:]], "header says 4294967295 values"),
        (lambda rle: [*rle[:4], rle[4] | 0xF8, *rle[5:]], "words of 8 bits"),
        (lambda rle: rle + [0] * 5000, "cannot belong to an image"),
        (lambda rle: [*rle[:7], *rle[9:]], "runs hold|end within"),
        (lambda rle: [*rle, 256], "integers 0 to 255"),
        (lambda rle: [*rle, "a"], "integers 0 to 255"),
        (lambda rle: "abc", "integers 0 to 255"),
    ],
)
def test_damaged_streams_are_refused(change, says):
    mask = random_mask(16, 20, 0, 0.2)
    with pytest.raises(InputError, match=says):
        brush_rle.decode(change(brush_rle.encode(mask)), 16, 20)


def test_the_wrong_size_is_refused_before_memory_is_taken():
    rle = brush_rle.encode(np.ones((4, 4), np.bool_))
    with pytest.raises(InputError, match="header says 64 values, an image of 100000 x 100000"):
        brush_rle.decode(rle, 100_000, 100_000)


def test_only_bool_masks_are_encoded():
    with pytest.raises(InputError, match="mask > 0"):
        brush_rle.encode(np.ones((4, 4), np.uint8))


def test_byte_identical_to_label_studio_sdk():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdk = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is an optional extra")
    for case in [(1, 1, 0, 1), (1, 2, 1, 0.5), (64, 64, 2, 0.02), (123, 77, 3, 0.5), (200, 400, 4, 0), (200, 40, 4, 1)]:
        mask = random_mask(*case)
        theirs = sdk.mask2rle(mask.astype(np.uint8) * 255)
        assert brush_rle.encode(mask) == theirs
        decoded = sdk.decode_rle(theirs).reshape(*mask.shape, 4)[..., 3] > 0
        assert (decoded == brush_rle.decode(theirs, *mask.shape)).all()


def test_what_label_studio_sdk_encoded_is_read():
    """Four channels that differ: only the fourth is the mask. Recorded, so that it holds without the sdk too."""
    cases = json.loads((FIXTURES / "label_studio" / "sdk_brushes.json").read_text())
    assert len(cases) == 3
    for case in cases:
        height, width = case["size_hw"]
        mask = np.unpackbits(np.frombuffer(bytes.fromhex(case["mask"]), np.uint8), count=height * width)
        assert np.array_equal(brush_rle.decode(case["rle"], height, width), mask.reshape(height, width).astype(bool))


AREAS = {  # by file: the size where rows have none, and the pixels of each region
    "tools.task.json": (None, [437]),
    "magic_wand.json": ((2860, 3000), [261525, 381431]),
    "brush_hand_painted.json": ((2802, 2242), [260411]),
}


@pytest.mark.parametrize(
    "path",
    all_of("label_studio/tools.task.json", "label_studio/magic_wand.json", "label_studio/brush_hand_painted.json"),
    ids=lambda path: path.stem,
)
def test_stored_brushes_have_the_known_areas(path):
    """Rows of one region repeat its mask."""
    size_hw, areas = AREAS[path.name]
    masks = {}
    for row in json.loads(path.read_text())["annotations"][0]["result"]:
        if "rle" in row.get("value", ()):
            height, width = size_hw or (row["original_height"], row["original_width"])
            mask = brush_rle.decode(row["value"]["rle"], height, width)
            assert np.array_equal(masks.setdefault(row["id"], mask), mask)
    assert sorted(int(mask.sum()) for mask in masks.values()) == areas
