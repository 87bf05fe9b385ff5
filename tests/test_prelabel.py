"""Predicting a whole project: against a host in memory, and (marked host) against a real Label Studio."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from backend_fakes import PAIR_XML, FakeSegmenter, pair_task, picture
from live_backend import LiveBackend, annotate, make_project
from old_layouts import write_old_config as write_config

from backend.demo.label_studio import LabelStudioHost
from backend.host.client import HostError, LabelStudioClient
from backend.project.backend_client import BackendClient, BackendError
from backend.project.prediction_sources import LocalSource, Outcome, RemoteSource
from backend.project.prelabel import Options, Prelabeler, Summary, delete_version, is_held_out
from backend.settings import Settings
from calico.errors import InputError
from scripts import prelabel

NOW, BEFORE = "calico-tiny-00000002", "calico-tiny-00000001"
RED = (255, 0, 0)  # a first pixel that the fake segmenter fails at


class MemoryHost:
    """Project 1 of a host, as far as `LabelStudioClient` and `Prelabeler` ask about it (measured on 1.23.2)."""

    def __init__(self, tasks: Sequence[Mapping[str, Any]], label_config: str = PAIR_XML) -> None:
        self.data = {task["id"]: task["data"] for task in tasks}
        self.label_config = label_config
        self.predictions: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, list[dict[str, Any]]] = {}
        self.refuse_after: int | None = None  # predictions, then 500
        self.most_listed = 0

    def add(self, task: int, version: str) -> int:
        number = len(self.predictions) + 1
        self.predictions[number] = {"id": number, "task": task, "model_version": version, "result": []}
        return number

    def versions_of(self, task: int) -> list[str]:
        return [item["model_version"] for item in self.predictions.values() if item["task"] == task]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        route = f"{request.method} {re.sub(r'[0-9]+', 'N', request.url.path)}"
        number = int((re.findall(r"\d+", request.url.path) or ["0"])[-1])
        body = json.loads(request.content) if request.content else {}
        status, answer = self._answer(route, number, request.url.params, body)
        return httpx.Response(status) if answer is None else httpx.Response(status, json=answer)

    def _answer(self, route: str, number: int, params: httpx.QueryParams, body: Any) -> tuple[int, Any]:
        status, answer = 200, None
        match route:
            case "GET /api/projects/N/":
                answer = {"label_config": self.label_config, "task_number": len(self.data)}
            case "GET /api/projects/N/model-versions/":
                names = [item["model_version"] for item in self.predictions.values()]
                answer = {name: names.count(name) for name in names}
            case "DELETE /api/projects/N/model-versions/":
                gone = [k for k, item in self.predictions.items() if item["model_version"] == body["model_version"]]
                self.predictions = {k: item for k, item in self.predictions.items() if k not in gone}
            case "GET /api/tasks/":
                answer = {"tasks": self._listed(json.loads(params["query"]), int(params["page_size"]))}
            case "GET /api/predictions/":
                answer = [item for item in self.predictions.values() if item["task"] == int(params["task"])]
            case "POST /api/predictions/":
                if self.refuse_after is not None and len(self.predictions) >= self.refuse_after:
                    return 500, {"detail": "database is locked"}
                status, answer = 201, {"id": self.add(body["task"], body["model_version"])}
            case "DELETE /api/predictions/N/":
                status = 204
                del self.predictions[number]
            case "GET /api/tasks/N/annotations/":
                answer = self.annotations.get(number, [])
            case _:
                raise AssertionError(f"{route}: not known to this host")
        return status, answer

    def _listed(self, query: Mapping[str, Any], page_size: int) -> list[dict[str, Any]]:
        found = sorted(self.data)
        for item in query["filters"]["items"]:
            value = item["value"]
            match item["filter"].removeprefix("filter:tasks:"), item["operator"]:
                case "id", "greater":
                    found = [task for task in found if task > value]
                case "id", "less_or_equal":
                    found = [task for task in found if task <= value]
                case "predictions_model_versions", "contains":  # any item of the list, or any letter of a string
                    found = [task for task in found if any(v in has for has in self.versions_of(task) for v in value)]
                case other:
                    raise AssertionError(f"{other}: not a filter of this host")
        self.most_listed = max(self.most_listed, min(len(found), page_size))
        return [
            {
                "id": task,
                "data": self.data[task],
                "total_predictions": len(self.versions_of(task)),
                "total_annotations": len(self.annotations.get(task, [])),
            }
            for task in found[:page_size]
        ]


class FakeSource:
    """Predicts at once; tasks in `failing` fail, the ones in `late` are told to be late."""

    def __init__(self, version: str = NOW, failing: Sequence[int] = (), late: Sequence[int] = ()) -> None:
        self.version, self.failing, self.late = version, set(failing), set(late)
        self.asked: list[int] = []

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
        self.asked += [task["id"] for task in tasks]
        prediction = {"result": [], "score": 0.5, "model_version": self.version}
        return [
            Outcome(None, "out of memory")
            if task["id"] in self.failing
            else Outcome(prediction, was_late=task["id"] in self.late)
            for task in tasks
        ]


def make_host(num_tasks: int) -> MemoryHost:
    tasks = range(1, num_tasks + 1)
    return MemoryHost([{"id": i, "data": {"image1": f"/data/{i}a.png", "image2": f"/data/{i}b.png"}} for i in tasks])


def connect(host: MemoryHost) -> LabelStudioClient:
    return LabelStudioClient("http://studio.test", "ab" * 20, transport=httpx.MockTransport(host))


def run(host: MemoryHost, source: FakeSource | None = None, resume_file: Path | None = None, **options: Any) -> Summary:
    source = source or FakeSource()
    return Prelabeler(connect(host), 1, source, Options(**options), resume_file=resume_file).run()


def test_every_task_gets_one_prediction_and_a_second_run_adds_none() -> None:
    host = make_host(250)
    assert run(host).stored == 250
    again = run(host)
    assert (again.stored, again.current, again.seen) == (0, 250, 250)
    assert all(host.versions_of(task) == [NOW] for task in host.data)


def test_a_version_whose_name_is_part_of_another_is_told_apart() -> None:
    host = make_host(2)
    host.add(1, "calico-tiny-000000021")  # holds NOW
    assert run(host).stored == 2
    assert run(host).current == 2


def test_only_unlabeled_leaves_annotated_tasks_out() -> None:
    host = make_host(3)
    host.annotations[2] = [{"id": 1, "parent_prediction": None}]
    summary = run(host, only_unlabeled=True)
    assert (summary.stored, summary.labeled) == (2, 1)
    assert host.versions_of(2) == []


def test_stale_predictions_go_but_not_those_an_annotation_started_from_nor_those_of_others() -> None:
    host = make_host(4)
    host.add(1, BEFORE)
    host.add(2, "their-model")
    kept = host.add(3, BEFORE)
    host.annotations[3] = [{"id": 1, "parent_prediction": kept}]
    host.add(4, BEFORE)
    summary = run(host, FakeSource(failing=[4]), replace_stale=True)
    assert [host.versions_of(task) for task in (1, 2, 3, 4)] == [[NOW], ["their-model", NOW], [BEFORE, NOW], [BEFORE]]
    assert (summary.stale_removed, summary.stale_kept, summary.failed) == (1, 1, 1)


def test_a_dry_run_changes_nothing_and_tells_the_same_numbers(tmp_path: Path) -> None:
    host = make_host(20)
    host.add(1, BEFORE)
    host.add(2, NOW)
    before = json.dumps(host.predictions)
    source = FakeSource()
    planned = run(host, source, tmp_path / "resume.json", dry_run=True, replace_stale=True, holdout=0.3)
    assert json.dumps(host.predictions) == before
    assert source.asked == []
    assert not list(tmp_path.iterdir())
    done = run(host, holdout=0.3)
    assert (planned.stored, planned.current, planned.held_out) == (done.stored, done.current, done.held_out)
    assert planned.stale_removed == 1


def test_the_held_out_share_is_stable_and_grows_with_the_share() -> None:
    groups = [(f"{i}a.png", f"{i}b.png") for i in range(5000)]
    tenth = {group for group in groups if is_held_out(group, 0.1)}
    fifth = {group for group in groups if is_held_out(group, 0.2)}
    assert tenth < fifth
    assert len(tenth) == pytest.approx(500, abs=80)
    assert not any(is_held_out(group, 0.0) for group in groups)
    assert is_held_out(("0a.png", "0b.png"), 0.5) == is_held_out(["0a.png", "0b.png"], 0.5)


def test_held_out_groups_get_none_whatever_the_run() -> None:
    host = make_host(60)
    first = run(host, holdout=0.2)
    assert 0 < first.held_out < 60
    assert run(host, holdout=0.2).stored == 0
    assert sum(not host.versions_of(task) for task in host.data) == first.held_out


def test_a_failing_task_is_counted_named_and_tried_again_next_time() -> None:
    host = make_host(10)
    host.data[7] = {"image1": "/data/7a.png"}
    summary = run(host, FakeSource(failing=[3]), batch_size=4)
    assert (summary.stored, summary.failed) == (8, 2)
    assert [failure["task"] for failure in summary.failures] == [3, 7]
    assert "$image2" in summary.failures[1]["reason"]
    host.data[7]["image2"] = "/data/7b.png"
    assert run(host).stored == 2


def test_what_the_backend_stored_itself_is_not_stored_again() -> None:
    host = make_host(2)

    class Posting(FakeSource):
        def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
            host.add(1, NOW)
            return super().predict(tasks, label_config, project)

    assert run(host, Posting(late=[1])).stored == 2
    assert host.versions_of(1) == [NOW]


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    host, resume = make_host(150), tmp_path / "state" / "resume.json"
    host.refuse_after = 103
    with pytest.raises(HostError, match="database is locked"):
        run(host, resume_file=resume, batch_size=8)
    assert resume.exists()
    host.refuse_after = None
    second = FakeSource()
    summary = run(host, second, resume, batch_size=8)
    assert second.asked[0] > 100 - 8  # not from the start
    assert all(host.versions_of(task) == [NOW] for task in host.data)
    assert summary.seen == 150
    assert not resume.exists()


def test_another_version_does_not_go_on_where_this_one_was(tmp_path: Path) -> None:
    host, resume = make_host(20), tmp_path / "resume.json"
    host.refuse_after = 10
    with pytest.raises(HostError):
        run(host, resume_file=resume, batch_size=5)
    host.refuse_after = None
    assert run(host, FakeSource("calico-tiny-00000009"), resume).stored == 20


def test_a_broken_resume_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "resume.json").write_text("{")
    with pytest.raises(InputError, match=r"resume\.json: not readable .* remove it"):
        run(make_host(1), resume_file=tmp_path / "resume.json")


class Forgetful(FakeSource):
    """Fails every task, and keeps nothing of it."""

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Outcome]:
        return [Outcome(None, "out of memory")] * len(tasks)


def test_memory_stays_flat_over_many_tasks() -> None:
    def peak(num_tasks: int) -> int:
        host = make_host(num_tasks)
        prelabeler = Prelabeler(connect(host), 1, Forgetful(), Options(batch_size=100))
        tracemalloc.start()
        assert prelabeler.run().failed == num_tasks
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert host.most_listed <= 100
        return used

    peak(200)  # what is imported and cached on the way
    assert peak(2000) < peak(200) + 400_000  # 1,800 tasks that were kept would be above 1 MB


@pytest.mark.parametrize(
    ("options", "message"),
    [({"holdout": 1.0}, "--holdout"), ({"holdout": -0.1}, "--holdout"), ({"batch_size": 0}, "--batch-size")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_a_version_is_deleted_and_an_unknown_one_named() -> None:
    host = make_host(3)
    for task in host.data:
        host.add(task, BEFORE)
    assert delete_version(connect(host), 1, BEFORE, dry_run=True) == 3
    assert len(host.predictions) == 3
    assert delete_version(connect(host), 1, BEFORE) == 3
    assert not host.predictions
    with pytest.raises(InputError, match=f"no predictions of version '{NOW}'; it has: none"):
        delete_version(connect(host), 1, NOW)


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_in_this_process_predicts_and_tells_why_it_could_not(tmp_path: Path) -> None:
    tasks = [pair_task(tmp_path, 1), pair_task(tmp_path, 2, firsts=(RED, (0, 0, 0))), {"id": 3, "data": {}}]
    settings = Settings(media_roots=(tmp_path,), data_dir=tmp_path / "data")
    source = LocalSource(settings, connect(MemoryHost(tasks)), load=FakeSegmenter)
    assert source.version == "fake-1"
    good, failed, empty = source.predict(tasks, PAIR_XML, 1)
    assert good.prediction is not None
    assert good.prediction["model_version"] == "fake-1"
    assert "RuntimeError" in failed.reason
    assert "$image1" in empty.reason


class ScriptedBackend:
    """`/setup` is busy once, `/predict` is late once, and its job goes through `states`."""

    def __init__(self, *states: str) -> None:
        self.states = list(states)
        self.num_setups = self.num_predicts = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/setup"):
            self.num_setups += 1
            if self.num_setups == 1:
                return httpx.Response(503, json={"error": "loading"}, headers={"Retry-After": "5"})
            return httpx.Response(200, json={"model_version": NOW})
        if request.url.path.endswith("/health"):
            return httpx.Response(200, json={"status": "UP", "model": "loading"})
        if request.url.path.endswith("/predict"):
            self.num_predicts += 1
            ready = {"result": [], "score": 0.5, "model_version": NOW}
            return httpx.Response(200, json={"results": [[] if self.num_predicts == 1 else ready]})
        state = self.states.pop(0)
        return httpx.Response(200, json={"jobs": [{"state": state, "reason": "a bomb" if state == "failed" else ""}]})


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["failed"], Outcome(None, "a bomb")),
        (["queued", "running", "posted"], Outcome(None, was_late=True)),
        (["running", "late"], Outcome({"result": [], "score": 0.5, "model_version": NOW}, was_late=True)),
        (["refused"], Outcome({"result": [], "score": 0.5, "model_version": NOW}, was_late=True)),
    ],
)
def test_a_backend_is_waited_for_and_late_groups_are_not_lost(states: list[str], expected: Outcome) -> None:
    slept: list[float] = []
    transport = httpx.MockTransport(ScriptedBackend(*states))
    backend = BackendClient("http://backend.test/k/s3cret", transport=transport, sleep=slept.append)
    source = RemoteSource(backend, sleep=slept.append)
    assert source.version == NOW
    assert source.predict([{"id": 1, "data": {}}], PAIR_XML, 1) == [expected]
    assert slept[0] == 5.0


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401, json={"error": "credentials wanted"}), "wants a credential"),
        (httpx.Response(400, json={"error": "no image tags"}), "answered 400: no image tags"),
        (httpx.Response(200, text="<html>"), "is it this backend"),
        (httpx.ConnectError("refused"), "not reachable .*python -m backend"),
    ],
)
def test_a_backend_that_cannot_answer_is_one_line_without_the_secret(response: Any, message: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    backend = BackendClient("http://backend.test/k/s3cret", transport=httpx.MockTransport(answer))
    with pytest.raises(BackendError, match=message) as raised:
        backend.version()
    assert "s3cret" not in str(raised.value)


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_wants_a_host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    assert prelabel.main(["--project", "1"]) == 2
    assert "LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY" in capsys.readouterr().err


@pytest.fixture
def backend(label_studio: LabelStudioHost, tmp_path: Path) -> Iterator[LiveBackend]:
    with LiveBackend(label_studio, tmp_path / "backend", FakeSegmenter()) as live:
        yield live


@pytest.mark.host
def test_a_real_project_is_predicted_through_a_real_backend(
    label_studio: LabelStudioHost,
    backend: LiveBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.account.token)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))
    groups = [[picture(2 * i), picture(2 * i + 1)] for i in range(12)]
    groups[5] = [picture(98, first=RED), picture(99)]
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        project, tasks = make_project(client, label_studio, "prelabel", write_config(2), groups)
        stale = client.create_prediction(tasks[0], [], model_version=BEFORE, score=0.1)["id"]
        shown = client.create_prediction(tasks[1], [], model_version=BEFORE, score=0.1)["id"]
        annotate(client, tasks[1], [], parent_prediction=shown)
        arguments = ["--project", str(project), "--backend", backend.url, "--replace-stale"]
        assert prelabel.main([*arguments, "--json", str(tmp_path / "report.json")]) == 1  # one group fails
        report = json.loads((tmp_path / "report.json").read_text())
        wanted = {"stored": 11, "failed": 1, "current": 0, "stale_removed": 1, "stale_kept": 1, "seen": 12}
        assert {key: report[key] for key in wanted} == wanted
        assert report["failures"][0]["task"] == tasks[5]
        assert client.model_versions(project) == {"fake-1": 11, BEFORE: 1}
        assert stale not in [item["id"] for item in client.predictions(task=tasks[0])]
        assert client.annotations(tasks[1])[0]["parent_prediction"] == shown
        assert prelabel.main(arguments) == 1
        assert client.model_versions(project) == {"fake-1": 11, BEFORE: 1}
        assert prelabel.main(["--project", str(project), "--delete-version", "fake-1"]) == 0
        assert client.model_versions(project) == {BEFORE: 1}
    assert "11 predictions of fake-1 removed" in capsys.readouterr().out
