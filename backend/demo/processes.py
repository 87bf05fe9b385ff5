"""Child processes of the demo and of tests: ports, servers that are started and stopped, one program per folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import httpx
import psutil

from calico.errors import CalicoError, InputError

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

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path | None = None
    ):
        self.name = name
        self.command = list(command)
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

    def wait_until_ready(
        self,
        url: str,
        *,
        timeout_s: float,
        ready: Callable[[httpx.Response], bool] = lambda answer: answer.status_code == 200,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        """Until `ready` accepts what GET `url` answers. on_wait: called with the seconds waited, thrice a second."""
        started = time.monotonic()
        with httpx.Client(trust_env=False, timeout=2.0) as http:
            while (waited := time.monotonic() - started) < timeout_s:
                if not self.running:
                    raise ProcessError(f"{self.name} ended while starting: {self.last_line()} (see {self.log})")
                try:
                    if ready(http.get(url)):
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                if on_wait:
                    on_wait(waited)
                time.sleep(0.3)
        raise ProcessError(f"{self.name} was not ready at {url} within {timeout_s:.0f} s; see {self.log}")

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


class SingleInstance:
    """Lets one program at a time work in a folder, and lets another one stop it.

    path: a file that the running program holds locked (the system lets go of it however the program ends), and that
    lists the children it started, so that the next one can end what a killed one left behind.
    """

    def __init__(self, path: Path, busy: str) -> None:
        self.path = path
        self.busy = busy
        self._file: IO[str] | None = None

    def __enter__(self) -> SingleInstance:
        """Raises InputError with the message `busy` while another program is inside."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(self.busy) from None
        self._file = file
        self._end_orphans()
        self.remember([])
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None

    def remember(self, children: Sequence[ChildProcess]) -> None:
        assert self._file is not None
        listed = [{"pid": child.pid, "arguments": child.command[1:]} for child in children]
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "children": listed}, self._file)
        self._file.flush()

    def _end_orphans(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        try:
            children = json.load(self._file)["children"]
        except ValueError:  # empty after an orderly end, or cut short by a crash
            return
        for child in children:
            if is_running(child["pid"], child["arguments"]):
                os.killpg(child["pid"], signal.SIGKILL)

    def stop_other(self) -> bool:
        """Asks the program inside to end, and waits; else ends what a killed one left. Whether one was inside."""
        if not self.path.exists():
            return False
        with self.path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                os.kill(json.load(file)["pid"], signal.SIGTERM)
                fcntl.flock(file, fcntl.LOCK_EX)
                return True
        with self:
            return False


def run(command: Sequence[str], log: IO[str], note: Callable[[str], None]) -> None:
    """Runs a command to its end; what it says goes to the log, and what pip is doing to `note`."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                log.write(line)
                words = line.split()
                if words[:1] in (["Collecting"], ["Downloading"]):
                    note(" ".join(words[:2]).lower())
                elif words[:1] == ["Installing"]:
                    note(f"installing {len(words) - 3} packages")
                last = line.strip() or last
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ProcessError(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {last[:300]} (see {log.name})")


def is_running(pid: int, arguments: Sequence[str]) -> bool:
    """Whether the process lives and is still the one that was started with these arguments."""
    try:
        return " ".join(arguments) in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def started_at(pid: int) -> str | None:
    """When the process started, in seconds after the machine did; None where there is none (a zombie is none).

    A number that was given to another process since has another time, so the two together name one process. Not by the
    clock, which may be set while it runs.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return f"{process.create_time() - psutil.boot_time():.2f}"
    except psutil.Error:
        return None
