"""New encoders taught to give what a checkpoint's encoders give, so that all behind them understands them at once.

Teacher and pupil see the same frame, each at its own size and normalised its own way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calico.checkpoints.files import load_checkpoint
from calico.model.calico import CalicoModel, Pixels
from calico.model.config import CalicoConfig
from calico.model.precision import uses_bf16
from calico.model.preprocessing import CLIP_MEAN_STD, IMAGENET_MEAN_STD, SAM_MEAN_STD, Preprocessor
from calico.training.batches import stacked
from calico.training.mixed_batches import MixedBatches
from calico.training.run_folder import add_to_log
from calico.values import AnnotatedImage

logger = logging.getLogger(__name__)
NUM_IMAGES = 16
LEARNING_RATE = 2e-3
WARMUP = 30
Told = Callable[[int, dict[str, float], float], None]


class Teacher:
    """A checkpoint's encoders, at their own size."""

    def __init__(self, start: Path) -> None:
        self.model, self.config, _ = load_checkpoint(start)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> dict[str, Tensor]:
        """frames: I x 3 x S x S in 0 to 1. Tokens, embedding and fine maps, by name."""
        size = self.config.grounding_encoder.image_size
        small = F.interpolate(frames, size=(size, size), mode="area")
        views = (_normalised(small, mean_std) for mean_std in (CLIP_MEAN_STD, IMAGENET_MEAN_STD, SAM_MEAN_STD))
        return outputs(self.model, Pixels(*views))


def outputs(model: CalicoModel, pixels: Pixels) -> dict[str, Tensor]:
    """What the three encoders give, by name."""
    views = model.views(pixels)
    grounding = model.grounding_encoder(views.grounding_view)
    return {
        "global": model.global_encoder(views.global_view),
        "semantic": model.semantic_encoder(views.semantic_view),
        "embedding": grounding.embedding,
        "fine_half": grounding.fine[0],
        "fine_full": grounding.fine[1],
    }


def losses(found: dict[str, Tensor], told: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each output, the squared error over the teacher's variance; maps of another size are averaged to its own.

    Tokens have to be as many as the teacher's.
    """
    terms = {}
    for name, target in told.items():
        own = found[name].float()
        if own.dim() == 4 and own.shape != target.shape:
            own = F.adaptive_avg_pool2d(own, (target.shape[2], target.shape[3]))
        terms[name] = F.mse_loss(own, target) / target.var().clamp(min=1e-6)
    return terms


def distil(
    model: CalicoModel,
    config: CalicoConfig,
    start: Path,
    batches: MixedBatches,
    minutes: float,
    log: Path,
    precision: str = "auto",
    on_step: Told | None = None,
) -> None:
    """Trains the encoders behind the trunk for so many minutes; all else stays. log: a line of JSON every 20 steps."""
    teacher, preprocess = Teacher(start), Preprocessor.from_config(config)
    device = model.device
    trained = [
        p
        for name, p in model.named_parameters()
        if name.startswith(("global_encoder.", "semantic_encoder.", "grounding_encoder."))
    ]
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    model.train()
    started, step = time.monotonic(), 0
    window: list[dict[str, float]] = []
    while (share := (time.monotonic() - started) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1.02 + np.cos(np.pi * share))
        rng = np.random.default_rng(np.random.SeedSequence([batches.seed, 2**31, step]))
        images = batches.images(rng, NUM_IMAGES)
        pixels = Pixels(*(view.to(device) for view in stacked([preprocess(image.image) for image in images])))
        told = teacher(_frames(images, config.grounding_encoder.image_size).to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device)):
            found = outputs(model, pixels)
        terms = losses(found, told)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()
        step += 1
        window.append({"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}})
        if len(window) == 20:
            row: dict[str, Any] = {"step": step, "seconds": time.monotonic() - started}
            add_to_log(log, row, window)
            window = []
        if on_step:
            on_step(step, {name: float(term.detach()) for name, term in terms.items()}, share)
    logger.info("distilled for %d steps", step)


def _frames(images: list[AnnotatedImage], size: int) -> Tensor:
    """I x 3 x S x S in 0 to 1, padded as the grounding branch pads."""
    plain = Preprocessor(size, size, size, ((0.0,) * 3, (1.0,) * 3))
    return stacked([plain(image.image) for image in images]).grounding_view


def _normalised(frames: Tensor, mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in mean_std)
    return (frames - mean) / std
