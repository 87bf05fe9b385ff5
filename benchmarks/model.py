"""The batched, cached path against the plain one and against what the device can do; every figure from one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import (
    Stopwatch,
    memory_bandwidth,
    peak_bytes,
    peak_flops,
    processor,
    reset_peak,
)
from benchmarks.plain import PlainPath
from benchmarks.process import resident_bytes
from benchmarks.workload import segmenter_of, shared_groups
from calico.inference.answered_masks import Asked
from calico.inference.options import ServingOptions
from calico.inference.segmenter import CoSegmenter
from calico.masks import encode_rle, iou
from calico.model.memory import Workload, held_bytes, serving_memory
from calico.values import CoSegmentation, ImageGroup, SubTask

STRETCH = 16  # groups that each path does before it is the other's turn: a busy machine then slows both


def benchmark_model(
    preset: str | None,
    checkpoint: Path | None,
    device: str | None,
    num_groups: int,
    options: ServingOptions,
    *,
    batch_sizes: Sequence[int] = (1, 4, 16),
    num_latency_groups: int = 8,
) -> dict[str, Any]:
    segmenter, names = segmenter_of(preset, checkpoint, device, options)
    segmenter.warm_up()
    groups = shared_groups(num_groups)
    report: dict[str, Any] = {
        "model": segmenter.version,
        "processor": processor(),
        "dtype": str(segmenter.model.dtype).removeprefix("torch."),
        "llm_bits": options.llm_bits,
        "compiled": options.compiled and not segmenter.steps.compile_failure,
        "compile_failure": segmenter.steps.compile_failure,
        "num_groups": num_groups,
        "num_images": len({digest for group in groups for digest in group.digests}),
    }
    report["against_plain"] = against_plain(segmenter, groups, names)
    reset_peak()
    few = groups[:num_latency_groups]
    report["latency"] = latency(segmenter, few, names)
    report["throughput"] = {
        f"batch_{size}": throughput(segmenter, groups[: max(size, num_latency_groups)], names, size)
        for size in batch_sizes
        if size <= num_groups
    }
    report["peak_bytes"] = peak_bytes()
    report["estimated_bytes"] = estimated_bytes(segmenter)
    report["resident_bytes"] = resident_bytes()
    report["limits"] = limits(segmenter, groups[0], names)
    return report


def estimated_bytes(segmenter: CoSegmenter) -> int:
    """What `calico.model.memory` says of one group of two, to hold `peak_bytes` against (on a GPU)."""
    model = segmenter.model
    estimate = serving_memory(model, segmenter.config, model.dtype, None, Workload())
    return sum(estimate.rest.values()) + sum(held_bytes(model).values())


def against_plain(segmenter: CoSegmenter, groups: Sequence[ImageGroup], names: Sequence[str] | None) -> dict[str, Any]:
    """Both paths by turns over the same groups, the batched one's encodings empty at first."""
    plain = PlainPath(segmenter.model, segmenter.config, segmenter.tokenizer)
    segmenter.forget_encodings()
    slow, fast = Stopwatch(), Stopwatch()
    one, other = [], []
    for start in range(0, len(groups), STRETCH):
        batch = groups[start : start + STRETCH]
        with fast:
            one += segmenter.segment_many(batch, candidates=[names] * len(batch))
        with slow:
            other += [plain.segment(group, names) for group in batch]
    overlaps = [agreement(a, b) for a, b in zip(one, other, strict=True)]
    equal = [overlap for overlap in overlaps if overlap is not None]
    return {
        "throughput_ratio": slow.wall_s / fast.wall_s,
        "processor_time_ratio": slow.processor_s / fast.processor_s,
        "batched_seconds_per_group": fast.wall_s / len(groups),
        "plain_seconds_per_group": slow.wall_s / len(groups),
        "batched_processor_seconds_per_group": fast.processor_s / len(groups),
        "plain_processor_seconds_per_group": slow.processor_s / len(groups),
        "groups_with_equal_names": len(equal),
        "least_mask_iou": min(equal, default=None),
        "num_regions": sum(len(result.regions) for result in one),
    }


def agreement(one: CoSegmentation, other: CoSegmentation) -> float | None:
    """The least IoU of masks of one name and image; None where the names, their images or their order differ."""
    if [region.key for region in one.regions] != [region.key for region in other.regions]:
        return None
    return min((iou(a.mask, b.mask) for a, b in zip(one.regions, other.regions, strict=True)), default=1.0)


