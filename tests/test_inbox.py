from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from backend_fakes import stored_events
from recorded import all_of

from backend.host.client import HostError, LabelStudioClient
from backend.learning.inbox import NUM_WRITERS, RECONCILED, Inbox, InboxUnavailable
from backend.learning.reconcile import Reconciler, reconcile
from backend.services import open_inbox
from backend.settings import Settings
from calico.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def inbox(database_url):
    """Of each kind."""
    inbox = Inbox(database_url)
    yield inbox
    inbox.close()


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'inbox.db'}"


@pytest.fixture
def sqlite_inbox(sqlite_url):
    inbox = Inbox(sqlite_url)
    yield inbox
    inbox.close()


def annotation_event(annotation: int = 5, updated_at: str = "2026-01-01T00:00:00Z", action: str = "ANNOTATION_CREATED"):
    return {
        "action": action,
        "annotation": {"id": annotation, "task": 3, "project": 2, "updated_at": updated_at, "result": []},
        "task": {"id": 3, "data": {"image1": "é.png"}},
        "project": {"id": 2, "token": "s3cret", "task_data_password": "s3cret"},
    }


def test_an_event_is_kept_by_its_ids_and_times_and_nothing_else(sqlite_inbox, tmp_path):
    body = annotation_event()
    body["annotation"]["result"] = [{"value": {"rle": [1, 2, 3], "text": ["a secret part"]}}]
    number = sqlite_inbox.put(body)
    (event,) = stored_events(sqlite_inbox)
    assert (event.id, event.action, event.project, event.task, event.annotation, event.annotation_updated_at) == (
        number, "ANNOTATION_CREATED", 2, 3, 5, "2026-01-01T00:00:00Z",
    )  # fmt: skip
    sqlite_inbox.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not [word for word in (b"s3cret", b"a secret part", b"image1") if word in content]


def test_requests_to_train_are_handled_in_order_once(inbox):
    numbers = [inbox.put({"action": "START_TRAINING", "project": {"id": i}}) for i in range(4)]
    inbox.put(annotation_event())
    assert [event["id"] for event in inbox.pending("START_TRAINING", limit=3)] == numbers[:3]
    inbox.mark_handled(numbers[0])
    inbox.mark_handled(numbers[2])
    assert [event["id"] for event in inbox.pending("START_TRAINING")] == [numbers[1], numbers[3]]
    assert inbox.pending("ANNOTATION_CREATED") == []


def test_looking_for_requests_to_train_reads_an_index_and_not_every_event(sqlite_inbox, tmp_path):
    sqlite_inbox.put(annotation_event())
    sqlite_inbox.close()
    query = "SELECT id FROM events WHERE action = 'START_TRAINING' AND handled_at IS NULL ORDER BY id LIMIT 100"
    connection = sqlite3.connect(tmp_path / "inbox.db")
    [plan] = connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    connection.close()
    assert "SEARCH events USING" in plan[3]


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
def test_listed_annotations_are_an_event_each_with_their_task(inbox, given, tasks):
    annotations = [bulk_annotation(5 + place, task) for place, task in enumerate(given)]
    number = inbox.put(listed_event(annotations, [{"id": task, "data": {"image1": f"{task}.png"}} for task in tasks]))
    rows = [(event.id, event.project, event.task, event.annotation) for event in stored_events(inbox)]
    assert rows == [(number - 2, 2, 3, 5), (number - 1, 2, 4, 6), (number, 2, 3, 7)]
    assert inbox.states(2) == {(5, "t5"), (6, "t6"), (7, "t7")}
    assert inbox.annotated_since(2, 0).num_tasks == 2


@pytest.mark.parametrize(
    ("annotations", "tasks", "says"),
    [
        ([bulk_annotation(5, None)], [{"id": 3}, {"id": 4}], "entry 0 of `annotation` belongs to no entry of `task`"),
        ([bulk_annotation(5, None)], ["no object"], "entry 0 of `annotation` belongs to no entry of `task`"),
        ([bulk_annotation(5, None)], None, "entry 0 of `annotation` belongs to no entry of `task`"),
        ([bulk_annotation(5, 3), {"task": 3}], [{"id": 3}, {"id": 3}], "entry 1 of `annotation` has no id"),
        ([7], [{"id": 3}], "entry 0 of `annotation` has no id"),
    ],
)
def test_listed_annotations_without_their_tasks_are_left_to_the_host_and_told(inbox, caplog, annotations, tasks, says):
    inbox.put(listed_event(annotations, tasks))
    (event,) = stored_events(inbox)
    assert (event.project, event.task, event.annotation) == (2, None, None)
    assert inbox.states(2) == set()  # so that `reconcile` finds them
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
        {"action": "ANNOTATION_CREATED", "project": 77, "task": {"id": 1}, "annotation": {"id": 2}},
        {"action": "ANNOTATION_CREATED", "project": {"id": 77, "label_config": [1]}, "task": {"data": "text"}},
        {"action": "X", "project": {"id": float("nan")}, "annotation": {"id": 1, "updated_at": float("inf")}},
    ],
)
def test_any_object_is_an_event(inbox, body):
    inbox.put(body)
    (event,) = stored_events(inbox)
    assert event.action == str(body.get("action") or "")[:64]


