"""Workers of a Ray that runs already: through its client port, and before a real Label Studio."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import require
from live_backend import make_project
from old_layouts import write_old_config as write_config

from backend.cluster.address import WorkersAddress, connect
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import LabelStudioClient
from calico.data.groups import draw_group
from calico.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
START_S = 180.0

ASKED = """
import sys
from backend.cluster.address import WorkersAddress
from backend.cluster.pool import ModelPool
from backend_fakes import FakeSegmenter, picture
from calico.values import ImageGroup
from pool_model import make

pool = ModelPool(WorkersAddress.parse(sys.argv[1]), make, most=1, num_cpus=0.1)
segmenter = pool.load(None)
group = ImageGroup((picture(0), picture(1)))
[found] = segmenter.segment_many([group], candidates=[None])
expected = FakeSegmenter().segment(group)
assert [(a.mask == b.mask).all() for a, b in zip(found.regions, expected.regions, strict=True)] == [True] * 4
mask, score = segmenter.segment_prompts(picture(3), [(4.0, 5.0)], [True], None)
assert mask.any() and score == 0.75
assert list(segmenter.segment_named(group, "base", {0: "lamp", 1: "lamp"}, shown=[0])) == [1]
pool.close()
print("answered by", segmenter.version)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _environment() -> dict[str, str]:
    """Of the head and of who asks it: the token is the same, as `docker-compose.yml` has it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of its own on this machine; the address of its client port."""
    for module in ("ray", "grpc"):
        missing = f"{module} is missing: pip install -e '.[cluster]'"
        require("ray", importlib.util.find_spec(module) is not None, missing)
    port, folder = free_port(), tmp_path_factory.mktemp("r")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={free_port()}"]
    command += [f"--ray-client-server-port={port}", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--disable-usage-stats", f"--temp-dir={folder}"]
    with (folder / "log.txt").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(), start_new_session=True)
    try:
        until = time.monotonic() + START_S
        while started.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"Ray did not start: {(folder / 'log.txt').read_text()[-2000:]}")
        yield f"ray://127.0.0.1:{port}"
    finally:
        started.terminate()  # it ends what it started; never `ray stop`, which ends everybody's
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait(30)


@pytest.mark.ray
def test_workers_answer_through_the_client_port(head: str) -> None:
    """In a process of its own, as a backend is: this one may have been connected elsewhere."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED, head], env=_environment(), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert "answered by base" in done.stdout, done.stderr[-3000:]


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises `Exception` itself where its own processes take longer than half a minute."""
    require("ray", importlib.util.find_spec("ray") is not None, "Ray is not installed: pip install -e '.[cluster]'")
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    told = r"does not answer at this machine \(The current node timed out during startup.\); start it first$"
    with pytest.raises(InputError, match=told):
        connect(WorkersAddress(None, 1))
    with pytest.raises(InputError, match="start it first, and give this process the RAY_AUTH_MODE and RAY_AUTH_TOKEN"):
        connect(WorkersAddress("ray://head:1", None))


@pytest.mark.ray
@pytest.mark.parametrize("mode", ["", "disabled", "token"])
def test_a_ray_that_asks_for_no_token_is_said(
    mode: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    require("ray", importlib.util.find_spec("ray") is not None, "Ray is not installed: pip install -e '.[cluster]'")
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with caplog.at_level("WARNING", "calico.backend"):
        connect(WorkersAddress("ray://head:1", None))
    assert ("asks for no token" in caplog.text) is (mode != "token")


@pytest.mark.host
@pytest.mark.ray
def test_a_real_project_is_predicted_by_workers(label_studio: LabelStudioHost, tmp_path: Path) -> None:
    require("ray", importlib.util.find_spec("ray") is not None, "Ray is not installed: pip install -e '.[cluster]'")
    groups = [[drawn.image for drawn in draw_group(seed, group_size=2)] for seed in range(3)]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CALICO_")},
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.account.token,
        "CALICO_DATA_DIR": str(tmp_path / "data"),
        "CALICO_MIN_SCORE": "0",
        "OMP_NUM_THREADS": "1",
    }
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        project, tasks = make_project(client, label_studio, "prelabel with workers", write_config(2), groups)
        command = [sys.executable, "-m", "scripts.prelabel", "--project", str(project), "--workers", "local:2"]
        command += ["--json", str(tmp_path / "report.json")]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
        report = json.loads((tmp_path / "report.json").read_text())
        assert (report["seen"], report["stored"]) == (3, 3), done.stderr[-3000:]
        assert client.model_versions(project) == {report["version"]: 3}
        assert all(client.predictions(task=task)[0]["result"] for task in tasks)
