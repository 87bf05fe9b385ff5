"""Does a region's score rank regions by their true IoU, and does it mean what it says?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side does not vary."""
    if len(a) < 2:
        return None
    ranks_a, ranks_b = _mean_ranks(np.asarray(a, float)), _mean_ranks(np.asarray(b, float))
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """K ranks from 0; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[group]


def calibration_table(scores: Sequence[float], ious: Sequence[float], *, num_bins: int = 10) -> list[dict[str, Any]]:
    """Equal bins of score from 0 to 1, empty ones left out: bounds, mean score, mean true IoU, number of regions."""
    score, iou = np.asarray(scores, float), np.asarray(ious, float)
    bins = np.minimum((score * num_bins).astype(int), num_bins - 1)
    return [
        {
            "score_from": int(number) / num_bins,
            "score_to": (int(number) + 1) / num_bins,
            "mean_score": float(score[bins == number].mean()),
            "mean_iou": float(iou[bins == number].mean()),
            "n": int(np.count_nonzero(bins == number)),
        }
        for number in np.unique(bins)
    ]
