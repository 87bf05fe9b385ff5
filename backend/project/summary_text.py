"""What a command that went through a project's tasks says in the end."""

from __future__ import annotations

from collections.abc import Iterable


def summary_text(num_seen: int, counts: Iterable[tuple[int, str]]) -> str:
    """What was done with the tasks, a line each; what did not happen is left out."""
    return "\n".join([f"{num_seen} tasks seen", *(f"{count:>7} {what}" for count, what in counts if count)])
