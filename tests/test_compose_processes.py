"""The profile `cluster` of docker-compose.yml without Docker: its commands, environment and nginx configuration as they
stand there, as processes of this machine. Names of containers become loopback addresses, and nothing else changes."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from backend_fakes import PAIR_XML, png
from conftest import require
from postgres_server import PostgresServer
from test_backend_kills import Host
from test_docker import COMPOSE, compose_environment, image_environment
from test_inbox import annotation_event
from test_ray_cluster import free_port

from backend.database.schema import events, training_jobs
from backend.learning.inbox import Inbox
from calico.data.groups import draw_group

ROOT = Path(__file__).resolve().parents[1]
SECRET = "s" * 20
GIVEN = {
    "CALICO_WEBHOOK_SECRET": SECRET,
    "LABEL_STUDIO_API_KEY": "t" * 40,
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "POSTGRES_PASSWORD": "pw",
}
START_S = 300.0

pytestmark = [pytest.mark.postgres, pytest.mark.ray]


class Composed:
    """Processes of the profile's services. ports: of each; folder: their data, images and logs."""

    def __init__(self, folder: Path, database: str, host: str) -> None:
        self.folder, self._database, self._host = folder, database, host
        names = ("balancer", "backend-1", "backend-2", "ray-head", "ray-client")
        self.ports = {name: free_port() for name in names}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("registry", "images"):
            (folder / name).mkdir()

    def environment(self, service: str) -> dict[str, str]:
        """Of this machine, less what is set for Ray and CALICO; then the image's, then compose's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("CALICO_", "RAY_", "LABEL_STUDIO"))}
        given = compose_environment(service, GIVEN)
        if service.startswith("backend"):
            given = image_environment() | given
            client_port = f"127.0.0.1:{self.ports['ray-client']}"
            given |= {
                "CALICO_HOST": "127.0.0.1",
                "CALICO_PORT": str(self.ports[service]),
                "CALICO_DATA_DIR": str(self.folder / service),
                "CALICO_VERSIONS": str(self.folder / given["CALICO_VERSIONS"].lstrip("/")),
                "CALICO_LOCAL_FILES_ROOT": str(self.folder / "images"),
                "DATABASE_URL": self._database,
                "CALICO_WORKERS": given["CALICO_WORKERS"].replace("ray-head:10001", client_port),
                "LABEL_STUDIO_URL": self._host,
            }
        return kept | given | {"OMP_NUM_THREADS": "1"}

    def start(self, service: str, name: str | None = None) -> None:
        """What the service's container runs, as a process."""
        command = shlex.split(COMPOSE["services"][service].get("command", "python -m backend"))
        if command[0] == "ray":  # folders of ours, as each container has its own; free ports
            command[:1] = [sys.executable, "-m", "ray.scripts.scripts"]
            command = [part.replace("ray-head:6379", f"127.0.0.1:{self.ports['ray-head']}") for part in command]
            command.append(f"--temp-dir={self.folder / f'r{len(self.processes)}'}")
            if "--head" in command:
                command = [part.replace("10001", str(self.ports["ray-client"])) for part in command]
                command += [f"--port={self.ports['ray-head']}", "--include-dashboard=false"]
        else:
            command[0] = sys.executable
        self._run(name or service, command, self.environment(service))

    def start_balancer(self) -> None:
        content = COMPOSE["configs"]["balancer"]["content"].replace("$$", "$")
        for service in ("backend-1", "backend-2"):
            assert f"{service}:9090" in content
            content = content.replace(f"{service}:9090", f"127.0.0.1:{self.ports[service]}")
        content = re.sub(r"listen 9090;", f"listen 127.0.0.1:{self.ports['balancer']};", content)
        paths = "".join(
            f"{name}_temp_path {self.folder}/nginx-{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = self.folder / "nginx.conf"
        main.write_text(f"daemon off; pid {self.folder}/nginx.pid; events {{}} http {{ {paths} {content} }}")
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self._run("balancer", [program, "-c", str(main), "-e", "stderr"], dict(os.environ))

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, name: str, condition: Callable[[], Any]) -> Any:
        """Until it is true of a service that runs."""
        until = time.monotonic() + START_S
        while True:
            try:
                if found := condition():
                    return found
            except (OSError, httpx.HTTPError):
                pass
            if self.processes[name].poll() is not None or time.monotonic() > until:
                pytest.fail(f"{name}: {(self.folder / f'{name}.log').read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def end(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


@pytest.fixture
def composed(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    for module in ("ray", "grpc"):
        found = importlib.util.find_spec(module) is not None
        require("ray", found, f"{module} is missing: pip install -e '.[cluster]'")
    require("ray", bool(shutil.which("nginx") or Path("/usr/sbin/nginx").exists()), "nginx is missing")
    host = Host()
    with ExitStack() as stack:
        stack.enter_context(host.serving())
        folder = tmp_path_factory.mktemp("c")  # a short name: Ray's sockets lie in it
        composed = Composed(folder, postgres.new_database(), host.url)
        stack.callback(composed.end)
        yield composed


@contextmanager
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/k/{SECRET}", timeout=120, trust_env=False) as http:
        yield http


def listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


def is_ready(http: httpx.Client) -> bool:
    return bool(http.get("/health").json().get("model") == "ready")


def drawn_task(folder: Path, task: int) -> dict[str, Any]:
    data = {}
    for i, drawn in enumerate(draw_group(task, group_size=2), 1):
        (folder / f"{task}-{i}.png").write_bytes(png(drawn.image))
        data[f"image{i}"] = f"/data/local-files/?d={task}-{i}.png"
    return {"id": task, "data": data}


def are_predicted(http: httpx.Client, tasks: list[dict[str, Any]]) -> bool:
    """Whether all are; what is not ready in a request's time is asked for again, as the host does."""
    answer = http.post("/predict", json={"tasks": tasks, "project": "2.1", "label_config": PAIR_XML, "params": {}})
    assert answer.status_code == 200, answer.text
    return all(result and result["result"] for result in answer.json()["results"])


def test_the_cluster_of_compose_answers_through_its_balancer(composed: Composed) -> None:
    composed.start("ray-head")
    port = composed.ports["ray-client"]
    composed.wait("ray-head", lambda: listens(port))
    for number in (1, 2):
        composed.start("ray-worker", f"ray-worker-{number}")
    for name in ("backend-1", "backend-2"):
        composed.start(name)
    composed.start_balancer()
    for name in ("backend-1", "backend-2"):
        with client(composed.ports[name]) as http:
            composed.wait(name, partial(is_ready, http))
    tasks = [drawn_task(composed.folder / "images", number) for number in range(1, 5)]
    with client(composed.ports["balancer"]) as http:
        composed.wait("backend-1", partial(are_predicted, http, tasks[:2]))
        bodies = [annotation_event(number, f"t{number}") for number in range(20)]
        bodies.append({"action": "START_TRAINING", "project": {"id": 2}})
        answers = [http.post("/webhook", json=body) for body in bodies]
        assert [answer.status_code for answer in answers] == [201] * 21, answers[-1].text
        assert http.get("/health").json()["workers"]
        composed.processes["backend-1"].kill()
        composed.wait("backend-2", partial(are_predicted, http, tasks[2:]))
        assert http.post("/webhook", json=annotation_event(99, "t99")).status_code == 201
    inbox = Inbox(composed.environment("backend-2")["DATABASE_URL"])
    try:
        with inbox.database.reading() as connection:
            stored = [row.annotation for row in connection.execute(sa.select(events)) if row.annotation is not None]
            jobs = list(connection.execute(sa.select(training_jobs)))
        assert sorted(stored) == [*range(20), 99]
        assert [job.project for job in jobs] == [2]
    finally:
        inbox.close()
