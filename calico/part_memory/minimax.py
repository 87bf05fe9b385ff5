"""Minimax paths: of all ways from a start to a pixel, the one whose dearest pixel is cheapest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_ROUNDS = 64  # of four sweeps each; what winds more is given up on, and counts as a little dearer


def path_cost(costs: np.ndarray, starts: Sequence[tuple[int, int]]) -> np.ndarray:
    """HxW float32: the cost of the dearest pixel on the cheapest way from any start, over neighbours of one side.

    What is connected with a start within a threshold is where this is below it, for all thresholds at once. costs:
    HxW. starts: (row, column), each free of cost itself.
    """
    own = np.array(costs, np.float32)
    reached = np.full_like(own, np.inf)
    for row, column in starts:
        own[row, column] = reached[row, column] = -np.inf
    sides = own, np.ascontiguousarray(own.T)
    for _ in range(MAX_ROUNDS):
        before = reached.copy()
        for cost in sides:
            _sweep(cost, reached)
            _sweep(cost[::-1], reached[::-1])
            reached = reached.T.copy()  # rows lie together, or a sweep takes twice as long
        if np.array_equal(before, reached):
            break
    return reached


def _sweep(costs: np.ndarray, reached: np.ndarray) -> None:
    """From the first row to the last, in place."""
    for row in range(1, len(costs)):
        np.minimum(reached[row], np.maximum(costs[row], reached[row - 1]), out=reached[row])
