"""A corpus from task files to prediction files: every task once, whatever happens on the way."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from backend_fakes import LIST_XML, PAIR_XML, FakeSegmenter, pair_task, picture, png

from backend.codecs.config import read_config
from backend.corpus.output import Output
from backend.corpus.plan import as_lines, plan_of
from backend.corpus.run import ThisProcess, note_of, run_corpus
from backend.corpus.stages import Failure, Prediction, Stages
from backend.media.media import Media
from backend.prediction.activity import Jobs
from backend.prediction.engine import Engine
from backend.prediction.predictor import Predictor
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import InputError
from scripts import predict

ROOT = Path(__file__).parents[1]
RED = (255, 0, 0)  # a first pixel that the fake segmenter fails at


def write_lines(path: Path, tasks) -> Path:
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks), encoding="utf-8")
    return path


def stages_for(folder: Path, segmenter=None) -> Stages:
    media = Media(Settings(media_roots=(folder,), data_dir=folder / "data"), Metrics())
    return Stages(segmenter or FakeSegmenter(), media, read_config(PAIR_XML), batch_size=3, threads=2)


def lines_of(output: Output, kind: str) -> list[dict]:
    paths = sorted((output.folder / kind).glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.parametrize("shard_size", [1, 3, 4, 100])
@pytest.mark.parametrize("text", ["{}\n{}\n\n{}\n{}", "{}\r\n{}\r\n{}\r\n{}\r\n", "\n\n{}\n{}\n{}\n{}\n\n"])
def test_every_line_is_in_one_shard(tmp_path, shard_size, text):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(text.encode())
    plan = plan_of(path, shard_size)
    lines = [line for shard in plan.shards for line in shard.lines()]
    assert plan.num_tasks == len(lines) == 4
    assert [number for number, _ in lines] == [
        number for number, line in enumerate(text.splitlines(), start=1) if line.strip()
    ]
    assert all(shard.num_tasks <= shard_size for shard in plan.shards)


def test_each_task_becomes_one_line_and_each_fault_names_its_line(tmp_path):
    good = [pair_task(tmp_path, k) for k in range(5)]
    bad = [
        pair_task(tmp_path, 7, firsts=(RED, (0, 0, 0))),
        {"id": 8, "data": {"image1": str(tmp_path / "0_1.png")}},
        {"id": 9, "data": {"image1": str(tmp_path / "gone.png"), "image2": str(tmp_path / "0_1.png")}},
    ]
    path = write_lines(tmp_path / "tasks.jsonl", [*good[:2], *bad, *good[2:]])
    with open(path, "a") as file:
        file.write("{not json\n[1, 2]\n")
    plan = plan_of(path, 4)
    output = Output(tmp_path / "out")
    output.open(note_of(plan, PAIR_XML, "fake-1", 4))
    summary = run_corpus(plan, output, ThisProcess(stages_for(tmp_path)))
    assert (summary.num_tasks, summary.predicted, summary.failed) == (10, 5, 5)
    predictions = lines_of(output, "predictions")
    assert [task["id"] for task in predictions] == [0, 1, 2, 3, 4]
    assert all(task["predictions"][0]["model_version"] == "fake-1" for task in predictions)
    assert {item["line"]: item["id"] for item in lines_of(output, "failures")} == {3: 7, 4: 8, 5: 9, 9: None, 10: None}
    reasons = " ".join(item["reason"] for item in lines_of(output, "failures"))
    assert "gone.png" in reasons
    assert "out of memory" in reasons
    assert sum(summary.reasons.values()) == 5


def test_a_prediction_is_the_one_that_the_backend_would_give(tmp_path):
    [outcome] = stages_for(tmp_path).run([(1, json.dumps(pair_task(tmp_path, 3)).encode())])
    assert isinstance(outcome, Prediction)
    metrics, settings = Metrics(), Settings(media_roots=(tmp_path,), data_dir=tmp_path / "data")
    engine = Engine(FakeSegmenter, metrics)
    predictor = Predictor(engine, Media(settings, metrics), Jobs(), metrics)
    assert outcome.as_json["predictions"] == predictor.predict([pair_task(tmp_path, 3)], PAIR_XML, "1")


def test_an_export_and_its_lines_give_the_same(tmp_path):
    tasks = [pair_task(tmp_path, k) for k in range(3)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    config = read_config(PAIR_XML)
    lines, roots = as_lines(tmp_path / "tasks.json", tmp_path / "out", config)
    assert [json.loads(line) for line in lines.read_text().splitlines()] == tasks
    assert roots == ()
    same, _ = as_lines(write_lines(tmp_path / "tasks.jsonl", tasks), tmp_path / "out", config)
    assert same == tmp_path / "tasks.jsonl"
    assert plan_of(lines, 2).sha256 == plan_of(same, 2).sha256


def test_a_run_goes_on_and_another_is_refused(tmp_path):
    path = write_lines(tmp_path / "tasks.jsonl", [pair_task(tmp_path, k) for k in range(6)])
    plan = plan_of(path, 2)
    output = Output(tmp_path / "out")
    note = note_of(plan, PAIR_XML, "fake-1", 2)
    output.open(note)

    class Stopping(Stages):
        def run(self, lines):
            if output.is_done(plan.shards[1]):
                raise KeyboardInterrupt
            yield from super().run(lines)

    stopping = stages_for(tmp_path)
    stopping.__class__ = Stopping
    with pytest.raises(KeyboardInterrupt):
        run_corpus(plan, output, ThisProcess(stopping))
    assert [output.is_done(shard) for shard in plan.shards] == [True, True, False]
    assert not list((tmp_path / "out" / "predictions").glob(".*"))
    output.open(note)
    summary = run_corpus(plan, output, ThisProcess(stages_for(tmp_path)))
    assert (summary.resumed, summary.predicted) == (4, 2)
    assert Counter(task["id"] for task in lines_of(output, "predictions")) == Counter(range(6))
    with pytest.raises(InputError, match="other model_version"):
        output.open({**note, "model_version": "fake-2"})


def test_a_file_that_changed_under_the_run_ends_it(tmp_path):
    path = write_lines(tmp_path / "tasks.jsonl", [pair_task(tmp_path, k) for k in range(3)])
    plan = plan_of(path, 10)
    write_lines(path, [pair_task(tmp_path, k) for k in range(2)])
    output = Output(tmp_path / "out")
    output.open(note_of(plan, PAIR_XML, "fake-1", 10))
    with pytest.raises(InputError, match="shorter than when the run began"):
        run_corpus(plan, output, ThisProcess(stages_for(tmp_path)))
    assert not lines_of(output, "predictions")


def test_memory_does_not_grow_with_the_tasks(tmp_path):
    """Planning and fetching ahead hold a bounded number of tasks, whatever their number."""
    line = json.dumps(pair_task(tmp_path, 1)).encode()
    peaks = []
    for num_tasks in (200, 2000):
        path = tmp_path / f"{num_tasks}.jsonl"
        path.write_bytes((line + b"\n") * num_tasks)
        output = Output(tmp_path / f"out{num_tasks}")
        tracemalloc.start()
        plan = plan_of(path, 50)
        output.open(note_of(plan, PAIR_XML, "fake-1", 50))
        run_corpus(plan, output, ThisProcess(NoModel(read_config(PAIR_XML))))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000, peaks


class NoModel:
    """All stages but the model, which says that there is nothing."""

    def __init__(self, config):
        self._config = config

    def run(self, lines):
        for number, text in lines:
            yield Failure(number, json.loads(text)["id"], "nothing")


CHILD = """
import sys
from test_predict import NoModel, PAIR_XML, ThisProcess, Output, Prediction, note_of, plan_of, run_corpus
import json, time
class Fake(NoModel):
    def run(self, lines):
        for number, text in lines:
            time.sleep(0.0005)
            yield Prediction(number, {**json.loads(text), "predictions": []})
