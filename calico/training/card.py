"""One card for two: what a backend that serves and a training job beside it take together, before either starts.

All from the sizes of the model, as `calico.model.memory` estimates; a job is cut into micro-batches that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from calico.checkpoints.adapter import attach, choose_spec
from calico.model.builder import build
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.memory import Workload, finetuning_memory, serving_memory
from calico.training.finetune_settings import FinetuneSettings

CONTEXT_BYTES = 2**30  # of each process: the GPU's own, and what the allocator wastes
ROW_TOKENS = 260  # of a question about two images, its system prompt and its answer, at full size
ANSWER_TOKENS = 60
LEAST_MASKS = 8  # of a micro-batch
GIB = 2**30


@dataclass(frozen=True)
class JobSize:
    """A finetune in micro-batches. num_bytes: of all it takes of the card, its context included."""

    num_parts: int
    num_images: int
    max_seg_prompts: int
    num_bytes: int

    def of(self, settings: FinetuneSettings) -> FinetuneSettings:
        return replace(settings, num_parts=self.num_parts, max_seg_prompts=self.max_seg_prompts)

    def __str__(self) -> str:
        return f"{self.num_images} images and {self.max_seg_prompts} masks at once"


@dataclass(frozen=True)
class CardPlan:
    """Bytes of one card. serving: the model that answers, with its process. switch: while a version takes over from it.
    jobs: sizes of a training job, from the fastest to the smallest."""

    serving: int
    switch: int
    jobs: Sequence[JobSize]

    def job_beside(self, total: int) -> JobSize | None:
        """The fastest job that fits beside the model that serves, on a card of so many bytes."""
        return fitting(self.jobs, total - self.serving)

    def verdict(self, total: int, bits: int | None) -> tuple[str, bool]:
        """One line for people, and whether all of it fits."""
        job = self.job_beside(total)
        size = job or self.jobs[-1]
        line = (
            f"card of {total / GIB:.1f} GiB: serving takes about {self.serving / GIB:.1f}, a training job "
            f"{size.num_bytes / GIB:.1f} with {size}, a switch of versions {self.switch / GIB:.1f}"
        )
        if job is not None and self.switch <= total:
            return f"{line}: fits", True
        what = "a switch" if job is not None else "a job beside the model"
        fewer = "" if bits == 4 else "CALICO_LLM_BITS=4 takes less; "
        alone = "CALICO_TRAINING_CARD=alone lets the model rest while a job trains"
        return f"{line}: {what} will not fit; {fewer}{alone}", False


def job_sizes(
    config: CalicoConfig,
    settings: FinetuneSettings,
    bits: int | None,
    dtype: torch.dtype,
    model: CalicoModel | None = None,
) -> Iterator[JobSize]:
    """From as it is asked for to two images at a time with few masks; each costs time and changes no loss but by which
    masks are drawn. bits: of the frozen language model. model: of the config, without memory, if it is built."""
    with torch.device("meta"):
        model = (model or build(config)).requires_grad_(False)
        attach(model, choose_spec(model, config))
    batch, parts, masks = settings.batch, max(1, settings.num_parts), settings.max_seg_prompts
    while True:
        images = batch.num_images // parts
        rows = max(3, batch.num_groups // parts)
        clicks = max(1, batch.num_points // parts) + max(1, batch.num_boxes // parts)
        work = Workload(images, rows, ROW_TOKENS, 2, rows * ANSWER_TOKENS, masks + clicks)
        estimate = finetuning_memory(
            model, config, dtype, bits, work, checkpointing=settings.gradient_checkpointing
        ).total
        yield JobSize(parts, images, masks, estimate + CONTEXT_BYTES)
        if images // 2 >= 2:
            parts, masks = 2 * parts, max(LEAST_MASKS, masks // 2)
        elif masks > LEAST_MASKS:
            masks = max(LEAST_MASKS, masks // 2)
        else:
            return


def fitting(sizes: Sequence[JobSize], free: int) -> JobSize | None:
    """The first that takes no more than `free` bytes."""
    return next((size for size in sizes if size.num_bytes <= free), None)


def plan_card(config: CalicoConfig, settings: FinetuneSettings, bits: int | None, dtype: torch.dtype) -> CardPlan:
    """bits: of the language model, of both."""
    with torch.device("meta"):
        model = build(config).requires_grad_(False)
    one = serving_memory(model, config, dtype, bits, Workload())
    serving = one.total + CONTEXT_BYTES
    jobs = job_sizes(config, settings, bits, dtype, model)
    return CardPlan(serving, serving + sum(one.weights.values()), list(jobs))
