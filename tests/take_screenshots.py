"""Takes the pictures of the annotators' page from a demo that runs (`make demo`), of its first group of two.

    python tests/take_screenshots.py [FOLDER]

FOLDER is docs/images unless given. Needs chromium and chromedriver. Leaves a draft in the demo:
take them from a new one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402

from backend.codecs.brush_rle import decode  # noqa: E402
from backend.host.client import LabelStudioClient  # noqa: E402

SIZE_WH = (1280, 860)  # of the window; its bars take some of the height
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
    project = state["project_ids"][0]
    with LabelStudioClient(state["url"], state["token"]) as client:
        task = client.task(next(client.tasks(project))["id"])
    with (
        tempfile.TemporaryDirectory() as profile,
        Chromium(browser, driver, Path(profile), size_wh=SIZE_WH) as window,
    ):
        window.log_in(state["url"], state["user"], state["password"])
        window.open(f"{state['url']}/projects/{project}/data?labeling=1")
        window.wait_for(lambda: window.run(REGIONS))

        def save(name: str) -> None:
            window.settle()
            picture = Image.fromarray(window.screenshot()).quantize(NUM_COLORS, dither=Image.Dither.NONE)
            picture.save(folder / name, optimize=True)
            print(folder / name)

        save("task.png")

        # On image 1 a part is taken away, and asked for anew by a point in its middle.
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
        for kind in ("keyDown", "keyUp"):
            key = {"type": "key", "id": "keyboard", "actions": [{"type": kind, "value": "\ue009"}]}
            window._do("POST", "/actions", actions=[key])
            if kind == "keyDown":
                window.drag([(x, y)])
        window.wait_for(lambda: window.run("return Htx.annotationStore.selected.suggestions.size"))
        save("smart.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
