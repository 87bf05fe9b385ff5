"""Thousands of annotated groups through `calico feedback`: resident memory on the way, time per group.

The groups are made up: drawings with a prediction that is a little off and its correction, as brush annotations by our
own codec, over a few drawings; each group's pictures are marked with its number, so that no two are one picture. They
are read by the code of `calico feedback` in a process of its own, so that what making them took does not hide what
reading them takes; from a JSON export, or page by page from a host that answers as Label Studio does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from backend.codecs.config import read_config, write_config
from backend.codecs.prediction import encode_prediction
from backend.learning.collect import Source, collect
from backend.settings import Settings
from benchmarks.process import resident_bytes, status_bytes
from calico.correspondence import co_segmentation, truth_of
from calico.data.groups import draw_group
from calico.simulation.annotator import shaken
from calico.snapshots.report import feedback_report
from calico.values import AnnotatedImage, CoSegmentation, NamedMask

SOURCES = ("export", "project")
PROJECT = 1
NUM_DRAWN = 25  # different groups; each is corrected many times, over pictures of its own
NUM_SAMPLES = 10
TOKEN = "0" * 40


def benchmark_feedback(folder: Path, num_groups: int, source: str, image_size: int = 128) -> dict[str, Any]:
    """Makes the groups in `folder`, reads them in another process. Times in seconds, memory in bytes.

    image_size: longest side in pixels. Raises RuntimeError where reading fails; it has then said why.
    """
    made_up = MadeUpProject(folder, image_size)
    started = time.perf_counter()
    for number in range(1, num_groups + 1):
        made_up.write_pictures(number)
    command = [sys.executable, "-m", "benchmarks.feedback", str(folder), str(num_groups)]
    if source == "export":
        made_up.write_export(num_groups)
        making = time.perf_counter() - started
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    else:
        making = time.perf_counter() - started
        with host_of(made_up, num_groups) as url:
            run = subprocess.run([*command, url], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"reading failed with exit code {run.returncode}; its words are above")
    size = made_up.export.stat().st_size if made_up.export.exists() else None
    return {"source": source, "make_seconds": making, "export_bytes": size, **json.loads(run.stdout.splitlines()[-1])}


class MadeUpProject:
    """Annotated tasks by number, from 1 on, and their pictures below `folder`."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.config, self.pictures, self.export = folder / "config.xml", folder / "pictures", folder / "export.json"
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.label_config = write_config(2, naming="text")
        self.config.write_text(self.label_config, encoding="utf-8")
        self._image_size = image_size

    @cached_property
    def _drawn(self) -> list[tuple[list[AnnotatedImage], list[Any], list[Any]]]:
        """Drawings, the rows of their prediction, the rows of their correction."""
        config = read_config(self.label_config)
        drawn_groups = []
        for seed in range(NUM_DRAWN):
            images = draw_group(seed, group_size=2, size=self._image_size)
            truth = truth_of(images)
            # Of one task, since a region keeps its row's id from prediction to annotation.
            sides = [
                encode_prediction(side, config, model_version="made-up", task_id=seed).prediction["result"]
                for side in (_off(truth, seed), truth)
            ]
            drawn_groups.append((images, *sides))
        return drawn_groups

    def picture(self, number: int, image: int) -> Path:
        return self.pictures / f"{number}-{image + 1}.png"

    def write_pictures(self, number: int) -> None:
        images, _, _ = self._drawn[number % NUM_DRAWN]
        for i, drawn in enumerate(images):
            marked = drawn.image.copy()
            marked[0, :4, 0] = np.frombuffer(number.to_bytes(4, "big"), np.uint8)
            Image.fromarray(marked).save(self.picture(number, i), compress_level=1)

    def task(self, number: int) -> dict[str, Any]:
        _, predicted, corrected = self._drawn[number % NUM_DRAWN]
        annotation = {
            "id": number,
            "completed_by": number % 7,
            "was_cancelled": False,
            "ground_truth": False,
            "lead_time": 30.0,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "parent_prediction": number,
            "result": corrected,
        }
        return {
            "id": number,
            "project": PROJECT,
            "data": {f"image{i + 1}": str(self.picture(number, i)) for i in range(2)},
            "annotations": [annotation],
            "predictions": [{"id": number, "model_version": "made-up", "result": predicted}],
        }

    def write_export(self, num_groups: int) -> None:
        """A list of tasks as the host exports it, a task at a time."""
        with self.export.open("w", encoding="utf-8") as file:
            for number in range(1, num_groups + 1):
                file.write("[" if number == 1 else ",\n")
                file.write(json.dumps(self.task(number)))
            file.write("]\n")


