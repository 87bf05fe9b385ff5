"""What every training run is asked for, of a whole model or of an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from calico.training.batches import BatchSettings
from calico.training.losses import SMALL_MODEL_WEIGHTS, LossWeights


@dataclass(frozen=True)
class RunSettings:
    """Its length is `steps`, or `cpu_minutes` of this process's own, which a busy machine does not shorten, or
    `minutes` of training time: the first of them that is given.

    learning_rate: its peak. batch: of a whole step. num_parts: micro-batches of a step at its start, each with its
    share of the batch; 0: one. precision: `bf16` or `no`; or `auto`, bfloat16 where the device is faster in it.
    num_workers: processes that make batches ahead; 0: they are made when they are needed.
    num_validations: how often in the run the validation batches are looked at, where there are any. patience: stop
    after so many looks without a better one. save_seconds: of training between saves.
    """

    minutes: float | None = None
    steps: int | None = None
    cpu_minutes: float | None = None
    seed: int = 0
    learning_rate: float = 1.2e-3
    warmup_steps: int = 80
    linear: bool = False  # the rate falls linearly to 0, else by half a cosine
    clip_norm: float = 2.0
    precision: str = "no"
    gradient_checkpointing: bool = False  # less memory, more time
    batch: BatchSettings = field(default_factory=BatchSettings)
    num_workers: int = 1
    num_parts: int = 0
    max_seg_prompts: int = 44  # masks trained of a micro-batch
    weights: LossWeights = SMALL_MODEL_WEIGHTS
    num_validations: int = 0
    patience: int = 0
    save_seconds: float = 180.0
    log_steps: int = 20
