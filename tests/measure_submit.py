"""How long Submit takes in a browser: four small images, and two of 12 megapixels on reduced copies.

    python tests/measure_submit.py [--repeats 3] [--json FILE]

Needs the demo's Label Studio (`calico demo --install`), chromium and chromedriver. The editor encodes every brush mask
again when it submits. Measured are the CPU seconds of Chromium's processes from the click on Submit until the host
has the annotation, and the clock's; each repeat is a task of its own, of the same drawn chairs with their true masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chromium import Chromium  # noqa: E402
from conftest import chromium_executables  # noqa: E402
from measure_desk import executable  # noqa: E402

from backend.coco.display_copies import DisplayCopies  # noqa: E402
from backend.codecs.config import read_config, write_config  # noqa: E402
from backend.codecs.parts import Vocabulary, with_parts  # noqa: E402
from backend.codecs.prediction import encode_prediction  # noqa: E402
from backend.demo.label_studio import LabelStudioHost  # noqa: E402
from backend.host.client import LabelStudioClient  # noqa: E402
from calico.correspondence import co_segmentation, truth_of  # noqa: E402
from calico.data.groups import stream_seed  # noqa: E402
from calico.drawings import draw  # noqa: E402
from calico.masks import resize_mask  # noqa: E402
from calico.values import NamedMask  # noqa: E402

SEED = 12
READY = "return window.Htx && Htx.annotationStore.selected && Htx.annotationStore.selected.regions.length"
SUBMIT = "button[aria-label='Submit current annotation']"


class Setting(NamedTuple):
    num_images: int
    size_hw: tuple[int, int]
    max_side: int | None
    geometry: str

    @property
    def title(self) -> str:
        copies = f", --max-side {self.max_side}" if self.max_side else ""
        return f"{self.num_images} of {self.size_hw[1]} x {self.size_hw[0]}{copies}, {self.geometry}"


SETTINGS = (
    Setting(4, (512, 512), None, "brush"),
    Setting(2, (3000, 4000), 2048, "brush"),
    Setting(2, (3000, 4000), 2048, "bitmask"),
)


def cpu_seconds(browser: Chromium) -> float:
    """Of chromedriver and all that it started, so far."""
    driver = psutil.Process(browser.driver_pid)
    return sum(sum(process.cpu_times()[:2]) for process in [driver, *driver.children(recursive=True)])


def measure_setting(
    setting: Setting, repeats: int, host: LabelStudioHost, client: LabelStudioClient, browser: Chromium
) -> dict[str, Any]:
    folder = host.files_dir / f"{SETTINGS.index(setting)}"
    folder.mkdir(parents=True)
    shown = []
    drawn = [
        draw(stream_seed("eval", SEED, i), size_hw=setting.size_hw, object_name="chair", difficulty="clean")
        for i in range(setting.num_images)
    ]
    for i, item in enumerate(drawn):
        path = folder / f"{i}.jpg"
        Image.fromarray(item.image).save(path, quality=95)
        if setting.max_side:
            path = DisplayCopies.beside(folder, None, setting.max_side).copy(str(path)).path
        shown.append(path)
    sizes = []
    for path in shown:
        with Image.open(path) as image:
            sizes.append((image.height, image.width))
    masks = [
        NamedMask(r.image, r.object_name, r.part_name, resize_mask(r.mask, sizes[r.image]), 0.9)
        for r in truth_of(drawn).regions
    ]
    truth = co_segmentation(tuple(sizes), masks)
    xml = write_config(setting.num_images, geometry=setting.geometry)
    config = read_config(xml)
    project = client.create_project(setting.title, xml, show_collab_predictions=True)["id"]
    for path in {path.parent for path in shown}:
        client.add_local_files(project, str(path))
    data: dict[str, Any] = {
        f"image{i}": f"/data/local-files/?d={path.relative_to(host.files_dir).as_posix()}"
        for i, path in enumerate(shown, 1)
    }
    data = with_parts(data, truth, config, Vocabulary())
    rows = []
    for task in client.import_tasks(project, [{"data": data}] * repeats):
        encoded = encode_prediction(truth, config, model_version="truth", task_id=task, task_data=data)
        client.create_prediction(task, encoded.prediction["result"], model_version="truth", score=1.0)
        browser.open(f"{host.url}/projects/{project}/data?task={task}")
        browser.wait_for(lambda: browser.run(READY), timeout_s=300)
        browser.settle()
        before, started = cpu_seconds(browser), time.perf_counter()
        browser.click(SUBMIT)
        browser.wait_for(lambda task=task: client.annotations(task), timeout_s=300)
        rows.append({"cpu_s": cpu_seconds(browser) - before, "wall_s": time.perf_counter() - started})
        print(setting.title, json.dumps(rows[-1]), flush=True)
    megapixels = sum(mask.mask.size for mask in masks) / 1e6
    report = {name: round(median(row[name] for row in rows), 2) for name in ("cpu_s", "wall_s")}
    return {"setting": setting.title, "masks": len(masks), "megapixels": round(megapixels, 1), **report, "n": len(rows)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        host = stack.enter_context(LabelStudioHost(folder / "data", executable(), port=18400))
        client = stack.enter_context(LabelStudioClient(host.url, host.account.token))
        browser = stack.enter_context(Chromium(*chromium_executables(), folder / "chromium", size_wh=(1280, 800)))
        browser.log_in(host.url, host.account.user, host.account.password)
        settings = [measure_setting(setting, args.repeats, host, client, browser) for setting in SETTINGS]
    ratio = round(settings[1]["cpu_s"] / settings[0]["cpu_s"], 2)
    report = {"settings": settings, "reduced_to_small": ratio}
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
