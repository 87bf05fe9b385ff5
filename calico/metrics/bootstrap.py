"""How sure a figure over groups is: groups are drawn again, with replacement, and all answers of one stay together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

NUM_RESAMPLES = 500
INTERVAL = (2.5, 97.5)  # percentiles


class Bootstrap:
    """weights: B x G float64, how often each resample holds each group; the same for the same number of groups."""

    def __init__(self, num_groups: int, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        samples = np.random.default_rng(seed).integers(0, max(num_groups, 1), (num_resamples, num_groups))
        self.weights = np.stack([np.bincount(row, minlength=num_groups) for row in samples]).astype(float)

    def ratio(self, groups: np.ndarray, num: np.ndarray, den: np.ndarray) -> np.ndarray:
        """B float64: sum(num) / sum(den) of each resample, NaN where den is 0. groups: K int, of each term."""
        num_groups = self.weights.shape[1]
        above, below = (np.bincount(groups, weights=terms, minlength=num_groups) for terms in (num, den))
        counted = below != 0  # most labels occur in few groups
        total = self.weights[:, counted] @ below[counted]
        with np.errstate(invalid="ignore"):
            return np.where(total > 0, (self.weights[:, counted] @ above[counted]) / total, np.nan)

    def statistic(self, groups: np.ndarray, of_rows: Callable[[np.ndarray], float | None]) -> np.ndarray | None:
        """B float64 of any statistic. of_rows: gets the numbers of the rows (repeated ones too) of a resample."""
        rows = np.arange(len(groups))
        if len(np.unique(groups)) < 2:
            return None

        def value(counts: np.ndarray) -> float:
            drawn = of_rows(np.repeat(rows, counts[groups].astype(int)))
            return np.nan if drawn is None else drawn

        return each(self.weights, value)


def each(weights: np.ndarray, value: Callable[[np.ndarray], float]) -> np.ndarray:
    """B float64: the value of each row of B x N weights, once for rows that are alike: few groups repeat themselves."""
    cached = cache(lambda row: value(np.frombuffer(row)))
    return np.array([cached(row.tobytes()) for row in weights.astype(float)], dtype=float)


def standard_error(resampled: np.ndarray | None, num_groups: int) -> float | None:
    """Of a figure, from its values in the resamples. num_groups: with terms in it.

    None with fewer than two, and where all resamples agree (every sample right, say): they cannot tell.
    """
    if resampled is None or num_groups < 2 or np.count_nonzero(~np.isnan(resampled)) < 2:
        return None
    return float(np.nanstd(resampled, ddof=1)) or None


def interval(resampled: np.ndarray | None, num_groups: int) -> list[float] | None:
    """[low, high], 95 % by percentiles; None as in `standard_error`."""
    if resampled is None or standard_error(resampled, num_groups) is None:
        return None
    return [float(value) for value in np.nanpercentile(resampled, INTERVAL)]
