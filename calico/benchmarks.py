"""What `calico benchmark` measures of the model; times in seconds, memory in bytes."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


def benchmark_segment(checkpoint: Path | None, device: str | None, group_size: int, num_repeats: int) -> dict[str, Any]:
    """Imports, loading, fresh groups (nothing cached), one group again (encodings cached), resident memory."""
    started = time.perf_counter()
    from calico.segmenter import CoSegmenter

    imported = time.perf_counter()
    segmenter = CoSegmenter.from_checkpoint(checkpoint, device)
    loaded = time.perf_counter()
    from calico.sampler import draw_group
    from calico.values import ImageGroup

    groups = [
        ImageGroup(tuple(i.image for i in draw_group(seed, group_size=group_size))) for seed in range(num_repeats + 2)
    ]
    for group in groups[:2]:
        segmenter.segment(group)
    fresh = [timed(partial(segmenter.segment, group)) for group in groups[2:]]
    again = [timed(partial(segmenter.segment, group)) for group in groups[2:]]
    return {
        "checkpoint": segmenter.version,
        "processor": processor(),
        "group_size": group_size,
        "num_groups": num_repeats,
        "import_seconds": imported - started,
        "load_seconds": loaded - imported,
        "median_seconds": statistics.median(fresh),
        "p95_seconds": float(np.percentile(fresh, 95)),
        "cached_encodings_ratio": statistics.median(again) / statistics.median(fresh),
        "resident_bytes": resident_bytes(),
    }


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def resident_bytes() -> int | None:
    """Of this process now; None where the system does not say (only Linux does, in /proc)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def processor() -> str:
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {torch.get_num_threads()} threads{gpu}"
