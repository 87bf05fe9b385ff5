"""Fits the head that answers clicks on what nobody taught (`calico.part_memory.affinity`), on pieces of known parts.

Each picture is varied as scenes are, looked at through windows of several sizes, and clicked at random places of random
pieces. Only some cells of each look are kept: near the click, on the piece, and anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from calico.data.scenes import Other, SceneSettings, varied_scene
from calico.errors import InputError
from calico.inference.clicks import mask_of_clicks
from calico.inference.closer import Window, around
from calico.masks import components, iou
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory.affinity import (
    NUM_GEOMETRIC,
    AffinityHead,
    AffinityLook,
    cell_places,
    coarse_colours,
    geometry,
)
from calico.part_memory.descent import descend
from calico.part_memory.pyramid import PyramidReader
from calico.values import AnnotatedImage

LEAST_CELLS = 12  # of a piece
NEAR = 24.0  # cells: the standard deviation of those that count as near a click
SHARES = 0.5, 0.25, 0.25  # of a click's cells: anywhere, near it, on its piece
MAX_WEIGHT = 8.0  # of a cell, for how seldom it is drawn
ROUNDING = 0.5  # cells, so that Dice's relative is defined where nothing is seen
DECAY = 0.03

Draw = Callable[[int], AnnotatedImage]


@dataclass(frozen=True)
class AffinitySettings:
    """looks: at each picture. clicks: into each look. cells: kept of each click. closeness: the picture's longer side
    in those of its windows. noise: on the features, in standard deviations. overlap: weight of the soft IoU beside
    the cross entropy."""

    looks: int = 2
    clicks: int = 5
    cells: int = 80
    closeness: tuple[float, ...] = (1, 1, 1.4, 2, 2.8, 4)
    steps: int = 2500
    clicks_per_step: int = 32
    learning_rate: float = 3e-3
    noise: float = 0.1
    dropout: float = 0.2
    overlap: float = 0.5
    hidden: int = 96
    seed: int = 0


class _Click(NamedTuple):
    """rows: P x D float16; clicked: D; geometry: P x G; is_own: P; weights: P, by how seldom a cell is drawn."""

    rows: Tensor
    clicked: Tensor
    geometry: Tensor
    is_own: Tensor
    weights: Tensor


def fit_affinity(
    model: CalicoModel,
    config: CalicoConfig,
    draw: Draw,
    count: int,
    settings: AffinitySettings | None = None,
    on_progress: Callable[[str, int], None] = lambda what, done: None,
) -> AffinityHead:
    """draw: the k-th of `count` pictures, with exact masks of its parts. Its reliability is not measured yet
    (`measured`). Raises `InputError`."""
    settings = settings or AffinitySettings()
    if not config.trunk:
        raise InputError("clicks are learnt on the maps of a trunk, which this model has not; see calico train --trunk")
    reader = PyramidReader(model, config, config.grounding_encoder.image_size)
    rng = np.random.default_rng([settings.seed, 0xAFF])
    clicks: list[_Click] = []
    for number in range(count):
        item = draw(number)
        for _ in range(settings.looks):
            clicks += _clicks(reader, item, lambda: draw(int(rng.integers(count))), rng, settings)
        on_progress("clicks", number)
    if not clicks:
        raise InputError("nothing to click on: no picture has a named part")
    together = _Click(*(torch.stack(own) for own in zip(*clicks, strict=True)))
    return _fitted(together, (3, *config.trunk_widths), settings, on_progress)


def _clicks(
    reader: PyramidReader,
    item: AnnotatedImage,
    other: Other,
    rng: np.random.Generator,
    settings: AffinitySettings,
) -> Iterator[_Click]:
    longest = max(item.image.shape[:2])
    scene = varied_scene(item, rng, longest, other, SceneSettings())
    places = np.argwhere(scene.part_map > 1)
    if not len(places):
        return
    size_hw = (scene.image.shape[0], scene.image.shape[1])
    side = max(size_hw) / float(rng.choice(settings.closeness))
    down, across = places[rng.integers(len(places))] + rng.normal(0, side / 8, 2)
    window = around((across, down), side, size_hw)
    image, part_map = window.of(scene.image), scene.part_map[window.top : window.bottom, window.left : window.right]
    colours = coarse_colours(image)
    pieces = list(pieces_of(part_map, (colours.shape[0], colours.shape[1])))
    if not pieces:
        return
    features, middles = reader(image), cell_places(colours.shape[:2])
    chances = np.sqrt([piece.sum() for piece in pieces])
    for _ in range(settings.clicks):
        piece = pieces[rng.choice(len(pieces), p=chances / chances.sum())]
        row, column = (int(place) for place in rng.choice(np.argwhere(piece)))
        chosen, weights = _cells(piece, (row, column), settings.cells, rng)
        yield _Click(
            features.at(middles[chosen]).half(),
            features.at(middles[[row * piece.shape[1] + column]])[0].half(),
            torch.from_numpy(geometry(colours, (row, column)).reshape(-1, NUM_GEOMETRIC)[chosen]),
            torch.from_numpy(piece.ravel()[chosen]).float(),
            torch.from_numpy(weights).float(),
        )


def pieces_of(part_map: np.ndarray, grid_hw: tuple[int, int]) -> Iterator[np.ndarray]:
    """Each connected piece of each part, on a grid. part_map: codes above 1."""
    for code in np.unique(part_map[part_map > 1]).tolist():
        own = Image.fromarray((part_map == code).astype(np.uint8) * 255)
        numbers, count = components(np.asarray(own.resize(grid_hw[::-1], Image.Resampling.BILINEAR)) > 127)
        areas = np.bincount(numbers.ravel(), minlength=count + 1)
        for number in range(1, count + 1):
            if areas[number] >= LEAST_CELLS:
                yield numbers == number


def _cells(
    piece: np.ndarray, cell: tuple[int, int], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flat places, and how much rarer each is drawn than by chance."""
    down, across = np.ogrid[: piece.shape[0], : piece.shape[1]]
    near = np.exp(-((down - cell[0]) ** 2 + (across - cell[1]) ** 2) / (2 * NEAR**2)).ravel()
    kinds = np.stack([np.full(piece.size, 1 / piece.size), near / near.sum(), piece.ravel() / piece.sum()])
    density = np.array(SHARES) @ kinds
    chosen = rng.choice(piece.size, count, p=density / density.sum())
    return chosen, 1 / (piece.size * density[chosen])


