"""By which recipe each preset trains, and which of its weights: by name, no more and no less."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import TOKENIZER, micro
from real_kinds import real_kinds
from test_finetune import group_of
from test_trunk import micro_small

from calico.checkpoints.adapter import attach, choose_spec, trained
from calico.correspondence import truth_of
from calico.data.groups import draw_group
from calico.model.builder import build
from calico.model.config import CalicoConfig, calico_7b
from calico.model.inputs import ModelInputs
from calico.model.modes import trained_share
from calico.training.batches import BatchSettings
from calico.training.corrected_groups import corrected
from calico.training.corrections import CorrectionBatches, drawings, reordered
from calico.training.losses import PAPER_WEIGHTS, SMALL_MODEL_WEIGHTS, dice_loss, text_loss
from calico.training.recipe import finetune_settings, training_settings
from calico.training.run_folder import is_noted, note_run
from calico.training.schedule import falling
from calico.training.step import TrainingStep
from calico.values import CoSegmentation

PAPER = (".lora_A.", ".lora_B.", "cem.", "cams.", "cam_queries", "pixel_decoder.mask_decoder.")


def test_full_size_trains_as_the_paper_says() -> None:
    for settings in (finetune_settings(calico_7b()), training_settings(calico_7b(), steps=5000)):
        assert (settings.learning_rate, settings.warmup_steps, settings.linear) == (4e-4, 100, True)
        assert (settings.weights.text, settings.weights.mask, settings.weights.dice) == (1.0, 2.0, 0.5)
        assert (settings.steps, settings.clip_norm, settings.gradient_checkpointing) == (5000, 1.0, True)
        assert settings.weights == PAPER_WEIGHTS
    assert finetune_settings(calico_7b()).whole_share == 1.0
    assert training_settings(calico_7b(), steps=1).mode == "paper"
    assert calico_7b().system_prompt.startswith("A chat between a curious user")


def test_the_small_model_trains_as_before_and_what_is_asked_for_counts() -> None:
    small = finetune_settings(micro())
    assert (small.learning_rate, small.linear, small.minutes, small.steps) == (6e-4, False, 8.0, None)
    assert small.weights == replace(SMALL_MODEL_WEIGHTS, auxiliary=0.0)
    asked = finetune_settings(calico_7b(), minutes=3.0, learning_rate=1e-5, bits=None)
    assert (asked.minutes, asked.steps, asked.learning_rate, asked.bits) == (3.0, None, 1e-5, None)
    assert training_settings(micro(), steps=2).phases[0].size == 64


@pytest.mark.parametrize("config", [real_kinds(), micro(), micro_small()], ids=lambda config: config.preset)
def test_gradients_reach_every_weight_that_trains_and_no_other(config: CalicoConfig) -> None:
    torch.manual_seed(0)
    model = build(config)
    attach(model, choose_spec(model, config))
    model.train()
    images = draw_group(4, group_size=2, size=48)
    groups = [corrected(group_of(1, images), [item.image for item in images], 48, 1.0)]
    batch_settings = BatchSettings(num_images=4, num_groups=6, num_points=2, num_boxes=2)
    batches = CorrectionBatches(groups, drawings, TOKENIZER, batch_settings, ModelInputs.from_config(config), 0)
    settings = finetune_settings(config)
    size = config.grounding_encoder.image_size
    TrainingStep(model, None, settings.weights, size, 8)(batches.batch(0)).loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in model.named_parameters() if p.requires_grad}
    names = set(trained(model))
    assert {part for part in PAPER if any(part in f".{name}" or name.startswith(part) for name in names)} == set(PAPER)
    if config.is_full_size:
        assert all(any(part in name for part in PAPER) for name in names)
        lora = {name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}
        assert lora == {"q_proj", "v_proj"}
    else:
        assert any(name.startswith("llm.lm_head") or "embed_tokens" in name for name in names)
        assert not any(name.startswith("trunk.") for name in names)


def test_the_papers_share_of_the_weights_trains() -> None:
    with torch.device("meta"):
        model = build(calico_7b())
        attach(model, choose_spec(model, calico_7b()))
    num_trained, num_weights = trained_share(model)
    assert 27e6 < num_trained < 30e6
    assert 0.003 < num_trained / num_weights < 0.0034


def test_the_rate_falls_as_asked() -> None:
    assert [falling(p, linear=True, least=0.02) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert falling(1.0, linear=False, least=0.02) == pytest.approx(0.02)
    assert falling(0.5, linear=False, least=0.0) == pytest.approx(0.5)


def test_losses_of_the_papers_family() -> None:
    logits, targets = torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)
    assert float(text_loss(logits, targets, None)) == pytest.approx(math.log(4))
    assert float(text_loss(logits, targets, 2)) == pytest.approx(3 * math.log(4))
    empty, valid = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    nothing = torch.full((1, 4, 4), -50.0)
    assert float(dice_loss(nothing, empty, valid, 1e-3)) == pytest.approx(0.0, abs=1e-4)
    half = torch.zeros(1, 4, 4)
    assert float(dice_loss(half, valid, valid, 1e-3)) == pytest.approx(1 - 16 / 24, abs=1e-3)


def test_images_in_another_order_say_the_same() -> None:
    images = draw_group(4, group_size=3, size=40)
    truth = truth_of(images)
    order = [2, 0, 1]
    moved = reordered(truth, order)
    expected: CoSegmentation = truth_of([images[k] for k in order])
    assert {r.key: r.correspondence for r in moved.regions} == {r.key: r.correspondence for r in expected.regions}
    assert all(np.array_equal(moved.by_key[key].mask, expected.by_key[key].mask) for key in expected.by_key)


def test_a_setting_that_came_later_does_not_make_a_run_another(tmp_path) -> None:  # type: ignore[no-untyped-def]
    note_run(tmp_path, {"settings": {"steps": 4, "weights": {"text": 1.0}}})
    later = {"settings": {"steps": 4, "linear": False, "weights": {"text": 1.0, "dice_pixels": 0.0}}}
    assert is_noted(tmp_path, later)
    with pytest.raises(Exception, match=r"other settings\.linear"):
        is_noted(tmp_path, {"settings": {**later["settings"], "linear": True}})
