"""Child processes: ready, ended early, stopped with their own children; one program per folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.demo.processes import ChildProcess, ProcessError, SingleInstance, free_port, is_running, run
from calico.errors import InputError

SERVER = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[ChildProcess, str]]:
    """A small web server that has a child of its own, not started yet."""
    port = free_port(19000)
    command = [sys.executable, "-c", SERVER, str(port)]
    child = ChildProcess("The server", command, log=tmp_path / "server.log", env=dict(os.environ), cwd=tmp_path)
    yield child, f"http://127.0.0.1:{port}/"
    child.stop()


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def eventually_gone(group: int) -> bool:
    for _ in range(50):
        if group_is_gone(group):
            return True
        time.sleep(0.1)
    return False


def test_a_server_and_its_children_are_stopped(server: tuple[ChildProcess, str]) -> None:
    child, url = server
    child.start()
    child.wait_until_ready(url, timeout_s=20)
    group = child.pid
    assert group is not None
    child.stop()
    child.stop()  # harmless
    assert not child.running
    assert eventually_gone(group)


def test_an_early_end_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    child = ChildProcess("The server", command, log=tmp_path / "log", env=dict(os.environ))
    child.start()
    with pytest.raises(ProcessError, match=r"^The server ended while starting: the reason \(see .*log\)$"):
        child.wait_until_ready("http://127.0.0.1:9/", timeout_s=20)
    child.stop()


def test_never_ready_is_an_error(server: tuple[ChildProcess, str]) -> None:
    child, url = server
    child.start()
    with pytest.raises(ProcessError, match=r"was not ready at .* within 1 s"):
        child.wait_until_ready(url, timeout_s=1, ready=lambda answer: False)


def test_a_taken_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
        with pytest.raises(ProcessError, match=f"ports {port} to {port} are all taken"):
            free_port(port, tries=1)


def test_one_program_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    with SingleInstance(path, "busy"), pytest.raises(InputError, match=r"stop it first"):
        SingleInstance(path, "stop it first").__enter__()
    with SingleInstance(path, "busy"):
        pass
    assert not SingleInstance(path, "busy").stop_other()


def test_another_process_is_stopped_politely(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    program = (
        "import sys, time; from pathlib import Path; from backend.demo.processes import SingleInstance\n"
        f"with SingleInstance(Path({str(path)!r}), 'busy'):\n    print('inside', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"inside\n"
        assert SingleInstance(path, "busy").stop_other()
        assert other.wait(10) == -signal.SIGTERM


def test_what_a_killed_program_left_is_ended(tmp_path: Path, server: tuple[ChildProcess, str]) -> None:
    child, url = server
    path = tmp_path / "running.json"
    killed = SingleInstance(path, "busy")
    killed.__enter__()
    child.start()
    killed.remember([child])
    child.wait_until_ready(url, timeout_s=20)
    assert child.pid is not None
    assert is_running(child.pid, child.command[1:])
    assert not is_running(child.pid, ["something", "else"])
    killed._file.close()  # type: ignore[union-attr]  # as the system does when it is killed
    with SingleInstance(path, "busy"):
        assert child._process is not None
        assert child._process.wait(10) == -signal.SIGKILL


def test_a_failing_command_names_its_last_words(tmp_path: Path) -> None:
    notes: list[str] = []
    with (tmp_path / "log").open("w") as log:
        run([sys.executable, "-c", "print('Collecting django')"], log, notes.append)
        with pytest.raises(ProcessError, match=r"failed: no space left \(see .*log\)"):
            run([sys.executable, "-c", "print('no space left'); raise SystemExit(1)"], log, notes.append)
    assert notes == ["collecting django"]
    assert (tmp_path / "log").read_text() == "Collecting django\nno space left\n"
