"""The segmenter on random weights: sizes, caching, threads, refusals. What it has learnt is for `calico evaluate`."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from micro import TOKENIZER

from calico.data.groups import draw_group
from calico.errors import InputError
from calico.inference.encodings import EncodingCache, num_bytes
from calico.inference.segmenter import CoSegmenter, restored_masks
from calico.masks import iou, tight_box_xyxy
from calico.model.builder import build
from calico.model.config import calico_tiny
from calico.model.preprocessing import Preprocessor, fitted_part_map, fitted_points, fitted_size_hw
from calico.values import ImageGroup, SubTask

CONFIG = calico_tiny(len(TOKENIZER))


@pytest.fixture(scope="module")
def segmenter() -> CoSegmenter:
    torch.manual_seed(0)
    return CoSegmenter(build(CONFIG), CONFIG, TOKENIZER)


def group(seed: int, size: int = 2) -> ImageGroup:
    return ImageGroup(tuple(item.image for item in draw_group(seed, group_size=size, size=64)))


NAMES = ["dog", "chair", "leg", "seat"]


def test_constrained_answers_are_whole_and_masks_have_the_images_own_sizes(segmenter: CoSegmenter) -> None:
    images = (np.zeros((40, 90, 3), np.uint8), np.full((77, 31, 3), 200, np.uint8), np.zeros((1, 1, 3), np.uint8))
    answers = segmenter.answer(ImageGroup(images), candidates=NAMES)
    assert set(answers) == set(SubTask)
    for answer in answers.values():
        for mention in answer.parsed.mentions:
            assert mention.name in NAMES
            assert answer.masks[mention.seg_index].shape == images[mention.image].shape[:2]
            assert 0 <= answer.scores[mention.seg_index] <= 1
    found = segmenter.segment(ImageGroup(images), candidates=NAMES)
    assert found.sizes_hw == ((40, 90), (77, 31), (1, 1))


def test_the_same_photo_is_encoded_once_whatever_its_group(
    segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = CoSegmenter(segmenter.model, CONFIG, TOKENIZER)
    encoded: list[int] = []
    original = fresh.model.views
    monkeypatch.setattr(fresh.model, "views", lambda pixels: encoded.append(len(pixels[0])) or original(pixels))
    first, second = group(1).images, group(2).images
    fresh.segment(ImageGroup((first[0], first[1])), candidates=NAMES)
    fresh.segment(ImageGroup((first[1], second[0])), candidates=NAMES)
    fresh.segment_prompts(second[0], [(3, 3)], [True])
    assert encoded == [2, 1]


def test_the_cache_is_bounded_in_bytes(segmenter: CoSegmenter) -> None:
    features, _ = segmenter._encode(group(3).images, group(3).digests)
    cache = EncodingCache(max_bytes=int(num_bytes(features) * 2.5))
    for name in ("a", "b", "c"):
        cache.put(name, features)
        cache.get("a")
    assert cache.num_bytes <= cache.max_bytes
    assert [name for name in "abc" if cache.get(name) is not None] == ["a", "c"]


def test_threads_get_their_own_answers(segmenter: CoSegmenter) -> None:
    groups = {seed: group(seed) for seed in range(4)}
    alone = {seed: segmenter.answer(g, candidates=NAMES) for seed, g in groups.items()}
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(2):
            answers = segmenter.answer(groups[seed], candidates=NAMES)
            for task, answer in answers.items():
                same = all(np.array_equal(a, b) for a, b in zip(answer.masks, alone[seed][task].masks, strict=True))
                if answer.text != alone[seed][task].text or not same:
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_clicks_and_boxes_give_a_mask_of_the_image(segmenter: CoSegmenter) -> None:
    image = group(5).images[0]
    for prompt in ({"points_xy": [(5, 6), (20, 9)], "labels": [True, False]}, {"box_xyxy": (2, 3, 30, 40)}):
        found = segmenter.segment_prompts(image, **prompt)
        assert found.mask.shape == image.shape[:2]
        assert found.mask.dtype == bool
        assert 0 <= found.score <= 1
    with pytest.raises(InputError, match="one label per point, or a box"):
        segmenter.segment_prompts(image, [(1, 1)], [])


def test_a_box_around_a_stranger_is_filled_by_its_colours(segmenter: CoSegmenter) -> None:
    """A diamond of noise before noise: it is tight in the box, and half of the box is not it."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:200, :200]
    diamond = abs(down - 100) + abs(across - 90) < 32
    image = np.where(diamond[..., None], [90, 60, 130], [120, 130, 60]) + rng.normal(0, 25, (200, 200, 3))
    box = tight_box_xyxy(diamond)
    assert box is not None
    found = segmenter.segment_prompts(image.clip(0, 255).astype(np.uint8), box_xyxy=box)
    assert iou(found.mask, diamond) > 0.9


