"""How a finetune is done: its length, its rates, what of it goes into memory, how often it is looked at. The defaults
are the small model's; for other presets ask `calico.training.recipe`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from calico.training.batches import BatchSettings
from calico.training.losses import SMALL_MODEL_WEIGHTS, LossWeights
from calico.training.run_settings import RunSettings

BATCH = BatchSettings(
    num_images=18,
    num_groups=20,
    num_points=8,
    num_boxes=6,
    size_weights=(0.42, 0.29, 0.29),
    none_shares=(0.45, 0.23, 0.52),
    common_object_share=0.3,
    mixed_share=0.45,
    same_class_shares=(1.0, 0.7, 0.5),
)


@dataclass(frozen=True)
class FinetuneSettings(RunSettings):
    """One finetune. Of `steps`, 0 leave the weights as they are and fit the part memory alone.

    learning_rate: of LoRA. whole_share: of it, for what is held as a whole: it starts trained, LoRA starts at zero.
    bits: of the frozen language model's linears, 8, or 4 with bitsandbytes; on a GPU they bring bfloat16 along.
    replay_share: of the images and questions of a batch, those of base data, against forgetting.
    anchored: on base data alone, hold it to what its start would answer (`calico.training.retention`), not to the
    truth.
    accepted_as_is: weight of predictions that were submitted untouched. part_memory: fit one at the end
    (`calico.part_memory`).
    """

    minutes: float = 8.0
    learning_rate: float = 6e-4
    whole_share: float = 0.25
    warmup_steps: int = 10
    clip_norm: float = 1.0
    precision: str = "auto"
    bits: int | None = None
    batch: BatchSettings = BATCH
    num_workers: int = 0
    max_seg_prompts: int = 28
    weights: LossWeights = field(default_factory=lambda: replace(SMALL_MODEL_WEIGHTS, auxiliary=0.0))
    replay_share: float = 0.75
    anchored: bool = True
    accepted_as_is: float = 0.25
    num_validations: int = 10
    patience: int = 4
    max_validation_groups: int = 24
    part_memory: bool = True
    save_seconds: float = 20.0
    log_steps: int = 5
