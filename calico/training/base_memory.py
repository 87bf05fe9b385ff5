"""Fits a checkpoint's own memory (`calico.part_memory.base`): one head over all names of an index, on the trunk's maps.

Each image is read once as it is and once mirrored; drawings are nothing of these names, so that the language model
keeps what it knows. What the head is sure of is made an estimate of IoU on other images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calico.drawings import draw
from calico.errors import InputError
from calico.masks import iou
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory.base import BaseMemory
from calico.part_memory.head import PartHead, folded
from calico.part_memory.lessons import TaughtName, balanced, places_of
from calico.part_memory.memory import MemoryCard, NameEstimate, SeenRegion
from calico.part_memory.pyramid import PyramidReader
from calico.values import AnnotatedImage

LEAST_AREA = 0.002  # of an image: smaller ones are not seen
DRAWING_SEED = 10_000


@dataclass(frozen=True)
class BaseMemorySettings:
    """rows: of each image, and half as many of its mirror image. noise: on the context, in standard deviations, so that
    it does not decide alone. num_drawings: that are nothing of the names."""

    hidden: int = 160
    steps: int = 2500
    rows: int = 240
    rows_per_step: int = 4096
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.3
    noise: float = 0.3
    num_drawings: int = 300
    seed: int = 0


def fit_base_memory(
    model: CalicoModel,
    config: CalicoConfig,
    items: Iterable[AnnotatedImage],
    settings: BaseMemorySettings | None = None,
    on_progress: Callable[[str, int], None] = lambda what, done: None,
) -> BaseMemory:
    """items: with exact masks of what they name. The estimates are not made yet: `calibrated`. Raises `InputError`."""
    settings = settings or BaseMemorySettings()
    if not config.trunk:
        raise InputError("a checkpoint's own memory wants a model with a trunk; see calico train --trunk")
    size = config.grounding_encoder.image_size
    reader = PyramidReader(model, config, size, has_context=True)
    numbers: dict[TaughtName, int] = {}
    rng = np.random.default_rng(settings.seed)
    rows: list[Tensor] = []
    codes: list[Tensor] = []

    def read(image: np.ndarray, part_map: np.ndarray, table: np.ndarray, count: int) -> None:
        chosen = balanced(part_map, count, rng)
        features = reader(np.ascontiguousarray(image))
        rows.append(features.at(places_of(chosen, part_map.shape)).half())
        codes.append(torch.from_numpy(table[part_map.ravel()[chosen]]))

    for done, item in enumerate(items):
        names = [TaughtName(item.object_name, part) for part in (None, *item.part_names)]
        table = np.array([0, *(numbers.setdefault(name, len(numbers) + 1) for name in names)], np.int64)
        read(item.image, item.part_map, table, settings.rows)
        read(item.image[:, ::-1], item.part_map[:, ::-1], table, settings.rows // 2)
        on_progress("reading", done)
    if not numbers:
        raise InputError("the memory has nothing to learn: no image has a named object")
    for number in range(settings.num_drawings):
        drawn = draw(DRAWING_SEED + number, size_hw=(size, size)).image
        read(drawn, np.zeros(drawn.shape[:2], np.uint8), np.zeros(1, np.int64), settings.rows // 2)
    count, num_context = len(numbers), config.trunk_widths[-1]
    head = _fitted(torch.cat(rows), torch.cat(codes), count, num_context, settings, on_progress)
    card = MemoryCard(
        tuple(numbers), size, 0, len(rows), (LEAST_AREA,) * count, (NameEstimate(cutoff=0.0),) * count,
        has_context=True, is_base=True,
    )  # fmt: skip
    return BaseMemory([head], card)


def _fitted(
    rows: Tensor,
    codes: Tensor,
    num_names: int,
    num_context: int,
    settings: BaseMemorySettings,
    on_progress: Callable[[str, int], None],
) -> PartHead:
    """rows: M x D float16, the last `num_context` of them the mean of the coarsest map."""
    some = rows[:: max(1, len(rows) // 50_000)].float()
    mean, scale = some.mean(0), some.std(0) + 1e-3
    noise = torch.zeros(rows.shape[1])
    noise[-num_context:] = settings.noise
    counts = torch.bincount(codes, minlength=num_names + 1).float().clamp(min=1)
    weights = counts.rsqrt()
    weights *= counts.sum() / (weights * counts).sum()
    torch.manual_seed(settings.seed)
    head = PartHead(rows.shape[1], settings.hidden, num_names)
    optimizer = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        chosen = torch.randint(len(rows), (settings.rows_per_step,))
        inputs = (rows[chosen].float() - mean) / scale
        inputs = inputs + noise * torch.randn_like(inputs)
        hidden = F.dropout(F.relu(head.first(inputs)), settings.dropout)
        loss = F.cross_entropy(head.second(hidden), codes[chosen], weight=weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_progress("fitting", step)
    return folded(head, mean, torch.diag(1 / scale))


def calibrated(
    memory: BaseMemory, model: CalicoModel, config: CalicoConfig, items: Iterable[AnnotatedImage]
) -> tuple[BaseMemory, dict[str, float]]:
    """With the one factor that makes confidences estimates of IoU, and figures. items: that the head has not seen."""
    reader = PyramidReader(model, config, memory.card.size, has_context=True)
    scores: list[float] = []
    ious: list[float] = []
    parts: list[float] = []
    right = total = 0
    for item in items:
        sight = memory.sight(reader(item.image), (item.image.shape[0], item.image.shape[1]))
        total += 1
        if sight is not None:
            is_right = sight.object_name == item.object_name
            right += is_right
            scores.append(sight.object.score)
            ious.append(iou(item.part_map > 0, sight.object.mask) if is_right else 0.0)
        parts += _part_ious(item, None if sight is None or sight.object_name != item.object_name else dict(sight.parts))
    factor = sum(ious) / max(1e-6, sum(scores)) if ious else 1.0
    estimates = tuple(replace(estimate, factor=round(factor, 4)) for estimate in memory.card.estimates)
    part_iou = float(np.mean(parts)) if parts else 0.0
    figures = {"object_accuracy": right / max(1, total), "part_iou": part_iou, "n": total, "n_parts": len(parts)}
    return BaseMemory(memory.heads, replace(memory.card, estimates=estimates)), figures


def _part_ious(item: AnnotatedImage, seen: Mapping[str, SeenRegion] | None) -> Iterator[float]:
    """0 where a part was not seen or is not there."""
    masks = {name: item.part_map == k + 2 for k, name in enumerate(item.part_names)}
    regions = {} if seen is None else seen
    for name in masks.keys() | regions.keys():
        yield iou(masks[name], regions[name].mask) if name in masks and name in regions else 0.0
