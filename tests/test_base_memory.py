"""A checkpoint's own memory: names and masks of what it was fitted on, where the language model doubts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_mixture import stool
from test_trunk import TOKENIZER, micro_small, micro_tiny

from calico.checkpoints.files import save_checkpoint
from calico.checkpoints.fingerprint import checkpoint_version
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.inference.segmenter import CoSegmenter
from calico.masks import iou
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.part_memory.base import BaseMemory
from calico.part_memory.evidence import proposed
from calico.part_memory.memory import SeenRegion, Sight, load_memory, save_memory
from calico.part_memory.pyramid import PyramidReader
from calico.training.base_memory import BaseMemorySettings, calibrated, fit_base_memory
from calico.values import AnnotatedImage, ImageGroup, NamedMask

CONFIG = micro_small()
QUICK = BaseMemorySettings(hidden=24, steps=150, rows=200, rows_per_step=512, num_drawings=2, noise=0.0, dropout=0.0)


def items() -> list[AnnotatedImage]:
    """Stools, and gongs, which are stools in other colours."""
    gong = replace(stool(), image=255 - stool().image, object_name="gong", part_names=("rim", "post"))
    return [stool(), gong]


@pytest.fixture(scope="module")
def model() -> CalicoModel:
    torch.manual_seed(0)
    return build(CONFIG).eval()


@pytest.fixture(scope="module")
def memory(model: CalicoModel) -> BaseMemory:
    return calibrated(fit_base_memory(model, CONFIG, items(), QUICK), model, CONFIG, items())[0]


def test_it_names_an_object_among_all_and_cuts_out_its_parts(model: CalicoModel, memory: BaseMemory) -> None:
    reader = PyramidReader(model, CONFIG, memory.card.size, has_context=True)
    for item in items():
        sight = memory.sight(reader(item.image), (48, 48))
        assert sight is not None
        assert sight.object_name == item.object_name
        assert iou(sight.object.mask, item.part_map > 0) > 0.6
        assert set(sight.parts) <= set(item.part_names)
        assert 0 < sight.object.score <= 1
    blank = np.full((48, 48, 3), 250, np.uint8)
    assert memory.sight(reader(blank), (48, 48)) is None


def test_estimates_are_made_true_on_average(model: CalicoModel) -> None:
    fitted = fit_base_memory(model, CONFIG, items(), QUICK)
    known, figures = calibrated(fitted, model, CONFIG, items())
    assert figures["object_accuracy"] == 1.0
    assert figures["n"] == 2
    assert known.card.estimates[0].factor != 1.0
    misnamed = [replace(item, object_name="bell") for item in items()]
    assert calibrated(fitted, model, CONFIG, misnamed)[0].card.estimates[0].factor == 0.0


def test_it_lies_beside_the_weights_and_is_part_of_the_version(
    model: CalicoModel, memory: BaseMemory, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, model, CONFIG, TOKENIZER)
    before = checkpoint_version(tmp_path)
    save_memory(tmp_path, memory)
    assert checkpoint_version(tmp_path) != before
    again = load_memory(tmp_path)
    assert isinstance(again, BaseMemory)
    assert again.card == memory.card
    segmenter = CoSegmenter.from_checkpoint(tmp_path, device="cpu")
    assert segmenter.memory is None  # that is a team's
    assert segmenter.base_memory is not None
    found = segmenter.segment(ImageGroup(tuple(item.image for item in items())))
    assert {(region.image, region.object_name) for region in found.regions} == {(0, "stool"), (1, "gong")}
    assert not any(region.is_taught for region in found.regions)


def test_it_speaks_where_it_is_surer_and_only_there() -> None:
    mask = np.ones((8, 8), bool)
    said = co_segmentation(
        [(8, 8)] * 3,
        [
            NamedMask(0, "lamp", None, mask, 0.3), NamedMask(0, "lamp", "shade", mask, 0.9),
            NamedMask(1, "lamp", None, mask, 0.8), NamedMask(1, "lamp", "shade", mask, 0.1),
        ],
    )  # fmt: skip
    sight = Sight("stool", SeenRegion(mask, 0.6), {"leg": SeenRegion(mask, 0.5)}, frozenset({"seat"}))
    found = proposed(said, [sight, sight, sight])
    assert [(region.image, region.name, region.score) for region in found.regions] == [
        (0, "stool", 0.6), (1, "lamp", 0.8), (2, "stool", 0.6), (0, "leg", 0.5), (2, "leg", 0.5), (1, "shade", 0.1),
    ]  # fmt: skip
    assert proposed(said, [None] * 3).by_key.keys() == said.by_key.keys()
    assert not proposed(said, [None] * 3).problems


def test_it_wants_names_and_a_trunk(model: CalicoModel) -> None:
    with pytest.raises(InputError, match="nothing to learn"):
        fit_base_memory(model, CONFIG, [], QUICK)
    with pytest.raises(InputError, match="trunk"):
        fit_base_memory(model, micro_tiny(), iter(()), QUICK)  # before anything is read