def test_text_that_no_database_takes_or_that_forges_a_log_line_is_made_harmless(inbox):
    inbox.put({"action": "A\x00B\ud800C\nD", "annotation": {"id": 1, "updated_at": "\x1b[2J"}})
    (event,) = stored_events(inbox)
    assert (event.action, event.annotation_updated_at) == ("A?B?C?D", "?[2J")


@pytest.mark.parametrize(
    "path",
    all_of("label_studio/protocol_requests.json", "label_studio/groups/protocol_requests.json"),
    ids=lambda path: path.parent.name,
)
def test_every_recorded_request_is_stored(inbox, path):
    bodies = [row["body"] for row in json.loads(path.read_text()) if row["path"].startswith("/webhook")]
    for body in bodies:
        inbox.put(body)
    stored = stored_events(inbox)
    assert [event.action for event in stored] == [body["action"] for body in bodies]
    assert {event.project for event in stored} == {1}
    assert inbox.counts()["ANNOTATION_CREATED"] == 1


def test_it_survives_a_kill(database_url):
    """The process dies right after `put`, without closing anything."""
    put = f"Inbox({database_url!r}).put({annotation_event()!r})"
    code = f"import os; from backend.learning.inbox import Inbox; {put}; os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 9
    inbox = Inbox(database_url)
    assert [event.annotation for event in stored_events(inbox)] == [5]
    inbox.close()


def test_after_a_clean_stop_the_file_alone_is_the_whole_inbox(sqlite_url, sqlite_inbox, tmp_path):
    sqlite_inbox.put(annotation_event())
    sqlite_inbox.close()
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "inbox.db", tmp_path / "copy")
    copy = Inbox(f"sqlite:///{tmp_path / 'copy' / 'inbox.db'}")
    assert [event.annotation for event in stored_events(copy)] == [5]
    copy.close()


OLD_SCHEMA = """
CREATE TABLE events (id INTEGER NOT NULL, received_at DATETIME NOT NULL, action VARCHAR(64) NOT NULL, project INTEGER,
    task INTEGER, annotation INTEGER, annotation_updated_at VARCHAR(40), body JSON NOT NULL, handled_at DATETIME,
    PRIMARY KEY (id));
CREATE INDEX ix_events_project ON events (project);
CREATE INDEX ix_events_annotation ON events (annotation);
CREATE INDEX ix_events_handled_at ON events (handled_at);
INSERT INTO events VALUES
    (1, '2026-01-01 00:00:00.000000', 'ANNOTATION_CREATED', 2, 3, 5, 't1', '{"what": "was annotated"}', NULL),
    (2, '2026-01-01 00:00:00.000000', 'START_TRAINING', 2, NULL, NULL, NULL, '{}', NULL);
"""


def test_a_database_of_an_earlier_release_opens_and_loses_what_was_annotated(sqlite_url, tmp_path):
    connection = sqlite3.connect(tmp_path / "inbox.db")
    connection.executescript(OLD_SCHEMA)
    connection.close()
    for _ in range(2):
        sqlite_inbox = Inbox(sqlite_url)
        assert sqlite_inbox.states(2) == {(5, "t1")}
        assert [event["id"] for event in sqlite_inbox.pending("START_TRAINING")] == [2]
        assert sqlite_inbox.annotated_since(2, 0).num_tasks == 1
        sqlite_inbox.close()
        assert b"was annotated" not in (tmp_path / "inbox.db").read_bytes()
    sqlite_inbox = Inbox(sqlite_url)
    assert sqlite_inbox.put(annotation_event(6)) == 3
    sqlite_inbox.close()


