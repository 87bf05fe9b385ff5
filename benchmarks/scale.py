"""Cost of a group after more and more groups: a flat line is what is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Stopwatch, processor
from benchmarks.process import resident_bytes
from benchmarks.workload import segmenter_of, shared_groups
from calico.inference.encodings import split_features
from calico.inference.options import ServingOptions


@torch.inference_mode()
def benchmark_scale(
    preset: str | None,
    checkpoint: Path | None,
    device: str | None,
    counts: Sequence[int],
    num_sampled: int,
    options: ServingOptions,
) -> dict[str, Any]:
    """For each count: the state after so many groups, then `num_sampled` more groups, timed.

    The one thing that grows with the groups is what is kept of their images, so that state is made by keeping so many
    images' encodings (copies of one, under names of their own) rather than by answering all groups.
    """
    segmenter, names = segmenter_of(preset, checkpoint, device, options)
    segmenter.warm_up()
    groups = shared_groups(num_sampled)
    blank = np.zeros((64, 64, 3), np.uint8)
    rows: list[dict[str, Any]] = []
    for count in counts:
        segmenter.forget_encodings()
        (encoding,) = split_features(segmenter._encode([blank], ["blank"])[0])
        for number in range(2 * count):
            segmenter._encodings.put(f"image {number}", split_features(encoding)[0])
        with Stopwatch() as watch:
            segmenter.segment_many(groups, candidates=[names] * len(groups))
        rows.append(
            {
                "groups_before": count,
                "seconds_per_group": watch.wall_s / len(groups),
                "processor_seconds_per_group": watch.processor_s / len(groups),
                "resident_bytes": resident_bytes(),
            }
        )
    used = [row["processor_seconds_per_group"] for row in rows]
    return {
        "model": segmenter.version,
        "processor": processor(),
        "groups_measured_at_each_count": num_sampled,
        "largest_over_smallest_processor_time": max(u for u in used if u) / min(u for u in used if u),
        "rows": rows,
    }
