"""A team corrects photographs one group after the other in a real Label Studio, and presses nothing but Submit.

PYTHONPATH=tests python tests/measure_learning.py --photos FOLDER [--groups 15] [--in-browser 3] [--held-out 12]

FOLDER: annotations.json and images/ (docs/photographs.md). The backend is the real one with the embedded checkpoint.
The last groups are submitted in Chromium, by the editor's own button; the others by the API. Printed: seconds from each
Submit to the memory that holds it; strict mIoU of parts on groups that nobody labels, before and after, as Label Studio
shows them; and how long predictions took meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from chromium import Chromium
from live_backend import LiveBackend, annotate

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config
from backend.codecs.config_writer import write_config
from backend.codecs.parts import unknown_parts
from backend.codecs.prediction import encode_prediction
from backend.demo.label_studio import Account, LabelStudioHost
from backend.host.client import LabelStudioClient
from calico.metrics.strict import compare, keyed, name_counts, strict_miou
from calico.simulation.photos import IMAGES, PhotoGroup, PhotoPool
from calico.values import CoSegmentation

ROOT = Path(__file__).resolve().parent.parent
SUBMIT = "button[aria-label='Submit current annotation']"
LONGEST_FIT_S = 300.0


def task_of(group: Sequence[str]) -> dict[str, Any]:
    addresses = {f"image{k}": f"/data/local-files/?d=photos/{name}" for k, name in enumerate(group, 1)}
    return {"data": {**addresses, "parts": unknown_parts()}}


class Desk:
    """One project: `numbers` are its tasks, the labelled ones first."""

    def __init__(self, host: LabelStudioHost, client: LabelStudioClient, backend: LiveBackend, photos: Path) -> None:
        self.host, self.client, self.backend = host, client, backend
        shutil.copytree(photos / IMAGES, host.files_dir / "photos")
        self.project = client.create_project("photographs", write_config(2), show_collab_predictions=True)["id"]
        client.add_local_files(self.project, str(host.files_dir / "photos"))
        client.connect_backend(self.project, backend.url, is_interactive=True)

    def correct(self, task: int, truth: CoSegmentation, browser: Chromium | None) -> float:
        """Seconds from Submit until the project's memory is fitted with it."""
        data = self.client.task(task)["data"]
        config = read_config(write_config(2))
        parts = sorted({region.name for region in truth.regions})
        data = data | {"parts": [{"value": name} for name in parts]}
        self.client.update_task(task, data)
        rows = encode_prediction(truth, config, model_version="", task_id=task, task_data=data).prediction["result"]
        # Of a person's hand: what was accepted as predicted teaches nothing where anything else was corrected.
        rows = [{**row, "origin": "manual"} if "origin" in row else row for row in rows]
        before = self._num_groups()
        started = time.perf_counter()
        if browser is None:
            annotate(self.client, task, rows)
        else:
            browser.open(f"{self.host.url}/projects/{self.project}/data?task={task}")
            store = "Htx && Htx.annotationStore && Htx.annotationStore.selected"
            browser.wait_for(lambda: browser.run(f"return !!(window.{store})") and browser.find(SUBMIT))
            browser.settle()
            browser.run(
                """const a = Htx.annotationStore.selected; a.deleteAllRegions({deleteReadOnly: true});
                   a.deserializeResults(arguments[0]); a.updateObjects();""",
                rows,
            )
            browser.wait_for(lambda: browser.run(f"return {store}.regions.length") == _num_regions(rows))
            browser.settle()
            started = time.perf_counter()
            browser.click(SUBMIT)
            browser.wait_for(lambda: self.client.annotations(task))
        while self._num_groups() <= before:
            assert time.perf_counter() - started < LONGEST_FIT_S, self.memory()
            time.sleep(0.1)
        return time.perf_counter() - started

    def memory(self) -> dict[str, Any]:
        rows = self.backend.services.memories.as_json()
        return next((row for row in rows if row["project"] == self.project), {})

    def _num_groups(self) -> int:
        return int(self.memory().get("groups") or 0)

    def shown(self, task: int, sizes_hw: Sequence[tuple[int, int]]) -> CoSegmentation:
        """The newest prediction as the host stores it, asked for anew; it stores none where nothing is to be shown."""
        for row in self.client.predictions(task=task):
            self.client.delete_prediction(row["id"])
        self.client.retrieve_predictions(self.project, [task])
        rows = self.client.predictions(task=task)
        if not rows:
            return CoSegmentation(sizes_hw)
        newest = max(rows, key=lambda row: row["id"])
        config, task_data = read_config(write_config(2)), self.client.task(task)["data"]
        return decode_annotation(newest, config, sizes_hw, task_data=task_data).cosegmentation


