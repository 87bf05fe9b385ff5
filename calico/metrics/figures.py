"""Figures of a report, each with its number of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Figures:
    """Values by name, and how many samples each stands on."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.n: dict[str, int] = {}

    def put(self, name: str, value: float | None, n: int) -> None:
        self.values[name], self.n[name] = value, n

    def mean(self, name: str, values: Iterable[float | None]) -> None:
        """The mean over what is there; its n counts what is."""
        found = [value for value in values if value is not None]
        self.put(name, sum(found) / len(found) if found else None, len(found))

    def share(self, name: str, num: int, of: int) -> None:
        self.put(name, num / of if of else None, of)

    def as_dict(self) -> dict[str, Any]:
        return {**self.values, "n": self.n}
