"""`calico demo` as a user runs it: ready with everything pre-annotated, stopped with ctrl-C, and back at once."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from conftest import ROOT

from backend.demo import show
from backend.demo.label_studio import LabelStudioHost
from backend.demo.processes import port_is_taken
from backend.demo.show import PROJECTS, Demo, title_of
from backend.demo.state import STATE, State, verb_settings
from backend.host.client import HostError, LabelStudioClient, client_of
from calico.checkpoints.files import EMBEDDED
from calico.errors import InputError
from scripts import demo as verb

PORT, BACKEND_PORT = 18180, 19190  # or the next free ones
READY_TIMEOUT_S = 240


@contextmanager
def running(folder: Path, executable: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any], float]]:
    """The process, its state.json, and the seconds it took to be ready; ended if it still runs."""
    command = [sys.executable, "-m", "scripts.demo", "--folder", str(folder)]
    command += ["--port", str(PORT), "--backend-port", str(BACKEND_PORT)]
    env = dict(os.environ) | {"CALICO_LABEL_STUDIO": str(executable)}
    started = time.monotonic()
    log = folder.parent / "demo.out"
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out) as process:
        try:
            while not (folder / "state.json").exists():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() - started < READY_TIMEOUT_S, log.read_text()
                time.sleep(0.2)
            yield process, json.loads((folder / "state.json").read_text()), time.monotonic() - started
        finally:
            if process.poll() is None:
                process.terminate()  # stops its servers too
                process.wait(30)


@pytest.mark.host
def test_a_demo_from_start_to_stop_and_again(label_studio: LabelStudioHost, empty_data: Path, tmp_path: Path) -> None:
    if not os.environ.get("CALICO_CHECKPOINT") and not EMBEDDED.exists():
        pytest.skip("there is no embedded checkpoint yet")
    folder = tmp_path / "demo"
    folder.mkdir()
    shutil.copytree(empty_data, folder / "data")  # saves the half minute that making a database takes
    account = label_studio.account
    known = {"user": account.user, "password": account.password, "token": account.token}
    (folder / "account.json").write_text(json.dumps(known | {"webhook_secret": "a-secret-of-the-tests"}))

    with running(folder, label_studio.executable) as (process, state, _):
        assert state.keys() == {"url", "user", "password", "token", "backend_url", "project_ids"}
        ports = [httpx.URL(state[key]).port or 0 for key in ("url", "backend_url")]
        assert all(port_is_taken(port) for port in ports)
        assert stat.S_IMODE((folder / "state.json").stat().st_mode) == 0o600
        assert httpx.get(f"{state['backend_url']}/health", trust_env=False).json()["model"] == "ready"
        with LabelStudioClient(state["url"], state["token"]) as client:
            groups = []
            for project in state["project_ids"]:
                hooks = [hook["url"] for hook in client.webhooks(project)]
                assert hooks == [f"{state['backend_url']}/webhook"]
                for task in client.tasks(project, full=True):
                    groups.append(sum(key.startswith("image") for key in task["data"]))
                    shown = [{row["type"] for row in each["result"]} for each in task["predictions"]]
                    assert len(shown) == 1 or (not shown and "wheelbarrow" in task["data"]["title"])
                    assert all(types >= {"brush", "labels"} for types in shown)
            assert sorted(set(groups)) == [2, 3]
            assert len(groups) == sum(project.num_groups for project in PROJECTS)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert not (folder / "state.json").exists()
    assert not any(port_is_taken(port) for port in ports)

    with running(folder, label_studio.executable) as (process, again, seconds):
        assert seconds < 30
        assert again["project_ids"] == state["project_ids"]
        stop = [sys.executable, "-m", "scripts.demo", "--folder", str(folder), "--stop"]
        subprocess.run(stop, cwd=ROOT, check=True)
        assert process.wait(90) == 0
    assert not any(port_is_taken(httpx.URL(again[key]).port or 0) for key in ("url", "backend_url"))


def test_groups_are_the_same_each_time_and_of_the_right_size() -> None:
    for project in PROJECTS:
        once, again = verb.make_groups(project)[:2], verb.make_groups(project)[:2]
        for group, same in zip(once, again, strict=True):
            assert len(group) == project.group_size
            assert all((a == b).all() for a, b in zip(group, same, strict=True))
    assert len({project.group_size for project in PROJECTS}) == 2
    assert sum(project.num_groups for project in PROJECTS) >= 12


def test_what_was_predicted_with_a_part_memory_is_not_missing(tmp_path: Path) -> None:
    """It never gets a prediction of the model alone, and a start that waited for one failed after minutes."""
    demo = Demo(tmp_path, step=verb.step, groups=verb.make_groups)
    client: Any = SimpleNamespace(
        tasks=lambda number: [{"id": 1}, {"id": 2}],
        model_versions=lambda number: {"v1": 1, "v1+3 groups": 1},
        project=lambda number: {"num_tasks_with_annotations": 1},
    )
    demo._predict(client, 1, PROJECTS[0], "v1")


def test_only_of_drawn_groups_each_must_show_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "LATE_TIMEOUT_S", 0.0)
    demo = Demo(tmp_path, step=verb.step, groups=verb.make_groups)
    client: Any = SimpleNamespace(
        tasks=lambda number: [{"id": 1}, {"id": 2}],
        model_versions=lambda number: {"v1": 1},
        project=lambda number: {"num_tasks_with_annotations": 1},
        retrieve_predictions=lambda number, tasks: None,
    )
    [rendered] = [project for project in PROJECTS if not project.is_drawn]
    demo._predict(client, 1, rendered, "v1")
    with pytest.raises(HostError, match="1 of 2 groups got no prediction"):
        demo._predict(client, 1, PROJECTS[0], "v1")


def test_a_lost_account_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_LABEL_STUDIO", sys.executable)
    (tmp_path / "data").mkdir()
    demo = Demo(tmp_path, step=verb.step, groups=verb.make_groups)
    with (
        pytest.raises(InputError, match=r"account.json is gone, but not .*data; `make demo-clean` removes both"),
        demo.running(),
    ):
        pass


def test_a_wrong_label_studio_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_LABEL_STUDIO", str(tmp_path / "missing"))
    demo = Demo(tmp_path, step=verb.step, groups=verb.make_groups)
    with pytest.raises(InputError, match=r"CALICO_LABEL_STUDIO=.*missing: no such file"), demo.running():
        pass


def test_clean_removes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    (folder / "data").mkdir(parents=True)
    assert verb.main(["--folder", str(folder), "--stop"]) == 0
    assert folder.exists()
    assert verb.main(["--folder", str(folder), "--clean"]) == 0
    assert not folder.exists()
    assert "No demo was running." in capsys.readouterr().err


def state_in(folder: Path) -> State:
    state = State("http://127.0.0.1:8080", "a@b", "password", "t0ken", "http://127.0.0.1:9090/k/s", [1, 2])
    (folder / STATE).write_text(json.dumps(asdict(state)))
    return state


def test_verbs_use_the_demo_that_runs_where_no_host_is_named(tmp_path: Path) -> None:
    assert verb_settings({}, tmp_path).label_studio_url is None
    state = state_in(tmp_path)
    settings = verb_settings({}, tmp_path)
    assert (settings.label_studio_url, settings.label_studio_api_key) == (state.url, state.token)
    assert settings.versions == tmp_path / "registry"
    own = verb_settings({"LABEL_STUDIO_URL": "http://ours", "LABEL_STUDIO_API_KEY": "k"}, tmp_path)
    assert (own.label_studio_url, own.label_studio_api_key, own.versions) == ("http://ours", "k", None)
    (tmp_path / STATE).write_text("{")
    with pytest.raises(InputError, match="make demo-stop"):
        verb_settings({}, tmp_path)


def test_without_a_host_a_verb_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY .* or run `make demo`"):
        client_of(verb_settings({}, tmp_path))


def test_what_is_announced_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb.announce(state_in(tmp_path))
    told = capsys.readouterr().err
    assert "http://127.0.0.1:8080/projects/1/data?labeling=1" in told
    assert "http://127.0.0.1:9090/k/s/" in told
    commands = [line.split("#")[0].split() for line in told.splitlines() if line.strip().startswith("calico ")]
    assert len(commands) == 3
    for _, name, *rest in commands:
        importlib.import_module(f"scripts.{name}").build_parser().parse_args(rest)  # exits where it does not fit


def test_titles_say_what_a_group_shows() -> None:
    assert title_of(["chair", "stool"]) == "chair and stool"
    assert title_of(["renders/wheelbarrow-1.jpg", "renders/wheelbarrow-12.jpg"]) == "2 wheelbarrows"
    assert title_of(["bird"] * 3) == "3 birds"
    assert title_of(["mug", "teapot", "lamp"]) == "mug, teapot and lamp"


def test_ctrl_c_ends_with_one_line_whatever_still_computes() -> None:
    """Threads inside a library cannot be unwound; ending the interpreter under them would abort."""
    code = (
        "import signal, sys, threading, time, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored\n"
        "import numpy as np\n"
        "from scripts import __main__ as verbs, _cli\n"
        "def work():\n"
        "    a = np.ones((600, 600))\n"
        "    while True: a @ a\n"
        "def handle(args):\n"
        "    threading.Thread(target=work, daemon=True).start()\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.modules['scripts.busy'] = types.SimpleNamespace(\n"
        "    main=lambda argv: _cli.run(_cli.parser('Busy.'), handle, argv))\n"
        "verbs.verbs = lambda: {'busy': ''}\n"
        "sys.argv = ['calico', 'busy']\n"
        "verbs.entry()\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "interrupted\n")
