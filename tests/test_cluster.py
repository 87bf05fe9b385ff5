"""Ray behind the same interfaces: skipped where it is not installed, required where CALICO_REQUIRE names `ray`."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from backend_fakes import PAIR_XML, pair_task
from conftest import require
from test_predict import lines_of, stages_for, write_lines

from backend.cluster.address import WorkersAddress, connect
from backend.cluster.corpus import RayWorkers
from backend.corpus.output import Output
from backend.corpus.plan import plan_of
from backend.corpus.run import note_of, run_corpus
from backend.corpus.stages import Prediction
from backend.settings import Settings
from calico.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local:2", WorkersAddress(None, 2)),
        ("auto", WorkersAddress("auto", None)),
        ("ray://head.example:10001", WorkersAddress("ray://head.example:10001", None)),
    ],
)
def test_addresses(text, expected):
    assert WorkersAddress.parse(text) == expected
    assert str(expected) == text
    assert Settings.from_environment({"CALICO_WORKERS": text}).workers == expected
    assert Settings.from_environment(Settings(workers=expected).as_environment()).workers == expected


@pytest.mark.parametrize("text", ["local:0", "local", "local:99999", "ray:/head", "http://head:1", "2", "ray://h:port"])
def test_other_addresses_are_refused(text):
    with pytest.raises(InputError, match="CALICO_WORKERS: expected local:N"):
        Settings.from_environment({"CALICO_WORKERS": text})


def test_without_ray_there_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[cluster\]'"):
        connect(WorkersAddress(None, 1))


@pytest.fixture(scope="module")
def local_ray():
    """Two workers on this machine."""
    require("ray", importlib.util.find_spec("ray") is not None, "Ray is not installed: pip install -e '.[cluster]'")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), *filter(None, [before])])
    address = WorkersAddress.parse("local:2")
    ray = connect(address)
    yield address
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.mark.ray
def test_a_corpus_on_workers_is_the_corpus_in_this_process(tmp_path, local_ray):
    path = write_lines(tmp_path / "tasks.jsonl", [pair_task(tmp_path, k) for k in range(23)])
    with open(path, "a") as file:
        file.write("{no task\n")
    plan = plan_of(path, 4)
    output = Output(tmp_path / "out")
    output.open(note_of(plan, PAIR_XML, "fake-1", 4))
    summary = run_corpus(plan, output, RayWorkers(local_ray, partial(stages_for, tmp_path), "fake-1"))
    assert (summary.predicted, summary.failed) == (23, 1)
    tasks = lines_of(output, "predictions")
    assert Counter(task["id"] for task in tasks) == Counter(range(23))
    outcomes = [outcome for shard in plan.shards for outcome in stages_for(tmp_path).run(shard.lines())]
    expected = [outcome.as_json for outcome in outcomes if isinstance(outcome, Prediction)]
    assert sorted(tasks, key=lambda task: task["id"]) == expected


@pytest.mark.ray
def test_a_worker_with_other_weights_is_refused(tmp_path, local_ray):
    plan = plan_of(write_lines(tmp_path / "tasks.jsonl", [pair_task(tmp_path, 1)]), 4)
    output = Output(tmp_path / "out")
    output.open(note_of(plan, PAIR_XML, "fake-2", 4))
    with pytest.raises(Exception, match="this worker loads fake-1"):
        run_corpus(plan, output, RayWorkers(local_ray, partial(stages_for, tmp_path), "fake-2"))
