"""Before a finetune starts: what it will take of the device's memory, and whether that is there."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import torch

from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.memory import MemoryEstimate, Workload, finetuning_memory, free_bytes, held_bytes
from calico.training.batches import TrainingBatch

logger = logging.getLogger(__name__)


def workload_of(batch: TrainingBatch, max_seg_prompts: int) -> Workload:
    """What one step over this batch holds at once."""
    prompts = batch.prompts
    num_rows, row_tokens = prompts.token_ids.shape
    num_masks = min(len(batch.seg_value), max_seg_prompts) + len(batch.points.image) + len(batch.boxes.image)
    return Workload(
        num_images=len(batch.part_maps),
        num_rows=num_rows,
        row_tokens=row_tokens,
        images_per_row=math.ceil(len(prompts.slots.row) / num_rows),
        answer_tokens=0 if prompts.labels is None else int((prompts.labels != -100).sum()),
        num_masks=num_masks,
    )


def tell_memory(
    model: CalicoModel,
    config: CalicoConfig,
    batch: TrainingBatch,
    max_seg_prompts: int,
    *,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> MemoryEstimate:
    """Logs one line; a second, as a warning, where the device has less free. For a model that is already loaded.

    dtype: that is computed in; the weights' own are counted as they are.
    """
    work = workload_of(batch, max_seg_prompts)
    estimate = finetuning_memory(model, config, dtype, None, work, checkpointing=checkpointing)
    estimate = replace(estimate, weights=held_bytes(model))
    held, more = sum(estimate.weights.values()), sum(estimate.rest.values())
    logger.info(
        "memory: about %.2f GiB (weights %.2f, training %.2f), estimated for %d images and %d rows of %d tokens a step",
        estimate.total / 2**30, held / 2**30, more / 2**30, work.num_images, work.num_rows, work.row_tokens,
    )  # fmt: skip
    free = free_bytes(model.device)
    if free is not None and more > free:
        logger.warning(
            "memory: training may take %.2f GiB and %s has %.2f free; the micro-batch is halved where it runs out",
            more / 2**30, model.device, free / 2**30,
        )  # fmt: skip
    return estimate
