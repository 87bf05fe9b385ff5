"""When a part that was asked for by its name is believed to be there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico.masks import iou
from calico.values import PartRegion

# Fitted on held-out drawings, see docs/benchmarks.md ("Smart tools").
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3


def is_believed(mask: np.ndarray, score: float, others: Sequence[PartRegion]) -> bool:
    """mask, score: of the forced name on one image. others: what was predicted on it, of other names.

    A model that is made to say a name points at something; where that is a part that it calls otherwise when it is
    free, the part is not there.
    """
    if score < MIN_SCORE or not mask.any():
        return False
    return all(iou(mask, other.mask) < MAX_OVERLAP for other in others if other.part_name is not None)
