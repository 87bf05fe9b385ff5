"""By which recipe each preset trains, unless told otherwise: the paper's at full size, our own for the small model.

The paper's (its supplement, and the code that it builds on): AdamW at 4e-4 without weight decay, 100 warm-up steps,
then linear to 0 over 5,000 steps of 40 images, losses 1 text, 2 mask and 0.5 Dice, gradients clipped at 1, LoRA with
r = 8 on q and v. What of it differs here: docs/differences.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from calico.model.config import CalicoConfig
from calico.training.batches import BatchSettings
from calico.training.finetune_settings import FinetuneSettings
from calico.training.losses import PAPER_WEIGHTS
from calico.training.trainer import Phase, TrainingSettings

PAPER_STEPS = 5_000
PAPER_BATCH = BatchSettings(
    num_images=40,
    num_groups=60,  # twenty pairs, three questions each
    num_points=10,
    num_boxes=10,
    size_weights=(1.0, 0.0, 0.0),
    dropout_share=0.0,  # a Llama tokenizer spells in one way
    varied_answers=1.0,
    reordered_share=0.5,
    distorted_share=0.0,
)
PAPER_PARTS = 10  # micro-batches of a step
NUM_WORKERS = 4  # make batches of large pictures while a GPU trains
_PAPER_RATE: dict[str, Any] = {"learning_rate": 4e-4, "warmup_steps": 100, "linear": True, "clip_norm": 1.0}


def finetune_settings(config: CalicoConfig, **given: Any) -> FinetuneSettings:
    """given: settings that somebody asked for; None is none. `minutes` or `steps`: the other does not count then."""
    recipe = FinetuneSettings()
    if config.is_full_size:
        recipe = FinetuneSettings(
            steps=PAPER_STEPS,
            whole_share=1.0,
            gradient_checkpointing=True,
            batch=PAPER_BATCH,
            num_parts=PAPER_PARTS,
            num_workers=NUM_WORKERS,
            max_seg_prompts=40,
            weights=PAPER_WEIGHTS,
            **_PAPER_RATE,
        )
    return _with(recipe, given)


def training_settings(config: CalicoConfig, **given: Any) -> TrainingSettings:
    """As `finetune_settings`. Its length is asked for in any case."""
    recipe = TrainingSettings()
    if config.is_full_size:
        recipe = TrainingSettings(
            mode="paper",
            weight_decay=0.0,
            gradient_checkpointing=True,
            phases=(Phase(1.0, config.grounding_encoder.image_size),),
            batch=PAPER_BATCH,
            num_parts=PAPER_PARTS,
            max_seg_prompts=40,
            weights=PAPER_WEIGHTS,
            num_workers=NUM_WORKERS,
            **_PAPER_RATE,
        )
    return _with(recipe, given)


def _with(recipe: Any, given: dict[str, Any]) -> Any:
    values = {name: value for name, value in given.items() if value is not None}
    if "minutes" in values or "cpu_minutes" in values:
        values.setdefault("steps", None)
    return replace(recipe, **values)
