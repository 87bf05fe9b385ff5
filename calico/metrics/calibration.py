"""Does a region's score rank regions by their true IoU, and does it mean what it says?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Numbers = Sequence[float] | np.ndarray

MIN_WITHIN = 10  # regions of one part; a rank correlation of fewer is mostly chance


def spearman(a: Numbers, b: Numbers) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where one side does not vary."""
    if len(a) < 2:
        return None
    ranks_a, ranks_b = _mean_ranks(np.asarray(a, float)), _mean_ranks(np.asarray(b, float))
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        return None
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def spearman_within(
    labels: Sequence[str] | np.ndarray, a: Numbers, b: Numbers, *, at_least: int = MIN_WITHIN
) -> tuple[float | None, int]:
    """(mean of Spearman's correlation within each label, number of regions in it), labels weighted by their regions.

    Labels with fewer than `at_least` regions, or on which one side does not vary, are left out. Without this, that some
    parts are easy and score high hides whether a score tells a good mask of a part from a bad one of the same part.
    """
    names, numbers = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    first, second = np.asarray(a, float), np.asarray(b, float)
    total, n = 0.0, 0
    for number in range(len(names)):
        rows = np.flatnonzero(numbers == number)
        correlation = spearman(first[rows], second[rows]) if len(rows) >= at_least else None
        if correlation is not None:
            total, n = total + correlation * len(rows), n + len(rows)
    return (total / n if n else None), n


def calibration_error(table: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean distance of score from IoU over the bins of `calibration_table`, weighted by their regions (as in ECE)."""
    n = sum(row["n"] for row in table)
    return sum(row["n"] * abs(row["mean_score"] - row["mean_iou"]) for row in table) / n if n else None


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    """K ranks from 0; equal values share the mean of theirs."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[group]


def calibration_table(scores: Numbers, ious: Numbers, *, num_bins: int = 10) -> list[dict[str, Any]]:
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
