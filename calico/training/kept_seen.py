"""Validation images are the same at every look: what frozen encoders make of them is kept, as far as it fits.

At full size encoding is most of a look, and an image's encodings take 5 MB. Training images are augmented, nine of ten
anew at each step, so nothing of them would come back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from calico.model.calico import Seen
from calico.training.batches import moved

KEPT_BYTES = 2**30  # of the host's memory: about 200 images at full size


class KeptSeen:
    """By a name that means the same images each time; what comes when there is no more room is made anew each time."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: dict[Hashable, Seen] = {}

    def __call__(self, name: Hashable, see: Callable[[], Seen], device: torch.device) -> Seen:
        if name in self._kept:
            return moved(self._kept[name], device)
        seen = see()
        size = num_bytes(seen)
        if self.num_bytes + size <= self.max_bytes:
            self._kept[name] = moved(seen, torch.device("cpu"))
            self.num_bytes += size
        return seen


def num_bytes(seen: Seen) -> int:
    fine = seen.grounding.fine or ()
    return sum(tensor.nbytes for tensor in (seen.global_tokens, seen.semantic_tokens, seen.grounding.embedding, *fine))
