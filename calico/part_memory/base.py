"""A checkpoint's own memory, of many classes: names and masks where the language model doubts.

One head over all names, with the whole image as context. It is fitted once (`calico.training.base_memory`) and lies
beside the checkpoint's weights.
"""

from __future__ import annotations

import torch

from calico.part_memory.memory import PartMemory, Sight
from calico.part_memory.pyramid import PyramidFeatures

COARSER = 2  # times the finest grid, on which the object is chosen among all


class BaseMemory(PartMemory):
    """As a team's, but an image's object is the one with the most mass over all its pixels, and that certain."""

    @torch.inference_mode()
    def sight(self, features: PyramidFeatures, size_hw: tuple[int, int]) -> Sight | None:
        """None where no object that it knows is seen. size_hw: of the image."""
        mass = self.probabilities(features.coarser(COARSER)).flatten(1).mean(1)
        masses = {name: float(mass[codes].sum()) for name, codes in self._codes.items()}
        shown = max(masses, key=masses.__getitem__)
        codes = self._codes[shown]
        own = torch.stack([head.over(features, [0, *codes]).softmax(0) for head in self.heads]).mean(0)
        return self._sight(shown, codes, own, size_hw, masses[shown] / max(1e-9, sum(masses.values())))