def test_old_events_are_pruned_but_for_the_last_state_of_each_annotation(inbox):
    for annotation, updated_at in ((5, "t1"), (5, "t2"), (6, "t1")):
        inbox.put(annotation_event(annotation, updated_at))
    inbox.put({"action": "START_TRAINING", "project": {"id": 2}})
    for _ in range(2):
        inbox.put({"action": "PROJECT_UPDATED", "project": {"id": 2}})
    soon = datetime.now(UTC) + timedelta(seconds=1)
    assert inbox.prune(soon - timedelta(days=1)) == 0
    assert inbox.prune(soon) == 2
    assert [event.id for event in stored_events(inbox)] == [2, 3, 4, 6]  # 6: ids only grow
    assert inbox.states(2) == {(5, "t2"), (6, "t1")}


def test_an_event_that_the_database_does_not_take_is_refused_and_said(sqlite_inbox, tmp_path):
    sqlite_inbox.put(annotation_event(1))
    with sqlite_inbox.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE events RENAME TO away"))
    with pytest.raises(InboxUnavailable, match="no such table"):
        sqlite_inbox.put(annotation_event(2))
    assert "does not store events" in sqlite_inbox.problem
    with sqlite_inbox.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO events"))
    sqlite_inbox.put(annotation_event(2))
    assert sqlite_inbox.problem is None
    (tmp_path / "inbox.db").unlink()
    with pytest.raises(InboxUnavailable, match=r"inbox\.db was removed; start the backend again"):
        sqlite_inbox.put(annotation_event(3))


def test_a_database_that_hangs_holds_a_few_threads_only(sqlite_inbox, monkeypatch):
    monkeypatch.setattr("backend.learning.inbox.ROOM_WAIT_S", 0.01)
    sqlite_inbox.database._write.acquire()
    threads = [threading.Thread(target=sqlite_inbox.put, args=(annotation_event(n),)) for n in range(NUM_WRITERS)]
    for thread in threads:
        thread.start()
    while sqlite_inbox._room.acquire(blocking=False):  # until all of them wait
        sqlite_inbox._room.release()
        time.sleep(0.01)
    with pytest.raises(InboxUnavailable, match="busy"):
        sqlite_inbox.put(annotation_event(99))
    sqlite_inbox.database._write.release()
    for thread in threads:
        thread.join()
    assert sqlite_inbox.counts() == {"ANNOTATION_CREATED": NUM_WRITERS}


