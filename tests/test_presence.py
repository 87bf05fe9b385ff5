"""Whether an image shows a taught object at all, told by the image as a whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_finetune import TOKENIZER, micro
from test_part_memory import FAST, grey, sign
from torch import Tensor

from calico.checkpoints.files import save_checkpoint
from calico.checkpoints.fingerprint import MEMORY_CARD
from calico.errors import CheckpointError
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.part_memory.fitting import fit_memory
from calico.part_memory.kept import KeptLooks
from calico.part_memory.lessons import Lesson
from calico.part_memory.memory import PartMemory, load_memory, reader_of, save_memory
from calico.part_memory.presence import MAX_CUTOFF, MIN_IMAGES, fit_presence
from calico.part_memory.pyramid import PyramidReader

WIDTH = 16
QUICK = replace(FAST, steps=5, max_measured=2)


def wholes(place: int, count: int, seed: int = 0) -> Tensor:
    """Vectors of one kind of image, which lie higher in one direction."""
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(97 * place + seed))
    rows[:, place] += 5
    return rows


def test_each_object_is_told_from_what_shows_nothing_taught() -> None:
    rows = torch.cat([wholes(0, 30), wholes(1, 24), wholes(2, 12)])
    shown = torch.tensor([0] * 30 + [1] * 24 + [2] * 12)
    found = fit_presence(rows, shown, torch.arange(66) % 3)
    assert found is not None
    presence, cutoff = found
    assert 0.2 < cutoff <= MAX_CUTOFF
    chances = presence.chances(torch.cat([wholes(place, 40, seed=1) for place in range(3)]))
    is_shown = chances >= cutoff
    assert is_shown[:40].float().mean() < 0.1
    assert is_shown[40:80, 0].float().mean() > 0.9
    assert is_shown[80:, 1].float().mean() > 0.9
    assert torch.equal(presence.chances(rows[0]), presence.chances(rows[:1])[0])


def test_the_cutoff_loses_few_of_the_images_that_are_hard_to_tell() -> None:
    rows = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(5))
    shown = torch.arange(200) % 2  # nothing in the rows tells
    found = fit_presence(rows, shown, torch.arange(200) // 2 % 3)
    assert found is not None
    presence, cutoff = found
    others = torch.randn(400, WIDTH, generator=torch.Generator().manual_seed(6))
    assert cutoff < 0.3
    assert (presence.chances(others)[:, 0] >= cutoff).float().mean() > 0.9


def test_without_images_of_nothing_taught_nobody_is_asked() -> None:
    assert fit_presence(wholes(1, 40), torch.ones(40, dtype=torch.int64), torch.arange(40) % 3) is None


@pytest.fixture(scope="module")
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(micro()).eval()


def strange(seed: int) -> np.ndarray:
    """A sign of its own colours in a green frame that fills most of the image: its pixels are a sign's."""
    image = np.full((64, 64, 3), (20, 220, 20), np.uint8)
    image[:, 20:44] = sign(seed).image[:, 20:44]
    return image


@pytest.fixture(scope="module")
def memory(model: CalicoModel) -> PartMemory:
    lessons = [Lesson(sign(k), k // 2) for k in range(MIN_IMAGES)]
    looks = KeptLooks(PyramidReader(model, micro(), 64))
    found = fit_memory(
        model, micro(), lessons, FAST, negatives=[grey(0)], strangers=[strange(k) for k in range(12)], looks=looks
    )
    assert len(looks.wholes) == 12
    assert looks.row_shelf.num_read == MIN_IMAGES + 1  # strangers are not read pixel by pixel
    return found


def test_too_few_images_tell_too_little_of_the_next_and_no_other_image_is_read(model: CalicoModel) -> None:
    unnamed = [Lesson(replace(sign(k), object_name=""), k) for k in range(4)]
    for count, rest in ((MIN_IMAGES - 1, unnamed), (MIN_IMAGES, [])):
        lessons = [Lesson(sign(k), 10 + k // 2) for k in range(count)]
        strangers = map(strange, range(3))
        found = fit_memory(model, micro(), lessons + rest, QUICK, negatives=[grey(0)], strangers=strangers)
        is_asked = count == MIN_IMAGES
        assert (found.presence is not None) == (found.card.least_presence is not None) == is_asked
        assert len(list(strangers)) == (0 if is_asked else 3)


def test_an_image_whose_pixels_look_taught_but_which_as_a_whole_does_not_shows_nothing(
    model: CalicoModel, memory: PartMemory
) -> None:
    reader, pixels_only = reader_of(memory, model, micro()), PyramidReader(model, micro(), 64)
    images = [strange(seed) for seed in range(100, 108)]
    assert sum(memory.sight(pixels_only(image), (64, 64)) is not None for image in images) >= 6
    assert sum(memory.sight(reader(image), (64, 64)) is not None for image in images) <= 1
    assert all(memory.sight(reader(sign(seed).image), (64, 64)) is not None for seed in range(100, 108))


def test_it_lies_beside_the_heads_and_one_without_its_cutoff_is_one_line(
    model: CalicoModel, memory: PartMemory, tmp_path: Path
) -> None:
    folder = tmp_path / "version"
    save_checkpoint(folder, model, micro(), TOKENIZER)
    save_memory(folder, memory)
    loaded = load_memory(folder)
    assert loaded is not None
    assert loaded.card.least_presence == memory.card.least_presence
    whole = torch.randn(memory.presence.in_features)
    assert torch.allclose(loaded.presence.chances(whole), memory.presence.chances(whole), atol=1e-2)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    card = json.loads((broken / MEMORY_CARD).read_text())
    (broken / MEMORY_CARD).write_text(json.dumps(card | {"least_presence": "half"}))
    with pytest.raises(CheckpointError, match="not a memory's card"):
        load_memory(broken)
    (broken / MEMORY_CARD).write_text(json.dumps(card | {"least_presence": None}))
    with pytest.raises(CheckpointError, match=r"a presence without its cutoff.*copy the version again"):
        load_memory(broken)
