"""kill -9 of the backend at ten random moments while events arrive and versions are published.

The registry stays whole, every event that was answered is stored, and the next start finds the rest at the host and
serves the version that is current. Slow, so skipped unless CALICO_REQUIRE names `kills`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import sqlalchemy as sa
from conftest import ROOT, is_required, require

from backend.database.schema import events
from backend.demo.processes import free_port
from backend.learning.inbox import RECONCILED, Inbox
from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version
from calico.checkpoints.registry import Registry

NUM_KILLS = 10
PROJECT, UPDATED_AT = 4, "2026-01-01T00:00:00Z"


class Host:
    """A Label Studio as far as `reconcile` asks it: one project of ours, one annotation a task."""

    def __init__(self) -> None:
        self.num_annotations = 0
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(asked.query).items()}
                body = json.dumps(host.answer(asked.path, query)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(OSError):  # who asked was killed
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not into the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, query: dict[str, str]) -> object:
        if path == "/api/projects/":
            return {"results": [{"id": PROJECT}], "next": None}
        if path == "/api/ml/":
            return [{"title": "CALICO"}]
        after = json.loads(query["query"])["filters"]["items"][0]["value"]
        last = min(self.num_annotations, after + int(query["page_size"]))
        numbers = range(after + 1, last + 1)
        return {"tasks": [task_of(number) | {"annotations": [annotation_of(number)]} for number in numbers]}

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def task_of(number: int) -> dict[str, object]:
    return {"id": number, "data": {"image1": "a.png", "image2": "b.png"}}


def annotation_of(number: int) -> dict[str, object]:
    return {"id": number, "task": number, "project": PROJECT, "updated_at": UPDATED_AT, "result": [{"value": {}}] * 50}


class Annotators:
    """Submit all the time: to the host, and the host tells the backend once. answered: event -> its annotation."""

    def __init__(self, host: Host) -> None:
        self._host, self._ended = host, threading.Event()
        self.url = ""
        self.answered: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Annotators:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(timeout=1.0, trust_env=False) as http:
            while not self._ended.wait(0.05):
                number = self._host.num_annotations + 1
                body = {"action": "ANNOTATION_CREATED", "annotation": annotation_of(number), "task": task_of(number)}
                self._host.num_annotations = number
                with suppress(httpx.HTTPError):
                    answer = http.post(f"{self.url}/webhook", json={**body, "project": {"id": PROJECT}})
                    if answer.is_success:
                        self.answered[answer.json()["event"]] = number


def publish(registry: Path, number: int) -> None:
    """A version of the embedded checkpoint that differs from the others in a byte."""
    folder = registry.parent / f"made-{number}"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((EMBEDDED / name).read_bytes())
    content = bytearray((EMBEDDED / "model.safetensors").read_bytes())
    content[-4] ^= number
    (folder / "model.safetensors").write_bytes(content)
    version = Registry(registry).add(folder, kind="checkpoint", preset="calico-tiny")
    Registry(registry).publish(version.id, force_reason="a test")


@contextmanager
def backend(folder: Path, host: Host, annotators: Annotators) -> Iterator[Callable[[], dict[str, object]]]:
    """`python -m backend`, killed in the end; what its /health says, nothing while it does not answer."""
    port = free_port(19090)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("CALICO_", "LABEL_STUDIO_"))},
        "CALICO_VERSIONS": str(folder / "registry"), "CALICO_DATA_DIR": str(folder / "state"), "CALICO_DEVICE": "cpu",
        "CALICO_PORT": str(port), "LABEL_STUDIO_URL": host.url, "LABEL_STUDIO_API_KEY": "0" * 40,
    }  # fmt: skip
    with (folder / "backend.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "backend"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    annotators.url = f"http://127.0.0.1:{port}"

    def health() -> dict[str, object]:
        try:
            return httpx.get(f"{annotators.url}/health", timeout=5, trust_env=False).json()
        except httpx.HTTPError:
            return {}

    try:
        yield health
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float = 240.0) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "waited in vain"
        time.sleep(0.05)


def served(folder: Path) -> str:
    """What the model of the current version calls itself."""
    registry = Registry(folder / "registry")
    current = registry.current()
    return checkpoint_version(None if current is None else registry.path_of(current))


def check(folder: Path, answered: dict[int, int]) -> None:
    """After a kill: the registry is whole, and so is the inbox as far as it was answered for."""
    registry = Registry(folder / "registry")
    for version in registry.versions():
        registry.verify(version)
    assert registry.current() in (None, *registry.ids())
    inbox = Inbox(f"sqlite:///{folder / 'state' / 'inbox.db'}")
    with inbox.database.engine.connect() as connection:
        stored = {row.id: row.annotation for row in connection.execute(sa.select(events.c.id, events.c.annotation))}
    inbox.close()
    assert {event: stored.get(event) for event in answered} == answered


def test_ten_kills_during_a_switch_lose_nothing(tmp_path: Path) -> None:
    require("kills", is_required("kills"), "slow; CALICO_REQUIRE=kills runs it")
    require("kills", (EMBEDDED / "model.safetensors").exists(), f"{EMBEDDED} has no weights")
    rng, host, moments, published = random.Random(0), Host(), [], []
    publisher_of = multiprocessing.get_context("fork").Process
    with host.serving():
        with Annotators(host) as annotators:
            with backend(tmp_path, host, annotators) as health:
                wait_for(lambda: "version" in health())
                started = time.monotonic()
                publish(tmp_path / "registry", 1)
                wait_for(lambda: health().get("version") == served(tmp_path))
                duration = time.monotonic() - started
            for number in range(2, NUM_KILLS + 2):
                with backend(tmp_path, host, annotators) as health:
                    wait_for(lambda health=health: health().get("version") == served(tmp_path))
                    publisher = publisher_of(target=publish, args=(tmp_path / "registry", number))
                    publisher.start()
                    moments.append(round(rng.uniform(0, 1.2 * duration), 2))
                    time.sleep(moments[-1])
                    publisher.kill()  # it dies with the machine that the backend runs on
                publisher.join()
                published.append(publisher.exitcode == 0)
                check(tmp_path, dict(annotators.answered))
        with backend(tmp_path, host, annotators) as health:
            wait_for(lambda: health().get("version") == served(tmp_path))
            inbox = Inbox(f"sqlite:///{tmp_path / 'state' / 'inbox.db'}")
            wait_for(lambda: {(n, UPDATED_AT) for n in range(1, host.num_annotations + 1)} <= inbox.states(PROJECT))
            counts = inbox.counts()
            inbox.close()
    check(tmp_path, annotators.answered)
    assert counts[RECONCILED] > 0
    print(f"\na publish and the switch: {duration:.1f} s; killed after {moments} s; published before that: {published}")
    print(f"{host.num_annotations} annotations, {len(annotators.answered)} answered, {counts}")
