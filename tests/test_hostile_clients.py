"""Whoever connects and means harm, or is slow: connections, bodies, JSON, names in logs. Loopback only."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from backend_fakes import LIST_XML, PAIR_XML, FakeSegmenter, pair_task

from backend.http import app as app_module
from backend.http import listener
from backend.http.app import create_app
from backend.http.listener import listen
from backend.settings import Settings
from backend.telemetry.log_lines import one_line
from backend.telemetry.logs import Redact, configure_logging

SECRET = "a-secret-of-the-path"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def served(tmp_path):
    """Serves an app as `python -m backend` does; gives the port and its services."""
    with ExitStack() as stack:

        def serve(**settings):
            values = {"media_roots": (tmp_path,), "data_dir": tmp_path / "state", "webhook_secret": SECRET, **settings}
            app = create_app(Settings(**values), load=FakeSegmenter)
            server = listen(app, Settings(**values), port=0)
            threading.Thread(target=server.run, daemon=True).start()
            stack.callback(end, server)
            stack.callback(app.extensions["calico"].inbox.close)
            return server.effective_port, app.extensions["calico"]

        yield serve


def end(server):
    """In its own thread. Where another's answer wakes it first, it is closed before it is woken for that."""
    with suppress(OSError):
        server.trigger.pull_trigger(server.close)


@pytest.fixture
def client(tmp_path):
    app = create_app(Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state"), load=FakeSegmenter)
    yield app.test_client()
    app.extensions["calico"].inbox.close()


def health(port, timeout_s=3.0):
    started = time.monotonic()
    answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=timeout_s, trust_env=False)
    assert answer.status_code == 200
    return time.monotonic() - started


# -- connections -------------------------------------------------------------------------------------------------------


