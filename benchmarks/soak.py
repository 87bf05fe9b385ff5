"""The backend as it is started, under mixed clients for minutes: latencies by kind, errors, memory, descriptors."""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from backend.codecs.config import write_config
from calico.data.groups import draw_group
from calico.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
SECRET = "secret-of-the-soak-test"
NUM_GROUPS = 40  # of two drawings, asked about over and over: some from the cache, most not, as the cache is small
KINDS = {"health": 3, "single": 4, "batch": 2, "click": 4, "webhook": 4, "setup": 1, "jobs": 1, "wrong": 1}  # weights
START_S = 600.0
STEPS = "from benchmarks.training import benchmark_adapter as train; train('calico-tiny', 10**6, None, False, 2)"
TRAINING = (sys.executable, "-c", STEPS)  # of an adapter, for as long as the rest takes
NICENESS = 10  # of what trains, as the backend starts its own jobs


def benchmark_soak(
    minutes: float, num_clients: int, checkpoint: Path | None, beside: Sequence[str] = (), pause_s: float = 0.0
) -> dict[str, Any]:
    """beside: a command that trains meanwhile, at the niceness of a job. pause_s: of each client after every answer, by
    turns half as long to half as long again; people look at what they got.

    Seconds by kind of request: median, 95th percentile, greatest. rss_slope_mb_per_hour: least squares over the second
    half. Raises InputError where the backend does not start.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        tasks = [_task(folder, number) for number in range(NUM_GROUPS)]
        with (folder / "log.txt").open("wb") as log:
            port = _free_port()
            backend = subprocess.Popen(
                [sys.executable, "-m", "backend"], cwd=ROOT, env=_environment(folder, port, checkpoint), stderr=log
            )
            trainer = None
            try:
                _wait_ready(backend, port, folder / "log.txt")
                if beside:
                    trainer = subprocess.Popen(beside, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    os.setpriority(os.PRIO_PROCESS, trainer.pid, NICENESS)
                report = _soak(port, backend.pid, tasks, 60 * minutes, num_clients, pause_s)
                report["trained_beside_to_the_end"] = None if trainer is None else trainer.poll() is None
                report["backend_alive"] = backend.poll() is None
            finally:
                for process in filter(None, (trainer, backend)):
                    process.terminate()
                    process.wait(30)
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        report["internal_errors_logged"] = sum("internal error" in line for line in lines)
    return {"minutes": minutes, "num_clients": num_clients, "pause_s": pause_s, "beside": list(beside), **report}


def _task(folder: Path, number: int) -> dict[str, Any]:
    data = {}
    for i, drawn in enumerate(draw_group(number, group_size=2), 1):
        path = folder / f"{number}-{i}.png"
        Image.fromarray(drawn.image).save(path)
        data[f"image{i}"] = str(path)
    return {"id": number + 1, "data": data}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _environment(folder: Path, port: int, checkpoint: Path | None) -> dict[str, str]:
    variables = {"CALICO_PORT": str(port), "CALICO_DATA_DIR": str(folder / "state"), "CALICO_MEDIA_ROOTS": str(folder)}
    variables |= {"CALICO_WEBHOOK_SECRET": SECRET, "CALICO_RESULT_CACHE_MB": "1", "CALICO_LOG_LEVEL": "WARNING"}
    variables |= {"CALICO_CHECKPOINT": str(checkpoint)} if checkpoint else {}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "LABEL_STUDIO_"))}
    return {**inherited, **variables, "DATABASE_URL": ""}


def _wait_ready(backend: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and backend.poll() is None:
        with suppress(httpx.HTTPError, ValueError):
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json().get("model") == "ready":
                return
        time.sleep(0.2)
    raise InputError(f"the backend did not start: {log.read_text(errors='replace')[-300:]}")


def _soak(
    port: int, pid: int, tasks: list[dict[str, Any]], seconds: float, num_clients: int, pause_s: float
) -> dict[str, Any]:
    times: dict[str, list[float]] = defaultdict(list)
    errors: Counter[str] = Counter()
    lock, until = threading.Lock(), time.monotonic() + seconds
    config = write_config(2, naming="text", smart=True)

    def client(seed: int) -> None:
        choose = random.Random(seed)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/k/{SECRET}", timeout=120, trust_env=False) as http:
            while time.monotonic() < until:
                (kind,) = choose.choices(list(KINDS), list(KINDS.values()))
                started = time.monotonic()
                try:
                    fault = _ask(http, kind, choose, tasks, config)
                except httpx.HTTPError as error:
                    fault = type(error).__name__
                with lock:
                    times[kind].append(time.monotonic() - started)
                    if fault:
                        errors[f"{kind}: {fault}"] += 1
                time.sleep(pause_s * choose.uniform(0.5, 1.5))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(num_clients)]
    for thread in threads:
        thread.start()
    samples = []
    began = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        samples.append((time.monotonic() - began, *_process(pid)))
        time.sleep(min(1.0, seconds / 20))
    later = [sample for sample in samples if sample[0] >= seconds / 2 and sample[1]]
    return {
        "requests": sum(map(len, times.values())),
        "errors": dict(errors),
        "seconds": {kind: _spread(values) for kind, values in sorted(times.items())},
        "rss_mb": {"first": samples[0][1], "last": samples[-1][1], "most": max(sample[1] for sample in samples)},
        "rss_slope_mb_per_hour": _slope([(at / 3600, rss) for at, rss, _ in later]),
        "descriptors": {"first": samples[0][2], "last": samples[-1][2], "most": max(sample[2] for sample in samples)},
        "load_average": os.getloadavg()[0],
    }


def _ask(http: httpx.Client, kind: str, choose: random.Random, tasks: list[dict[str, Any]], config: str) -> str | None:
    """Sends one request; what was wrong with the answer. A busy backend's 503 is told as that."""
    body: dict[str, Any] = {"label_config": config, "project": str(choose.randrange(1, 4))}
    expected, check = 200, None
    if kind in ("health", "jobs"):
        answer = http.get(f"/{kind}")
    elif kind == "setup":
        answer = http.post("/setup", json={})
    elif kind == "webhook":
        number = choose.randrange(10**6)
        annotation = {"id": number, "task": 1, "updated_at": "2026-01-01", "result": [{"value": {"rle": [0] * 5000}}]}
        event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": {"id": 1}, "task": {"id": 1}}
        answer, expected = http.post("/webhook", json=event), 201
    elif kind == "wrong":
        answer, expected = http.post("/predict", json={"tasks": [[]], "label_config": 7}), 400
    else:
        chosen = choose.sample(tasks, 4 if kind == "batch" else 1)
        if kind == "click":
            value = {"x": choose.uniform(5, 95), "y": choose.uniform(5, 95), "keypointlabels": ["object"]}
            row = {"type": "keypointlabels", "from_name": "keypoint1", "to_name": "img1", "value": value}
            body["params"] = {"context": {"result": [row]}}
        else:
            check = _is_empty if kind == "single" else None
        answer = http.post("/predict", json={**body, "tasks": chosen})
    if answer.status_code != expected:
        return str(answer.status_code)
    return check(answer) if check else None


def _is_empty(answer: httpx.Response) -> str | None:
    return None if answer.json()["results"][0] else "empty"


def _process(pid: int) -> tuple[float, int]:
    """(resident megabytes, open descriptors); zeros where the system does not say (only Linux does, in /proc)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(resident.split()[1]) / 1000, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, StopIteration):
        return 0.0, 0


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at: Callable[[float], float] = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {"n": len(ordered), "median": statistics.median(ordered), "p95": at(0.95), "most": ordered[-1]}


def _slope(points: list[tuple[float, float]]) -> float:
    """Of the line of least squares."""
    if len(points) < 3:
        return 0.0
    slope: float = statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
    return slope
