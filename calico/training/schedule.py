"""The learning rate over a run."""

from __future__ import annotations

import math

LEAST = 0.01  # of the peak, at the end of a cosine


def rate_share(step: int, progress: float, *, warmup_steps: int, linear: bool) -> float:
    """Of the peak, at `step` from 0 on and `progress` 0 to 1 of the run: up over the warm-up, then down."""
    return min(1.0, (step + 1) / max(1, warmup_steps)) * falling(progress, linear=linear, least=LEAST)


def falling(progress: float, *, linear: bool, least: float) -> float:
    """Of the rate, at `progress` 0 to 1: linearly to 0, or by half a cosine to `least`."""
    if linear:
        return 1 - progress
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))
