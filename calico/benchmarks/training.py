"""Steps a second and memory of training as `calico train` does it."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from calico.benchmarks.machine import peak_bytes, processor, reset_peak
from calico.language.tokenizer import CalicoTokenizer
from calico.model.config import PRESETS
from calico.training.batches import BatchSettings
from calico.training.loop import Phase, Trainer, TrainingSettings

WARM_UP = 2


def benchmark_training(
    preset: str, mode: str, num_steps: int, precision: str = "no", gradient_checkpointing: bool = False
) -> dict[str, Any]:
    """Random weights, drawings at the model's input size; the first steps are left out."""
    config = PRESETS[preset]()
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
    wall = [b[0] - a[0] for a, b in itertools.pairwise(times)][WARM_UP - 1 :]
    used = [b[1] - a[1] for a, b in itertools.pairwise(times)][WARM_UP - 1 :]
    return {
        "preset": f"{preset} with random weights",
        "mode": mode,
        "precision": precision,
        "processor": processor(),
        "num_steps": len(wall),
        "images_per_step": settings.batch.num_images,
        "groups_per_step": settings.batch.num_groups,
        "steps_per_second": 1 / statistics.median(wall),
        "processor_seconds_per_step": statistics.median(used),
        "peak_bytes": peak_bytes(),
    }
