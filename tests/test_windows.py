"""Groups of five to eight are asked about in windows of four, and what the windows say is merged by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calico.correspondence import co_segmentation
from calico.inference.segmenter import CoSegmenter
from calico.inference.windows import merge, windows
from calico.language.tokenizer import CalicoTokenizer
from calico.model.builder import build
from calico.model.config import calico_tiny
from calico.values import CoSegmentation, ImageGroup, NamedMask, Occurrence, Problem

SIZE = (4, 6)


def mask(column: int) -> np.ndarray:
    found = np.zeros(SIZE, bool)
    found[:, column] = True
    return found


def window(*masks: NamedMask, problems: tuple[Problem, ...] = ()) -> CoSegmentation:
    return co_segmentation([SIZE] * 4, masks, problems=problems)


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [
        (2, [(0, 1)]),
        (4, [(0, 1, 2, 3)]),
        (5, [(0, 1, 2, 3), (1, 2, 3, 4)]),
        (7, [(0, 1, 2, 3), (3, 4, 5, 6)]),
        (8, [(0, 1, 2, 3), (2, 3, 4, 5), (4, 5, 6, 7)]),
    ],
)
def test_windows_overlap_and_hold_all_images(num_images: int, expected: list[tuple[int, ...]]) -> None:
    assert windows(num_images) == expected


def test_names_tie_the_windows_together() -> None:
    """A lid that each window shows once is common; the better mask of an image that both show stays."""
    first = window(NamedMask(0, "pot", None, mask(1), 0.9), NamedMask(0, "pot", "lid", mask(1), 0.8))
    second = window(
        NamedMask(0, "pot", "rim", mask(3), 0.4),  # image 3 of the whole
        NamedMask(2, "mug", None, mask(2), 0.7),
        NamedMask(2, "mug", "lid", mask(2), 0.6),
        problems=(Problem("empty_mask", "the mask is empty", 1),),
    )
    both = merge([SIZE] * 6, [(0, 1, 2, 3), (2, 3, 4, 5)], [first, second])
    lids = [region for region in both.regions if region.name == "lid"]
    assert [(lid.image, lid.correspondence, lid.occurrence) for lid in lids] == [
        (0, (0, 4), Occurrence.COMMON),
        (4, (0, 4), Occurrence.COMMON),
    ]
    assert [(problem.code, problem.image) for problem in both.problems] == [("empty_mask", 3)]
    assert "images 3 to 6" in both.problems[0].message


def test_an_image_in_two_windows_has_one_object_and_one_name_for_a_mask() -> None:
    first = window(NamedMask(2, "pot", None, mask(1), 0.9), NamedMask(2, "pot", "knob", mask(4), 0.3))
    second = window(
        NamedMask(0, "mug", None, mask(2), 0.5),
        NamedMask(0, "mug", "lid", mask(4), 0.7),
        NamedMask(0, "mug", "ear", mask(5), 0.2),
    )
    both = merge([SIZE] * 6, [(0, 1, 2, 3), (2, 3, 4, 5)], [first, second])
    assert [(region.object_name, region.part_name) for region in both.regions] == [
        ("pot", None),
        ("pot", "ear"),
        ("pot", "lid"),
    ]
    assert [problem.code for problem in both.problems] == ["window_disagreement"]


def test_a_segmenter_asks_about_at_most_four_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tokenizer = CalicoTokenizer.train()
    config = calico_tiny(len(tokenizer))
    segmenter = CoSegmenter(build(config), config, tokenizer)
    asked: list[int] = []
    original = segmenter._generate

    def generate(some, features, names, constraints):  # type: ignore[no-untyped-def]
        asked.extend(len(one.images) for one in some)
        return original(some, features, names, constraints, limit=4)

    monkeypatch.setattr(segmenter, "_generate", generate)
    images = tuple(np.full((16, 20, 3), 30 * i, np.uint8) for i in range(5))
    found = segmenter.segment_many([ImageGroup(images), ImageGroup(images[:2])])
    assert sorted(asked) == [2, 2, 2, 4, 4, 4, 4, 4, 4]
    assert [len(one.sizes_hw) for one in found] == [5, 2]
