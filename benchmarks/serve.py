"""Where the time of a `/predict` goes, by named span: fresh groups, the same again, known photos in new groups."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from backend.codecs.config import write_config
from backend.http.app import create_app
from backend.settings import Settings
from calico.data.groups import draw_group

SPANS = ("fetch", "decode", "model", "encode", "json")


def benchmark_serve(checkpoint: Path | None, num_groups: int, group_size: int = 2) -> dict[str, Any]:
    """Requests of one task each through the app, images read from a folder; seconds are medians over the requests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        photos = folder / "photos"
        photos.mkdir()
        groups = [_written(photos, seed, group_size) for seed in range(num_groups + 2)]
        environment = {
            "CALICO_DATA_DIR": str(folder / "backend"),
            "CALICO_MEDIA_ROOTS": str(photos),
            **({"CALICO_CHECKPOINT": str(checkpoint)} if checkpoint else {}),
        }
        app = create_app(Settings.from_environment(environment))
        services = app.extensions["calico"]
        services.engine.segmenter()  # waits for the weights
        client, config = app.test_client(), write_config(group_size, naming="text")

        def ask(number: int, paths: Sequence[Path]) -> dict[str, float]:
            task = {"id": number, "data": {f"image{i + 1}": str(path) for i, path in enumerate(paths)}}
            before = _spans(services.metrics.render())
            started = time.perf_counter()
            reply = client.post("/predict", json={"tasks": [task], "label_config": config, "project": "1.0"})
            seconds = time.perf_counter() - started
            if reply.status_code != 200 or not reply.get_json()["results"][0]:
                raise RuntimeError(f"group {number} got no prediction: {reply.get_data(as_text=True)[:200]}")
            after = _spans(services.metrics.render())
            return {"request": seconds, **{span: after.get(span, 0.0) - before.get(span, 0.0) for span in SPANS}}

        for number, paths in enumerate(groups[:2]):
            ask(number, paths)
        groups = groups[2:]
        fresh = [ask(100 + k, paths) for k, paths in enumerate(groups)]
        again = [ask(200 + k, paths) for k, paths in enumerate(groups)]
        mixed = [[groups[k][0], groups[(k + 1) % len(groups)][1]] for k in range(len(groups))]
        regrouped = [ask(300 + k, paths) for k, paths in enumerate(mixed)]
    outside = [1 - times["model"] / times["request"] for times in fresh]
    request = statistics.median(times["request"] for times in fresh)
    return {
        "num_requests": len(fresh),
        "group_size": group_size,
        "request_seconds": request,
        **{f"{span}_seconds": statistics.median(times[span] for times in fresh) for span in SPANS},
        "outside_model_percent": 100 * statistics.median(outside),
        "same_group_again_ratio": statistics.median(times["request"] for times in again) / request,
        "known_photos_new_group_ratio": statistics.median(times["request"] for times in regrouped) / request,
    }


def _written(folder: Path, seed: int, group_size: int) -> list[Path]:
    paths = [folder / f"{seed}-{i}.png" for i in range(group_size)]
    for path, drawn in zip(paths, draw_group(seed, group_size=group_size), strict=True):
        Image.fromarray(drawn.image).save(path)
    return paths


def _spans(exposition: bytes) -> dict[str, float]:
    """Seconds spent so far per span, from the metrics' own text."""
    seconds = {}
    for line in exposition.decode().splitlines():
        if line.startswith("calico_span_seconds_sum{"):
            seconds[line.split('span="')[1].split('"')[0]] = float(line.rsplit(" ", 1)[1])
    return seconds
