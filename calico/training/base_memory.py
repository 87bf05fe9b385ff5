"""Fits a checkpoint's own memory (`calico.part_memory.base`): one head over all names of an index, on the trunk's maps.

Each image is read once as it is and once mirrored; drawings are nothing of these names, so that the language model
keeps what it knows. On groups of other images what the head gives is made chances and estimates of IoU, and how far the
language model is to be believed is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.correspondence import truth_of
from calico.drawings import draw
from calico.errors import InputError
from calico.inference.reconcile import reconcile
from calico.inference.segmenter import CoSegmenter
from calico.masks import iou
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory.base import UNKNOWN_SHARE, BaseMemory, chances_of
from calico.part_memory.descent import descend
from calico.part_memory.head import PartHead, folded
from calico.part_memory.lessons import TaughtName, balanced, places_of
from calico.part_memory.memory import Belief, MemoryCard, NameEstimate, SeenRegion
from calico.part_memory.pyramid import PyramidFeatures, PyramidReader
from calico.values import AnnotatedImage, ImageGroup

LEAST_AREA = 0.002  # of an image: smaller ones are not seen
DRAWING_SEED = 10_000
DRAWING_SIDES = 128, 320  # in pixels: what is drawn small is blurred by the time that it is looked at
LIKENESS_STEP = 10  # of the images, which the likeness is fitted on
LIKENESS_DECAY = 1e-3
MIN_LINE = 20  # confidences to draw a line through
SHARPNESS = (0.6, 0.8, 1.0, 1.2, 1.5)
UNKNOWN = (0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
ALIKE = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
TRUST = tuple(k / 50 for k in range(1, 51))


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
    others: list[np.ndarray] = []

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
        if done % LIKENESS_STEP == 0:
            others.append(item.image)
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
    return BaseMemory([head], card, fit_likeness(model, config, others))


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

    def loss() -> Tensor:
        chosen = torch.randint(len(rows), (settings.rows_per_step,))
        inputs = (rows[chosen].float() - mean) / scale
        inputs = inputs + noise * torch.randn_like(inputs)
        hidden = F.dropout(F.relu(head.first(inputs)), settings.dropout)
        return F.cross_entropy(head.second(hidden), codes[chosen], weight=weights)

    def done(step: int) -> None:
        on_progress("fitting", step)

    descend(head.parameters(), loss, settings.steps, settings.learning_rate, settings.weight_decay, done)
    return folded(head, mean, torch.diag(1 / scale))


def fit_likeness(model: CalicoModel, config: CalicoConfig, others: Sequence[np.ndarray]) -> nn.Linear:
    """Logistic regression on the mean of the coarsest map: above 0 for drawings, below for these other images."""
    reader = PyramidReader(model, config, config.grounding_encoder.image_size, has_context=True)
    sides = np.linspace(*DRAWING_SIDES, len(others)).round().astype(int).tolist()
    shapes = [((side, side), (side, side * 3 // 4), (side * 3 // 4, side))[k % 3] for k, side in enumerate(sides)]
    drawn = [draw(DRAWING_SEED + k, size_hw=shape).image for k, shape in enumerate(shapes)]
    rows = torch.stack([reader(image).maps[-1].flatten().float() for image in (*drawn, *others)])
    truth = torch.cat([torch.ones(len(drawn)), torch.zeros(len(others))])
    mean, scale = rows.mean(0), rows.std(0) + 1e-3
    rows = (rows - mean) / scale
    probe = nn.Linear(rows.shape[1], 1)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(probe(rows)[:, 0], truth)
        total: Tensor = fit + LIKENESS_DECAY * probe.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        probe.weight.div_(scale)
        probe.bias.sub_(probe.weight @ mean)
    return probe.eval().requires_grad_(False)


def calibrated(memory: BaseMemory, segmenter: CoSegmenter, groups: Iterable[Sequence[AnnotatedImage]]) -> BaseMemory:
    """With a belief, and with confidences that are estimates of IoU where the object is called right. groups: of images
    that the head has not seen, none drawn; their objects are what it knows.

    What it does with what it does not know is learnt on the same images, with their objects left out of its choice.
    segmenter: of the same weights, without memories.
    """
    plain = replace(memory.card, estimates=(NameEstimate(cutoff=0.0),) * len(memory.card.names), belief=Belief())
    memory = memory.with_card(plain)
    reader = PyramidReader(segmenter.model, segmenter.config, plain.size, has_context=True)
    names = plain.object_names
    seen: list[tuple[Tensor, list[int]]] = []
    pairs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}  # of objects, of parts: confidence, IoU
    said: list[_Heard] = []
    for group in groups:
        looks = [reader(item.image) for item in group]
        masses = torch.stack([memory.masses(look, memory.codes.values()) for look in looks])
        truth = [names.index(item.object_name) for item in group]
        seen.append((masses, truth))
        for look, item, mass, place in zip(looks, group, masses, truth, strict=True):
            if int(mass.argmax()) == place:
                size_hw = item.image.shape[0], item.image.shape[1]
                sight = memory.sight_as(item.object_name, look, size_hw)
                for part, overlap, confidence in _overlaps(item, {} if sight is None else sight.regions):
                    if confidence > 0:
                        pairs[part is None].append((confidence, overlap))
        said.append(_Heard(group, [look.half() for look in looks], list(_said(segmenter, group))))
    lines = {is_object: _line(rows) for is_object, rows in pairs.items()}
    estimates = tuple(
        replace(estimate, factor=lines[name.part is None][0], offset=lines[name.part is None][1])
        for name, estimate in zip(memory.card.names, memory.card.estimates, strict=True)
    )
    card = replace(memory.card, estimates=estimates, belief=_likeliest(seen) if seen else Belief())
    memory = memory.with_card(card)
    card = replace(card, belief=replace(card.belief, language_trust=_trust(memory, said)))
    return memory.with_card(card)


def _trust(memory: BaseMemory, said: Sequence[_Heard]) -> float:
    """Where half of the images show what neither knows: the same, with their object left out of the memory's choice and
    nothing of what the language model says right."""
    everything: list[Said] = []
    scores: list[float] = []
    names = {*memory.card.object_names, *memory.card.part_names}
    for group, looks, own in said:
        sizes_hw = [(item.image.shape[0], item.image.shape[1]) for item in group]
        objects = {item.object_name for item in group}
        if len(objects) > 1:
            continue
        wrong = [Said(one.object_score, [(score, 0.0) for score, _ in one.pairs]) for one in own]
        for answers, known in ((own, names), (wrong, names - objects)):
            everything += answers
            scores += [0.0 if sight is None else sight.object.score for sight in memory.sights(looks, sizes_hw, known)]
    return trust_of(everything, scores)


def _likeliest(seen: Sequence[tuple[Tensor, Sequence[int]]]) -> Belief:
    """Of a grid, where `UNKNOWN_SHARE` of the images show what the memory does not know: one object a group, as a
    team's images do, so that mistakes agree as well.

    seen: of groups, masses and the places of the true objects.
    """

    def doubt(belief: Belief) -> float:
        known: list[Tensor] = []
        unknown: list[Tensor] = []
        for masses, truth in seen:
            known.append(chances_of(masses, belief)[range(len(truth)), torch.tensor(truth) + 1])
            if len(set(truth)) == 1:
                unknown.append(chances_of(masses.index_fill(1, torch.tensor(truth), 0.0), belief)[:, 0])
        doubts = [-float(torch.cat(chances).log().mean()) if chances else 0.0 for chances in (known, unknown)]
        return (1 - UNKNOWN_SHARE) * doubts[0] + UNKNOWN_SHARE * doubts[1]

    return min((Belief(*numbers) for numbers in product(SHARPNESS, UNKNOWN, ALIKE)), key=doubt)


def _line(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Factor and offset, by least squares, of confidences that estimate IoU."""
    confidence, overlap = (np.array([row[k] for row in rows], float) for k in (0, 1))
    if len(rows) < MIN_LINE or confidence.std() < 1e-3:
        return (round(float(overlap.mean() / confidence.mean()), 4), 0.0) if len(rows) else (0.0, 0.0)
    factor, offset = np.polyfit(confidence, overlap, 1)
    return round(float(factor), 4), round(float(offset), 4)


