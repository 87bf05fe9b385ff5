"""Against forgetting: on base data a finetune is held to what its start would answer, rather than to the truth.

The start's whole distribution over the next token says more than one true token does, and says nothing where nothing
has changed: unlike the truth of a small batch, it pulls only back (learning without forgetting, Li and Hoiem 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from calico.model.calico import CalicoModel, Seen
from calico.training.batches import TrainingBatch


class Anchor:
    """Keeps the weights that a finetune starts from, as large again as its adapter."""

    def __init__(self, model: CalicoModel, trained: Mapping[str, nn.Parameter]) -> None:
        self.model, self.trained = model, dict(trained)
        self.start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def answer_logits(self, batch: TrainingBatch, seen: Seen | None = None) -> Tensor:
        """A x V: what the start says of each answer token of the batch. Call it outside of the finetune's own autocast,
        which would remember the weights of either for the other. seen: what frozen encoders make of its images."""
        was_training = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            with self._in_place():
                features, _ = self.model.features_of(self.model.see(batch.pixels) if seen is None else seen)
                return self.model.answer_logits(features, batch.prompts)[0]
        finally:
            for module, mode in was_training.items():
                module.training = mode

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        now = {name: parameter.data for name, parameter in self.trained.items()}
        try:
            for name, parameter in self.trained.items():
                parameter.data = self.start[name]
            yield
        finally:
            for name, parameter in self.trained.items():
                parameter.data = now[name]
