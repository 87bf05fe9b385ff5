"""What is done to training images leaves their meaning: parts stay where their pixels went, frames stay whole."""

from __future__ import annotations

import numpy as np

from calico.drawings import draw
from calico.training.augmentation import _warped, augmented, distorted
from calico.values import AnnotatedImage


def test_augmentation_keeps_every_part() -> None:
    item = draw(7, size_hw=(40, 30), object_name="teapot")
    for seed in range(12):
        changed = augmented(item, np.random.default_rng(seed), may_flip=True)
        assert set(np.unique(changed.part_map)) == set(np.unique(item.part_map))
        assert changed.image.shape[:2] == changed.part_map.shape


def test_a_warp_moves_pixels_and_their_meaning_together() -> None:
    y, x = np.mgrid[:60, :80]
    codes = np.zeros((60, 80), np.uint8)
    codes[(y - 30) ** 2 + (x - 40) ** 2 < 400] = 2
    codes[(y - 30) ** 2 + (x - 40) ** 2 < 100] = 3
    tones = np.array([0, 0, 100, 200], np.uint8)  # a picture that shows its part map
    item = AnnotatedImage(np.repeat(tones[codes][..., None], 3, 2), "disc", ("rim", "middle"), codes)
    moved = 0
    for seed in range(8):
        warped = _warped(item, np.random.default_rng(seed))
        assert warped.part_names == ("rim", "middle")
        read = np.searchsorted([50, 150], warped.image[..., 0]) + (warped.part_map > 0)
        inside = np.abs(np.gradient(warped.image[..., 0].astype(float))).sum(0) == 0  # away from blended edges
        assert np.array_equal(read[inside & (warped.part_map > 0)], warped.part_map[inside & (warped.part_map > 0)])
        moved += int((warped.part_map != item.part_map).sum())
    assert moved > 800


def test_a_distorted_drawing_is_a_picture_of_the_same_frame_with_parts_that_can_be_named() -> None:
    item = draw(3, size_hw=(64, 48), object_name="car")
    looks = set()
    for seed in range(24):
        found = distorted(item, np.random.default_rng(seed))
        assert found.image.shape == item.image.shape
        assert found.image.dtype == np.uint8
        assert set(found.part_names) <= set(item.part_names)
        assert set(range(2, len(found.part_names) + 2)) <= set(np.unique(found.part_map).tolist())
        looks.add(found.image.tobytes())
    assert len(looks) > 16


def test_a_part_that_a_warp_leaves_too_small_loses_its_name_and_not_its_pixels() -> None:
    codes = np.full((50, 50), 2, np.uint8)
    codes[0, 0] = 3
    item = AnnotatedImage(np.zeros((50, 50, 3), np.uint8), "thing", ("body", "speck"), codes)
    warped = _warped(item, np.random.default_rng(0))
    assert warped.part_names == ("body",)
    assert (warped.part_map > 0).all()
