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

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402

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

        def open_first(project: int) -> None:
            task = next(client.tasks(project))
            window.open(f"{state['url']}/projects/{project}/data?task={task['id']}")
            script = "return window.Htx && Htx.annotationStore.selected && Htx.annotationStore.selected.regions.length"
            window.wait_for(lambda: window.run(script))
            window.settle()

        def save(name: str) -> None:
            Image.fromarray(window.screenshot()).save(folder / name, optimize=True)
            print(folder / name)

        pairs, triples = state["project_ids"]
        open_first(pairs)
        save("task.png")
        window.click(".lsf-outliner-item", 1)
        window.settle()
        save("region.png")
        open_first(triples)
        save("triple.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
