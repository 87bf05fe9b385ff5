"""Figures of a report, each with its number of samples and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from calico.metrics.bootstrap import Bootstrap, interval, standard_error

Term = tuple[int, float, float]  # group, what is added above, what is added below


class Figures:
    """Values by name, and how many samples each stands on."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.n: dict[str, int] = {}

    def put(self, name: str, value: float | None, n: int) -> None:
        self.values[name], self.n[name] = value, n

    def as_dict(self) -> dict[str, Any]:
        """Figures by name, and under `n` the same names again."""
        return {**self.values, "n": self.n}


class GroupFigures(Figures):
    """Figures over groups, with their spread when groups are drawn again."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        super().__init__()
        self.bootstrap = bootstrap
        self._groups: dict[str, int] = {}
        self._resampled: dict[str, np.ndarray | None] = {}

    def put(
        self, name: str, value: float | None, n: int, *, resampled: np.ndarray | None = None, num_groups: int = 0
    ) -> None:
        super().put(name, value, n)
        self._resampled[name], self._groups[name] = resampled, num_groups

    def ratio(self, name: str, terms: Iterable[Term]) -> None:
        """Sum over sum; its n is the sum below."""
        table = np.array([term for term in terms if term[2]], dtype=float).reshape(-1, 3)
        groups, num, den = table[:, 0].astype(int), table[:, 1], table[:, 2]
        if not len(table):
            return self.put(name, None, 0)
        self.put(
            name,
            float(num.sum() / den.sum()),
            round(den.sum()),
            resampled=self.bootstrap.ratio(groups, num, den),
            num_groups=len(np.unique(groups)),
        )

    def mean(self, name: str, values: Iterable[tuple[int, float | None]]) -> None:
        """The mean over what is there, by group; its n counts what is."""
        self.ratio(name, ((group, value, 1.0) for group, value in values if value is not None))

    def average(self, name: str, blocks: Sequence[GroupFigures]) -> None:
        """The mean of a figure of several blocks, over those that have it; n sums."""
        present = [block for block in blocks if block.values.get(name) is not None]
        spreads = [spread for block in present if (spread := block._resampled[name]) is not None]
        self.put(
            name,
            sum(block.values[name] for block in present) / len(present) if present else None,
            sum(block.n[name] for block in present),
            resampled=np.mean(spreads, axis=0) if spreads and len(spreads) == len(present) else None,
            num_groups=max((block._groups[name] for block in present), default=0),
        )

    def as_dict(self) -> dict[str, Any]:
        """As `Figures`, and under `stderr` and `interval` (95 %) the same names again."""
        spreads = {name: (self._resampled[name], self._groups[name]) for name in self.values}
        return {
            **super().as_dict(),
            "stderr": {name: standard_error(*spread) for name, spread in spreads.items()},
            "interval": {name: interval(*spread) for name, spread in spreads.items()},
        }
