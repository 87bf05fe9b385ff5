"""How many decoded pixels may be in memory at once, whatever many tasks bring at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """A count that those who decode take from, picture by picture, and give back together.

    Who came first may always take more, even beyond the limit, so there is always one that gets on and none waits for
    ever: at most `limit` and one group's pixels are in memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[object, int] = {}  # in the order of coming
        self._changed = threading.Condition()

    @property
    def num_held(self) -> int:
        with self._changed:
            return sum(self._held.values())

    @contextmanager
    def holder(self) -> Iterator[Holder]:
        """Gives back at its end what was taken in it."""
        ticket = object()
        try:
            yield Holder(self, ticket)
        finally:
            with self._changed:
                self._held.pop(ticket, None)
                self._changed.notify_all()

    def take(self, ticket: object, num_pixels: int) -> None:
        with self._changed:
            self._held.setdefault(ticket, 0)

            def may_go() -> bool:
                return next(iter(self._held)) is ticket or sum(self._held.values()) + num_pixels <= self._limit

            self._changed.wait_for(may_go)
            self._held[ticket] += num_pixels


class Holder:
    """One group's, or one picture's, share of the budget."""

    def __init__(self, budget: PixelBudget, ticket: object) -> None:
        self._budget, self._ticket = budget, ticket

    def take(self, num_pixels: int) -> None:
        """Waits until there is room for so many more."""
        self._budget.take(self._ticket, num_pixels)
