"""Minimax paths: what is connected with a start at every threshold at once."""

from __future__ import annotations

import numpy as np
import pytest

from calico.masks import components
from calico.part_memory.minimax import path_cost


@pytest.mark.parametrize("seed", range(4))
def test_below_each_threshold_lies_what_is_connected_with_the_start(seed: int) -> None:
    costs = np.random.default_rng(seed).random((24, 31)).astype(np.float32)
    start = (int(seed * 5), 30 - seed)
    reached = path_cost(costs, [start])
    for threshold in (0.2, 0.4, 0.6, 0.8):
        below = costs <= threshold
        below[start] = True
        wide = np.kron(below, np.ones((3, 3), bool))  # so that corners do not connect: every cell a plus
        wide[::3, ::3] = wide[::3, 2::3] = wide[2::3, ::3] = wide[2::3, 2::3] = False
        numbers, _ = components(wide)
        connected = numbers[1::3, 1::3] == numbers[1 + 3 * start[0], 1 + 3 * start[1]]
        assert np.array_equal(reached <= threshold, connected)


def test_what_winds_is_followed_and_a_wall_is_paid_for() -> None:
    costs = np.zeros((21, 21), np.float32)
    for row in range(1, 20, 2):
        costs[row] = 1
        costs[row, -1 if row % 4 == 1 else 0] = 0.25  # a way through, by turns on the right and the left
    reached = path_cost(costs, [(0, 0)])
    assert reached[20, 10] == 0.25
    assert reached[1, 5] == 1
    assert reached[0, 20] == 0


def test_each_start_is_free_and_the_nearest_counts() -> None:
    costs = np.array([[5.0, 1.0, 9.0, 2.0, 5.0]])
    reached = path_cost(costs, [(0, 0), (0, 4)])
    assert reached[0, 0] == reached[0, 4] == -np.inf
    assert reached[0, 1:4].tolist() == [1.0, 9.0, 2.0]
    assert path_cost(np.ones((1, 1)), [(0, 0)]).shape == (1, 1)