def _fitted(
    clicks: _Click, widths: Sequence[int], settings: AffinitySettings, on_progress: Callable[[str, int], None]
) -> AffinityHead:
    """clicks: of all, stacked. widths: of the maps."""
    sample = clicks.rows[:: max(1, len(clicks.rows) // 2000), ::8].flatten(0, 1).float()
    usual, spread = sample.mean(0), sample.std(0) + 1e-3
    torch.manual_seed(settings.seed)
    head = AffinityHead(widths, settings.hidden)

    def loss() -> Tensor:
        chosen = torch.randint(len(clicks.rows), (settings.clicks_per_step,))
        rows, clicked = ((own[chosen].float() - usual) / spread for own in (clicks.rows, clicks.clicked))
        rows, clicked = (own + settings.noise * torch.randn_like(own) for own in (rows, clicked))
        logits = head(head.embedded(rows), head.embedded(clicked), clicks.geometry[chosen], settings.dropout)
        return _loss(logits, clicks.is_own[chosen], clicks.weights[chosen], settings.overlap)

    def done(step: int) -> None:
        on_progress("fitting clicks", step)

    descend(head.parameters(), loss, settings.steps, settings.learning_rate, DECAY, done)
    return _folded(head, usual, spread)


def _loss(logits: Tensor, is_own: Tensor, weights: Tensor, overlap: float) -> Tensor:
    """Cross entropy and 1 - soft IoU, over cells as if they were drawn by chance; all N x P."""
    softened = weights.clamp(max=MAX_WEIGHT / 2).sqrt()
    entropy = F.binary_cross_entropy_with_logits(logits, is_own, reduction="none")
    chances, weights = logits.sigmoid(), weights.clamp(max=MAX_WEIGHT)
    both, either = ((own * weights).sum(1) for own in (chances * is_own, chances + is_own - chances * is_own))
    total: Tensor = (entropy * softened).sum() / softened.sum()
    return total + overlap * (1 - (both + ROUNDING) / (either + ROUNDING)).mean()


@torch.no_grad()
def _folded(head: AffinityHead, usual: Tensor, spread: Tensor) -> AffinityHead:
    """The same of features that were not brought to mean 0 and standard deviation 1 first."""
    widths = [weight.shape[1] for weight in head.weights]
    each = zip(head.weights, head.biases, usual.split(widths), spread.split(widths), strict=True)
    for weight, bias, mean, scale in each:
        weight.div_(scale)
        bias.sub_(weight @ mean)
    return head.eval().requires_grad_(False)


def measured(
    head: AffinityHead, model: CalicoModel, config: CalicoConfig, items: Iterable[AnnotatedImage], seed: int = 0
) -> tuple[float, float, int]:
    """A click on each picture, at a random place of a random piece: mean IoU of the masks, what was expected of them,
    and their number. items: that it was not fitted on."""
    reader = PyramidReader(model, config, config.grounding_encoder.image_size)
    rng = np.random.default_rng([seed, 0xC11C])
    found: list[tuple[float, float]] = []
    for item in items:
        image, pieces = item.image, list(pieces_of(item.part_map, item.part_map.shape))
        if not pieces:
            continue
        piece = pieces[rng.integers(len(pieces))]
        row, column = rng.choice(np.argwhere(piece)).tolist()

        def look(window: Window, image: np.ndarray = image) -> AffinityLook:
            cutout = window.of(image)
            return head.look(cutout, reader(cutout))

        mask, expected = mask_of_clicks(piece.shape, [((column, row), True)], head, look)
        found.append((iou(mask, piece), expected))
    overlap, expected = np.mean(found, 0).tolist() if found else (0.0, 0.0)
    return overlap, expected, len(found)
