"""`--trunk` with backbones of `transformers`: which stage stands at which stride, and a model on one, start to end."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from calico.checkpoints.files import load_checkpoint, save_checkpoint
from calico.conversion.backbone import backbone_levels, load_backbone
from calico.errors import InputError
from calico.inference.segmenter import CoSegmenter
from calico.model.backbone import BackboneTrunk
from calico.model.builder import build
from calico.model.config import CalicoConfig
from calico.model.sizes import BackboneLevels
from calico.part_memory.pyramid import PyramidReader
from calico.training.new_trunk import TrunkStart, small_on
from calico.training.trainer import Phase, Trainer, TrainingSettings
from calico.values import ImageGroup
from tests.test_mixture import BATCH, mixture
from tests.test_trunk import SIZE, TOKENIZER, micro_small, micro_tiny

KINDS: dict[str, Any] = {
    "resnet": (
        ResNetForImageClassification,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic"),
    ),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], drop_path_rate=0.5)),
    "dinov2": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14
        ),
    ),
}
EXPECTED = {
    "resnet": (("", "stage1", "stage2", "stage3", "stage4"), (12, 8, 12, 16, 20), 1.0),
    "convnext": (("", "stage1", "stage2", "stage3", "stage4"), (12, 8, 12, 16, 20), 1.0),
    "dinov2": (("", "", "stage3", "stage4", "stage4"), (12, 48, 32, 32, 32), 0.875),
}


@pytest.fixture(scope="module", params=list(KINDS))
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A backbone's name, and a folder with its weights, as it is published: with a head, of any kind."""
    kind, config = KINDS[request.param]
    folder = tmp_path_factory.mktemp("backbones") / f"my-{request.param}"
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    return request.param, folder


def config_on(folder: Path) -> CalicoConfig:
    made = small_on(len(TOKENIZER), str(folder))
    levels = json.loads(json.dumps(backbone_levels(str(folder), SIZE)._asdict()))
    assert {**made.backbone, "config": 0} == {**levels, "config": 0}  # at 256 px as at 64
    return replace(micro_small(), trunk=made.trunk, backbone=made.backbone)


def test_each_level_has_its_stage(backbone: tuple[str, Path]) -> None:
    name, folder = backbone
    levels = backbone_levels(str(folder), SIZE)
    assert (levels.stages, levels.widths, levels.scale) == EXPECTED[name]
    trunk = BackboneTrunk(BackboneLevels(**json.loads(json.dumps(levels._asdict()))))
    load_backbone(trunk, str(folder))
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        maps, again = trunk(pixels), trunk.train()(pixels)
    assert [tuple(own.shape[1:]) for own in maps] == [
        (width, SIZE >> k, SIZE >> k) for k, width in enumerate((3, *levels.widths))
    ]
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))  # a frozen trunk is never in training mode
    torch.testing.assert_close(maps[1][0, :4, 3, 5], pixels[0, 0, 6:8, 10:12].flatten())  # the pixels, a block a place
    kind, _ = KINDS[name]
    theirs = kind.from_pretrained(folder).eval()
    if name == "resnet":
        with torch.no_grad():
            torch.testing.assert_close(maps[-1], theirs.resnet(pixels).last_hidden_state)


def test_a_model_on_one_starts_trains_is_saved_and_segments(backbone: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = backbone
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "tiny", build(micro_tiny()), micro_tiny(), TOKENIZER)
    settings = TrainingSettings(steps=1, phases=(Phase(1.0, SIZE),), batch=BATCH, max_seg_prompts=2, num_workers=0)
    config = config_on(folder)
    start = TrunkStart(tmp_path / "tiny", str(folder))
    trainer = Trainer(tmp_path / "run", settings, config, TOKENIZER, None, False, mixture(), start)
    assert trainer.model.trunk is not None
    before = {key: value.clone() for key, value in trainer.model.trunk.state_dict().items()}
    assert trainer.run().step == 1
    after = trainer.model.trunk.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())  # statistics of norms as well
    assert trainer.model.global_encoder.projection.weight.abs().sum() > 0  # type: ignore[operator, union-attr]

    checkpoint = tmp_path / "run" / "checkpoint"
    made, read, _ = load_checkpoint(checkpoint)
    assert read.trunk == f"my-{name}"
    assert read.backbone == config.backbone
    assert str(tmp_path.parent) not in (checkpoint / "config.json").read_text()  # a folder's path is nobody's business
    stored = made.trunk.state_dict()  # type: ignore[union-attr]
    for key, value in before.items():
        torch.testing.assert_close(stored[key].float(), value.float(), atol=1e-3, rtol=1e-2)
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(2))
    segmenter = CoSegmenter.from_checkpoint(checkpoint)
    result = segmenter.segment(ImageGroup(images))
    assert all(region.mask.shape == (48, 64) for region in result.regions)
    maps = PyramidReader(made, read, SIZE)(images[0]).maps
    assert [own.shape[0] for own in maps[1:]] == list(read.trunk_widths)


def test_what_is_no_backbone_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder there"):
        backbone_levels("./nowhere", SIZE)
    BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match=r"expected efficientnet-lite0.*bert is no backbone"):
        backbone_levels(str(tmp_path / "bert"), SIZE)
    kind, config = KINDS["resnet"]
    model = kind(config)
    model.save_pretrained(tmp_path / "pickle")
    torch.save(model.state_dict(), tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "pickle" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="safetensors"):
        backbone_levels(str(tmp_path / "pickle"), SIZE)
    weights = {key: value for key, value in model.state_dict().items() if "stages.3" not in key}
    model.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(InputError, match="its weights lack"):
        backbone_levels(str(tmp_path / "half"), SIZE)


def test_a_name_that_is_not_to_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreachable(source: str, **options: Any) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s [Retry 5/5].")
        raise OSError(f"We couldn't connect to load {source}\nmore lines")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(InputError, match=r"^--trunk nosuch: expected efficientnet-lite0.*connect to load nosuch\)$"):
        backbone_levels("nosuch", SIZE)
    assert not caplog.records


def test_the_pictures_it_was_trained_on_say_how_to_normalise(tmp_path: Path) -> None:
    kind, config = KINDS["resnet"]
    kind(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    made = small_on(len(TOKENIZER), str(tmp_path))
    assert made.trunk_mean_std == ((0.5,) * 3, (0.25,) * 3)
