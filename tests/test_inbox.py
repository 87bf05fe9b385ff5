from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from backend.learning.inbox import RECONCILED, Inbox, reconcile
from backend.project.client import HostError, LabelStudioClient
from backend.services import start_reconcile
from calico.errors import InputError

ROOT = Path(__file__).parents[1]
RECORDED = ROOT.parent / "shared" / "fixtures" / "label_studio" / "groups" / "protocol_requests.json"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'inbox.db'}"


@pytest.fixture
def inbox(url):
    inbox = Inbox(url)
    yield inbox
    inbox.close()


def annotation_event(annotation: int = 5, updated_at: str = "2026-01-01T00:00:00Z", action: str = "ANNOTATION_CREATED"):
    return {
        "action": action,
        "annotation": {"id": annotation, "task": 3, "project": 2, "updated_at": updated_at, "result": []},
        "task": {"id": 3, "data": {"image1": "é.png"}},
        "project": {"id": 2, "token": "s3cret", "task_data_password": "s3cret"},
    }


def test_an_event_is_kept_as_it_came_but_for_secrets(inbox, tmp_path):
    number = inbox.put(annotation_event())
    (event,) = inbox.pending()
    assert (event["id"], event["action"], event["project"], event["task"], event["annotation"]) == (
        number,
        "ANNOTATION_CREATED",
        2,
        3,
        5,
    )
    assert event["body"]["task"]["data"] == {"image1": "é.png"}
    assert event["body"]["project"] == {"id": 2}
    inbox.close()
    assert b"s3cret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_events_are_handled_in_order_once(inbox):
    numbers = [inbox.put(annotation_event(i)) for i in range(4)]
    assert [event["id"] for event in inbox.pending(limit=3)] == numbers[:3]
    inbox.mark_handled(numbers[0])
    inbox.mark_handled(numbers[2])
    assert [event["id"] for event in inbox.pending()] == [numbers[1], numbers[3]]


def listed_event(annotations: list, tasks: object) -> dict:
    """What the data manager's "Create Annotations From Predictions" sends."""
    project = {"id": 2, "label_config": "<View/>", "token": "s3cret"}
    return {"action": "ANNOTATIONS_CREATED", "annotation": annotations, "task": tasks, "project": project}


def bulk_annotation(annotation: int, task: int | None) -> dict:
    return {"id": annotation, "task": task, "project": 2, "updated_at": f"t{annotation}", "result": []}


@pytest.mark.parametrize(
    ("given", "tasks"),
    [
        ([3, 4, 3], [3, 4, 3]),  # as the host sends them: a task for each annotation
        ([3, 4, 3], [4, 3]),
        ([None, None, None], [3, 4, 3]),
        ([None, 4, 3], [3, 3, 4]),
    ],
)
def test_listed_annotations_are_an_event_each_with_their_task(inbox, tmp_path, given, tasks):
    annotations = [bulk_annotation(5 + place, task) for place, task in enumerate(given)]
    number = inbox.put(listed_event(annotations, [{"id": task, "data": {"image1": f"{task}.png"}} for task in tasks]))
    stored = inbox.pending()
    assert [event["id"] for event in stored] == [number - 2, number - 1, number]
    told = [(event["project"], event["task"], event["annotation"], event["annotation_updated_at"]) for event in stored]
    assert told == [(2, 3, 5, "t5"), (2, 4, 6, "t6"), (2, 3, 7, "t7")]
    assert [event["body"]["annotation"] for event in stored] == annotations
    assert [event["body"]["task"]["data"]["image1"] for event in stored] == ["3.png", "4.png", "3.png"]
    assert {json.dumps(event["body"]["project"]) for event in stored} == {'{"id": 2, "label_config": "<View/>"}'}
    assert inbox.knows(7, "t7")
    assert inbox.annotated_since(2, 0).num_tasks == 2
    inbox.close()
    assert b"s3cret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("annotations", "tasks", "says"),
    [
        ([bulk_annotation(5, 3), bulk_annotation(6, 9)], [{"id": 3}, {"id": 4}], "entry 1 of `annotation` belongs to"),
        ([bulk_annotation(5, None)], [{"id": 3}, {"id": 4}], "entry 0 of `annotation` belongs to no entry of `task`"),
        ([bulk_annotation(5, None)], ["no object"], "entry 0 of `annotation` belongs to no entry of `task`"),
        ([bulk_annotation(5, 3), {"task": 3}], [{"id": 3}, {"id": 3}], "entry 1 of `annotation` has no id"),
        ([7], [{"id": 3}], "entry 0 of `annotation` has no id"),
        ([bulk_annotation(5, 3)], {"id": 3}, "`task` must be one, got dict"),
        ([bulk_annotation(5, 3)], None, "`task` must be one, got NoneType"),
    ],
)
def test_listed_annotations_without_their_tasks_are_kept_as_they_came_and_told(inbox, caplog, annotations, tasks, says):
    number = inbox.put(listed_event(annotations, tasks))
    (event,) = inbox.pending()
    assert event["id"] == number
    assert (event["body"]["annotation"], event["body"]["task"]) == (annotations, tasks)
    assert says in caplog.text
    assert "LABEL_STUDIO_API_KEY" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": None},
        {"action": "SOMETHING_NEW", "whatever": [1, {"token": 1}]},
        {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 1}], "project": {"id": 1}},
        {"action": "START_TRAINING", "project": {"id": 1}},
        {"action": "A" * 500, "project": "no object", "annotation": [], "task": 7},
        {"action": "X", "project": {"id": 10**30}, "annotation": {"id": "7"}, "task": {"id": True}},
    ],
)
def test_any_object_is_an_event(inbox, body):
    inbox.put(body)
    (event,) = inbox.pending()
    assert event["action"] == str(body.get("action") or "")[:64]
    assert event["body"].keys() == body.keys()