class Said(NamedTuple):
    """What the language model says of an image: its score of the object, and score and IoU of all that it names."""

    object_score: float
    pairs: Sequence[tuple[float, float]]


class _Heard(NamedTuple):
    """Of a group: its images, how they look to the memory, and what the language model says of each."""

    group: Sequence[AnnotatedImage]
    looks: Sequence[PyramidFeatures]
    said: Sequence[Said]


def _said(segmenter: CoSegmenter, group: Sequence[AnnotatedImage]) -> Iterator[Said]:
    images = ImageGroup(tuple(item.image for item in group))
    truth = truth_of(group).by_key
    regions = reconcile(images.sizes_hw, segmenter.answer(images, constrained=False)).regions
    for image in range(len(group)):
        own = [region for region in regions if region.image == image]
        yield Said(
            max((region.score for region in own if region.part_name is None), default=0.0),
            [(r.score, iou(r.mask, truth[r.key].mask) if r.key in truth else 0.0) for r in own],
        )


def trust_of(said: Sequence[Said], object_scores: Sequence[float]) -> float:
    """The factor by which the language model's scores are IoUs on those images on which it is believed at this factor:
    whoever is believed because of a high score promised too much more often than not.

    object_scores: of each image, the memory's estimate of its object's IoU.
    """

    def ratio(pairs: Sequence[tuple[float, float]]) -> float:
        return sum(overlap for _, overlap in pairs) / max(1e-6, sum(score for score, _ in pairs))

    def gap(trust: float) -> float:
        believed = (own.object_score * trust >= score for own, score in zip(said, object_scores, strict=True))
        pairs = [pair for own, is_believed in zip(said, believed, strict=True) if is_believed for pair in own.pairs]
        return abs(trust - ratio(pairs)) if len(pairs) >= MIN_LINE else math.inf

    best = min(TRUST, key=gap)
    if math.isinf(gap(best)):
        best = min(1.0, ratio([pair for own in said for pair in own.pairs]))
    return round(best, 4)


