"""A real Label Studio as a child process, for the demo and for tests: in its own environment, on its own data folder.

Nothing else here needs it: a team's Label Studio runs wherever the team runs it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from backend.demo.processes import ChildProcess, ProcessError, free_port, run
from calico.errors import InputError

LABEL_STUDIO_VERSION = "1.23.2"
START_TIMEOUT_S = 600.0  # the first start makes the database: 25 to 40 s on two idle cores, minutes on busy ones


def is_installed(venv: Path) -> bool:
    """Whether the environment has all of Label Studio."""
    # pip installs a package after all that it needs and writes RECORD last, so this file is the end of an installation.
    record = f"lib/python*/site-packages/label_studio-{LABEL_STUDIO_VERSION}.dist-info/RECORD"
    return (venv / "bin" / "label-studio").is_file() and any(venv.glob(record))


def install(venv: Path, log: Path, note: Callable[[str], None]) -> None:
    """Label Studio in an environment of its own, since it pins Django, opencv and more: 1 GB, a minute or two."""
    note("making the environment")
    shutil.rmtree(venv, ignore_errors=True)  # a part of an earlier attempt
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        run([sys.executable, "-m", "venv", str(venv)], file, note)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        run([*pip, f"label-studio=={LABEL_STUDIO_VERSION}"], file, note)
    if not is_installed(venv):
        raise ProcessError(f"Label Studio {LABEL_STUDIO_VERSION} did not install completely; see {log}")


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
        self.process: ChildProcess | None = None

    def __enter__(self) -> LabelStudioHost:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

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
        self.launch()
        try:
            self.wait(timeout_s=timeout_s, on_wait=on_wait)
        except BaseException:
            self.stop()
            raise
        return self.url

    def launch(self) -> ChildProcess:
        """Starts the process and does not wait for it."""
        if not self.executable.exists():
            raise InputError(f"{self.executable}: no such file; expected the `label-studio` of its environment")
        self.files_dir.mkdir(parents=True, exist_ok=True)
        port = free_port(self.preferred_port)
        command = [str(self.executable), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
        self.process = ChildProcess("Label Studio", command, log=self.log, env=self.environment(), cwd=self.data_dir)
        self.process.start()
        self.url = f"http://127.0.0.1:{port}"
        return self.process

    def wait(self, *, timeout_s: float = START_TIMEOUT_S, on_wait: Callable[[float], None] | None = None) -> None:
        """Until it answers at `url`.

        A program that takes the port in this very moment makes the host move to the next one without a word, and then
        what answers is not ours, or nothing does: only our own token proves who it is.
        """
        if self.process is None:
            raise ProcessError("Label Studio was not launched")
        self.process.wait_until_ready(f"{self.url}/health/", timeout_s=timeout_s, on_wait=on_wait)
        self._check_account()

    def _check_account(self) -> None:
        headers = {"Authorization": f"Token {self.account.token}"}
        answer = httpx.get(f"{self.url}/api/current-user/whoami", headers=headers, timeout=30.0, trust_env=False)
        if answer.status_code != 200 or answer.json().get("email") != self.account.user:
            raise ProcessError(
                f"{self.url}: answers {answer.status_code} to our own token; either another program took the port, or "
                f"{self.data_dir} was made for another account: remove it to begin anew"
            )

    def stop(self) -> None:
        if self.process:
            self.process.stop()
            self.process = None
