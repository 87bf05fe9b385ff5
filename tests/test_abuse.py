"""Attacks as they were made, at their full size: minutes and gigabytes. `CALICO_REQUIRE=abuse`; loopback only."""

from __future__ import annotations

import gzip
import io
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from backend_fakes import PAIR_XML
from PIL import Image
from test_hostile_shapes import polygon

from backend.codecs.annotation import compare_with_prediction
from backend.codecs.geometry import fill_polygon
from backend.media.fetching import Fetcher
from calico.errors import InputError

pytestmark = pytest.mark.abuse

ROOT = Path(__file__).parents[1]
SECRET = "a-secret-of-the-path"

# The backend as it is started, with a fake model; its settings come from the environment.
BACKEND = """
import sys
sys.path.insert(0, "tests")
from backend_fakes import FakeSegmenter
from backend.http.app import create_app
from backend.http.server import serve
from backend.settings import Settings
from backend.telemetry.logs import configure_logging
settings = Settings.from_environment()
configure_logging(settings)
sys.exit(serve(create_app(settings, load=FakeSegmenter), settings))
"""


class Backend:
    """In a process of its own, whose memory is its own. peak_mb: the most that it had since the start."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        environment = {
            **os.environ, "CALICO_PORT": str(self.port), "CALICO_DATA_DIR": str(folder / "state"),
            "CALICO_MEDIA_ROOTS": str(folder), "CALICO_WEBHOOK_SECRET": SECRET, "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen([sys.executable, "-c", BACKEND], cwd=ROOT, env=environment, stderr=self.log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/k/{SECRET}", timeout=120, trust_env=False)
        self.memory = psutil.Process(self.process.pid)
        self.peak_mb, self._ended = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Backend:
        until = time.monotonic() + 60
        while True:
            with suppress(httpx.TransportError):
                self.client.get("/health")
                break
            assert time.monotonic() < until
            time.sleep(0.1)
        self._watch.start()
        return self

    def _measure(self) -> None:
        while not self._ended.wait(0.01):
            with suppress(psutil.Error):
                self.peak_mb = max(self.peak_mb, self.memory.memory_info().rss / 1e6)

    def health_s(self) -> float:
        started = time.monotonic()
        url = f"http://127.0.0.1:{self.port}/health"
        assert httpx.get(url, timeout=30, trust_env=False).status_code == 200
        return time.monotonic() - started

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.client.close()
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture
def backend(tmp_path):
    with Backend(tmp_path) as backend:
        yield backend


def test_pictures_of_49_megapixels_in_many_tasks(backend, tmp_path):
    """Four tasks of eight 1-bit pictures of 6 kB each, at once: 6.2 GB before pixels were counted."""
    buffer = io.BytesIO()
    Image.new("1", (7000, 7000)).save(buffer, "PNG")
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(buffer.getvalue())
    xml = '<View><Image name="img" valueList="$images"/><BrushLabels name="b" toName="img"><Label value="common part"/>'
    xml += '<Label value="unique part"/><Label value="object"/></BrushLabels></View>'
    tasks = [{"id": n, "data": {"images": [f"{i}.png" for i in range(8)]}} for n in range(4)]
    before = backend.memory.memory_info().rss / 1e6
    answer = backend.client.post("/predict", json={"tasks": tasks, "label_config": xml, "project": "1"})
    assert answer.status_code == 200
    until = time.monotonic() + 600
    while "running" in (counts := backend.client.get("/jobs").json()["counts"]) or "queued" in counts:
        assert time.monotonic() < until
        time.sleep(0.2)
    print(f"\n{backend.peak_mb - before:.0f} MB above {before:.0f}")
    assert backend.peak_mb - before < 3500


def test_1500_idle_connections(backend):
    """And as many again whenever they are dropped, for ten seconds, from one address."""
    with ExitStack() as stack:
        for number in range(1500):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", backend.port), timeout=5))
            if number % 3:
                with suppress(OSError):
                    connection.sendall(b"POST /predict HTTP/1.1\r\nX: ")
            if number % 100 == 99:
                assert backend.health_s() < 5
        assert backend.client.post("/webhook", json={"action": "A"}).status_code == 201


def test_57_megabytes_of_brackets(backend):
    started = time.monotonic()
    body = b'{"tasks":[' + b"[]," * 19_000_000 + b"[]]}"
    answer = backend.client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert time.monotonic() - started < 20
    assert backend.health_s() < 2


def test_bodies_without_a_credential_reach_no_disk(backend, tmp_path):
    """Twenty connections of 60 MB each."""

    def files_mb():
        with suppress(psutil.Error):
            paths = [f"/proc/{backend.process.pid}/fd/{f.fd}" for f in backend.memory.open_files()]
            deleted = Path(f"/proc/{backend.process.pid}/fd").iterdir()
            return sum(os.stat(path).st_size for path in {*paths, *map(str, deleted)} if os.path.isfile(path)) / 1e6
        return 0.0

    most = 0.0
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", backend.port), timeout=5))
            connection.sendall(b"POST /webhook HTTP/1.1\r\nContent-Length: 60000000\r\n\r\n")
            with suppress(OSError):
                for _ in range(60):
                    connection.sendall(bytes(1_000_000))
            most = max(most, files_mb())
    assert most < 50
    assert backend.health_s() < 2


def test_40000_clicks(backend):
    row = {"type": "keypointlabels", "to_name": "img1", "value": {"x": 1, "y": 1, "keypointlabels": ["object"]}}
    body = {"tasks": [{"data": {}}], "label_config": PAIR_XML, "params": {"context": {"result": [row] * 40_000}}}
    started = time.monotonic()
    assert backend.client.post("/predict", json=body).status_code == 400
    assert time.monotonic() - started < 5


def test_4000_images_in_a_config(backend):
    brush = '<BrushLabels name="b{0}" toName="i{0}"><Label value="x"/></BrushLabels>'
    xml = "".join(f'<Image name="i{n}" value="$i"/>' + brush.format(n) for n in range(4000))
    tasks = [{"id": n, "data": {}} for n in range(50)]
    started = time.monotonic()
    answer = backend.client.post("/predict", json={"tasks": tasks, "label_config": f"<View>{xml}</View>"})
    assert answer.json() == {"results": [[]] * 50}
    assert time.monotonic() - started < 10


def test_an_answer_packed_three_times():
    """289 bytes that unpack to 5.9 GB."""
    body = b""
    packer = io.BytesIO()
    with gzip.GzipFile(fileobj=packer, mode="wb", compresslevel=9) as file:
        for _ in range(200):
            file.write(bytes(1_000_000))
    body = gzip.compress(gzip.compress(packer.getvalue()))
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(9999)
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip, gzip\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    threading.Thread(target=answer, daemon=True).start()
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match="Content-Encoding"):
        Fetcher(allowed_hosts=["127.0.0.1"]).get(f"http://127.0.0.1:{listener.getsockname()[1]}/a.png")
    assert psutil.Process().memory_info().rss - before < 50e6
    listener.close()


def test_a_zigzag_of_1000_points_on_49_megapixels():
    points = np.stack([np.linspace(0, 7000, 1000), np.where(np.arange(1000) % 2, 0, 7000)], 1)
    started = time.thread_time()
    assert fill_polygon(points, 7000, 7000).any()
    assert time.thread_time() - started < 6
    rows = [
        polygon("a", (points / 70).tolist(), (10**12, 10**12)),
        polygon("a", [[1, 1], [2, 1], [2, 2]], (7000, 7000)),
    ]
    assert compare_with_prediction(rows[:1], rows[1:])[0].iou == 0


def test_the_log_of_all_this_is_lines(backend, tmp_path):
    for text in ("\n2026-01-01 forged", "\x1b[2K\r", "a" * 10**6):
        tasks = [{"id": text, "data": {"image1": text, "image2": text}}]
        backend.client.post("/predict", json={"tasks": tasks, "label_config": PAIR_XML, "project": text})
        backend.client.post("/webhook", json={"action": text})
    backend.log.flush()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines
    assert all(line[:2] == "20" and " " in line and len(line) < 1100 and line.isprintable() for line in lines)
    assert not any(line.startswith("2026-01-01 forged") for line in lines)