def _off(truth: CoSegmentation, seed: int) -> CoSegmentation:
    """A prediction of it: edges that are a little off."""
    rng = np.random.default_rng(seed)
    masks = [NamedMask(r.image, r.object_name, r.part_name, shaken(r.mask, 1.5, rng)) for r in truth.regions]
    return co_segmentation(truth.sizes_hw, masks)


@contextmanager
def host_of(made_up: MadeUpProject, num_groups: int) -> Iterator[str]:
    """The address of a host that has the tasks 1 to `num_groups`, as far as `calico feedback --project` asks."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path == f"/api/projects/{PROJECT}/":
                answer: dict[str, Any] = {"label_config": made_up.label_config, "task_number": num_groups}
            else:
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                after = json.loads(query["query"])["filters"]["items"][0]["value"]
                last = min(num_groups, after + int(query["page_size"]))
                answer = {"tasks": [made_up.task(number) for number in range(after + 1, last + 1)]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A line a request would hide the progress."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def measure_feedback(folder: Path, num_groups: int, url: str | None) -> dict[str, Any]:
    """Of this process, which should have done nothing else. url: of the host, None for the export.

    rows: after every tenth of the groups. growth_bytes: the most of them above the first. again: the snapshot replaced
    by one of the same groups, which keeps its splits. Memory is None where the system does not say.
    """
    environment = {"CALICO_DATA_DIR": str(folder / "data"), "CALICO_MEDIA_ROOTS": str(folder / "pictures")}
    if url is not None:
        environment |= {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": TOKEN}
    settings = Settings.from_environment(environment)
    label_config = (folder / "config.xml").read_text(encoding="utf-8")
    export = None if url else folder / "export.json"
    source = Source(project=PROJECT if url else None, export=export, label_config=label_config)
    step = max(1, num_groups // NUM_SAMPLES)
    rows: list[dict[str, Any]] = []
    last = time.perf_counter(), time.process_time()

    def on_progress(num_tasks: int, note: str) -> None:
        nonlocal last
        if num_tasks % step:
            return
        now = time.perf_counter(), time.process_time()
        rows.append(
            {
                "groups": num_tasks,
                "resident_bytes": resident_bytes(),
                "seconds_per_group": (now[0] - last[0]) / step,
                "processor_seconds_per_group": (now[1] - last[1]) / step,
            }
        )
        last = now
        print(f"{num_tasks} of {num_groups} tasks, {note}", file=sys.stderr)

    before = resident_bytes()
    snapshot, num_tasks = collect(settings, source, folder / "snapshot", on_progress=on_progress)
    finishing, written = time.perf_counter() - last[0], resident_bytes()
    first_peak = status_bytes("VmHWM")
    report = feedback_report(snapshot.records())
    after_report, once = resident_bytes(), list(rows)
    last = time.perf_counter(), time.process_time()
    again, _ = collect(settings, source, folder / "snapshot", on_progress=on_progress)
    held = [row["resident_bytes"] for row in once]
    growth = None if before is None else max(held) - held[0]
    return {
        "num_tasks": num_tasks,
        "num_groups": snapshot.manifest["num_groups"],
        "num_edited_regions": report["overall"]["edited"],
        "samples_bytes": (snapshot.folder / "samples.jsonl").stat().st_size,
        "resident_bytes_before": before,
        "rows": once,
        "growth_bytes": growth,
        "finish_seconds": finishing,
        "resident_bytes_written": written,
        "peak_bytes": first_peak,
        "resident_bytes_reported": after_report,
        "again_is_the_same": again.manifest == snapshot.manifest,
        "again_resident_bytes": resident_bytes(),
        "again_peak_bytes": status_bytes("VmHWM"),
    }


if __name__ == "__main__":
    print(json.dumps(measure_feedback(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None)))
