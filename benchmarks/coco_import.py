"""A COCO file of a million annotations -> tasks: time, and resident memory on the way."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import processor

PER_IMAGE = 4  # an object and three parts


def write_coco(path: Path, num_annotations: int) -> None:
    """Images of 64 x 48 with addresses, each a chair with its legs, seat and back as polygons; row by row."""
    parts = ("", "leg", "seat", "back")
    num_images = num_annotations // PER_IMAGE
    with path.open("w", encoding="utf-8") as file:
        categories = [{"id": k, "name": f"chair:{part}" if part else "chair"} for k, part in enumerate(parts, start=1)]
        file.write('{"categories": ' + json.dumps(categories) + ',\n"images": [')
        for number in range(num_images):
            row = {"id": number, "file_name": f"{number}.png", "coco_url": f"https://h.example/{number}.png"}
            file.write(("," if number else "") + "\n" + json.dumps({**row, "width": 64, "height": 48}))
        file.write('],\n"annotations": [')
        for number in range(num_images * PER_IMAGE):
            image, k = divmod(number, PER_IMAGE)
            x, y = 4 + image % 7, 4 + 10 * k if k else 3
            points = [x, y, x + 40, y, x + 40 - k, y + (9 if k else 41), x, y + 8]
            row = {"id": number, "image_id": image, "category_id": k + 1, "iscrowd": 0, "segmentation": [points]}
            file.write(("," if number else "") + "\n" + json.dumps(row))
        file.write("]}\n")


def benchmark_import(verb: Sequence[str], num_annotations: int, interval_s: float = 5.0) -> dict[str, Any]:
    """Through `calico import_coco` (verb: how to run it), as a user does, watched from outside; ten figures of its
    memory."""
    with tempfile.TemporaryDirectory() as folder:
        coco, out, report = (Path(folder) / name for name in ("coco.json", "tasks.json", "report.json"))
        write_coco(coco, num_annotations)
        start = time.perf_counter()
        command = [*verb, str(coco), "--out", str(out), "--json", str(report)]
        memory: list[int] = []
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            while process.poll() is None:
                memory.append(_resident_bytes(process.pid))
                time.sleep(interval_s)
        seconds = time.perf_counter() - start
        summary = json.loads(report.read_text("utf-8"))
        steps = max(1, len(memory) // 10)
        return {
            "processor": processor(),
            "annotations": num_annotations,
            "coco_mb": round(coco.stat().st_size / 1e6),
            "tasks_mb": round(out.stat().st_size / 1e6),
            "tasks": summary["tasks"],
            "regions": summary["regions"],
            "minutes": seconds / 60,
            "memory_mb": [round(value / 1e6) for value in memory[::steps]],
            "most_memory_mb": round(max(memory) / 1e6),
        }


def _resident_bytes(process: int) -> int:
    """Of another process; 0 where it has ended, or the system does not say."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)