plan = plan_of(sys.argv[1], 50)
output = Output(__import__("pathlib").Path(sys.argv[2]))
output.open(note_of(plan, PAIR_XML, "fake-1", 50))
run_corpus(plan, output, ThisProcess(Fake(None)))
"""


def test_killed_five_times_it_has_every_task_once(tmp_path):
    num_tasks = int(os.environ.get("CALICO_CORPUS_TASKS", "3000"))
    with open(tmp_path / "tasks.jsonl", "w") as file:
        file.writelines(json.dumps({"id": k, "data": {"image1": "a", "image2": "b"}}) + "\n" for k in range(num_tasks))
    command = [sys.executable, "-c", CHILD, str(tmp_path / "tasks.jsonl"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    output = Output(tmp_path / "out")
    chance = random.Random(7)
    kills = 0
    while True:
        before = len(list((tmp_path / "out").glob("predictions/*.jsonl")))
        process = subprocess.Popen(command, env=environment)
        if kills < 5:
            more = before + chance.randint(1, max(1, num_tasks // 50 // 8))
            while process.poll() is None and len(list((tmp_path / "out").glob("predictions/*.jsonl"))) < more:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            continue
        assert process.wait(timeout=600) == 0
        break
    assert kills == 5
    assert Counter(task["id"] for task in lines_of(output, "predictions")) == Counter(range(num_tasks))


def test_the_verb(tmp_path, monkeypatch, capsys):
    tasks = [pair_task(tmp_path, k) for k in range(3)]
    write_lines(tmp_path / "tasks.jsonl", tasks)
    (tmp_path / "config.xml").write_text(PAIR_XML)
    monkeypatch.setenv("CALICO_MEDIA_ROOTS", str(tmp_path))
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))

    class Champion:
        def load(self):
            return FakeSegmenter()

    monkeypatch.setattr("backend.corpus.run.champion_of", lambda settings: Champion())
    common = ["--config", str(tmp_path / "config.xml"), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "r")]
    assert predict.main(["--tasks", str(tmp_path / "tasks.jsonl"), *common]) == 0
    report = json.loads((tmp_path / "r").read_text())
    assert (report["num_tasks"], report["predicted"], report["version"]) == (3, 3, "fake-1")
    assert predict.main(["--tasks", str(tmp_path / "tasks.jsonl"), *common]) == 0
    assert json.loads((tmp_path / "r").read_text())["resumed"] == 3
    write_lines(tmp_path / "tasks.jsonl", tasks[:2])
    assert predict.main(["--tasks", str(tmp_path / "tasks.jsonl"), *common]) == 2
    assert "use another --out" in capsys.readouterr().err
    assert predict.main(["--tasks", str(tmp_path / "gone.jsonl"), *common]) == 2
    new = [*common[:3], str(tmp_path / "new"), "--plan-only"]
    assert predict.main(["--tasks", str(tmp_path / "tasks.jsonl"), *new]) == 0


def test_images_in_data_uris_need_no_folder(tmp_path):
    uri = "data:image/png;base64," + base64.b64encode(png(picture(1))).decode()
    media = Media(Settings(data_dir=tmp_path / "data"), Metrics())
    stages = Stages(FakeSegmenter(), media, read_config(LIST_XML))
    [outcome] = stages.run([(1, json.dumps({"data": {"images": [uri, uri]}}).encode())])
    assert isinstance(outcome, Prediction), outcome