def test_what_looks_drawn_is_told_by_the_checkpoints_own_memory(
    segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = group(3).images
    assert segmenter._looks_drawn(first), "nobody tells: the mask decoder is believed"
    asked: list[object] = []

    def likeness_of(features: object) -> float:
        asked.append(features)
        return 0.9 if len(asked) == 1 else 0.1

    card = SimpleNamespace(size=64, has_context=False, least_presence=None)
    memory = SimpleNamespace(likeness=True, likeness_of=likeness_of, card=card)
    monkeypatch.setattr(segmenter, "base_memory", memory)
    assert segmenter._looks_drawn(first)
    assert not segmenter._looks_drawn(second)
    assert not segmenter._looks_drawn(second)
    assert len(asked) == 2, "looked at once while it is clicked"


def test_a_point_keeps_its_place_through_preprocessing_and_back() -> None:
    size_hw = (60, 200)
    assert fitted_size_hw(size_hw, 128) == (38, 128)
    assert np.allclose(fitted_points(np.array([[100.0, 30.0]]), size_hw, 128), [[64, 19]])
    logits = torch.full((128, 128), -1.0)
    logits[:19] = 1.0  # the upper half of what the image fills
    [mask] = restored_masks(logits[None], [size_hw], 128)
    assert mask.shape == size_hw
    assert mask[:29].all()
    assert not mask[31:].any()
    part_map = np.zeros(size_hw, np.uint8)
    part_map[:30] = 7
    fitted = fitted_part_map(part_map, 128)
    assert np.unique(fitted[:19]).tolist() == [7]
    assert np.unique(fitted[19:38]).tolist() == [0]
    assert np.unique(fitted[38:]).tolist() == [255]


def test_preprocessing_is_the_models_own() -> None:
    grey = np.full((50, 100, 3), 128, np.uint8)
    pixels = Preprocessor(32, 48, 64)(grey)
    assert [view.shape for view in pixels] == [(3, 32, 32), (3, 48, 48), (3, 64, 64)]
    assert pixels.global_view[0, 5, 5] == pytest.approx((128 / 255 - 0.48145466) / 0.26862954, abs=1e-5)
    assert pixels.grounding_view[2, 5, 5] == pytest.approx((128 - 103.53) / 57.375, abs=1e-5)
    assert (pixels.grounding_view[:, 32:] == 0).all()


def test_the_embedded_checkpoint_loads_and_segments() -> None:
    embedded = CoSegmenter.from_checkpoint(device="cpu")
    found = embedded.segment(group(8))
    assert embedded.version.startswith("calico-small-")
    assert set(found.answers) == set(SubTask)
    assert found.regions


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    from calico.errors import CheckpointError

    with pytest.raises(CheckpointError, match="nothing-here"):
        CoSegmenter.from_checkpoint(tmp_path / "nothing-here")


def test_who_waits_before_a_screen_waits_for_no_group(segmenter: CoSegmenter) -> None:
    """Clicks and names are answered as alone, while others are asked about groups and also where these take long."""
    asked, image = group(5), group(6).images[0]
    objects = {0: "chair", 1: "chair"}
    mask = segmenter.segment_prompts(image, [(9, 9)], [True]).mask
    named = segmenter.segment_named(asked, "leg", objects, shown=[0])[1].mask
    with segmenter._lock:  # as while a group is answered
        assert np.array_equal(segmenter.segment_prompts(image, [(9, 9)], [True]).mask, mask)
        assert np.array_equal(segmenter.segment_named(asked, "leg", objects, shown=[0])[1].mask, named)
    alone = [segmenter.answer(group(seed), candidates=NAMES) for seed in range(3)]
    found: list[object] = []
    busy = threading.Thread(
        target=lambda: found.extend(segmenter.answer(group(seed), candidates=NAMES) for seed in range(3))
    )
    busy.start()
    num_asked = 0
    while busy.is_alive() or not num_asked:
        segmenter.forget_encodings()
        assert np.array_equal(segmenter.segment_prompts(image, [(9, 9)], [True]).mask, mask)
        assert np.array_equal(segmenter.segment_named(asked, "leg", objects, shown=[0])[1].mask, named)
        num_asked += 1
    busy.join()
    for answers, expected in zip(found, alone, strict=True):
        assert {task: answers[task].text for task in SubTask} == {task: expected[task].text for task in SubTask}


@pytest.mark.parametrize("device", ["cuda", "warp"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=f"device '?{device}"):
        CoSegmenter.from_checkpoint(device=device)
