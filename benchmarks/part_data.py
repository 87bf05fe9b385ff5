"""How an index of the paper's size behaves: time to open, samples a second in random order, resident memory.

The index is made up: as many images and samples as MixedParts has, masks as polygons of photographs are, and it is read
in a process of its own, so that what writing it took does not hide what reading it takes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.process import resident_bytes, timed
from calico.mixedparts.index import SUB_TASKS, MixedParts
from calico.mixedparts.records import ObjectRecord, PartMask
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter, write_manifest

SOURCES = ("ade20k", "paco", "partimagenet")
SIZE_HW = (480, 640)
NUM_PARTS = 5
_NUM_OUTLINES = 2000  # different masks; every object has its own copies on disk
_CHUNK = 50_000


def benchmark_data(folder: Path, num_samples: int, num_images: int, num_reads: int) -> dict[str, Any]:
    """Write an index into `folder`, then read from it in another process. Times in seconds, memory in bytes."""
    writing = timed(partial(write_made_up_index, folder, num_samples, num_images))
    command = [sys.executable, "-m", "benchmarks.part_data", str(folder), str(num_reads)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"reading failed: {(run.stderr.strip().splitlines() or ['no output'])[-1]}")
    return {
        "num_samples": num_samples,
        "num_images": num_images,
        "masks_per_image": NUM_PARTS + 1,
        "image_size_hw": list(SIZE_HW),
        "bytes_on_disk": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        "write_seconds": writing,
        **json.loads(run.stdout),
    }


def write_made_up_index(folder: Path, num_samples: int, num_images: int, seed: int = 0) -> None:
    """One object with parts per image; samples are pairs, even over sources and sub-tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    outlines = [_outline(rng) for _ in range(min(_NUM_OUTLINES, 8 * num_images))]
    with ObjectWriter(folder, SOURCES) as objects:
        for number in range(num_images):
            chosen = rng.integers(len(outlines), size=NUM_PARTS + 1)
            whole, *parts = ({"size": list(SIZE_HW), "counts": outlines[k]} for k in chosen)
            masks = tuple(PartMask(f"part {k}", rle) for k, rle in enumerate(parts))
            source = SOURCES[number % len(SOURCES)]
            file = f"{number:012}.jpg"
            record = ObjectRecord(source, str(number), file, SIZE_HW, f"object {number % 75}", whole, masks, "train")
            objects.add(record, 1)
    buckets = [Bucket("train", source, sub_task) for source in SOURCES for sub_task in SUB_TASKS]
    with SampleWriter(folder, SOURCES) as samples:
        for place, bucket in enumerate(buckets):
            remaining = num_samples // len(buckets) + (place < num_samples % len(buckets))
            rows = np.arange(SOURCES.index(bucket.source), num_images, len(SOURCES))
            while remaining:
                number = min(remaining, _CHUNK)
                first = rng.integers(len(rows), size=number)
                second = (first + rng.integers(1, len(rows), size=number)) % len(rows)
                samples.add(bucket, rows[np.stack([first, second], 1)], rng.random(number) < 0.2)
                remaining -= number
    about = {"sources": list(SOURCES), "classes": list(objects.classes), "parts": list(objects.parts)}
    write_manifest(folder, about | {"ranges": samples.ranges, "images": {}})


def _outline(rng: np.random.Generator) -> str:
    """Run lengths of a polygon of 24 corners, 60 to 220 pixels across."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 24))
    radius = rng.uniform(30, 110) * rng.uniform(0.6, 1.0, 24)
    x = np.clip(rng.uniform(110, SIZE_HW[1] - 110) + radius * np.cos(angles), 0, SIZE_HW[1] - 1)
    y = np.clip(rng.uniform(110, SIZE_HW[0] - 110) + radius * np.sin(angles), 0, SIZE_HW[0] - 1)
    (rle,) = coco_mask.frPyObjects([np.stack([x, y], 1).ravel().tolist()], *SIZE_HW)
    return str(rle["counts"].decode("ascii"))


def measure_reading(folder: Path, num_reads: int, seed: int = 1) -> dict[str, Any]:
    """Of an index, samples in random order: entries; records with run lengths; masks decoded; with tiny pictures."""
    before = resident_bytes()
    opened = [timed(partial(MixedParts, folder)) for _ in range(5)]
    data = MixedParts(folder)
    order = np.random.default_rng(seed).integers(len(data), size=num_reads).tolist()
    open_bytes = resident_bytes()
    entries = _per_second(data.entry, order)
    # The first reads allocate what all later ones use again; growth is what comes after them.
    warm_up = max(1, num_reads // 10)
    first = _per_second(data.records, order[:warm_up])
    warm_bytes = resident_bytes()
    records = _per_second(data.records, order[warm_up:]) if num_reads > warm_up else first
    after = resident_bytes()
    decoded = order[: max(1, num_reads // 100)]
    masks = _per_second(lambda i: [record.masks() for record in data.records(i)], decoded)
    pictured = decoded[:200]
    with_pictures = MixedParts(folder, images=_pictures(folder, data, pictured))
    samples = _per_second(with_pictures.__getitem__, pictured)
    return {
        "num_reads": num_reads,
        "open_seconds_median_of_5": statistics.median(opened),
        "entries_per_second": entries,
        "records_per_second": records,
        "num_decoded": len(decoded),
        "decoded_samples_per_second": masks,
        "num_pictured": len(pictured),
        "samples_with_pictures_per_second": samples,
        "resident_bytes_before_opening": before,
        "resident_bytes_after_opening": open_bytes,
        "resident_bytes_after_first_reads": warm_bytes,
        "resident_bytes_after_all_reads": after,
        "growth_bytes": None if after is None or warm_bytes is None else after - warm_bytes,
    }


def _per_second(call: Callable[[int], object], order: Sequence[int]) -> float:
    started = time.perf_counter()
    for i in order:
        call(i)
    return len(order) / (time.perf_counter() - started)


def _pictures(folder: Path, data: MixedParts, order: Sequence[int]) -> Path:
    """Plain JPEG files for these samples."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    image = Image.new("RGB", SIZE_HW[::-1], (120, 130, 140))
    for name in {record.image_file for i in order for record in data.records(i)}:
        image.save(pictures / name)
    return pictures


if __name__ == "__main__":
    print(json.dumps(measure_reading(Path(sys.argv[1]), int(sys.argv[2]))))
