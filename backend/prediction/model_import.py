"""The model's libraries, imported by one thread at a time: transformers loads its names when they are asked for, and of
two threads that ask at once both may fail."""

from __future__ import annotations

import threading

_one_at_a_time = threading.Lock()


def import_model() -> None:
    """Seconds, once."""
    with _one_at_a_time:
        import calico.inference.segmenter
        import calico.training.card  # noqa: F401
