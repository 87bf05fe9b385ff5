"""Which pixels belong to a clicked one: a head over pairs of pixels, on the maps of the trunk.

It knows no names. It was shown pieces of parts of many things (`calico.training.affinity`), and is asked about things
that nobody taught. Ours, not the paper's; docs/differences.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F

from calico.part_memory.minimax import path_cost
from calico.part_memory.pyramid import PyramidFeatures

SIDE = 128  # cells of a look's longer side
EMBEDDED = 20  # features that each map is brought to
NUM_GEOMETRIC = 7


class AffinityLook(NamedTuple):
    """One picture as the head reads it. embedded: h x w x E. colours: h x w x 3 float32 of 0 to 1, a little blurred."""

    embedded: Tensor
    colours: np.ndarray

    @property
    def grid_hw(self) -> tuple[int, int]:
        return self.colours.shape[0], self.colours.shape[1]

    def cell(self, place: tuple[float, float]) -> tuple[int, int]:
        """place: down and across, from 0 to 1 of the picture."""
        down, across = (min(n - 1, max(0, int(share * n))) for share, n in zip(place, self.grid_hw, strict=True))
        return down, across


class AffinityHead(nn.Module):
    """widths: of the maps that a `PyramidReader` gives, colours first. reliability: the factor that makes what it
    expects of its masks their IoU, measured on pictures that it was not shown."""

    def __init__(self, widths: Sequence[int], hidden: int = 96) -> None:
        super().__init__()
        self.weights = nn.ParameterList(0.5 * torch.randn(EMBEDDED, width) / width**0.5 for width in widths)
        self.biases = nn.ParameterList(torch.zeros(EMBEDDED) for _ in widths)
        total = EMBEDDED * len(widths)
        self.pixel, self.clicked = nn.Linear(total, hidden), nn.Linear(total, hidden, bias=False)
        self.apart, self.together = (nn.Linear(total, hidden, bias=False) for _ in range(2))
        self.geometric = nn.Linear(NUM_GEOMETRIC, hidden, bias=False)
        self.second, self.logit = nn.Linear(hidden, hidden // 2), nn.Linear(hidden // 2, 1)
        self.register_buffer("reliability", torch.ones(1))
        self.reliability: Tensor

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> AffinityHead:
        """Of `state_dict`. Raises `KeyError`, `RuntimeError` where they do not fit together."""
        widths = [tensors[f"weights.{k}"].shape[1] for k in range(sum(name.startswith("weights.") for name in tensors))]
        head = cls(widths, tensors["pixel.weight"].shape[0])
        head.load_state_dict(dict(tensors))
        return head.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, clicked: Tensor, geometry: Tensor, dropout: float = 0.0) -> Tensor:
        """... x P logits. pixels: ... x P x E, embedded; clicked: ... x E; geometry: ... x P x `NUM_GEOMETRIC`."""
        clicked = clicked[..., None, :]
        hidden = self.pixel(pixels) + self.clicked(clicked) + self.geometric(geometry)
        hidden = hidden + self.apart((pixels - clicked).abs()) + self.together(pixels * clicked)
        hidden = F.relu(self.second(F.dropout(F.relu(hidden), dropout, self.training)))
        logits: Tensor = self.logit(hidden)[..., 0]
        return logits

    def embedded(self, rows: Tensor) -> Tensor:
        """... x sum(C_k), as `PyramidFeatures.at` gives them -> ... x E."""
        parts = rows.split([weight.shape[1] for weight in self.weights], -1)
        return torch.cat([F.linear(*own) for own in zip(parts, self.weights, self.biases, strict=True)], -1)

    @torch.inference_mode()
    def look(self, image: np.ndarray, features: PyramidFeatures) -> AffinityLook:
        """image: HxWx3 uint8, of which the features are."""
        colours = coarse_colours(image)
        maps = tuple(
            (weight @ own.float().flatten(1) + bias[:, None]).unflatten(1, own.shape[1:])
            for own, weight, bias in zip(features.maps, self.weights, self.biases, strict=True)
        )
        rows = PyramidFeatures(maps, features.extent).at(cell_places(colours.shape[:2]))
        return AffinityLook(rows.unflatten(0, colours.shape[:2]), colours)

    @torch.inference_mode()
    def logits(self, look: AffinityLook, cell: tuple[int, int]) -> np.ndarray:
        """h x w float32: of each cell of a look, that it belongs to the clicked one (row, column)."""
        shape = torch.from_numpy(geometry(look.colours, cell))
        flat = self(look.embedded.flatten(0, 1), look.embedded[cell], shape.flatten(0, 1))
        result: np.ndarray = flat.unflatten(0, look.grid_hw).numpy()
        return result


def coarse_colours(image: np.ndarray) -> np.ndarray:
    """h x w x 3 float32 of 0 to 1, `SIDE` cells along the longer side."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR).filter(ImageFilter.BoxBlur(1))
    return np.asarray(small, np.float32) / 255


def cell_places(grid_hw: Sequence[int]) -> Tensor:
    """(h * w) x 2: the middle of each cell, down and across, from 0 to 1."""
    down, across = ((torch.arange(n) + 0.5) / n for n in grid_hw)
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).flatten(0, 1)


def geometry(colours: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """h x w x `NUM_GEOMETRIC` float32: how far each cell's colour is from the clicked one's, how far it must be allowed
    to be for the cell to be reached from there, what share of the picture is reached then, and where the cell lies."""
    height, width = colours.shape[:2]
    apart = np.sqrt(((colours - colours[cell]) ** 2).sum(-1))
    reached = np.maximum(path_cost(apart, [cell]), 0)
    order = np.sort(reached, axis=None)
    share = np.searchsorted(order, reached.ravel(), side="right").reshape(reached.shape) / reached.size
    down, across = np.ogrid[:height, :width]
    down, across = np.broadcast_arrays((down - cell[0]) / SIDE, (across - cell[1]) / SIDE)
    distance = np.hypot(down, across)
    maps = (
        np.log(reached + 0.02) + 2,
        np.log(share + 1e-4) / 2 + 1,
        np.log(apart + 0.01) + 2,
        2 * down,
        2 * across,
        3 * distance,
        np.log(distance + 0.01) + 2,
    )
    return np.stack(maps, -1).astype(np.float32)
