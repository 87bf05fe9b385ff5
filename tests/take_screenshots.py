"""Takes the pictures of the documentation from a demo that runs (`make demo`).

    python tests/take_screenshots.py [FOLDER]

FOLDER is docs/images unless given. Needs chromium and chromedriver.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402

from backend.codecs.brush_rle import decode  # noqa: E402
from backend.host.client import LabelStudioClient  # noqa: E402


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    state = json.loads((ROOT / ".demo" / "state.json").read_text())
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        raise SystemExit("chromium and chromedriver are needed (on Debian: apt install chromium chromium-driver)")
    with (
        tempfile.TemporaryDirectory() as profile,
        Chromium(browser, driver, Path(profile)) as window,
        LabelStudioClient(state["url"], state["token"]) as client,
    ):
        window.log_in(state["url"], state["user"], state["password"])

        def open_first(project: int) -> dict[str, Any]:
            task = next(client.tasks(project))
            window.open(f"{state['url']}/projects/{project}/data?labeling=1&task={task['id']}")
            script = "return window.Htx && Htx.annotationStore.selected && Htx.annotationStore.selected.regions.length"
            window.wait_for(lambda: window.run(script))
            window.settle()
            return client.task(task["id"])

        def click_with_ctrl(x: int, y: int) -> None:
            for kind in ("keyDown", "keyUp"):
                key = {"type": "key", "id": "keyboard", "actions": [{"type": kind, "value": "\ue009"}]}
                window._do("POST", "/actions", actions=[key])
                if kind == "keyDown":
                    window.drag([(x, y)])

        def save(name: str) -> None:
            Image.fromarray(window.screenshot()).save(folder / name, optimize=True)
            print(folder / name)

        pairs, triples = state["project_ids"]
        task = open_first(pairs)
        save("task.png")
        window.click(".lsf-outliner-item", 0)
        window.settle()
        save("region.png")
        window.press("\ue00c")
        window.click_text("Auto-Annotation")
        tool = "return document.querySelectorAll(\"button[aria-label='key-point-tool']\")[0]"
        window.wait_for(lambda: window.run(f"{tool} !== undefined"))
        window.run(f"{tool}.click()")
        row = next(row for row in task["predictions"][0]["result"] if row["type"] == "brush")
        rows, columns = np.nonzero(decode(row["value"]["rle"], row["original_height"], row["original_width"]))
        image = int(row["to_name"].removeprefix("img")) - 1
        left, top, width, height = window.run(
            "return [...document.querySelectorAll('.konvajs-content')].map(e => e.getBoundingClientRect())"
            ".map(r => [r.left, r.top, r.width, r.height])"
        )[image]
        middle = len(rows) // 2
        x = left + (columns[middle] + 0.5) / row["original_width"] * width
        y = top + (rows[middle] + 0.5) / row["original_height"] * height
        click_with_ctrl(round(x), round(y))
        window.wait_for(lambda: window.run("return Htx.annotationStore.selected.suggestions.size"))
        window.settle()
        save("smart.png")
        open_first(triples)
        save("triple.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
