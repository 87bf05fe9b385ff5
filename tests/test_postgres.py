"""The inbox on PostgreSQL: the same answers as on SQLite, and what becomes of requests while it hangs or is gone."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import httpx
import pytest
import sqlalchemy as sa
from backend_fakes import PAIR_XML, FakeSegmenter, pair_task, stored_events
from test_inbox import annotation_event, listed_event

from backend.http.app import create_app
from backend.http.listener import listen
from backend.learning.inbox import Inbox
from backend.settings import Settings

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres):
    """A database without tables."""
    return postgres.new_database()


@pytest.fixture
def inboxes(url, tmp_path):
    both = [Inbox(f"sqlite:///{tmp_path / 'inbox.db'}"), Inbox(url)]
    yield both
    for inbox in both:
        inbox.close()


ODD = [
    {"action": "A\x00B"},
    {"action": "\x00" * 100},
    {"action": "\ud800\udfff"},
    {"action": "é" * 100},
    {"action": float("nan")},
    {"action": float("inf")},
    {"action": {"a": "\x00"}},
    {"action": "A", "annotation": {"id": 5, "updated_at": "2026\x00"}},
    {"action": "A", "annotation": {"id": 5, "updated_at": "\udc00" * 50}},
    {"action": "A", "annotation": {"id": 5, "updated_at": float("-inf")}},
    {"action": "A", "annotation": {"id": float("nan"), "task": float("inf")}},
    {"action": "A", "annotation": {"id": 2**31, "task": -(2**31), "result": ["\x00", float("nan")]}},
    {"action": "A", "project": {"id": 2**31 - 1}, "task": {"id": -(2**31) + 1}, "annotation": {"id": 2**63}},
    {"action": "A", "project": {"id": 10**400}},
    {"action": "A", "project": {"id": True}, "task": {"id": "7"}},
    {"action": "A", "annotation": [{"id": 1, "task": 2, "updated_at": "\x00"}, {"id": 2, "task": 2}], "task": []},
    {},
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_both_take_the_same_events_and_keep_the_same_of_them(inboxes, body):
    first, second = ([inbox.put(body), inbox.counts(), stored_events(inbox)] for inbox in inboxes)
    assert first[:2] == second[:2]
    assert kept(first[2]) == kept(second[2])


def kept(stored):
    """Without times, which differ."""
    return [{k: v for k, v in event._mapping.items() if k not in ("received_at", "handled_at")} for event in stored]


def test_both_answer_the_same_over_http(url, tmp_path):
    answers = []
    for place, address in enumerate((None, url)):
        settings = Settings(data_dir=tmp_path / str(place), database_url=address)
        app = create_app(settings, load=FakeSegmenter)
        client = app.test_client()
        found = [client.post("/webhook", json=body) for body in ODD]
        raw = b'{"action": "A", "annotation": {"id": NaN, "updated_at": "\\u0000\\ud800"}, "x": [Infinity, -Infinity]}'
        found.append(client.post("/webhook", data=raw, content_type="application/json"))
        answers.append([(answer.status_code, answer.get_json()) for answer in found])
        app.extensions["calico"].inbox.close()
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} == {201}


def test_all_that_is_asked_of_an_inbox_is_the_same(inboxes):
    told = []
    for inbox in inboxes:
        for number in (1, 2, 2):
            inbox.put(annotation_event(number, f"t{number}"))
        inbox.put(listed_event([{"id": 8, "task": 3, "updated_at": "t"}, {"id": 9, "task": 4}], [{"id": 3}, {"id": 4}]))
        request = inbox.put({"action": "START_TRAINING", "project": {"id": 2}})
        waiting = [event["id"] for event in inbox.pending("START_TRAINING")]
        inbox.mark_handled(request)
        new = inbox.annotated_since(2, 1)
        assert abs(new.last_at - time.time()) < 60
        told.append([waiting, inbox.pending("START_TRAINING"), inbox.last(), inbox.counts(), inbox.projects(),
                     inbox.states(2), new.num_tasks])  # fmt: skip
    assert told[0] == told[1]


def test_no_statement_waits_for_ever(url):
    inbox = Inbox(url)
    with inbox.database.engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "30s"
    inbox.close()


def test_while_it_hangs_everything_else_answers(url, postgres, tmp_path):
    """Stopped in the middle: events wait or are 503, /health says so, predictions and pages are answered."""
    settings = Settings(
        data_dir=tmp_path / "state", media_roots=(tmp_path,), database_url=url, threads=8, webhook_secret="s" * 20
    )
    app = create_app(settings, load=FakeSegmenter)
    server = listen(app, settings, port=0)
    threading.Thread(target=server.run, daemon=True).start()
    base = f"http://127.0.0.1:{server.effective_port}/k/{'s' * 20}"
    statuses: list[int] = []
    with ExitStack() as stack, httpx.Client(base_url=base, timeout=5, trust_env=False) as client:
        stack.callback(lambda: server.trigger.pull_trigger(server.close))
        assert client.post("/webhook", json={"action": "A"}).status_code == 201
        postgres.hang()
        stack.callback(postgres.go_on)

        def send():
            url = base + "/webhook"
            statuses.append(httpx.post(url, json=annotation_event(), timeout=60, trust_env=False).status_code)

        threads = [threading.Thread(target=send) for _ in range(20)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while len(statuses) < 18 and time.monotonic() < until:
            time.sleep(0.05)
        assert statuses == [503] * 18  # two wait for the database, the others were not kept
        started = time.monotonic()
        assert client.get("/health").json()["inbox"]
        assert client.get("/jobs").status_code == 200
        body = {"tasks": [pair_task(tmp_path, 1)], "label_config": PAIR_XML, "project": "1"}
        assert all(client.post("/predict", json=body).json()["results"])
        assert time.monotonic() - started < 5
        postgres.go_on()
        for thread in threads:
            thread.join(40)
        assert client.post("/webhook", json={"action": "B"}).status_code == 201
        assert "inbox" not in client.get("/health").json()
    assert sorted(statuses) == [201, 201] + [503] * 18
    app.extensions["calico"].inbox.close()
