"""How the rate falls over a run."""

from __future__ import annotations

import math


def falling(progress: float, *, linear: bool, least: float) -> float:
    """Of the rate, at `progress` 0 to 1: linearly to 0, or by half a cosine to `least`."""
    if linear:
        return 1 - progress
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))
