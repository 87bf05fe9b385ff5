"""What a process freed goes back to the system, each minute, and nothing happens where the C library is not glibc."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_app import make, wait_for  # noqa: F401  make is a fixture

from backend.services import start_watch
from backend.telemetry import memory

FREED = """
from pathlib import Path
from backend.telemetry.memory import give_back
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
kept = [bytes(1000) for _ in range(60_000)]
del kept[:-1]  # the last one is above all that is free, so that it stays with the process
before = resident()
give_back()
print(before - resident())
"""


def libraries(monkeypatch, **functions):
    """What ctypes opens instead; the calls."""
    calls = []
    library = SimpleNamespace(**{name: lambda *given, name=name: calls.append((name, *given)) for name in functions})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return calls


def test_what_is_free_goes_back():
    if not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("not glibc on Linux")
    run = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 30e6


def test_arenas_are_bounded_unless_the_environment_says_how_many(monkeypatch):
    calls = libraries(monkeypatch, mallopt=2)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    memory.bound_arenas()
    assert calls == [("mallopt", -8, memory.NUM_ARENAS)]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    memory.bound_arenas()
    assert len(calls) == 1


@pytest.mark.parametrize("error", [None, OSError, TypeError])  # musl and macOS; no such library; Windows
def test_nothing_happens_with_another_c_library(monkeypatch, error):
    def refuse(name):
        raise error("no library without a name")

    libraries(monkeypatch)
    if error is not None:
        monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    memory.bound_arenas()
    memory.give_back()


def test_the_watch_gives_back_though_all_else_fails_and_until_it_is_stopped(make, monkeypatch):  # noqa: F811
    times = []
    monkeypatch.setattr("backend.services.WATCH_S", 0.01)
    monkeypatch.setattr("backend.services.GIVE_BACK_EVERY_S", 0.02)
    monkeypatch.setattr("backend.services.give_back", lambda: times.append(1))
    services, stop = make().application.extensions["calico"], threading.Event()

    def fail():
        raise OSError("the disk is gone")

    monkeypatch.setattr(services.engine.models, "look", fail)
    watch = start_watch(services, stop)
    wait_for(lambda: len(times) > 2)
    stop.set()
    watch.join(10)
    assert not watch.is_alive()
