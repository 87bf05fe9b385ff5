"""Drawn objects: determinism, exact masks, declared names, any size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from calico.drawings import CLASSES, DIFFICULTIES, PART_NAMES, PARTS_OF, VERSION, draw
from calico.drawings.rendering import MIN_PART_SHARE
from calico.errors import InputError
from calico.values import AnnotatedImage


def part_masks(item: AnnotatedImage) -> dict[str, np.ndarray]:
    return {mask.part_name: mask.mask for mask in item.masks(0) if mask.part_name}


def test_there_are_fourteen_classes_and_shared_parts() -> None:
    assert len(CLASSES) >= 14
    sharing = Counter(part for parts in PARTS_OF.values() for part in parts)
    assert set(sharing) == set(PART_NAMES)
    assert sum(n > 1 for n in sharing.values()) >= 9
    for name in PART_NAMES:
        assert name == name.lower().strip()


def test_same_arguments_same_drawing_and_other_seed_another() -> None:
    for seed in (0, 1, 2**64 - 1):
        one, two = draw(seed), draw(seed)
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.part_map, two.part_map)
        assert (one.object_name, one.part_names, one.difficulty) == (two.object_name, two.part_names, two.difficulty)
    assert not np.array_equal(draw(0).image, draw(1).image)


@pytest.mark.parametrize("object_name", CLASSES)
@pytest.mark.parametrize("size_hw", [(33, 57), (128, 128), (512, 384)])
def test_every_class_draws_at_any_size(object_name: str, size_hw: tuple[int, int]) -> None:
    for seed in range(4):
        item = draw(seed, size_hw=size_hw, object_name=object_name)
        assert item.image.shape == (*size_hw, 3)
        assert item.image.dtype == np.uint8
        assert item.part_map.shape == size_hw
        assert item.object_name == object_name
        assert (item.part_map > 0).mean() > 0.002
        assert set(part_masks(item)) == set(item.part_names) <= set(PARTS_OF[object_name])
        assert list(item.part_names) == [name for name in PARTS_OF[object_name] if name in item.part_names]
        for mask in part_masks(item).values():
            assert mask.mean() >= MIN_PART_SHARE


@pytest.mark.parametrize("object_name", CLASSES)
def test_every_part_of_a_class_is_seen_and_parts_vary(object_name: str) -> None:
    shown = [draw(seed, object_name=object_name, size_hw=(64, 64)).part_names for seed in range(60)]
    assert {name for names in shown for name in names} == set(PARTS_OF[object_name])
    if object_name not in {"stool", "knife", "scissors"}:  # these are nothing without either of their parts
        assert len(set(shown)) >= 2  # so that unique parts arise within one class


def test_every_difficulty_arises_in_its_share_and_can_be_asked_for() -> None:
    shares = Counter(draw(seed, size_hw=(16, 16)).difficulty for seed in range(600))
    for name, share in zip(DIFFICULTIES, (0.40, 0.25, 0.15, 0.20), strict=True):
        assert abs(shares[name] / 600 - share) < 0.06
        assert draw(3, size_hw=(32, 32), difficulty=name).difficulty == name


def test_one_seed_is_one_drawing_at_every_size() -> None:
    same_names = compared = 0
    for seed in range(40):
        small, large = draw(seed, size_hw=(96, 128)), draw(seed, size_hw=(288, 384))
        assert small.object_name == large.object_name
        same_names += small.part_names == large.part_names
        shrunk = {name: mask[1::3, 1::3] for name, mask in part_masks(large).items()}
        for name, mask in part_masks(small).items():
            if mask.mean() > 0.02:
                compared += 1
                assert (mask & shrunk[name]).sum() / (mask | shrunk[name]).sum() > 0.8, (seed, name)
    assert same_names >= 36
    assert compared > 40


def test_masks_are_where_the_object_was_painted() -> None:
    """Line art on plain paper: whatever is not paper-coloured is ink of the object, so it lies in its mask."""
    checked = 0
    for seed in range(60):
        item = draw(seed, difficulty="outline", size_hw=(120, 120))
        paper = np.median(item.image.reshape(-1, 3), axis=0).astype(int)
        far = np.abs(item.image.astype(int) - paper).sum(2) > 200
        inside = item.part_map > 0
        if not far.any():
            continue
        checked += 1
        rim = np.pad(inside, 1)  # blur and JPEG carry ink over the edge
        near = np.logical_or.reduce([rim[y : y + 120, x : x + 120] for y in range(3) for x in range(3)])
        assert (far & near).sum() / far.sum() > 0.99, seed
        # The ink spans the object: its box is the mask's, up to a pixel.
        for axis in (0, 1):
            ink, mask = np.flatnonzero(far.any(axis)), np.flatnonzero(inside.any(axis))
            assert max(abs(ink[0] - mask[0]), abs(ink[-1] - mask[-1])) <= 2, seed
    assert checked > 40


def test_an_occluder_hides_some_of_the_object_and_never_most() -> None:
    for seed in range(30):
        item = draw(seed, difficulty="occluded", size_hw=(64, 64))
        assert item.part_names, seed
        assert (item.part_map > 0).sum() > 40


@pytest.mark.parametrize(
    "bad", [{"object_name": "unicorn"}, {"difficulty": "hard"}, {"size_hw": (0, 5)}, {"seed": -1}], ids=str
)
def test_wrong_arguments_are_named(bad: dict) -> None:
    with pytest.raises(InputError, match=f"{next(iter(bad))}: expected"):
        draw(**{"seed": 0, **bad})


FROZEN = (
    (1, "car", "occluded", ("body", "wheel", "window"), 0.1),
    (2, "lamp", "occluded", ("shade", "pole", "base"), 0.267),
    (3, "chair", "clean", ("seat", "back", "leg", "arm"), 0.174),
    (5, "chair", "occluded", ("seat", "back", "leg", "arm"), 0.151),
    (8, "truck", "clean", ("body", "cab", "wheel", "window", "light"), 0.08),
    (13, "bicycle", "clean", ("wheel", "frame", "seat", "handlebar"), 0.091),
    (21, "car", "outline", ("body", "wheel", "window", "light"), 0.224),
    (34, "scissors", "outline", ("blade", "handle"), 0.067),
)


@pytest.mark.parametrize(("seed", "object_name", "difficulty", "part_names", "area"), FROZEN)
def test_version_1_is_frozen(
    seed: int, object_name: str, difficulty: str, part_names: tuple[str, ...], area: float
) -> None:
    """A checkpoint names the data it was trained on: whoever changes a drawing also raises `VERSION`."""
    assert VERSION == "drawings-v1"
    item = draw(seed)
    assert (item.object_name, item.difficulty, item.part_names) == (object_name, difficulty, part_names)
    assert (item.part_map > 0).mean() == pytest.approx(area, abs=0.002)
