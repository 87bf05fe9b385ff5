"""A real Label Studio as a child process, for the demo and for tests: in its own environment, on its own data folder.

Nothing else here needs it: a team's Label Studio runs wherever the team runs it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from calico.errors import CalicoError, InputError

LABEL_STUDIO_VERSION = "1.23.2"
START_TIMEOUT_S = 300.0  # the first start makes the database: 40 s on two idle cores
STOP_TIMEOUT_S = 10.0


class ProcessError(CalicoError):
    """A child process that did not start or ended early."""


def free_port(preferred: int, *, tries: int = 50) -> int:
    """The first port at or above `preferred` that nothing on this machine listens on."""
    for port in range(preferred, preferred + tries):
        if not port_is_taken(port):
            return port
    raise ProcessError(f"ports {preferred} to {preferred + tries - 1} are all taken; end a program that listens on one")


def port_is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


class ChildProcess:
    """A server in a process group of its own: a ctrl-C in the terminal does not reach it, `stop` ends all of it."""

    def __init__(self, name: str, command: list[str], *, log: Path, env: Mapping[str, str], cwd: Path | None = None):
        self.name = name
        self.command = command
        self.log = log
        self.env = dict(env)
        self.cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )

    def wait_until_ready(self, url: str, *, timeout_s: float, on_wait: Callable[[float], None] | None = None) -> None:
        """Until GET `url` answers 200. on_wait: called with the seconds waited, about three times a second."""
        started = time.monotonic()
        with httpx.Client(trust_env=False, timeout=2.0) as http:
            while (waited := time.monotonic() - started) < timeout_s:
                if not self.running:
                    raise ProcessError(f"{self.name} ended while starting: {self.last_line()} (see {self.log})")
                try:
                    if http.get(url).status_code == 200:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                if on_wait:
                    on_wait(waited)
                time.sleep(0.3)
        raise ProcessError(f"{self.name} did not answer {url} within {timeout_s:.0f} s; see {self.log}")

    def last_line(self) -> str:
        """The last thing it said, usually the reason of its end."""
        if not self.log.exists():
            return "it said nothing"
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

    def stop(self) -> None:
        """Ends the process group: politely, then for good. Harmless when it is not running."""
        process = self._process
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            try:
                process.wait(STOP_TIMEOUT_S)
                break
            except subprocess.TimeoutExpired:
                continue
        process.wait()
        self._process = None


@dataclass(frozen=True)
class Account:
    """The first user of a new Label Studio, its owner. token: a legacy API token."""

    user: str = "demo@localhost.com"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    token: str = field(default_factory=lambda: secrets.token_hex(20))


class LabelStudioHost:
    """One Label Studio on 127.0.0.1.

    data_dir: its database and `files/`, the document root of local files. executable: `label-studio` of the
    environment that it is installed in. account: must be the same at every start on the same data_dir.
    """

    def __init__(
        self,
        data_dir: Path,
        executable: Path,
        *,
        account: Account | None = None,
        port: int = 8080,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.files_dir = self.data_dir / "files"
        self.executable = executable
        self.account = account or Account()
        self.preferred_port = port
        self.url = ""
        self.log = log or self.data_dir / "label-studio.log"
        self._process: ChildProcess | None = None

    def __enter__(self) -> LabelStudioHost:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> ChildProcess | None:
        return self._process

    def environment(self) -> dict[str, str]:
        """What it is started with: the caller's own Django and Label Studio settings do not leak in."""
        ours = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data_dir),
            "LABEL_STUDIO_USERNAME": self.account.user,
            "LABEL_STUDIO_PASSWORD": self.account.password,
            "LABEL_STUDIO_USER_TOKEN": self.account.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",  # only heeded while the database is new
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files_dir),
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            # The backend is on loopback, which the host refuses to call unless told otherwise.
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
            "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "0",
            "SENTRY_RATE": "0",
            "FRONTEND_SENTRY_RATE": "0",
            "PYTHONUNBUFFERED": "1",
        }
        foreign = ("LABEL_STUDIO_", "DJANGO_", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "DATABASE_URL", "DEBUG")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return inherited | ours

    def start(self, *, timeout_s: float = START_TIMEOUT_S, on_wait: Callable[[float], None] | None = None) -> str:
        """Its address, once it answers there."""
        if not self.executable.exists():
            raise InputError(f"{self.executable}: no such file; expected the `label-studio` of its environment")
        self.files_dir.mkdir(parents=True, exist_ok=True)
        port = free_port(self.preferred_port)
        command = [str(self.executable), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
        self._process = ChildProcess("Label Studio", command, log=self.log, env=self.environment(), cwd=self.data_dir)
        self._process.start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            # Someone else may win the race for the port; the host then moves to the next one without a word, and what
            # answers here is not ours, or nothing does: only our own token proves who it is.
            self._process.wait_until_ready(f"{self.url}/health/", timeout_s=timeout_s, on_wait=on_wait)
            self._check_account()
        except BaseException:
            self.stop()
            raise
        return self.url

    def _check_account(self) -> None:
        headers = {"Authorization": f"Token {self.account.token}"}
        answer = httpx.get(f"{self.url}/api/current-user/whoami", headers=headers, timeout=30.0, trust_env=False)
        if answer.status_code != 200 or answer.json().get("email") != self.account.user:
            raise ProcessError(
                f"{self.url}: answers {answer.status_code} to our own token; either another program took the port, or "
                f"{self.data_dir} was made for another account: remove it to begin anew"
            )

    def stop(self) -> None:
        if self._process:
            self._process.stop()
            self._process = None
