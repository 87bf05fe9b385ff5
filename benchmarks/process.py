"""Time and memory of this process; needs no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def resident_bytes() -> int | None:
    """Of this process now; None where the system does not say (only Linux does, in /proc)."""
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int | None:
    """A field of Linux's account of this process; None elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
