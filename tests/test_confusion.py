"""What a model takes corrected objects for is found, and base data of that name comes more often."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import EMBEDDED
from calico.data.groups import draw_batch, draw_group, stream_seed
from calico.drawings import CLASSES
from calico.training.corrected_groups import CorrectedGroup
from calico.training.mistaken_names import mistaken_names


@pytest.fixture(scope="module")
def groups() -> list[CorrectedGroup]:
    """Mugs alone, so that there is a name to be mistaken for."""
    seeds = [stream_seed("train", 9, k) for k in range(6)]
    drawn = [draw_group(seed, group_size=2, stream="train", size=128, classes=["mug"]) for seed in seeds]
    return [CorrectedGroup(str(k), tuple(images), None) for k, images in enumerate(drawn)]


def renamed(group: CorrectedGroup, name: str) -> CorrectedGroup:
    return replace(group, images=tuple(replace(image, object_name=name) for image in group.images))


def test_the_name_that_was_given_before_is_found(groups: list[CorrectedGroup]) -> None:
    model, config, tokenizer = load_checkpoint(EMBEDDED)
    assert mistaken_names(model, config, tokenizer, [renamed(group, "beaker") for group in groups])[0] == "mug"
    assert "mug" not in mistaken_names(model, config, tokenizer, groups)
    assert mistaken_names(model, config, tokenizer, []) == []


def test_half_of_the_drawings_are_of_favoured_classes() -> None:
    plain = draw_batch(4, num_images=12, size=24)
    found = draw_batch(4, num_images=12, size=24, favoured=("lamp", "no such class"))
    assert sum(image.object_name == "lamp" for image in found) >= 6
    assert len(found) == 12
    assert {image.object_name for image in found} - {"lamp"} <= set(CLASSES)
    assert [i.source for i in draw_batch(4, num_images=12, size=24, favoured=("x",))] == [i.source for i in plain]