def _num_regions(rows: Sequence[dict[str, Any]]) -> int:
    return len({row["id"] for row in rows if "id" in row and row.get("type") != "relation"})


def score(pairs: Sequence[tuple[CoSegmentation, CoSegmentation]]) -> dict[str, Any]:
    """pairs: truth and what is shown."""
    matches = [match for truth, own in pairs for match in compare(keyed(truth.regions), keyed(own.regions))]
    names = name_counts(matches)
    return {"strict_miou_parts": strict_miou(matches, "part"), "names": names._asdict(), "n_groups": len(pairs)}


def meanwhile(desk: Desk, tasks: Sequence[int], ended: threading.Event, waits: list[float]) -> None:
    """Another annotator opens tasks while the memory is fitted."""
    with httpx.Client(timeout=120, trust_env=False) as http:
        while not ended.wait(3.0):
            rows = [desk.client.task(tasks[len(waits) % len(tasks)])]
            body = {"tasks": rows, "label_config": write_config(2), "project": f"{desk.project}.1"}
            started = time.perf_counter()
            http.post(f"{desk.backend.url}/predict", json=body).raise_for_status()
            waits.append(time.perf_counter() - started)


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=15)
    parser.add_argument("--in-browser", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=12)
    args = parser.parse_args()
    pool = PhotoPool(args.photos)
    labelled: list[PhotoGroup] = pool.labelled(0, args.groups)
    unseen = list(pool.held_out(args.held_out))
    executable = Path(os.environ.get("CALICO_LABEL_STUDIO", ROOT / ".demo/label-studio-venv/bin/label-studio"))
    account = Account("tests@localhost.com", "password of the tests", "0123456789" * 4)
    browser_path, driver_path = (shutil.which(name) or name for name in ("chromium", "chromedriver"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            LabelStudioHost(folder / "data", executable.absolute(), account=account, port=18090) as host,
            LabelStudioClient(host.url, account.token) as client,
            LiveBackend(host, folder / "backend", None) as backend,
            Chromium(browser_path, driver_path, folder / "chromium") as browser,
        ):
            browser.log_in(host.url, account.user, account.password)
            desk = Desk(host, client, backend, args.photos)
            names = [group.sources for group in labelled] + [group.names for _, group, _ in unseen]
            numbers = client.import_tasks(desk.project, [task_of(own) for own in names])
            tests = list(zip(numbers[len(labelled) :], [truth for _, _, truth in unseen], strict=True))
            before = score([(truth, desk.shown(task, truth.sizes_hw)) for task, truth in tests])
            ended, waits, seconds = threading.Event(), list[float](), []
            other = threading.Thread(target=meanwhile, args=(desk, numbers[len(labelled) :], ended, waits))
            other.start()
            for k, (task, group) in enumerate(zip(numbers, labelled, strict=False)):
                by_hand = k >= len(labelled) - args.in_browser
                seconds.append(desk.correct(task, group.truth, browser if by_hand else None))
                print(f"group {k + 1}{' in the browser' if by_hand else ''}: {seconds[-1]:.1f} s", flush=True)
            ended.set()
            other.join()
            after = score([(truth, desk.shown(task, truth.sizes_hw)) for task, truth in tests])
            report = {
                "before": before,
                "after": after,
                "seconds_to_memory": [round(own, 1) for own in seconds],
                "predictions_meanwhile": {"n": len(waits), "median_s": statistics.median(waits), "most_s": max(waits)},
            }
            print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
