"""Writes tests/fixtures/label_studio anew: what a real Label Studio accepts, stores and sends, recorded.

    python tests/make_fixtures.py

It starts the demo's Label Studio (`calico demo --install` makes it) on a data folder of its own, makes a project of
each layout with a prediction and its correction, and a server that writes down what the host asks a backend. The
pictures are made up; ids and times are those of the run, so files change with each.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import ROOT
from live_backend import annotate, make_project
from old_layouts import write_old_config
from recorded import as_saved_by_the_editor
from test_prediction_codec import LAYOUT_C, SIZES, encode, group

from backend.codecs import brush_rle
from backend.codecs.config import read_config
from backend.demo.label_studio import Account, LabelStudioHost
from backend.host.client import LabelStudioClient

OUT = Path(__file__).parent / "fixtures" / "label_studio"
CONFIGS = {  # of earlier releases: their projects are still read
    "A": write_old_config(3),
    "B": write_old_config(layout="B").replace(
        "<Relations>",
        '<Choices name="kind" toName="img" perRegion="true"><Choice value="whole"/><Choice value="cut off"/>'
        "</Choices>"
        "<Relations>",
    ),
    "C": LAYOUT_C.replace(
        "<TextArea", '<KeyPointLabels name="kp_{{idx}}" toName="img_{{idx}}" smart="true"><Label value="object"/>'
        "</KeyPointLabels>\n  <TextArea"
    ),
}  # fmt: skip
TOOLS = """<View><Image name="image" value="$image1"/>
  <Labels name="label" toName="image"><Label value="planet"/><Label value="rover"/></Labels>
  <Rectangle name="rectangle" toName="image"/><Ellipse name="ellipse" toName="image"/>
  <KeyPoint name="keypoint" toName="image"/><Polygon name="polygon" toName="image"/>
  <Brush name="brush" toName="image"/></View>"""
SIZE_HW = (40, 60)


def without_tokens(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "removed" if "token" in key and item else without_tokens(item) for key, item in value.items()}
    return [without_tokens(item) for item in value] if isinstance(value, list) else value


def write_json(name: str, value: Any) -> None:
    value = without_tokens(value)
    (OUT / name).write_text(json.dumps(value) + "\n", encoding="utf-8")


def pictures(sizes_hw: list[tuple[int, int]]) -> list[np.ndarray]:
    return [np.full((*size, 3), 40 * k + 40, np.uint8) for k, size in enumerate(sizes_hw)]


def corrected(rows: list[dict[str, Any]], erased: str | None) -> list[dict[str, Any]]:
    """As the editor saves them; the region of this name loses its upper half where it lies on the first image."""
    saved = as_saved_by_the_editor(rows)
    names = {row["id"]: row["value"]["text"] for row in rows if row["type"] == "textarea"}
    chosen = next((row["id"] for row in rows if names.get(row.get("id")) == [erased]), None)
    for row in saved:
        if chosen is not None and row.get("id") == chosen and "rle" in row["value"]:
            mask = brush_rle.decode(row["value"]["rle"], row["original_height"], row["original_width"])
            mask[: int(np.nonzero(mask.any(1))[0].mean())] = False
            row["value"]["rle"] = brush_rle.encode(mask)
            row["origin"] = "prediction-changed"
    return saved


def layouts(client: LabelStudioClient, host: LabelStudioHost) -> None:
    for layout, config in CONFIGS.items():
        project, (task,) = make_project(client, host, f"layout {layout}", config, [pictures(SIZES)])
        rows = encode(group(3), read_config(config)).prediction["result"]
        prediction = client.create_prediction(task, rows, model_version="v1", score=0.7)
        saved = corrected(rows, "leg" if layout == "A" else None)
        annotate(client, task, saved, parent_prediction=prediction["id"], lead_time=12.5)
        (OUT / f"{layout}.xml").write_text(client.project(project)["label_config"] + "\n", encoding="utf-8")
        write_json(f"{layout}.task.json", client.task(task))


def tools(client: LabelStudioClient, host: LabelStudioHost) -> None:
    """Each shape as a row of its tool and a row of its label, of one id; a relation, which has no value."""
    _, (task,) = make_project(client, host, "tools", TOOLS, [pictures([SIZE_HW])])
    disc = np.hypot(*(np.mgrid[:40, :60] - np.array([20, 30])[:, None, None])) < 12
    shapes = [
        ("rectangle", "planet", {"x": 10, "y": 10, "width": 20, "height": 30, "rotation": 0}),
        ("ellipse", "planet", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 15, "rotation": 0}),
        ("keypoint", "rover", {"x": 30, "y": 30, "width": 1}),
        ("polygon", "rover", {"points": [[10, 60], [30, 60], [20, 90]], "closed": True}),
        ("brush", "planet", {"format": "rle", "rle": brush_rle.encode(disc)}),
    ]
    rows: list[dict[str, Any]] = []
    for number, (tool, label, value) in enumerate(shapes):
        both = {"id": f"shape{number}", "to_name": "image", "origin": "manual", "image_rotation": 0,
                "original_width": SIZE_HW[1], "original_height": SIZE_HW[0]}  # fmt: skip
        rows.append({**both, "from_name": tool, "type": tool, "value": value})
        rows.append({**both, "from_name": "label", "type": "labels", "value": {**value, "labels": [label]}})
    rows.append({"from_id": "shape0", "to_id": "shape3", "type": "relation", "direction": "right", "labels": []})
    annotate(client, task, rows)
    (OUT / "tools.xml").write_text(TOOLS + "\n", encoding="utf-8")
    write_json("tools.task.json", client.task(task))


class Recorder:
    """A backend that writes down what it is asked and answers the least that the host takes for an answer."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.answer(self, "GET")

            def do_POST(self) -> None:
                recorder.answer(self, "POST")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler, method: str) -> None:
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(content) if content else None
        self.requests.append({"method": method, "path": handler.path, "body": body})
        tasks = body.get("tasks", []) if isinstance(body, dict) else []
        results = [{"result": [], "score": 0.5, "model_version": "recorder"} for _ in tasks]
        answer = {"status": "UP", "model_version": "recorder", "results": results, "versions": ["recorder"]}
        data = json.dumps(answer).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def wait_for(self, what: Callable[[dict[str, Any]], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(what(request) for request in self.requests):
            if time.monotonic() > deadline:
                raise TimeoutError([(r["path"], (r["body"] or {}).get("action")) for r in self.requests])
            time.sleep(0.1)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def protocol(client: LabelStudioClient, host: LabelStudioHost) -> None:
    """One request of each kind that a backend gets. The host answers some of ours before it has sent its own."""
    recorder = Recorder()

    def event(action: str) -> None:
        recorder.wait_for(lambda request: (request["body"] or {}).get("action") == action)

    config = write_old_config(2, smart=True)
    project, tasks = make_project(client, host, "protocol", config, [pictures(SIZES[:2])] * 2)
    backend = client.connect_backend(project, recorder.url, is_interactive=True)
    client.retrieve_predictions(project, tasks[:1])
    rows = encode(group(2), read_config(config)).prediction["result"]
    made = annotate(client, tasks[0], rows)
    event("ANNOTATION_CREATED")
    client.request("PATCH", f"api/annotations/{made['id']}/", json={"result": rows[:2]})
    event("ANNOTATION_UPDATED")
    click = {
        "from_name": "keypoint2", "to_name": "img2", "type": "keypointlabels", "is_positive": True,
        "original_width": SIZES[1][1], "original_height": SIZES[1][0],
        "value": {"x": 50.0, "y": 50.0, "width": 1.0, "keypointlabels": ["common part"]},
    }  # fmt: skip
    body = {"task": tasks[1], "context": {"result": [click]}}
    client.request("POST", f"api/ml/{backend['id']}/interactive-annotating", json=body)
    client.start_training(backend["id"])
    event("START_TRAINING")
    client.request("DELETE", f"api/annotations/{made['id']}/")
    event("ANNOTATIONS_DELETED")
    client.update_project(project, title="protocol, renamed")
    event("PROJECT_UPDATED")
    recorder.close()
    kinds: dict[tuple[str, str, bool], dict[str, Any]] = {}  # the first of each kind
    for request in recorder.requests:
        request_body = request["body"] if isinstance(request["body"], dict) else {}
        is_click = bool((request_body.get("params") or {}).get("context"))
        kinds.setdefault((request["path"].partition("?")[0], str(request_body.get("action")), is_click), request)
    write_json("protocol_requests.json", list(kinds.values()))


SDK = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import encode_rle
cases = []
for height, width, seed in ((1, 1, 0), (30, 41, 1), (64, 48, 2)):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    pixels[..., 3] = np.where(rng.random((height, width)) < 0.5, 0, pixels[..., 3])
    pixels[: height // 2] = [200, 10, 10, 255]  # a long run
    cases.append({"size_hw": [height, width], "rle": list(encode_rle(pixels.flatten())),
                  "mask": np.packbits(pixels[..., 3] > 0).tobytes().hex()})
print(json.dumps(cases))
"""


def sdk_brushes(python: Path) -> None:
    """Colour images whose fourth channel is the mask, by label-studio-sdk's own encoder."""
    done = subprocess.run([python, "-c", SDK], capture_output=True, text=True, check=True)
    (OUT / "sdk_brushes.json").write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    account = Account("tests@localhost.com", "password of the tests", "0123456789" * 4)
    executable = ROOT / ".demo" / "label-studio-venv" / "bin" / "label-studio"
    sdk_brushes(executable.with_name("python"))
    with tempfile.TemporaryDirectory() as folder:
        host = LabelStudioHost(Path(folder) / "data", executable, account=account, port=18090)
        host.start(timeout_s=900)
        try:
            with LabelStudioClient(host.url, account.token) as client:
                protocol(client, host)  # first, so that its project is number 1
                layouts(client, host)
                tools(client, host)
        finally:
            host.stop()


if __name__ == "__main__":
    main()
