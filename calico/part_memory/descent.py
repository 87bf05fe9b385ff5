"""How small heads are fitted: AdamW, its rate half a cosine from its peak to 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def descend(
    parameters: Iterable[nn.Parameter],
    loss_of_step: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    weight_decay: float,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Changes the parameters in place. loss_of_step: draws a batch and returns its loss, a scalar."""
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step)