def test_every_recorded_request_is_stored(inbox):
    if not RECORDED.exists():
        pytest.skip(f"{RECORDED} is missing")
    events = [r for r in json.loads(RECORDED.read_text()) if r["path"].startswith("/webhook")]
    for event in events:
        inbox.put(event["body"])
    stored = inbox.pending()
    assert [event["action"] for event in stored] == [event["action"] for event in events]
    assert {event["project"] for event in stored} == {1}
    assert inbox.counts()["ANNOTATION_CREATED"] == 1


def test_it_survives_a_kill(url):
    """The process dies right after `put`, without closing anything."""
    put = f"Inbox({url!r}).put({annotation_event()!r})"
    code = f"import os; from backend.learning.inbox import Inbox; {put}; os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    inbox = Inbox(url)
    assert [event["annotation"] for event in inbox.pending()] == [5]
    inbox.close()


def test_sqlite_is_in_wal_mode_and_takes_writers_side_by_side(inbox, tmp_path):
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    threads = [
        threading.Thread(target=lambda: [inbox.put({"action": "A", "project": {"id": 1}}) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inbox.counts() == {"A": 40}


def test_a_large_event_is_stored_within_the_hosts_second(inbox):
    body = annotation_event()
    body["annotation"]["result"] = [{"value": {"rle": list(range(256)) * 2000}}]
    started = time.process_time()  # of this process: what else the machine does is not measured
    inbox.put(body)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "url", ["sqlite:////no/such/folder/inbox.db", "postgresql+psycopg://user:hidden@127.0.0.1:1/db", "nonsense"]
)
def test_a_database_that_cannot_be_opened_is_said_in_a_line(url):
    with pytest.raises(InputError, match="DATABASE_URL") as caught:
        Inbox(url)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def fake_host(projects, backends, tasks, label_config="<View/>"):
    """A Label Studio that knows these, as far as `reconcile` asks."""

    def answer(request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if path == "/api/projects/":
            found = [{"id": project, "label_config": label_config} for project in projects]
            return httpx.Response(200, json={"results": found, "next": None})
        if path == "/api/ml/":
            return httpx.Response(200, json=backends.get(int(query["project"]), []))
        if path == "/api/tasks/":
            after = json.loads(query["query"])["filters"]["items"][0]["value"]
            found = [task for task in tasks.get(int(query["project"]), []) if task["id"] > after]
            return httpx.Response(200, json={"tasks": found[: int(query["page_size"])]})
        return httpx.Response(404)

    return LabelStudioClient("http://studio", "0" * 40, transport=httpx.MockTransport(answer))


def test_reconcile_finds_what_never_came_and_nothing_twice(inbox):
    inbox.put(annotation_event(5, "t1"))
    task = {
        "id": 3,
        "data": {"image1": "a"},
        "annotations": [{"id": 5, "updated_at": "t1"}, {"id": 6, "updated_at": "t1"}],
    }
    ours = {"id": 9, "data": {}, "annotations": [{"id": 8, "updated_at": "t1"}]}
    host = fake_host([2, 4, 7], {4: [{"title": "CALICO"}], 7: [{"title": "other"}]}, {2: [task], 4: [ours], 7: [ours]})
    with host:
        assert reconcile(inbox, host) == 2
        assert reconcile(inbox, host) == 0
        task["annotations"][0]["updated_at"] = "t2"
        assert reconcile(inbox, host) == 1
    added = [(e["project"], e["task"], e["annotation"], e["annotation_updated_at"]) for e in inbox.pending()[1:]]
    assert added == [(2, 3, 6, "t1"), (4, 9, 8, "t1"), (2, 3, 5, "t2")]
    assert inbox.counts() == {"ANNOTATION_CREATED": 1, RECONCILED: 3}
    told = [event["body"]["project"] for event in inbox.pending()[1:]]
    assert told == [{"id": number, "label_config": "<View/>"} for number in (2, 4, 2)]


def test_reconcile_waits_for_a_host_that_starts_later(inbox, monkeypatch, caplog):
    monkeypatch.setattr("backend.services.RECONCILE_PAUSE_S", 0.01)
    host = fake_host([4], {4: [{"title": "CALICO"}]}, {4: [{"id": 1, "annotations": [{"id": 2, "updated_at": "t"}]}]})
    tries = []

    def projects():
        tries.append(1)
        if len(tries) < 3:
            raise HostError("http://studio: not reachable")
        return type(host).projects(host)

    monkeypatch.setattr(host, "projects", projects)
    with host:
        start_reconcile(SimpleNamespace(client=host, inbox=inbox)).join(10)
    assert len(tries) == 3
    assert inbox.counts() == {RECONCILED: 1}
    assert "not reachable; trying again" in caplog.text
    assert start_reconcile(SimpleNamespace(client=None, inbox=inbox)) is None
