"""`label-studio-ml start ./backend` and `gunicorn _wsgi:app` serve the same app as `python -m backend`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend import _wsgi

ROOT = Path(__file__).parents[1]

# As gunicorn does it: the folder of `_wsgi.py` is the current one and first on the path, then the name is looked up.
ASKING = """
import json, os, sys
sys.path.insert(0, os.getcwd())
import _wsgi
assert "backend.http.app" not in sys.modules, "something was made at import"
app = getattr(_wsgi, "app")
assert app is _wsgi.app
client, answers = app.test_client(), []
def ask(path, data, **headers):
    answer = client.post(path, data=data, content_type="application/json", headers=headers)
    answers.append([answer.status_code, answer.get_data(as_text=True)])
secret = os.environ["CALICO_WEBHOOK_SECRET"]
ask("/predict", b"{}")
below = f"/k/{secret}"
ask(below + "/predict", b'{"tasks": [{"data": {"images": 3}}], "label_config": 7}')
ask(below + "/predict", b"[" * 100000)
ask(below + "/webhook", json.dumps({"action": "ANNOTATIONS_CREATED", "project": {"id": 2},
    "annotation": [{"id": 5, "task": 3}, {"id": 6, "task": 3}], "task": [{"id": 3}, {"id": 3}]}))
ask(below + "/webhook", b'{"action": "SOMETHING_NEW"}')
services = app.extensions["calico"]
print(json.dumps({"answers": answers, "counts": services.inbox.counts(),
                  "routes": [client.get(below + path).status_code for path in ("/health", "/jobs", "/metrics")]}))
sys.stdout.flush()
os._exit(0)
"""


def test_a_wsgi_server_gets_the_same_app(tmp_path: Path) -> None:
    environment = {
        **os.environ, "CALICO_DATA_DIR": str(tmp_path), "CALICO_WEBHOOK_SECRET": "a-secret-of-the-path",
        "CALICO_HOST": "0.0.0.0", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-c", ASKING]
    cwd = ROOT / "backend"
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [status for status, _ in found["answers"]] == [401, 400, 400, 201, 201]
    assert not [text for _, text in found["answers"] if "Traceback" in text]
    assert found["counts"] == {"ANNOTATIONS_CREATED": 2, "SOMETHING_NEW": 1}
    assert found["routes"] == [200, 200, 200]


def test_the_command_takes_the_packages_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str | None, ...]] = []
    names = ("CALICO_HOST", "CALICO_PORT", "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASS")
    for name in names:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("backend.__main__.main", lambda: served.append(tuple(map(os.environ.get, names))) or 0)
    monkeypatch.setattr(sys, "path", [str(ROOT / "backend"), *sys.path[1:]])
    arguments = ["-p", "9999", "--host", "0.0.0.0", "--basic-auth-user", "u", "--basic-auth-pass", "p"]
    assert _wsgi.main(arguments) == 0
    assert served == [("0.0.0.0", "9999", "u", "p")]
    assert str(ROOT / "backend") not in sys.path


def test_it_is_not_open_to_the_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("CALICO_HOST", "CALICO_WEBHOOK_SECRET", "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert _wsgi.main(["--host", "0.0.0.0"]) == 2
    assert "refusing to listen" in capsys.readouterr().err
    with pytest.raises(AttributeError):
        _ = _wsgi.application
