"""Steps a second and memory of training as `calico train` does it, and of an adapter as `calico finetune` does."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import peak_bytes, processor, reset_peak
from benchmarks.workload import config_of, random_model
from calico.checkpoints.adapter import attach, choose_spec, trained
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.inputs import ModelInputs
from calico.model.memory import finetuning_memory, held_bytes
from calico.model.modes import train_mode
from calico.model.precision import check_bits, quantise_llm, uses_bf16, widen_trained
from calico.training.batches import BatchSettings
from calico.training.preflight import workload_of
from calico.training.recipe import finetune_settings
from calico.training.sources import Batches, DrawnImages
from calico.training.step import TrainingStep
from calico.training.trainer import Phase, Trainer, TrainingSettings

WARM_UP = 2


def benchmark_training(
    preset: str, mode: str, num_steps: int, precision: str = "no", gradient_checkpointing: bool = False
) -> dict[str, Any]:
    """Random weights, drawings at the model's input size; the first steps are left out."""
    config = config_of(preset)
    tokenizer = CalicoTokenizer.train()
    size = config.grounding_encoder.image_size
    settings = TrainingSettings(
        steps=num_steps + WARM_UP,
        mode=mode,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        phases=(Phase(1.0, size),),
        batch=BatchSettings(),
        num_workers=0,
    )
    times: list[tuple[float, float]] = []
    reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), settings, config, tokenizer)
        trainer.run(lambda *_: times.append((time.perf_counter(), time.process_time())))
        report = _report(times, settings.batch)
        ratio = _lots_to_whole(trainer, num_steps)
    about = {"preset": f"{preset} with random weights", "mode": mode, "precision": precision}
    return about | report | {"lots_to_whole": ratio}


def _lots_to_whole(trainer: Trainer, num_steps: int) -> float:
    """Time of a step's losses and gradients with its rows read in lots, to that with all rows padded to the longest:
    the median over steps, both on the same batch by turns; processor seconds on a CPU."""
    device, settings, model = trainer.device, trainer.settings, trainer.model
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    inputs = ModelInputs.from_config(trainer.config)
    data = Batches(DrawnImages(), trainer.tokenizer, settings.batch, inputs, 1)
    ratios = []
    for number in range(num_steps):
        batch, seconds = data.batch(number).to(device), {}
        for max_lots in (CalicoModel.max_lots, 1) if number % 2 else (1, CalicoModel.max_lots):
            model.max_lots = max_lots
            started = clock()
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(settings.precision, device)):
                loss = trainer.step_module(batch).loss
            loss.backward()
            float(loss.detach())  # waits for the device
            seconds[max_lots] = clock() - started
            trainer.optimizer.zero_grad()
        ratios.append(seconds[CalicoModel.max_lots] / seconds[1])
    model.max_lots = CalicoModel.max_lots
    return statistics.median(ratios)


def benchmark_adapter(
    preset: str, num_steps: int, bits: int | None, gradient_checkpointing: bool, num_images: int
) -> dict[str, Any]:
    """An adapter over frozen random weights, in bfloat16 on a GPU; drawings, with three questions for two images.

    `estimated_bytes`: what `calico.model.memory` says of the first step, to hold `peak_bytes` against (on a GPU).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_bits(bits, device)
    config = config_of(preset)
    settings = finetune_settings(config)
    size = config.grounding_encoder.image_size
    batch = BatchSettings(num_images, max(3, num_images * 3 // 2), num_images, num_images)
    reset_peak()
    model = random_model(config, device)
    attach(model, choose_spec(model, config))
    if bits is not None:
        quantise_llm(model, bits, device)
    widen_trained(model)
    parameters = list(trained(model).values())
    if gradient_checkpointing:
        model.llm.gradient_checkpointing_enable({"use_reentrant": False})
    step = TrainingStep(model, None, settings.weights, size, settings.max_seg_prompts).to(device)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
    times: list[tuple[float, float]] = []
    data = Batches(DrawnImages(), CalicoTokenizer.train(), batch, ModelInputs.from_config(config), 0)
    for number in range(num_steps + WARM_UP):
        train_mode(model, "paper")
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = step(data.batch(number).to(device)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())  # waits for the device
        times.append((time.perf_counter(), time.process_time()))
    work = workload_of(data.batch(0), settings.max_seg_prompts)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    estimate = finetuning_memory(model, config, dtype, None, work, checkpointing=gradient_checkpointing)
    estimated = sum(estimate.rest.values()) + sum(held_bytes(model).values())
    about = {"preset": f"{preset} with random weights", "mode": "adapter", "llm_bits": bits}
    about |= {"estimated_bytes": estimated}
    return about | {"gradient_checkpointing": gradient_checkpointing} | _report(times, batch)


def _report(times: Sequence[tuple[float, float]], batch: BatchSettings) -> dict[str, Any]:
    """times: wall and processor seconds after each step."""
    wall = [b[0] - a[0] for a, b in itertools.pairwise(times)][WARM_UP - 1 :]
    used = [b[1] - a[1] for a, b in itertools.pairwise(times)][WARM_UP - 1 :]
    return {
        "processor": processor(),
        "num_steps": len(wall),
        "images_per_step": batch.num_images,
        "groups_per_step": batch.num_groups,
        "steps_per_second": 1 / statistics.median(wall),
        "processor_seconds_per_step": statistics.median(used),
        "peak_bytes": peak_bytes(),
    }
