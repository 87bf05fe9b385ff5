"""What lies around a pixel, as heads of a first round see it: a second round of heads reads it beside the features.

A pane is told from a windscreen by what is next to it. This is auto-context (Tu and Bai, TPAMI 2010): the first round's
chances, at the pixel, near it, and over its row, its column and the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from calico.part_memory.pyramid import PyramidFeatures

GRID = 32  # rows and columns over an image, of any shape
REACHES = ((2, 3), (6, 5))  # steps of the grid away, and the side of the square over which the mean is taken there
LEAST_CHANCE = 1e-3
MAPS_PER_NAME = 1 + len(REACHES) * 5 + 3  # of each name: itself, the mean here and on four sides, row, column, image


def coarse(features: PyramidFeatures) -> PyramidFeatures:
    """What the first round reads where a second follows: maps of no more than `GRID` rows and columns."""
    return features.coarser(max(1, features.maps[0].shape[1] // GRID))


def context_of(chances: Tensor) -> Tensor:
    """chances: K x h x w over an image, 0 to 1. Returns MAPS_PER_NAME K x GRID x GRID."""
    own = F.adaptive_avg_pool2d(chances.float(), GRID)[None]
    return torch.cat(list(_read(own)), 1)[0]


def _read(own: Tensor) -> Iterator[Tensor]:
    """own: 1 x K x GRID x GRID."""
    yield own.clamp(min=LEAST_CHANCE).log()
    for away, side in REACHES:
        mean = F.avg_pool2d(F.pad(own, (side // 2,) * 4, mode="replicate"), side, 1)
        yield mean
        wide = F.pad(mean, (away,) * 4, mode="replicate")
        for down, across in ((0, away), (away, 0), (away, 2 * away), (2 * away, away)):
            yield wide[:, :, down : down + GRID, across : across + GRID]
    yield own.mean((2, 3), keepdim=True).expand_as(own)
    yield own.mean(2, keepdim=True).expand_as(own)
    yield own.mean(3, keepdim=True).expand_as(own)


def beside(features: PyramidFeatures, context: Tensor) -> PyramidFeatures:
    """With the context of its image as one map more, laid over the frame as the others are."""
    height, width = (max(1, round(GRID * share)) for share in features.extent)
    over = F.interpolate(context[None], size=(height, width), mode="bilinear", align_corners=False)
    framed = F.pad(over, (0, GRID - width, 0, GRID - height), mode="replicate")[0]
    return features._replace(maps=(*features.maps, framed))


def at(context: Tensor, places: Tensor) -> Tensor:
    """places: P x 2 (down, across) from 0 to 1 of the image. Returns P x MAPS_PER_NAME K."""
    return PyramidFeatures((context,), (1.0, 1.0)).at(places)