def measured(
    memory: BaseMemory, model: CalicoModel, config: CalicoConfig, items: Iterable[AnnotatedImage]
) -> dict[str, float]:
    """What it knows of images alone. items: that the head has not seen."""
    reader = PyramidReader(model, config, memory.card.size, has_context=True)
    parts: list[float] = []
    certainties: list[float] = []
    right = 0
    for item in items:
        sight = memory.sight(reader(item.image), (item.image.shape[0], item.image.shape[1]))
        is_right = sight is not None and sight.object_name == item.object_name
        right += is_right
        certainties.append(0.0 if sight is None else sight.certainty)
        regions = sight.regions if sight is not None and is_right else {}
        parts += [overlap for part, overlap, _ in _overlaps(item, regions) if part is not None]
    n = len(certainties)
    return {
        "object_accuracy": right / max(1, n),
        "certainty": sum(certainties) / max(1, n),
        "part_iou": float(np.mean(parts)) if parts else 0.0,
        "n": n,
        "n_parts": len(parts),
    }


def _overlaps(item: AnnotatedImage, seen: Mapping[str | None, SeenRegion]) -> Iterator[tuple[str | None, float, float]]:
    """Part (None: the object), IoU (0 where it was not seen or is not there) and score (0 where it was not seen)."""
    masks = {mask.part_name: mask.mask for mask in item.masks(0)}
    for name in masks.keys() | seen.keys():
        overlap = iou(masks[name], seen[name].mask) if name in masks and name in seen else 0.0
        yield name, overlap, seen[name].score if name in seen else 0.0
