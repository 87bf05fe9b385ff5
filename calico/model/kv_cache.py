"""Keys and values of a batch of answers that is being written: room ahead of need, and rows that can leave.

transformers' `DynamicCache` copies everything at each token, its `StaticCache` looks at the whole room at each. Here
the room grows by blocks, so a step costs what has been written, and shapes change so rarely that it can be compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

BLOCK = 64  # columns of room that are added at once


class RoomyLayer(DynamicLayer):
    """One decoder layer's keys and values, each R x H x room x d. Columns not written yet are hidden by the mask."""

    def __init__(self, column: Tensor) -> None:
        """column: the index, shared by all layers and changed in place, where the next token is written."""
        super().__init__()
        self.column = column
        self.is_prefill = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.is_prefill:
            self.keys, self.values = key_states, value_states
        else:
            self.keys.index_copy_(2, self.column, key_states)
            self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values


class RoomyCache(Cache):
    """Of one batch: give it to the prefill, call `open`, then `advance` before every step.

    mask: R x room bool, True where a column holds a token of the row.
    """

    def __init__(self, num_layers: int, prompt_mask: Tensor) -> None:
        """prompt_mask: R x L, which of the prompts' columns are tokens and no padding."""
        self.column = torch.zeros(1, dtype=torch.long, device=prompt_mask.device)
        super().__init__(layers=[RoomyLayer(self.column) for _ in range(num_layers)])
        self.mask = prompt_mask.bool()
        self.length = prompt_mask.shape[1]  # columns written so far

    def open(self) -> None:
        """After the prefill: from now on every update is one token."""
        self._add_room()
        for layer in self._roomy():
            layer.is_prefill = False

    def advance(self) -> Tensor:
        """Takes the next column for all rows; returns the mask of the step, R x 1 x 1 x room."""
        if self.length == self.mask.shape[1]:
            self._add_room()
        self.column.fill_(self.length)
        self.mask[:, self.length] = True
        self.length += 1
        return self.mask[:, None, None, :]

    def keep_rows(self, rows: Tensor) -> None:
        """Only these rows (indices, in order) stay."""
        self.mask = self.mask[rows]
        for layer in self._roomy():
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def _roomy(self) -> list[RoomyLayer]:
        return [layer for layer in self.layers if isinstance(layer, RoomyLayer)]

    def _add_room(self) -> None:
        room = (self.length // BLOCK + 1) * BLOCK
        self.mask = torch.nn.functional.pad(self.mask, (0, room - self.mask.shape[1]))
        for layer in self._roomy():
            layer.keys, layer.values = (_widened(tensor, room) for tensor in (layer.keys, layer.values))


def _widened(tensor: Tensor, room: int) -> Tensor:
    """R x H x L x d -> R x H x room x d, zeros behind: what is hidden by the mask must still be finite."""
    wide = tensor.new_zeros(*tensor.shape[:2], room, tensor.shape[3])
    wide[:, :, : tensor.shape[2]] = tensor
    return wide
