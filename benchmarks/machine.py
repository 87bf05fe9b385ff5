"""What a machine is, and what it can do at most: both are measured before anything is held against them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch

from benchmarks.process import status_bytes


def processor() -> str:
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}"


class Stopwatch:
    """Wall and processor seconds of blocks; on a machine that others use, the second says more. Waits for a GPU.

    laps: wall seconds of each block.
    """

    def __init__(self) -> None:
        self.laps: list[float] = []
        self.processor_s = 0.0

    @property
    def wall_s(self) -> float:
        return sum(self.laps)

    def __enter__(self) -> Stopwatch:
        wait()
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        wait()
        self.laps.append(time.perf_counter() - self._started[0])
        self.processor_s += time.process_time() - self._started[1]


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int | None:
    """Most that was ever held: of the GPU since `reset_peak`, else of this process (only where the system says)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return status_bytes("VmHWM")


def reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def best_seconds(call: Callable[[], object], num_repeats: int = 5) -> float:
    """Wall seconds, the best of some: others on the machine only ever add."""
    call()
    times = []
    for _ in range(num_repeats):
        with Stopwatch() as watch:
            call()
        times.append(watch.wall_s)
    return min(times)


def memory_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    num_bytes = 2**30 if device.type == "cuda" else 2**27
    source = torch.zeros(num_bytes, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / best_seconds(lambda: target.copy_(source))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square matrix product in this dtype."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: a @ b)