def latency(segmenter: CoSegmenter, groups: Sequence[ImageGroup], names: Sequence[str] | None) -> dict[str, Any]:
    """One group at a time, nothing cached: the whole, and its stages. Medians."""
    rows: list[dict[str, float]] = []
    for group in groups:
        segmenter.forget_encodings()
        stages = {name: Stopwatch() for name in ("encoders", "prefill", "decode", "masks", "rle")}
        with Stopwatch() as whole, timed_stages(segmenter, stages) as counts:
            result = segmenter.segment(group, candidates=names)
            with stages["rle"]:
                for region in result.regions:
                    encode_rle(region.mask)
        watches = {"group": whole, **stages}
        seconds = {f"{name}_seconds": watch.wall_s for name, watch in watches.items()}
        used = {f"{name}_processor_seconds": watch.processor_s for name, watch in watches.items()}
        rows.append({**seconds, **used, "steps": counts["steps"], "tokens": counts["tokens"]})
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    steps = sum(row["steps"] for row in rows)
    return {
        **medians,
        "num_groups": len(rows),
        "tokens_per_second": sum(row["tokens"] for row in rows) / sum(row["decode_seconds"] for row in rows),
        "seconds_per_step": sum(row["decode_seconds"] for row in rows) / steps,
        "processor_seconds_per_step": sum(row["decode_processor_seconds"] for row in rows) / steps,
    }


class timed_stages:
    """Puts stopwatches around what a segmenter calls, and counts steps and tokens, for the time of a block."""

    def __init__(self, segmenter: CoSegmenter, stages: dict[str, Stopwatch]) -> None:
        self._places = [
            (segmenter, "_encode", stages["encoders"]),
            (segmenter.steps, "prefill", stages["prefill"]),
            (segmenter.steps, "step", stages["decode"]),
            (segmenter, "_write_masks", stages["masks"]),
        ]
        self._before: list[Any] = []
        self._counts = {"steps": 0, "tokens": 0}

    def __enter__(self) -> dict[str, int]:
        for owner, name, watch in self._places:
            original = getattr(owner, name)
            self._before.append(original)

            def timed(*args: Any, name: str = name, original: Any = original, watch: Stopwatch = watch) -> Any:
                with watch:
                    result = original(*args)
                if name == "step":
                    self._counts["steps"] += 1
                    self._counts["tokens"] += len(args[0])
                return result

            setattr(owner, name, timed)
        return self._counts

    def __exit__(self, *error: object) -> None:
        for (owner, name, _), original in zip(self._places, self._before, strict=True):
            setattr(owner, name, original)


def throughput(
    segmenter: CoSegmenter, groups: Sequence[ImageGroup], names: Sequence[str] | None, batch_size: int
) -> dict[str, Any]:
    """Groups a second at a batch size, encodings empty at first."""
    segmenter.forget_encodings()
    with Stopwatch() as watch:
        for start in range(0, len(groups), batch_size):
            stretch = groups[start : start + batch_size]
            segmenter.segment_many(stretch, candidates=[names] * len(stretch))
    return {
        "groups_per_second": len(groups) / watch.wall_s,
        "processor_seconds_per_group": watch.processor_s / len(groups),
        "num_groups": len(groups),
    }


@torch.inference_mode()
def limits(segmenter: CoSegmenter, group: ImageGroup, names: Sequence[str] | None) -> dict[str, Any]:
    """What the device can do, measured first, and which share of it one step and one prefill reach at batch 1.

    A step reads the language model's weights once, so it takes at least their bytes over the bandwidth; a prefill
    computes its floating-point operations, so it takes at least those over the peak. The bandwidth and the peak are the
    best of some tries, so the share of the best step is given beside that of the median one.
    """
    model = segmenter.model
    bandwidth = memory_bandwidth(model.device)
    peak = peak_flops(model.device, model.dtype)
    weights = [*model.llm.get_decoder().layers.state_dict().values(), model.llm.get_output_embeddings().weight]
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    stages = {name: Stopwatch() for name in ("encoders", "prefill", "decode", "masks")}
    segmenter.segment(group, candidates=names)
    with timed_stages(segmenter, stages):
        segmenter.segment(group, candidates=names)
    features, places = segmenter._encode(group.images, group.digests)
    questions = [Asked(0, sub_task, places, group.sizes_hw) for sub_task in SubTask]
    with FlopCounterMode(display=False) as counter:
        segmenter._generate(questions, features, [names or ()] * len(questions), [None] * len(questions), limit=1)
    laps = stages["decode"].laps
    return {
        "bandwidth_bytes_per_second": bandwidth,
        "peak_flops_per_second": peak,
        "weight_bytes_per_step": weight_bytes,
        "num_steps": len(laps),
        "step_seconds": statistics.median(laps),
        "best_step_seconds": min(laps),
        "decode_share_of_bandwidth": weight_bytes / bandwidth / statistics.median(laps),
        "best_decode_share_of_bandwidth": weight_bytes / bandwidth / min(laps),
        "prefill_flops": counter.get_total_flops(),
        "prefill_share_of_peak": counter.get_total_flops() / peak / stages["prefill"].wall_s,
    }
