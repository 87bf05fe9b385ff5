"""Which groups of a project come next: what is read of tasks, what is written and what never is, resuming."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from backend_fakes import PAIR_XML, picture
from live_backend import annotate, make_project
from test_prelabel import MemoryHost, connect

from backend.demo.label_studio import LabelStudioHost
from backend.host.client import HostError, LabelStudioClient
from backend.project.next_groups import PAGE_SIZE, PLACE, REASON, NextGroups, Options, Summary
from calico.errors import InputError
from scripts import next_groups


def rows(*parts: tuple[str, float]) -> list[dict[str, Any]]:
    """Result rows of regions on the first image, each (part name, score); the masks are not looked at."""
    made: list[dict[str, Any]] = []
    for number, (name, score) in enumerate(parts):
        shared = {"id": f"r{number}", "to_name": "img1", "score": score}
        brush = {"format": "rle", "rle": [], "brushlabels": ["common part"]}
        made.append({**shared, "from_name": "brush1", "type": "brushlabels", "value": brush})
        made.append({**shared, "from_name": "name1", "type": "textarea", "value": {"text": [name]}})
    return made


class WholeTasks(MemoryHost):
    """The same host, which also gives whole tasks and takes changes of data and scores."""

    def __init__(self, num_tasks: int) -> None:
        tasks = range(1, num_tasks + 1)
        super().__init__([{"id": i, "data": {"image1": f"{i}a.png", "image2": f"{i}b.png"}} for i in tasks])
        self.num_pages = 0
        self.fail_after_pages: int | None = None
        self.fail_after_writes: int | None = None
        self.writes: list[tuple[str, int, Any]] = []
        self.tabs: list[dict[str, Any]] = []

    def predict(self, task: int, *parts: tuple[str, float], version: str = "calico-tiny-1") -> int:
        number = self.add(task, version)
        self.predictions[number] |= {"result": rows(*parts), "score": 0.5}
        return number

    def annotate(self, task: int, *names: str, cancelled: bool = False) -> None:
        result = [] if cancelled else rows(*((name, 1.0) for name in names))
        self.annotations.setdefault(task, []).append({"id": task, "was_cancelled": cancelled, "result": result})

    def _whole(self, task: int) -> dict[str, Any]:
        predictions = [item for item in self.predictions.values() if item["task"] == task]
        whole = {"id": task, "data": self.data[task], "predictions": predictions}
        return copy.deepcopy({**whole, "annotations": self.annotations.get(task, [])})

    def _answer(self, route: str, number: int, params: httpx.QueryParams, body: Any) -> tuple[int, Any]:
        if route.startswith("PATCH") and len(self.writes) == self.fail_after_writes:
            return 500, {"detail": "database is locked"}
        match route:
            case "GET /api/dm/columns/":
                shown, not_shown = ({"explore": is_shown, "labeling": is_shown} for is_shown in (True, False))
                columns = [("data", "image1", shown), ("data", "parts", shown), (None, "file_upload", not_shown)]
                names = ("parent", "id", "visibility_defaults")
                return 200, {"columns": [dict(zip(names, column, strict=True)) for column in columns]}
            case "GET /api/dm/views/":
                return 200, self.tabs
            case "POST /api/dm/views/":
                self.tabs.append({"id": len(self.tabs) + 1, "data": body["data"]})
                return 201, self.tabs[-1]
            case "PATCH /api/dm/views/N/":
                self.tabs[number - 1] |= body
                return 200, self.tabs[number - 1]
            case "GET /api/tasks/":
                if self.num_pages == self.fail_after_pages:
                    return 500, {"detail": "database is locked"}
                self.num_pages += 1
                assert params["fields"] == "all"
                listed = self._listed(json.loads(params["query"]), int(params["page_size"]))
                return 200, {"tasks": [self._whole(item["id"]) for item in listed]}
            case "GET /api/tasks/N/":
                return 200, self._whole(number)
            case "PATCH /api/tasks/N/":
                assert body.keys() == {"data"}
                self.data[number] = body["data"]
                self.writes.append(("data", number, body["data"].get(PLACE)))
                return 200, self._whole(number)
            case "PATCH /api/predictions/N/":
                assert body.keys() == {"score"}
                self.predictions[number] |= body
                self.writes.append(("score", number, body["score"]))
                return 200, self.predictions[number]
        return super()._answer(route, number, params, body)

    def places(self) -> dict[int, str]:
        return {task: data[PLACE] for task, data in self.data.items() if PLACE in data}


def run(
    host: WholeTasks,
    resume_file: Path | None = None,
    features: Any = None,
    model_version: str | None = None,
    **options: Any,
) -> Summary:
    return NextGroups(
        connect(host), 1, Options(**options), features=features, model_version=model_version, resume_file=resume_file
    ).run()


@pytest.fixture
def host() -> WholeTasks:
    """Task 1 is sure, 2 is not, 3 has a name that nobody gave, 4 is labelled, 5 was skipped, 6 has no prediction."""
    host = WholeTasks(6)
    host.predict(1, ("leg", 0.9), ("seat", 0.9))
    host.predict(2, ("leg", 0.2), ("seat", 0.3))
    host.predict(3, ("canopy", 0.95))
    host.predict(4, ("leg", 0.1))
    host.annotate(4, "leg", "seat")
    host.annotate(5, cancelled=True)
    return host


def test_places_are_text_that_sorts_and_reasons_stand_beside_them(host: WholeTasks) -> None:
    annotations = copy.deepcopy(host.annotations)
    summary = run(host, strategy="least_confidence", count=3)
    assert host.places() == {2: "0001", 1: "0002", 3: "0003"}
    assert host.data[2][REASON] == "mean score 0.25; least sure of leg 0.20, seat 0.30"
    assert host.data[2]["image1"] == "2a.png"
    assert host.annotations == annotations
    assert [(tab["data"]["title"], tab["data"].get("ordering")) for tab in host.tabs] == [
        ("Default", None),
        ("Label next", ["tasks:data.next_place"]),
    ]
    assert {tuple(tab["data"]["hiddenColumns"]["explore"]) for tab in host.tabs} == {
        ("tasks:data.parts", "tasks:file_upload")
    }
    assert (summary.seen, summary.open, summary.labelled, summary.skipped) == (6, 4, 1, 1)
    assert (summary.without_prediction, summary.written) == (1, 3)


def test_new_names_are_those_that_no_annotation_gave(host: WholeTasks) -> None:
    for task in range(7, 13):
        host.data[task] = host.data[4]
        host.annotate(task, "leg", "seat")
    summary = run(host, strategy="new_parts", count=1)
    assert host.places() == {3: "0001"}
    assert "canopy in 0 groups" in summary.choices[0].reason


def test_a_second_run_moves_places_and_leaves_what_is_right_alone(host: WholeTasks) -> None:
    run(host, strategy="least_confidence", count=2)
    assert host.places() == {2: "0001", 1: "0002"}
    assert run(host, strategy="least_confidence", count=2).current == 2
    host.annotate(2, "leg")
    again = run(host, strategy="least_confidence", count=2)
    assert host.places() == {1: "0001", 3: "0002"}
    assert (again.written, again.cleared) == (2, 1)
    assert REASON not in host.data[2]


def test_scores_make_the_hosts_uncertainty_sampling_take_them_first(host: WholeTasks) -> None:
    run(host, strategy="least_confidence", count=1)
    summary = run(host, strategy="least_confidence", count=4, write="score")
    scores = {item["task"]: item["score"] for item in host.predictions.values()}
    assert scores[2] < scores[1] < scores[3] < 0.001
    assert scores[4] == 0.5  # labelled
    assert summary.failures == [{"task": 6, "reason": "no prediction whose score could be written"}]
    assert host.places() == {}  # the field of the run before


def test_a_dry_run_writes_nothing(host: WholeTasks, tmp_path: Path) -> None:
    before = copy.deepcopy((host.data, host.predictions))
    summary = run(host, tmp_path / "facts.jsonl", strategy="mix", count=4, dry_run=True)
    assert len(summary.choices) == 4
    assert (host.data, host.predictions) == before
    assert not host.writes
    assert not host.tabs
    assert not list(tmp_path.iterdir())


def test_predictions_of_one_version_can_be_judged_by(host: WholeTasks) -> None:
    host.predict(1, ("leg", 0.01), version="other")
    assert run(host, strategy="least_confidence", count=1).choices[0].id == "1"
    assert run(host, strategy="least_confidence", count=1, version="calico-tiny-1").choices[0].id == "2"


def test_diversity_compares_pictures_and_names_those_that_cannot_be_read(host: WholeTasks) -> None:
    def features(addresses: Sequence[str], task: int) -> np.ndarray:
        if task == 6:
            raise InputError("6a.png: gone")
        assert addresses == [f"{task}a.png", f"{task}b.png"]
        return np.array([np.cos(task), np.sin(task)])

    summary = run(host, features=features, strategy="diversity", count=9)
    assert summary.choices[0].id == "1"  # the farthest from 4, which is labelled
    assert summary.choices[-1].id == "6"
    assert summary.without_features == 1
    assert {"task": 6, "reason": "6a.png: gone"} in summary.failures


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    host, resume = WholeTasks(3 * PAGE_SIZE), tmp_path / "state" / "facts.jsonl"
    for task in host.data:
        host.predict(task, ("leg", task / 100))
    host.fail_after_pages = 2
    with pytest.raises(HostError, match="database is locked"):
        run(host, resume, strategy="least_confidence", count=3)
    host.fail_after_pages, host.num_pages = None, 0
    with resume.open("a") as file:
        file.write('{"id": 41, "sta')  # killed while it wrote
    host.fail_after_writes = 2
    with pytest.raises(HostError):
        run(host, resume, strategy="least_confidence", count=3)
    assert host.num_pages == 2  # the last page and the empty one after it
    host.fail_after_writes = None
    summary = run(host, resume, strategy="least_confidence", count=3)
    assert summary.seen == 60
    assert (summary.current, summary.written) == (2, 1)
    assert host.places() == {1: "0001", 2: "0002", 3: "0003"}
    assert not resume.exists()


def stopped(tmp_path: Path, **options: Any) -> tuple[WholeTasks, Path]:
    """A host of three pages, and the resume file of a run that saw two of them."""
    host, resume = WholeTasks(3 * PAGE_SIZE), tmp_path / "facts.jsonl"
    host.fail_after_pages = 2
    with pytest.raises(HostError):
        run(host, resume, **options)
    host.fail_after_pages, host.num_pages = None, 0
    return host, resume


def test_facts_are_on_the_disk_before_the_host_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, resume = stopped(tmp_path)
    before = resume.read_text()
    assert len(before.splitlines()) == 1 + 2 * PAGE_SIZE
    seen, answer = [], host._answer

    def looked_at(route: str, *rest: Any) -> tuple[int, Any]:
        if route == "GET /api/tasks/":
            seen.append(resume.read_text())
        return answer(route, *rest)

    monkeypatch.setattr(host, "_answer", looked_at)
    host.fail_after_pages = 0
    with pytest.raises(HostError):
        run(host, resume)
    assert seen[0] == before
    assert resume.read_text() == before


def test_a_stop_while_facts_are_written_anew_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, resume = stopped(tmp_path)
    before = resume.read_text()

    def killed(path: Path, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(host, resume)
    assert resume.read_text() == before
    assert run(host, resume).seen == 3 * PAGE_SIZE
    assert host.num_pages == 2  # the last page and the empty one after it
    assert not list(tmp_path.iterdir())


def test_an_empty_resume_file_keeps_nothing(host: WholeTasks, tmp_path: Path) -> None:
    resume = tmp_path / "facts.jsonl"
    resume.touch()
    assert run(host, resume).seen == 6
    assert not resume.exists()


def test_features_of_two_models_do_not_mix(tmp_path: Path) -> None:
    def features(addresses: Sequence[str], task: int) -> np.ndarray:
        looked_at.append(task)
        return np.array([1.0, task])

    looked_at: list[int] = []
    host, resume = stopped(tmp_path, features=features, model_version="calico-1")
    host.fail_after_pages = 1
    looked_at.clear()
    with pytest.raises(HostError):
        run(host, resume, features=features, model_version="calico-1")
    assert looked_at == list(range(2 * PAGE_SIZE + 1, 3 * PAGE_SIZE + 1))
    looked_at.clear()
    host.fail_after_pages = None
    run(host, resume, features=features, model_version="calico-2")
    assert looked_at == list(range(1, 3 * PAGE_SIZE + 1))


def test_who_annotates_meanwhile_is_not_disturbed(host: WholeTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = host._whole

    def later(task: int) -> Mapping[str, Any]:
        return {**whole(task), "annotations": [{"id": 9, "was_cancelled": False}]}

    chooser = NextGroups(connect(host), 1, Options("random", 1))
    real = chooser._write
    monkeypatch.setattr(chooser, "_write", lambda *args: (monkeypatch.setattr(host, "_whole", later), real(*args)))
    assert chooser.run().annotated_meanwhile == 1
    assert host.places() == {}


def test_a_region_without_a_name_is_told_and_the_rest_counts(host: WholeTasks) -> None:
    host.predictions[1]["result"] += rows(("", 0.5))[:1]
    host.predictions[1]["result"][-1] |= {"id": "odd"}
    summary = run(host, strategy="least_confidence", count=3)
    assert [failure["task"] for failure in summary.failures] == [1]
    assert "region odd" in summary.failures[0]["reason"]
    assert 1 in host.places()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"strategy": "best"}, "--strategy"), ({"count": 0}, "--count"), ({"write": "annotation"}, "--write")],
)
def test_wrong_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Options(**options)


def test_the_command_prints_the_table(
    host: WholeTasks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    assert next_groups.main(["--project", "1"]) == 2
    assert "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://studio.test")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "ab" * 20)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("backend.host.client.LabelStudioClient", lambda url, token: connect(host))
    options = ["--project", "1", "--strategy", "least_confidence", "--count", "2", "--json", str(tmp_path / "r.json")]
    assert next_groups.main(options) == 0
    printed = capsys.readouterr().out
    assert "   1  task 2        mean score 0.25" in printed
    assert "6 tasks seen" in printed
    report = json.loads((tmp_path / "r.json").read_text())
    assert [choice["id"] for choice in report["choices"]] == ["2", "1"]
    assert host.places() == {2: "0001", 1: "0002"}


def shown_in_tab(client: LabelStudioClient, project: int) -> list[int]:
    """The tasks of the tab, as the data manager asks for them."""
    tabs = client.decoded(client.request("GET", "api/dm/views/", params={"project": project}))
    (tab,) = [tab["id"] for tab in tabs if tab["data"]["title"] == "Label next"]
    return [task["id"] for task in client.request("GET", "api/tasks/", params={"view": tab}).json()["tasks"]]


@pytest.mark.host
def test_a_real_host_sorts_by_the_place_and_keeps_the_rest(label_studio: LabelStudioHost) -> None:
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        groups = [[picture(2 * i), picture(2 * i + 1)] for i in range(4)]
        project, tasks = make_project(client, label_studio, "next groups", PAIR_XML, groups)
        scores = (0.9, 0.2, 0.5, 0.1)
        for task, score in zip(tasks, scores, strict=True):
            client.create_prediction(task, rows(("leg", score)), model_version="calico-tiny-1", score=score)
        annotate(client, tasks[3], rows(("leg", 1.0)))
        before = [client.task(task) for task in tasks]
        NextGroups(client, project, Options("least_confidence", 2)).run()
        for ordering, expected in (("tasks:data.next_place", [1, 2]), ("-tasks:data.next_place", [2, 1])):
            query = json.dumps({"ordering": [ordering]})
            found = client.request("GET", "api/tasks/", params={"project": project, "query": query}).json()["tasks"]
            assert [task["id"] for task in found][:2] == [tasks[i] for i in expected]
        assert shown_in_tab(client, project) == [tasks[1], tasks[2]]
        NextGroups(client, project, Options("least_confidence", 3, write="score")).run()
        for task, then in zip(tasks, before, strict=True):
            now = client.task(task)
            assert now["data"] == then["data"]  # the score has taken the field's place
            assert [item["result"] for item in now["annotations"]] == [item["result"] for item in then["annotations"]]
            assert [item["result"] for item in now["predictions"]] == [item["result"] for item in then["predictions"]]
        first, second, third = (client.task(tasks[i])["predictions"][0]["score"] for i in (1, 2, 0))
        assert first < second < third < 0.001
        assert client.task(tasks[3])["predictions"][0]["score"] == 0.1
