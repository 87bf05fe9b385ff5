"""Fits a memory: three heads, each without a third of the groups, on which it is then measured; they answer together.

So the estimate costs no fit of its own. A second round of heads also reads what the first one sees around a pixel, on
images that it was not shown. With fewer than `MIN_FOLDED` separate groups one head learns from all of them, and nothing
is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calico.errors import InputError
from calico.masks import iou
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.model.preprocessing import FIXED_SIZE_KINDS
from calico.part_memory.context import at, context_of
from calico.part_memory.descent import descend
from calico.part_memory.head import PartHead, folded
from calico.part_memory.kept import KeptLooks
from calico.part_memory.lessons import (
    Lesson,
    Pixels,
    Reader,
    TaughtName,
    code_map,
    mirrored_codes,
    read_pixels,
    taught_names,
)
from calico.part_memory.memory import MAX_BYTES, MemoryCard, NameEstimate, PartMemory, together
from calico.part_memory.presence import MIN_IMAGES, Presence, fit_presence
from calico.part_memory.pyramid import PyramidReader

MIN_FOLDED = 4  # separate groups, for heads that are measured
MAX_LOOK = 512
MIN_STEPS, STEPS_PER_IMAGE = 300, 10
MAX_AROUND = 24  # names whose chances are read around a pixel
CONTEXT_SCALE = 0.5  # standard deviation of what is read there, beside directions that have about 1
MAX_CUTOFF = 0.95  # heads of one fold are surer than all together
USUAL_SHARE = 0.6  # of a name's usual confidence, that it must have to count as found
WEIGHT_BYTES = MAX_BYTES - 20_000  # of heads and presence; the rest is for their names in a file
CHUNK = 8192  # rows that are widened at once
OnProgress = Callable[[float], None]  # 0 to 1 of the fit


@dataclass(frozen=True)
class MemorySettings:
    """size: longest side in pixels at which images are looked at; None: `look_size`.

    rank: directions of the features' variance that are learnt from, the greatest first. hidden: of each head.
    second_hidden: of one of the second round, where that is another number. balance: how far rare names are brought up
    to frequent ones, 0 to 1. steps: at most; few images take fewer. max_images: beyond these the newest count.
    max_pixels: of all lessons together. max_measured: images that each fit is measured on.
    """

    size: int | None = None
    num_heads: int = 3
    rank: int = 256
    hidden: int = 96
    second_hidden: int | None = None
    steps: int = 1000
    rows_per_step: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    dropout: float = 0.2
    balance: float = 0.1
    negative_share: float = 0.1  # of the rows of a step, what base images show
    max_images: int = 600
    max_pixels: int = 120_000
    max_measured: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        names = "num_heads", "rank", "hidden", "second_hidden", "steps", "rows_per_step", "max_images", "max_pixels"
        for name in names:
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}: expected 1 or more, got {value}")


def fit_memory(
    model: CalicoModel,
    config: CalicoConfig,
    lessons: Sequence[Lesson],
    settings: MemorySettings | None = None,
    *,
    negatives: Iterable[np.ndarray] = (),
    strangers: Iterable[np.ndarray] = (),
    looks: KeptLooks | None = None,
    on_progress: OnProgress = lambda share: None,
) -> PartMemory:
    """negatives: HxWx3 uint8 images of what the model knows, which show nothing taught. strangers: more of them, looked
    at as a whole only (`calico.part_memory.presence`), which is quick. looks: of the same model, with what they keep of
    earlier fits.

    Raises `InputError` where no lesson names an object.
    """
    settings, started = settings or MemorySettings(), time.monotonic()
    size = settings.size or look_size(config)
    looks = looks or KeptLooks(PyramidReader(model, config, size))
    lessons = list(lessons)[-settings.max_images :]
    names = taught_names(lessons)
    if not names:
        raise InputError("the memory has nothing to learn: no corrected image has a named object")
    fold_of = _folds({lesson.group for lesson in lessons}, settings)
    settings = replace(settings, steps=min(settings.steps, max(MIN_STEPS, STEPS_PER_IMAGE * len(lessons))))
    with torch.random.fork_rng(devices=[]):
        pixels = read_pixels(
            lessons,
            names,
            looks.rows,
            negatives,
            lambda share: on_progress(0.5 * share),
            max_pixels=settings.max_pixels,
        )
        heads, second, around = _fit_rounds(pixels, names, fold_of, settings, on_progress)
        wholes = pixels.wholes
        del pixels  # it is large, and so is what heads are measured on
        presence = _presence(lessons, names, wholes, map(looks.whole, strangers), fold_of, settings)
    on_progress(0.9)
    card = MemoryCard(
        names,
        size,
        len({lesson.group for lesson in lessons}),
        len(lessons),
        _least_areas(lessons, names),
        (NameEstimate(),) * len(names),
        around=around,
        least_presence=None if presence is None else presence[1],
    )
    if fold_of:
        card = _measured(heads, second, card, lessons, fold_of, looks.pyramid, settings)
    on_progress(1.0)
    card = replace(card, seconds=round(time.monotonic() - started, 2))
    return PartMemory(heads, card, second, None if presence is None else presence[0])


def _fit_rounds(
    pixels: Pixels,
    names: Sequence[TaughtName],
    fold_of: dict[int, int],
    settings: MemorySettings,
    on_progress: OnProgress,
) -> tuple[list[PartHead], list[PartHead], tuple[int, ...]]:
    """The first round's heads, the second's, and the codes that these read around a pixel. They are as wide as they
    should be, or as a file can hold beside the presence: half of it is the first round's."""
    folds = torch.tensor([fold_of.get(group, -1) for group in pixels.group.tolist()])
    mean, basis = _basis(pixels.rows, settings.rank)
    rows = torch.cat([(some.float() - mean) @ basis for some in pixels.rows.split(CHUNK)])
    num_objects = len({name.object for name in names})
    room = WEIGHT_BYTES // 2 - (pixels.wholes.shape[1] + 1) * (num_objects + 1)
    width = min(settings.hidden, _widest(room // 2, len(basis), len(names), settings.num_heads))
    heads = [folded(head, mean, basis) for head in _fit_round(rows, pixels, folds, replace(settings, hidden=width))]
    on_progress(0.7)
    if not fold_of:
        return heads, [], ()
    around = tuple(sorted(pixels.shares.argsort(descending=True)[:MAX_AROUND].tolist()))
    context = _context(heads, pixels, fold_of, around, mirrored_codes(names))
    usual, scale = context.mean(0), CONTEXT_SCALE / (context.std(0) + 1e-2)
    rows = torch.cat([rows, (context - usual) * scale], 1)
    mean, basis = torch.cat([mean, usual]), torch.block_diag(basis, scale.diag())
    room -= sum(value.numel() for head in heads for value in head.parameters())
    width = min(settings.second_hidden or settings.hidden, _widest(room, len(basis), len(names), settings.num_heads))
    second = _fit_round(rows, pixels, folds, replace(settings, hidden=width))
    return heads, [folded(head, mean, basis) for head in second], around


def _widest(room: int, num_features: int, num_names: int, num_heads: int) -> int:
    """The hidden features of each head where all of a round have `room` weights."""
    return max(1, room // (num_heads * (num_features + num_names + 2)) - 1)


def look_size(config: CalicoConfig) -> int:
    """Twice the grounding branch's size, and no more than `MAX_LOOK`: parts are small, and this look is rare. Of an
    encoder that takes no other, its own."""
    side = config.grounding_encoder.image_size
    if config.grounding_encoder.kind in FIXED_SIZE_KINDS:
        return side
    return max(side, min(2 * side, MAX_LOOK))


def _folds(groups: set[int], settings: MemorySettings) -> dict[int, int]:
    """Group -> fold; empty for too few groups."""
    if settings.num_heads < 2 or len(groups) < max(MIN_FOLDED, settings.num_heads):
        return {}
    order = np.random.default_rng([settings.seed, 0xF01D]).permutation(sorted(groups)).tolist()
    return {group: place % settings.num_heads for place, group in enumerate(order)}


def _basis(rows: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Mean D and basis D x R: the main directions of features that were each brought to standard deviation 1."""
    sample = rows[:: max(1, len(rows) // 20_000)].to(torch.float32, copy=True)
    mean, scale = sample.mean(0), sample.std(0, correction=0) + 1e-3
    scaled = sample.sub_(mean).div_(scale)
    if rank >= scaled.shape[1]:
        return mean, torch.diag(1 / scale)
    _, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    return mean, vectors[:, -rank:] / scale[:, None]


def _fit_round(rows: Tensor, pixels: Pixels, folds: Tensor, settings: MemorySettings) -> list[PartHead]:
    """A head without each fold, or one of all where there are none. folds: M, -1 for what is never left out."""
    heads = []
    for fold in range(settings.num_heads if bool((folds >= 0).any()) else 1):
        torch.manual_seed(settings.seed * 31 + fold)
        chances = _chances(pixels, folds != fold, settings)
        heads.append(_fitted(rows, pixels.codes, chances, len(pixels.shares), settings))
    return heads


def _fitted(rows: Tensor, codes: Tensor, chances: Tensor, num_codes: int, settings: MemorySettings) -> PartHead:
    """chances: M, of each row to be drawn."""
    head = PartHead(rows.shape[1], settings.hidden, num_codes - 1)

    def loss() -> Tensor:
        chosen = torch.multinomial(chances, settings.rows_per_step, replacement=True)
        hidden = F.dropout(F.relu(head.first(rows[chosen])), settings.dropout)
        return F.cross_entropy(head.second(hidden), codes[chosen])

    descend(head.parameters(), loss, settings.steps, settings.learning_rate, settings.weight_decay)
    return head


def _chances(pixels: Pixels, is_known: Tensor, settings: MemorySettings) -> Tensor:
    """M, of each known row to be drawn: names by their share of the images' area, to the power of (1 - balance)."""
    is_lesson, is_negative = is_known & (pixels.group >= 0), is_known & (pixels.group < 0)
    counts = torch.bincount(pixels.codes[is_lesson], minlength=len(pixels.shares)).float()
    weights = pixels.shares.clamp(min=1e-5) ** (1 - settings.balance) * (counts > 0)
    each = weights / weights.sum() / counts.clamp(min=1)
    chances = each[pixels.codes] * is_lesson
    if num_negative := int(is_negative.sum()):
        chances = chances * (1 - settings.negative_share) + is_negative * (settings.negative_share / num_negative)
    return chances


def _context(
    heads: Sequence[PartHead],
    pixels: Pixels,
    fold_of: dict[int, int],
    around: Sequence[int],
    mirrored: np.ndarray,
) -> Tensor:
    """M x C, what each row has around it, seen by the head that was not shown its image. mirrored: as `mirrored_codes`
    gives them."""
    swapped = [code if other < 0 else other for code, other in enumerate(mirrored.tolist())]
    rows: list[Tensor] = []  # those of an image lie together
    with torch.inference_mode():
        for image, look in enumerate(pixels.looks):
            own = (pixels.of_image == image).nonzero().flatten()
            if not len(own):
                continue
            fold = fold_of.get(int(pixels.group[own[0]]))
            chances = together(heads if fold is None else [heads[fold]], look)
            flipped = chances[swapped].flip(2)
            sides = [context_of(seen[list(around)]) for seen in (chances, flipped)]
            places, is_mirrored = pixels.places[own].float(), pixels.is_mirrored[own, None]
            rows.append(torch.where(is_mirrored, at(sides[1], places), at(sides[0], places)))
    return torch.cat(rows).clone()


def _presence(
    lessons: Sequence[Lesson],
    names: Sequence[TaughtName],
    wholes: Tensor,
    strangers: Iterable[Tensor],
    fold_of: dict[int, int],
    settings: MemorySettings,
) -> tuple[Presence, float] | None:
    """wholes: of the lessons, then of images that show nothing taught, which are spread over the folds, as `strangers`
    are; these are read only where there is enough to ask."""
    place = {name: k + 1 for k, name in enumerate(dict.fromkeys(name.object for name in names))}
    shown = [place.get(lesson.image.object_name, 0) for lesson in lessons]
    if not fold_of or np.count_nonzero(shown) < MIN_IMAGES:
        return None
    folds = [fold_of[lesson.group] for lesson in lessons]
    wholes = torch.stack([*wholes, *strangers])
    num_rest = len(wholes) - len(lessons)
    shown += [0] * num_rest
    folds += [k % settings.num_heads for k in range(num_rest)]
    return fit_presence(wholes, torch.tensor(shown), torch.tensor(folds))


def _least_areas(lessons: Sequence[Lesson], names: Sequence[TaughtName]) -> tuple[float, ...]:
    """A quarter of what all but the smallest twentieth of a name's regions cover; of an object, with all its parts."""
    areas: list[list[float]] = [[] for _ in names]
    for lesson in lessons:
        shares = (
            np.bincount(code_map(lesson.image, names).ravel(), minlength=len(names) + 1) / lesson.image.part_map.size
        )
        for k, name in enumerate(names):
            whole = name.object == lesson.image.object_name
            share = shares[1:].sum() if name.part is None and whole else shares[k + 1]
            if share > 0:
                areas[k].append(float(share))
    return tuple(0.25 * float(np.quantile(own, 0.05)) if own else 0.0 for own in areas)


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass
class _Seen:
    """Of one name on one held-out image. confidence: 0 where it was not found."""

    shown: bool
    confidence: float
    iou: float


def _measured(
    heads: Sequence[PartHead],
    second: Sequence[PartHead],
    card: MemoryCard,
    lessons: Sequence[Lesson],
    fold_of: dict[int, int],
    reader: Reader,
    settings: MemorySettings,
) -> MemoryCard:
    """The card with estimates of every name and of the whole, by heads that have not seen the images."""
    step = max(1, math.ceil(len(lessons) / settings.max_measured))
    open_card = replace(card, estimates=(NameEstimate(cutoff=0.0),) * len(card.names))
    seen: list[list[_Seen]] = [[] for _ in card.names]
    sample = lessons[::step]
    for lesson in sample:
        fold = slice(fold_of[lesson.group], fold_of[lesson.group] + 1)
        memory = PartMemory(heads[fold], open_card, second[fold])
        image = lesson.image
        sight = memory.sight(reader(image.image, 1.0), (image.image.shape[0], image.image.shape[1]))
        codes = code_map(image, card.names)
        for k, name in enumerate(card.names):
            is_own = name.object == image.object_name
            truth = (codes > 0) & is_own if name.part is None else codes == k + 1
            region = None
            if sight is not None and sight.object_name == name.object:
                region = sight.object if name.part is None else sight.parts.get(name.part)
            is_there = bool(truth.any())
            if is_there or region is not None:
                overlap = iou(truth, region.mask) if region is not None and is_there else 0.0
                seen[k].append(_Seen(is_there, 0.0 if region is None else region.score, overlap))
    estimates = tuple(_estimate(rows) for rows in seen)
    parts = [row for name, rows in zip(card.names, seen, strict=True) if name.part is not None for row in rows]
    kept = [
        (row.iou if row.confidence >= estimate.cutoff else 0.0)
        for name, rows, estimate in zip(card.names, seen, estimates, strict=True)
        if name.part is not None
        for row in rows
        if row.shown or row.confidence >= estimate.cutoff
    ]
    score = float(np.mean(kept)) if parts and kept else None
    return replace(card, estimates=estimates, strict_miou_parts=score, num_measured=len(sample))


def _estimate(rows: Sequence[_Seen]) -> NameEstimate:
    """cutoff: the confidence that is best for the mean IoU over what is shown or found."""
    positives = [row for row in rows if row.shown]
    if not positives:
        return NameEstimate()
    best, cutoff = -1.0, 0.0
    for threshold in [0.0, *sorted({row.confidence for row in rows if row.confidence > 0})]:
        counted = [row for row in rows if row.shown or row.confidence >= max(threshold, 1e-9)]
        value = float(np.mean([row.iou if row.confidence >= threshold else 0.0 for row in counted]))
        if value > best + 1e-9:
            best, cutoff = value, threshold
    cutoff = min(cutoff, MAX_CUTOFF)
    confident = [row for row in rows if row.confidence >= max(cutoff, 1e-9)]
    sure = float(np.mean([row.confidence for row in confident])) if confident else 0.0
    mean_iou = float(np.mean([row.iou for row in confident])) if confident else 0.0
    cutoff = max(cutoff, USUAL_SHARE * sure)
    return NameEstimate(
        len(positives),
        round(float(np.mean([row.iou if row.confidence >= max(cutoff, 1e-9) else 0.0 for row in positives])), 4),
        round(float(np.mean([row.shown for row in confident])), 4) if confident else None,
        round(cutoff, 4),
        round(mean_iou / sure, 4) if sure else 1.0,
    )