def test_sqlite_is_in_wal_mode_and_takes_writers_side_by_side(sqlite_inbox, tmp_path):
    with sqlite3.connect(tmp_path / "inbox.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    threads = [
        threading.Thread(target=lambda: [sqlite_inbox.put({"action": "A", "project": {"id": 1}}) for _ in range(10)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sqlite_inbox.counts() == {"A": 40}


def test_a_large_event_is_stored_in_less_time_than_writing_it_out_takes(inbox):
    """The host waits a second; only what an event is about is kept."""
    body = annotation_event()
    body["annotation"]["result"] = [{"value": {"rle": list(range(256)) * 2000}}]
    times = [time.process_time()]  # of this process: what else the machine does is not measured
    for work in (inbox.put, json.dumps):
        work(body)
        times.append(time.process_time())
    assert times[1] - times[0] < times[2] - times[1]


@pytest.mark.parametrize(
    "url", ["sqlite:////no/such/folder/inbox.db", "postgresql+psycopg://user:hidden@127.0.0.1:1/db", "nonsense"]
)
def test_a_database_that_cannot_be_opened_is_said_in_a_line(url):
    with pytest.raises(InputError, match="DATABASE_URL") as caught:
        Inbox(url)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def fake_host(projects, backends, tasks, label_config="<View/>"):
    """A Label Studio that knows these, as far as `reconcile` asks. It has `asked_since`: the times it was asked for."""
    asked_since = []

    def answer(request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if path == "/api/projects/":
            found = [{"id": project, "label_config": label_config} for project in projects]
            return httpx.Response(200, json={"results": found, "next": None})
        if path == "/api/ml/":
            return httpx.Response(200, json=backends.get(int(query["project"]), []))
        if path == "/api/tasks/":
            after, *filters = json.loads(query["query"])["filters"]["items"]
            asked_since.extend(item["value"] for item in filters if item["filter"] == "filter:tasks:updated_at")
            found = [task for task in tasks.get(int(query["project"]), []) if task["id"] > after["value"]]
            return httpx.Response(200, json={"tasks": found[: int(query["page_size"])]})
        return httpx.Response(404)

    client = LabelStudioClient("http://studio", "0" * 40, transport=httpx.MockTransport(answer))
    client.asked_since = asked_since
    return client


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
        assert host.asked_since == []
        reconcile(inbox, host, since=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    added = [(e.project, e.task, e.annotation, e.annotation_updated_at) for e in stored_events(inbox)[1:]]
    assert added == [(2, 3, 6, "t1"), (4, 9, 8, "t1"), (2, 3, 5, "t2")]
    assert inbox.counts() == {"ANNOTATION_CREATED": 1, RECONCILED: 3}
    assert set(host.asked_since) == {"2026-01-02T03:04:05.000Z"}


def test_reconcile_waits_for_a_host_that_starts_later(inbox, monkeypatch, caplog):
    monkeypatch.setattr("backend.learning.reconcile.PAUSE_S", 0.01)
    host = fake_host([4], {4: [{"title": "CALICO"}]}, {4: [{"id": 1, "annotations": [{"id": 2, "updated_at": "t"}]}]})
    tries = []

    def projects():
        tries.append(1)
        if len(tries) < 3:
            raise HostError("http://studio: not reachable")
        return type(host).projects(host)

    monkeypatch.setattr(host, "projects", projects)
    with host:
        reconciler = Reconciler(inbox, host).start()
        eventually(lambda: inbox.counts() == {RECONCILED: 1})
        reconciler.stop(10)
    assert len(tries) == 3
    assert "not reachable; trying again" in caplog.text


def test_a_refused_event_is_looked_for_soon_and_a_missed_one_by_and_by(inbox, monkeypatch):
    monkeypatch.setattr("backend.learning.reconcile.PAUSE_S", 0.01)
    annotations = []
    host = fake_host([4], {4: [{"title": "CALICO"}]}, {4: [{"id": 1, "annotations": annotations}]})
    with host:
        reconciler = Reconciler(inbox, host).start()
        annotations.append({"id": 2, "updated_at": "t"})
        reconciler.wake()
        eventually(lambda: inbox.states(4) == {(2, "t")})
        monkeypatch.setattr("backend.learning.reconcile.EVERY_S", 0.01)
        reconciler.wake()
        annotations.append({"id": 3, "updated_at": "t"})
        eventually(lambda: len(inbox.states(4)) == 2)
        reconciler.stop(10)
    assert host.asked_since  # only the first look is at everything


def eventually(condition, timeout_s=10.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql+psycopg://user:hidden@127.0.0.1:port/db", "DATABASE_URL"),
        ("postgresql://user:hidden@127.0.0.1:99999999/db", "DATABASE_URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite+pysqlite:///:memory:", "in memory"),
        ("sqlite:///file::memory:?uri=true", "in memory"),
        ("sqlite:///file:events?mode=memory&cache=shared&uri=true", "in memory"),
        ("sqlite:////dev/null/inbox.db", "DATABASE_URL"),
        ("sqlite:////proc/inbox.db", "DATABASE_URL"),
    ],
)
def test_an_address_that_cannot_work_ends_the_start_with_a_line(url, part):
    with pytest.raises(InputError, match=part) as caught:
        Inbox(url)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_data_folder_that_cannot_be_written_ends_the_start_with_a_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/calico"), Path("/proc")):
        with pytest.raises(InputError, match=r"CALICO_DATA_DIR: .* cannot be written"):
            open_inbox(Settings(data_dir=folder))

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("backend.services.tempfile.TemporaryFile", read_only)
    with pytest.raises(InputError, match="Read-only file system"):
        open_inbox(Settings(data_dir=tmp_path))


def test_a_folder_that_is_deleted_while_an_event_is_stored_is_noticed(sqlite_inbox, tmp_path, monkeypatch):
    sqlite_inbox.put({"action": "A"})
    begin = sqlite_inbox.database.engine.begin
    monkeypatch.setattr(sqlite_inbox.database.engine, "begin", lambda: shutil.rmtree(tmp_path) or begin())
    with pytest.raises(InboxUnavailable):
        sqlite_inbox.put({"action": "B"})
    monkeypatch.undo()
    with pytest.raises(InboxUnavailable, match="was removed"):
        sqlite_inbox.put({"action": "C"})
    assert "was removed" in sqlite_inbox.problem or "gone" in sqlite_inbox.problem


def test_few_threads_leave_most_to_others_when_the_database_hangs(tmp_path):
    for threads, writers in ((4, 1), (8, 2), (32, 8), (512, 8)):
        inbox = open_inbox(Settings(data_dir=tmp_path, threads=threads))
        assert inbox._room._initial_value == writers
        inbox.close()
