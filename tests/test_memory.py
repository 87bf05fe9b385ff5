"""The memory estimate against what torch holds: weights to the byte, activations within a factor of two."""

from __future__ import annotations

import logging

import pytest
import torch
from micro import TOKENIZER

from calico.checkpoints.adapter import attach, choose_spec
from calico.checkpoints.files import load_checkpoint
from calico.model import memory
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import calico_7b, calico_tiny
from calico.model.inputs import ModelInputs
from calico.model.memory import Workload, finetuning_memory, held_bytes, num_tokens, serving_memory, weight_bytes
from calico.model.modes import train_mode
from calico.model.precision import quantise_llm
from calico.training import preflight
from calico.training.batches import BatchSettings, TrainingBatch
from calico.training.losses import LossWeights
from calico.training.preflight import tell_memory, workload_of
from calico.training.sources import Batches, DrawnImages
from calico.training.step import TrainingStep
from scripts import model as verb

CONFIG = calico_tiny(len(TOKENIZER))


def held(model: CalicoModel) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, None), (torch.bfloat16, None), (torch.float32, 8)])
def test_weights_are_counted_to_the_byte(dtype: torch.dtype, bits: int | None) -> None:
    model, config, _ = load_checkpoint(None, dtype=dtype)
    with torch.device("meta"):
        estimated = weight_bytes(build(config).requires_grad_(False), dtype, bits)
    if bits:
        quantise_llm(model, bits, "cpu")
    assert sum(estimated.values()) == held(model)
    assert estimated == held_bytes(model)
    assert estimated["llm"] == sum(t.nbytes for t in (*model.llm.parameters(), *model.llm.buffers()))


@pytest.fixture(scope="module")
def batch() -> TrainingBatch:
    settings = BatchSettings(num_images=2, num_groups=3, num_points=2, num_boxes=2)
    return Batches(DrawnImages(), TOKENIZER, settings, ModelInputs.from_config(CONFIG, 128), seed=5).batch(0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_within_a_factor_of_two(batch: TrainingBatch, checkpointing: bool) -> None:
    torch.manual_seed(0)
    model = build(CONFIG)
    attach(model, choose_spec(model, CONFIG))
    train_mode(model, "paper")
    if checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    estimate = finetuning_memory(model, CONFIG, torch.float32, None, workload_of(batch, 4), checkpointing=checkpointing)
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its address

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        TrainingStep(model, None, LossWeights(), 128, 4)(batch)
    counted = sum(storage.nbytes() for storage in kept.values())
    expected = estimate.rest["activations"]
    assert counted / 2 < expected < counted * 2


def test_a_device_with_less_is_warned_of_and_not_refused(
    batch: TrainingBatch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = build(CONFIG)
    attach(model, choose_spec(model, CONFIG))
    monkeypatch.setattr(preflight, "free_bytes", lambda device: 2**40)
    tell_memory(model, CONFIG, batch, 4)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    monkeypatch.setattr(preflight, "free_bytes", lambda device: 2**20)
    tell_memory(model, CONFIG, batch, 4)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20


def test_the_full_size_has_its_known_sums(capsys: pytest.CaptureFixture[str]) -> None:
    config, work = calico_7b(), Workload()
    with torch.device("meta"):
        model = build(config).requires_grad_(False)
    whole, four = (serving_memory(model, config, torch.bfloat16, bits, work) for bits in (None, 4))
    assert whole.rest["keys and values"] == 512 * 1024 * work.num_rows * work.row_tokens
    assert (num_tokens(config.global_encoder), num_tokens(config.semantic_encoder)) == (257, 1369)
    assert whole.rest["SAM attention"] == 2 * 2 * 16 * 4096**2 * 2
    linears = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert whole.total - four.total == round(linears * (2 - 0.5625))
    assert four.total < 16 * 2**30
    assert verb.main(["--memory", "--mode", "all"]) == 2
    assert verb.main(["--memory", "--preset", "calico-small", "--bits", "8"]) == 0
    assert "language model in 8 bits" in capsys.readouterr().out
