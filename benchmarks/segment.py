"""One group after the other, as an annotator's browser asks."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import processor
from benchmarks.process import resident_bytes, timed


def benchmark_segment(checkpoint: Path | None, device: str | None, group_size: int, num_repeats: int) -> dict[str, Any]:
    """Imports, loading, fresh groups (nothing cached), one group again (encodings cached), resident memory."""
    started = time.perf_counter()
    from calico.inference.segmenter import CoSegmenter

    imported = time.perf_counter()
    segmenter = CoSegmenter.from_checkpoint(checkpoint, device)
    loaded = time.perf_counter()
    from calico.data.groups import draw_group
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
