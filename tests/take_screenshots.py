"""Takes the documentation's pictures from a demo that runs (`make demo`): two of its first group as an annotator sees
it, and one of the dashboard.

    python tests/take_screenshots.py [FOLDER]

FOLDER is docs/images unless given. Needs chromium and chromedriver. For the dashboard it submits some groups of the
demo's first project and trains on them, until the job's own steps have begun; then it cancels the job. It leaves these
groups and a draft in the demo: take them from a new one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402

from backend.codecs.brush_rle import decode  # noqa: E402
from backend.host.client import LabelStudioClient  # noqa: E402

SIZE_WH = (1280, 860)  # of the window; its bars take some of the height
DASHBOARD_WH = (1280, 1240)
NUM_SUBMITTED = 6  # groups for the dashboard, one part of every other one deleted
STEPS_S = 20.0  # of training before the picture is taken
PICTURES_ARE_SHOWN = """return [...document.images].every(image =>
  image.getBoundingClientRect().top > innerHeight || image.complete && image.naturalWidth)"""
JOB_S = 900.0  # until a job's own steps begin
PART = "seat"  # of the chair
NUM_COLORS = 256  # of the files: half the bytes
REGIONS = "return window.Htx && Htx.annotationStore.selected && Htx.annotationStore.selected.regions.length"
IMAGES = """return [...document.querySelectorAll('.konvajs-content')].map(e => e.getBoundingClientRect())
  .map(r => [r.left, r.top, r.width, r.height])"""
REMOVE = """Htx.annotationStore.selected.regions
  .filter(r => r.object.name === arguments[0] && r.labels.includes(arguments[1])).forEach(r => r.deleteRegion())"""
CHOOSE = "[...document.querySelectorAll('.lsf-label')].find(e => e.innerText.startsWith(arguments[0])).click()"


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    state = json.loads((ROOT / ".demo" / "state.json").read_text())
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        raise SystemExit("chromium and chromedriver are needed (on Debian: apt install chromium chromium-driver)")
    with (
        tempfile.TemporaryDirectory() as profile,
        LabelStudioClient(state["url"], state["token"]) as client,
        Chromium(browser, driver, Path(profile), size_wh=SIZE_WH) as window,
    ):

        def save(name: str) -> None:
            window.settle()
            picture = Image.fromarray(window.screenshot()).quantize(NUM_COLORS, dither=Image.Dither.NONE)
            picture.save(folder / name, optimize=True)
            print(folder / name)

        window.log_in(state["url"], state["user"], state["password"])
        take_task(window, client, state, save)
        take_dashboard(window, client, state, save)
    return 0


def take_task(window: Chromium, client: LabelStudioClient, state: dict[str, Any], save: Callable[[str], None]) -> None:
    """The first group, and a part of its image 1 taken away and asked for anew by a point in its middle."""
    project = state["project_ids"][0]
    task = client.task(next(client.tasks(project))["id"])
    window.open(f"{state['url']}/projects/{project}/data?labeling=1")
    window.wait_for(lambda: window.run(REGIONS))
    save("task.png")

    rows = task["predictions"][0]["result"]
    ids = {row["id"] for row in rows if row["value"].get("labels") == [PART]}
    found = [row for row in rows if row["id"] in ids and row["type"] == "brush"]
    first = next((row for row in found if row["to_name"] == "img1"), None)
    if first is None:
        raise SystemExit(f"expected a {PART} on image 1 of the first group; is this a new demo?")
    window.run(REMOVE, "img1", PART)
    window.click_text("Auto-Annotation")
    tool = "return document.querySelectorAll(\"button[aria-label='key-point-tool']\")[0]"
    window.wait_for(lambda: window.run(f"{tool} !== undefined"))
    window.run(f"{tool}.click()")
    window.run(CHOOSE, PART)
    window.settle()
    mask = decode(first["value"]["rle"], first["original_height"], first["original_width"])
    ys, xs = np.nonzero(mask)
    left, top, width, height = window.run(IMAGES)[0]
    middle = len(ys) // 2
    x = round(left + (xs[middle] + 0.5) / mask.shape[1] * width)
    y = round(top + (ys[middle] + 0.5) / mask.shape[0] * height)
    window.key("keyDown", "\ue009")
    window.drag([(x, y)])
    window.key("keyUp", "\ue009")
    window.wait_for(lambda: window.run("return Htx.annotationStore.selected.suggestions.size"))
    save("smart.png")


def take_dashboard(
    window: Chromium, client: LabelStudioClient, state: dict[str, Any], save: Callable[[str], None]
) -> None:
    project = state["project_ids"][0]
    for number, task in enumerate(islice(client.tasks(project), NUM_SUBMITTED)):
        submit(client, task["id"], deletes_a_part=number % 2 == 1)
    with httpx.Client(headers={"Accept": "application/json"}, timeout=60.0, trust_env=False) as http:

        def job() -> dict[str, Any]:
            newest: dict[str, Any] = http.get(f"{state['backend_url']}/").json()["training"][0]
            if newest["state"] not in ("queued", "running"):
                raise SystemExit(f"the training job is {newest['state']}: {newest.get('outcome')}")
            return newest

        asked = http.post(f"{state['backend_url']}/jobs/training", json={"project": project}).raise_for_status().json()
        try:
            window.resize(*DASHBOARD_WH)
            window.wait_for(lambda: trains(job()), timeout_s=JOB_S)
            window.open(f"{state['backend_url']}/")
            window.wait_for(lambda: window.run(PICTURES_ARE_SHOWN))
            save("dashboard.png")
        finally:
            http.post(f"{state['backend_url']}/jobs/training/{asked['job']}/cancel", json={})


def trains(job: dict[str, Any]) -> bool:
    """Whether its own steps have gone on for long enough to say what is left."""
    progress = job["progress"] or {}
    return progress.get("what") == "training" and progress["elapsed_s"] > STEPS_S


def submit(client: LabelStudioClient, task: int, *, deletes_a_part: bool) -> None:
    """The prediction as an annotator's own; the smallest part of image 1, which comes first, deleted if asked."""
    if client.annotations(task):
        return
    prediction = client.predictions(task=task)[0]
    deleted = prediction["result"][0]["id"] if deletes_a_part else None
    rows = [row for row in prediction["result"] if row.get("id") != deleted]
    body = {"result": rows, "parent_prediction": prediction["id"], "lead_time": 20.0}
    client.request("POST", f"api/tasks/{task}/annotations/", json=body)


if __name__ == "__main__":
    raise SystemExit(main())
