"""Memory that this process has freed goes back to the system: glibc alone keeps most of it, an arena for each thread.

Pictures and tensors come and go on tens of threads, and every arena keeps room for the most that it ever held at once.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

NUM_ARENAS = 2
_M_ARENA_MAX = -8  # glibc's malloc.h
_NOT_GLIBC = (OSError, AttributeError, TypeError)  # the last on Windows, where a library has to be named


def bound_arenas() -> None:
    """Before threads are started. What MALLOC_ARENA_MAX says goes first; nothing happens with another C library."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(*_NOT_GLIBC):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, NUM_ARENAS)


def give_back() -> None:
    """What is free now; milliseconds. Nothing happens with another C library."""
    with suppress(*_NOT_GLIBC):
        ctypes.CDLL(None).malloc_trim(0)
