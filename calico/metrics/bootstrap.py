"""How sure a mean over groups is."""

from __future__ import annotations

import numpy as np

NUM_RESAMPLES = 500


def standard_error(table: np.ndarray) -> float | None:
    """Of the mean of column means, by resampling rows with seed 0; None with fewer than two rows or no value.

    table: groups x sub-tasks float64, NaN where a group has no value; the answers of one group stay together.
    """
    table = table[:, ~np.isnan(table).all(axis=0)]
    if len(table) < 2 or not table.size:
        return None
    drawn = table[np.random.default_rng(0).integers(0, len(table), (NUM_RESAMPLES, len(table)))]
    counts = (~np.isnan(drawn)).sum(axis=1)
    means = np.nansum(drawn, axis=1)[(counts > 0).all(axis=1)] / counts[(counts > 0).all(axis=1)]
    return float(means.mean(axis=1).std(ddof=1)) if len(means) > 1 else None