def test_idle_connections_keep_nobody_out(served, monkeypatch):
    """Five times as many as there may be, all from one address, none with a request."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 30)
    port, _ = served()
    with ExitStack() as stack:
        for number in range(150):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            if number % 2:
                connection.sendall(b"POST /webhook HTTP/1.1\r\nX-A: ")
            if number % 25 == 24:
                assert health(port) < 2
        assert health(port) < 2


SLOW = {
    "nothing": (b"", b""),
    "a head": (b"GET / HTTP/1.1\r\nX-A: ", b"a"),
    "headers": (b"GET / HTTP/1.1\r\n", b"X-A: a\r\n"),
    "blank lines": (b"", b"\r\n"),
    "a body": (b"POST /webhook HTTP/1.1\r\nContent-Length: 60000\r\n\r\n", b"a"),
    "chunks": (
        f"POST /k/{SECRET}/webhook HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
        b"1\r\na\r\n",
    ),
    "a large body": (f"POST /k/{SECRET}/webhook HTTP/1.1\r\nContent-Length: 60000000\r\n\r\n".encode(), b"a"),
    "a second request": (b"GET /health HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nX-A: ", b"a"),
}


@pytest.mark.parametrize(("first", "again"), SLOW.values(), ids=SLOW)
def test_a_request_is_whole_within_its_time_however_it_drips(served, monkeypatch, first, again):
    for name in ("HEAD_S", "IDLE_S", "BODY_S"):
        monkeypatch.setattr(listener, name, 0.3)
    monkeypatch.setattr(listener, "BODY_BYTES_PER_S", 10**9)
    port, _ = served()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(first)
        started = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012  the server hangs up while we write
            while time.monotonic() - started < 6:
                connection.sendall(again)
                time.sleep(0.05)
                connection.settimeout(0.05)
                with suppress(TimeoutError):
                    while received := connection.recv(65536):
                        assert b"200 OK" in received
                    raise ConnectionResetError
    assert time.monotonic() - started < 4


def test_a_slow_but_honest_upload_is_taken(served, monkeypatch):
    monkeypatch.setattr(listener, "HEAD_S", 0.3)
    port, services = served()
    body = json.dumps({"action": "A", "x": "y" * 1000}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        head = f"POST /k/{SECRET}/webhook HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n")
        for start in range(0, len(body), 100):
            connection.sendall(body[start : start + 100])
            time.sleep(0.06)
        assert connection.recv(100).startswith(b"HTTP/1.1 201")
    assert services.inbox.counts() == {"A": 1}


def test_health_answers_while_every_thread_hangs(served, monkeypatch):
    port, services = served(threads=4)
    gate = threading.Event()
    monkeypatch.setattr(type(services), "store", lambda self, body: gate.wait(20) and 1)
    with ExitStack() as stack:
        for _ in range(12):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            head = f"POST /k/{SECRET}/webhook HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
            connection.sendall(head.encode() + b"{}")
        time.sleep(0.2)
        assert health(port) < 2
        assert httpx.get(f"http://127.0.0.1:{port}/k/{SECRET}/health", timeout=3, trust_env=False).status_code == 200
        gate.set()


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/webhook", "Content-Length: 60000000"),
        ("/webhook", "Content-Length: 64001"),
        ("/webhook", "Transfer-Encoding: chunked"),
        ("/health", "Content-Length: 60000000"),
        ("/health", "Transfer-Encoding: chunked"),
        ("/k/wrong-secret-wrong/webhook", "Content-Length: 60000000"),
        (f"/k/{SECRET}x/webhook", "Content-Length: 60000000"),
        (f"/k/{SECRET[:-1]}/webhook", "Transfer-Encoding: chunked"),
        ("/webhook", "Content-Length: 60000000\r\nX-Calico-Secret: nope"),
        ("/webhook", "Content-Length: 60000000\r\nAuthorization: Basic bm86bm8="),
        ("/webhook", "Content-Length: 60000000\r\nExpect: 100-continue"),
        (f"//k/{SECRET}/webhook", "Content-Length: 60000000"),
    ],
)
def test_no_large_body_is_read_without_a_credential(served, path, headers):
    port, _ = served()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # until the server hangs up
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/k/{SECRET}/webhook", {}),
        ("/webhook", {"X-Calico-Secret": SECRET}),
        ("/webhook", {"Authorization": "Basic dXNlcjpwYXNz"}),
    ],
)
def test_a_large_body_of_who_may_ask_is_read(served, path, headers):
    port, services = served(basic_auth_user="user", basic_auth_pass="pass")
    url = f"http://127.0.0.1:{port}{path}"
    answer = httpx.post(url, json={"action": "A", "x": "y" * 100_000}, headers=headers, trust_env=False)
    assert answer.status_code == 201

    def chunks():
        yield b'{"action": "B", "x": "'
        yield b"y" * 100_000
        yield b'"}'

    typed = {"Content-Type": "application/json", **headers}
    assert httpx.post(url, content=chunks(), headers=typed, trust_env=False).status_code == 201
    assert services.inbox.counts() == {"A": 1, "B": 1}


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'{"":[]},', b"[[[]]],"])
@pytest.mark.parametrize("route", ["/predict", "/webhook", "/setup"])
def test_bodies_of_nothing_but_brackets_are_refused_unread(client, monkeypatch, unit, route):
    monkeypatch.setattr(app_module, "MAX_NESTED", 1000)
    for encoding in ("utf-8", "utf-16", "utf-32"):
        data = (b'{"tasks":[' + unit * 1000 + b"[]]}").decode().encode(encoding)
        answer = client.post(route, data=data, content_type="application/json")
        assert answer.status_code == 400
        assert "lists and objects" in answer.get_json()["error"]


def test_too_many_tasks_are_refused(client):
    answer = client.post("/predict", json={"tasks": [{}] * 10_001, "label_config": PAIR_XML})
    assert answer.status_code == 400
    assert "10,001" in answer.get_json()["error"]


NUMBERS = ["9" * 23, "9" * 5000, "-1", "1e3", "nan", "", "\ud800".encode("utf-8", "surrogatepass"), "0x10", "٣"]


@pytest.mark.parametrize("number", NUMBERS, ids=range(len(NUMBERS)))
def test_odd_numbers_in_addresses_are_no_error_of_ours(client, number):
    for query in ({"limit": number}, {"task": number}, {"limit": 5, "state": number}):
        assert client.get("/jobs", query_string=query).status_code == 200
    for path in ("/jobs/training", f"/jobs/training/{number if isinstance(number, str) else 'x'}/cancel"):
        answer = client.get(path) if path.endswith("training") else client.post(path, json={})
        assert answer.status_code in (400, 404)


@pytest.mark.parametrize("headers", [{"Origin": "http://["}, {"Origin": "http://a]b"}, {"Host": "[::1"}, {"Host": "["}])
def test_odd_origins_and_hosts_are_no_error_of_ours(client, headers):
    for path in ("/versions/rollback", "/versions/publish", "/jobs/training"):
        assert client.post(path, json={}, headers=headers).status_code in (400, 403)


def test_odd_values_in_requests_are_no_error_of_ours(client, tmp_path):
    events = [
        {"action": {"a": 1}},
        {"action": ["x"] * 1000},
        {"action": "\ud800\x00\u2028"},
        {"project": {"id": 10**400}},
        {"project": []},
        {"annotation": 3},
        {"annotation": {"id": 1e308, "updated_at": {"a": []}}},
        {"annotation": [{"id": 10**25}], "task": [[]]},
        {"annotation": {"updated_at": float("nan")}},
        {"task": {"id": 10**30}},
    ]
    for event in events:
        assert client.post("/webhook", json=event).status_code == 201, event
    odd = [{"project": 10**400}, {"project": {}}, {"project": "p" * 10**6}, {"params": []}, {"params": {"context": 3}}]
    for more in odd:
        body = {"tasks": [pair_task(tmp_path, 1)], "label_config": PAIR_XML, **more}
        assert client.post("/predict", json=body).status_code == 200, more
    for task in ({"id": 10**400}, {"id": 1.5}, {"id": True}, {"data": {"images": [[], {}]}}, {"data": {"images": {}}}):
        answer = client.post("/predict", json={"tasks": [task], "label_config": LIST_XML})
        assert answer.get_json() == {"results": [[]]}
    shown = client.get("/jobs").get_json()["jobs"]
    assert all(len(job["project"]) <= 64 for job in shown)
    assert not [job["reason"] for job in shown if "internal error" in job["reason"]]


# -- logs --------------------------------------------------------------------------------------------------------------

FORGED = "1\n2026-01-01 00:00:00,000 ERROR all is lost\r\x1b[2K\x1b[31m\u2028\u2029\x85\x0b\x0c\x00\u202e\ud800\u200b\t"


@pytest.mark.parametrize("text", [FORGED, "a" * 10**6, "\x9b31m", "\u2066x", "\ufeff"])
def test_text_of_others_is_one_line(text):
    line = one_line(text, 300)
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line.encode()
    assert len(one_line("a" * 10**6, 300)) == 300
    assert one_line("Zoë 漢字 é", 300) == "Zoë 漢字 é"


def test_log_lines_cannot_be_forged(client, tmp_path, caplog):
    caplog.handler.addFilter(Redact([]))
    caplog.set_level(logging.DEBUG)
    task = {"id": FORGED, "data": {"image1": FORGED, "image2": f"http://x/{FORGED}"}}
    client.post("/predict", json={"tasks": [task], "label_config": PAIR_XML, "project": FORGED})
    client.post("/predict", json={"tasks": [{}], "label_config": PAIR_XML + FORGED, "project": "a" * 10**6})
    client.post("/webhook", json={"action": FORGED, "annotation": [{"id": FORGED}], "task": [FORGED]})
    client.get("/" + "a%0Ab")
    client.post("/jobs/training/%0Aforged/cancel", json={})
    assert caplog.records
    for record in caplog.records:
        line = record.getMessage()
        assert line.isprintable(), line
        assert len(line) <= 1000
    for job in client.get("/jobs").get_json()["jobs"]:
        assert job["project"].isprintable()
        assert len(job["reason"]) <= 500


def test_other_libraries_tell_nothing_below_a_warning(monkeypatch):
    stream, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.setattr(root, "level", root.level)
    levels = {name: logging.getLogger(name).level for name in ("calico", "backend")}
    try:
        configure_logging(Settings(log_level="DEBUG"))
        logging.getLogger("httpcore.connection").setLevel(logging.DEBUG)  # as a library, or a debugging hand, may do
        for name in ("httpcore.connection", "httpx", "urllib3", "PIL", "other"):
            logging.getLogger(name).debug("signed %s", "https://h/?X-Amz-Signature=1")
            logging.getLogger(name).info("cookie sessionid=1")
        logging.getLogger("calico.backend").debug("ours")
        logging.getLogger("other").warning("theirs")
    finally:
        logging.getLogger("httpcore.connection").setLevel(logging.NOTSET)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert stream.getvalue() == "ours\ntheirs\n"


def test_a_signed_address_is_not_logged_at_debug(tmp_path):
    """In a process of its own, as it is started, against a server that sets a cookie."""
    code = """
import socket, threading
from backend.telemetry.logs import configure_logging
from backend.media.fetching import Fetcher
from backend.settings import Settings
configure_logging(Settings(log_level="DEBUG"))
listener = socket.create_server(("127.0.0.1", 0))
def run():
    connection, _ = listener.accept()
    connection.recv(9999)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nSet-Cookie: sessionid=s3cret\\r\\nContent-Length: 1\\r\\n\\r\\nx")
threading.Thread(target=run, daemon=True).start()
port = listener.getsockname()[1]
Fetcher(allowed_hosts=["127.0.0.1"]).get(f"http://127.0.0.1:{port}/a?X-Amz-Signature=s3cret")
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "s3cret" not in ended.stderr
