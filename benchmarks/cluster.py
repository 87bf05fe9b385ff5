"""Workers behind the queue: what the dispatcher costs, with a stand-in for a model that only waits.

So the workers need no cores of their own, and what is measured is the way to them and back. The image's size matters:
it travels, and so do the masks.
"""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from backend.cluster.address import WorkersAddress
from backend.cluster.pool import ModelPool
from backend.prediction.engine import Engine
from backend.prediction.lane import LaneFull
from backend.services import load_segmenter
from backend.telemetry.prometheus import Metrics
from benchmarks.machine import processor
from calico.correspondence import co_segmentation
from calico.data.groups import draw_group
from calico.errors import InputError
from calico.inference.options import ServingOptions
from calico.values import CoSegmentation, ImageGroup, NamedMask

REAL_LOAD = partial(load_segmenter, "cpu", ServingOptions(encoding_bytes=0, host_encoding_bytes=0))
GROUP_S = 0.3  # of the stand-in's call
CLICK_S = 0.3


class Waiting:
    """A model that takes its time and no core. Each image's answer is two boxes."""

    version = "waiting-1"

    def __init__(self, group_s: float = GROUP_S, click_s: float = CLICK_S) -> None:
        self._group_s, self._click_s = group_s, click_s

    def segment_many(
        self, groups: Sequence[ImageGroup], *, candidates: Sequence[Sequence[str] | None]
    ) -> list[CoSegmentation]:
        time.sleep(self._group_s * len(groups))
        return [self._answer(group) for group in groups]

    def _answer(self, group: ImageGroup) -> CoSegmentation:
        masks = []
        for i, (height, width) in enumerate(group.sizes_hw):
            box = np.zeros((height, width), np.bool_)
            box[height // 4 : height // 2, width // 4 : width // 2] = True
            masks += [NamedMask(i, "lamp", None, box, 0.9), NamedMask(i, "lamp", "shade", box, 0.8)]
        return co_segmentation(group.sizes_hw, masks)

    def segment_prompts(self, image: np.ndarray, *_: Any) -> tuple[np.ndarray, float]:
        time.sleep(self._click_s)
        return np.zeros(image.shape[:2], np.bool_), 0.5

    def segment_named(self, *_: Any, **__: Any) -> dict[int, tuple[np.ndarray, float]]:
        return {}


def waiting(folder: Path | None) -> Waiting:
    return Waiting()


def at_once(folder: Path | None) -> Waiting:
    return Waiting(0.0, 0.0)


def new_groups(side: int, at_once: int) -> Iterator[ImageGroup]:
    """Pairs of images, `side` pixels high and wide, that were never asked about before: each has to be hashed and sent.

    at_once: groups that wait or run at most. The memory of earlier ones is used again, with other pixels: what images
    of a corpus cost otherwise, reading them, is not the dispatcher's.
    """
    base = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    pairs = [(base.copy(), base.copy()) for _ in range(at_once + 1)]
    for k in itertools.count():
        pair = pairs[k % len(pairs)]
        for i, image in enumerate(pair):
            image[0, :2] = (i, k % 256, k // 256 % 256), (k // 65536, 0, 0)
        yield ImageGroup(pair)


def benchmark_real(
    num_workers: Sequence[int], seconds: float, load: Any = REAL_LOAD, longest_start_s: float = 600.0
) -> dict[str, Any]:
    """Groups a second of the embedded checkpoint by workers: pairs of drawings, whose encodings are not kept.

    load: as `ModelPool` takes it. Raises InputError where the workers have not answered two groups each in
    `longest_start_s`, and what a group failed with.
    """
    groups = [ImageGroup(tuple(drawn.image for drawn in draw_group(seed, group_size=2))) for seed in range(64)]
    rows = [_real_throughput(number, seconds, load, groups, longest_start_s) for number in num_workers]
    for row in rows:
        row["times_the_first"] = round(row["groups_per_s"] / rows[0]["groups_per_s"], 3)
    return {"throughput": rows, "processor": processor(), "load_average": os.getloadavg()[0]}


def _real_throughput(
    number: int, seconds: float, load: Any, groups: Sequence[ImageGroup], longest_start_s: float
) -> dict[str, Any]:
    """Beside a queue that stays full, once each worker has had its first."""
    pool, engine = _pool(number, load)
    done: list[Future[CoSegmentation]] = []
    k = before = 0
    ended = threading.Event()
    clicks: list[float] = []
    clicker = threading.Thread(target=_click_until, args=(ended, engine, groups[0].images[0], clicks), daemon=True)
    try:
        idle = _clicks(engine, groups[0].images[0], 12)
        began, until = None, time.monotonic() + longest_start_s
        while time.monotonic() < until:
            while engine.depth < number + 2:
                call = engine.segment(groups[k % len(groups)], (), timeout_s=600)
                call.future.add_done_callback(done.append)
                k += 1
            if began is None and len(done) >= 2 * number:
                began, before = time.monotonic(), len(done)
                until = began + seconds
                clicker.start()
            time.sleep(0.01)
        ended.set()
        if began is None:
            raise InputError(f"{number} workers did not answer {2 * number} groups in {longest_start_s:.0f} s")
        num_done, elapsed_s = len(done) - before, time.monotonic() - began
        for future in done[: before + num_done]:
            future.result()
        clicker.join(60)
        return {
            "workers": number,
            "groups_per_s": round(num_done / elapsed_s, 3),
            "n": num_done,
            "click_idle_median_s": round(statistics.median(idle), 3),
            "click_beside_full_queue_median_s": round(statistics.median(clicks), 3) if clicks else None,
            "num_clicks": len(clicks),
        }
    finally:
        pool.close()


def benchmark_cluster(num_workers: Sequence[int], seconds: float, side: int) -> dict[str, Any]:
    """Groups a second by workers, a click's time beside a full queue, and the way there and back."""
    rows = [_throughput(number, seconds, side) for number in num_workers]
    one = rows[0]["groups_per_s"] / rows[0]["workers"]
    for row in rows:
        row["of_ideal"] = round(row["groups_per_s"] / (one * row["workers"]), 3)
    return {
        "throughput": rows,
        "overhead": _overhead(side),
        "processor": processor(),
        "load_average": os.getloadavg()[0],
    }


def _pool(number: int, make: Any = waiting) -> tuple[ModelPool, Engine]:
    pool = ModelPool(WorkersAddress(None, number), make, least=number, most=number, num_cpus=0.001)
    engine = Engine(lambda: pool.load(None), Metrics(), lanes=pool, queue_size=10_000)
    engine.segmenter(600)
    until = time.monotonic() + 600
    while pool.num_lanes < number and time.monotonic() < until:
        time.sleep(0.2)
    return pool, engine


def _throughput(number: int, seconds: float, side: int) -> dict[str, Any]:
    pool, engine = _pool(number)
    try:
        groups = new_groups(side, 4 * number + 8)
        image = next(groups).images[0].copy()
        idle = _clicks(engine, image, 12)
        ended = threading.Event()
        clicks: list[float] = []
        done: list[None] = []  # no result is kept: a backend gives them away, and memory is not what is measured

        def count(future: Future[CoSegmentation]) -> None:
            if not future.cancelled() and future.exception() is None:
                done.append(None)

        clicker = threading.Thread(target=_click_until, args=(ended, engine, image, clicks), daemon=True)
        began: tuple[float, int, dict[str, float]] | None = None
        until = time.monotonic() + 600.0
        while time.monotonic() < until:
            if engine.depth < 2 * number + 8:  # the queue stays full
                call = engine.segment(next(groups))
                call.future.add_done_callback(count)
            else:
                time.sleep(0.005)
            if began is None and len(done) >= 2 * number:
                began = time.monotonic(), len(done), processor_seconds()
                until = began[0] + seconds
                clicker.start()
        ended.set()
        if began is None:
            raise InputError(f"{number} workers did not answer {2 * number} groups in 600 s")
        elapsed, num_done = time.monotonic() - began[0], len(done) - began[1]
        took = {who: seconds - began[2].get(who, 0.0) for who, seconds in processor_seconds().items()}
        clicker.join(30)
        return {
            "workers": number,
            "groups_per_s": round(num_done / elapsed, 2),
            "num_groups": num_done,
            "click_idle_p95_s": round(_p95(idle), 4),
            "click_beside_full_queue_p95_s": round(_p95(clicks), 4),
            "num_clicks": len(clicks),
            "processor_ms_per_group": {who: round(1000 * s / max(1, num_done), 2) for who, s in sorted(took.items())},
        }
    finally:
        pool.close()


def processor_seconds() -> dict[str, float]:
    """That this process, its workers and Ray's own processes took until now."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for process in (this_process := psutil.Process(), *this_process.children(recursive=True)):
        try:
            times, name = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:  # it ended meanwhile
            continue
        who = "backend" if process == this_process else "workers" if "ray::ModelActor" in name else "ray"
        seconds[who] += times.user + times.system
    return seconds


def _click_until(ended: threading.Event, engine: Engine, image: np.ndarray, seconds: list[float]) -> None:
    while not ended.is_set():
        seconds += _clicks(engine, image, 1)


def _clicks(engine: Engine, image: np.ndarray, number: int) -> list[float]:
    seconds = []
    for k in range(number):
        began = time.perf_counter()
        try:
            engine.segment_prompts(image, [(float(k), 1.0)], [True], None).result(60)
        except LaneFull:
            continue
        seconds.append(time.perf_counter() - began)
    return seconds


def _p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95)) if values else float("nan")


def _overhead(side: int, repeats: int = 40) -> dict[str, Any]:
    """Milliseconds of a group through one worker more than through a call in this process, alternately."""
    pool, engine = _pool(1, at_once)
    local = Engine(lambda: Waiting(0.0, 0.0), Metrics())
    try:
        took: dict[str, list[float]] = {"worker": [], "here": []}
        for group in itertools.islice(new_groups(side, 1), repeats):
            group.digests  # noqa: B018  counted once, whoever answers
            for name, one in (("here", local), ("worker", engine)):
                began = time.perf_counter()
                one.segment(group).result(60)
                took[name].append(1000 * (time.perf_counter() - began))
        medians = {name: statistics.median(values) for name, values in took.items()}
        return {
            "megapixels": round(side * side / 1e6, 2),
            "here_ms": round(medians["here"], 2),
            "worker_ms": round(medians["worker"], 2),
            "more_ms": round(medians["worker"] - medians["here"], 2),
            "n": repeats,
        }
    finally:
        pool.close()
