"""Two backends before one database behave as one: results, late results, the leader and the version that serves."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
from backend_fakes import FakeSegmenter, Named, pair_task
from test_app import Host, jobs_of, make, predict, wait_for  # noqa: F401  make is a fixture
from test_inbox import annotation_event, fake_host, sqlite_inbox, sqlite_url  # noqa: F401  fixtures
from test_succession import add, publish, registry  # noqa: F401  registry is a fixture

from backend.database.database import Database
from backend.database.leader import Leader
from backend.database.patience import Patience, Unavailable
from backend.database.schema import given, late_results
from backend.http.app import create_app
from backend.learning.inbox import RECONCILED, Inbox
from backend.learning.reconcile import Reconciler
from backend.prediction.agreement import Agreement
from backend.prediction.given import SharedGiven
from backend.prediction.late_results import LateResults
from backend.prediction.succession import Successor
from backend.settings import Settings


@pytest.fixture
def url(postgres):
    return postgres.new_database()


@pytest.fixture
def databases(url):
    """Of two backends."""
    both = Database(url), Database(url)
    yield both
    for database in both:
        database.close()


# -- the leader -------------------------------------------------------------------------------------------------------


def test_one_leads_and_another_takes_over_when_it_is_gone(database_url):
    first, second = Database(database_url), Database(database_url)
    leaders = Leader(first), Leader(second)
    assert [leader.look() for leader in leaders] == [True, False]
    assert [leader.look() for leader in leaders] == [True, False]
    first.close()
    assert [leader.is_leader for leader in leaders] == [False, False]
    assert leaders[1].look()
    second.close()


@pytest.mark.postgres
def test_a_leader_whose_connection_is_cut_does_not_lead_on(databases):
    leaders = [Leader(database) for database in databases]
    assert leaders[0].look()
    with databases[1].engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        connection.execute(sa.text(cut))
    wait_for(lambda: leaders[1].look())
    assert not leaders[0].look()


@pytest.mark.postgres
def test_the_leader_alone_reconciles(url):
    inboxes = [Inbox(url), Inbox(url)]
    tasks = {7: [{"id": n, "data": {}, "annotations": [{"id": n, "updated_at": "t"}]} for n in range(1, 30)]}
    leaders = [Leader(inbox.database) for inbox in inboxes]
    found = [
        Reconciler(inbox, fake_host([7], {7: [{"title": "CALICO"}]}, tasks), leads=leader.look)
        for inbox, leader in zip(inboxes, leaders, strict=True)
    ]
    for reconciler in found:
        reconciler.start()
    wait_for(lambda: inboxes[0].counts().get(RECONCILED) == 29)
    found[1].wake()  # it refused an event: it looks too, and finds nothing twice
    time.sleep(0.3)
    assert inboxes[1].counts() == {RECONCILED: 29}
    for reconciler in found:
        reconciler.stop(10)
    for inbox in inboxes:
        inbox.close()


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_of_requests_that_overlap_one_gives_the_host_a_prediction(databases):
    patience = Patience(wait_s=20)
    both = [SharedGiven(database, patience) for database in databases]
    with ThreadPoolExecutor(8) as pool:
        asked = [(task, "v", 5.0) for task in range(300)]
        claims = list(pool.map(lambda k: both[k % 2].claim(asked if k % 3 else asked[::-1]), range(8)))
    assert sum(map(len, claims)) == 300
    assert set.union(*claims) == {(task, "v") for task in range(300)}
    time.sleep(0.05)
    assert both[0].claim([(1, "v", 0.01)]) == {(1, "v")}  # a request that began after that: the host asks anew
    assert both[1].claim([(1, "v", 5.0), (1, "w", 5.0)]) == {(1, "w")}
    both[1].release(1, "v")
    assert both[0].claim([(1, "v", 5.0)]) == {(1, "v")}
    assert both[0].prune(3600) == 0
    assert both[0].prune(-1) == 301


@pytest.mark.postgres
def test_a_task_that_two_backends_are_asked_about_gets_one_prediction(make, url, tmp_path):  # noqa: F811
    segmenters = [FakeSegmenter(hold_after=0) for _ in range(2)]
    clients = [make(one, database_url=url, data_dir=tmp_path / str(k)) for k, one in enumerate(segmenters)]
    task = pair_task(tmp_path, 1)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(predict, client, [task]) for client in clients]
        wait_for(lambda: all(segmenter.num_running for segmenter in segmenters))
        for segmenter in segmenters:
            segmenter.gate.set()
        answers = [request.result().get_json()["results"] for request in asked]
    assert sorted(bool(entry) for (entry,) in answers) == [False, True]
    assert predict(clients[0], [task]).get_json()["results"] != [[]]  # asked anew, it is given anew


def test_a_late_result_is_posted_after_a_restart_once(make, tmp_path, database_url):  # noqa: F811
    host, settings = Host(), {"time_budget_s": 0.1, "database_url": database_url}
    host.status = 503
    before = make(FakeSegmenter(delay_s=0.2), client=host.client(), **settings)
    predict(before, [pair_task(tmp_path, task) for task in range(3)])
    wait_for(lambda: jobs_of(before)["counts"] == {"failed": 3})
    assert "503" in jobs_of(before)["jobs"][0]["reason"]
    assert "tried again in 30 s" in jobs_of(before)["jobs"][0]["reason"]
    services = before.application.extensions["calico"]
    with services.inbox.database.writing() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(late_results)).scalar() == 3
        connection.execute(sa.update(late_results).values(leased_until=0.0))
    host.status = 201
    host.stored.append({"task": 1, "model_version": "fake-1"})  # somebody was faster
    after = make(client=host.client(), **settings).application.extensions["calico"]
    for _ in range(2):
        after.predictor.late_posts.look()
        services.predictor.late_posts.look()
    wait_for(lambda: sorted(item["task"] for item in host.stored) == [0, 1, 2])
    wait_for(lambda: not count_of(after.inbox.database))
    assert len(host.stored) == 3


def count_of(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(late_results)).scalar_one()


def test_a_late_result_that_the_host_refuses_is_not_kept(make, tmp_path, database_url):  # noqa: F811
    host = Host()
    host.status = 404
    client = make(FakeSegmenter(delay_s=0.2), client=host.client(), time_budget_s=0.1, database_url=database_url)
    predict(client, [pair_task(tmp_path, 1)])
    wait_for(lambda: jobs_of(client)["counts"] == {"failed": 1})
    wait_for(lambda: not count_of(client.application.extensions["calico"].inbox.database))


@pytest.mark.postgres
def test_late_results_of_a_backend_that_is_gone_are_anothers_when_the_lease_ends(databases):
    prediction = {"model_version": "v", "result": [], "score": 0.5}
    gone, left = (LateResults(database, str(k)) for k, database in enumerate(databases))
    numbers = [gone.put(task, prediction).id for task in range(50)]
    assert left.claim() == []
    gone.renew(numbers)
    with databases[0].writing() as connection:
        connection.execute(sa.update(late_results).values(leased_until=0.0))
    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(lambda k: (gone, left)[k % 2].claim(10), range(6)))
    ids = [late.id for found in claimed for late in found]
    assert sorted(ids) == sorted(set(ids))
    assert set(ids) <= set(numbers)
    late = left.claim(50) + [late for found in claimed for late in found]
    assert sorted(found.id for found in late) == numbers
    assert [left.again(late[0]), left.again(late[0])] == [30.0, 30.0]
    left.done(late[1])
    assert count_of(databases[1]) == 49


def test_a_database_that_hangs_is_not_waited_for():
    patience, gate = Patience(num_threads=1, wait_s=0.05, pause_s=0.2), threading.Event()
    with pytest.raises(Unavailable, match="within"):
        patience.ask(lambda: gate.wait(10))
    calls = []
    with pytest.raises(Unavailable, match="just now"):
        patience.ask(lambda: calls.append(1))
    gate.set()
    time.sleep(0.2)
    assert patience.ask(lambda: 1) == 1
    assert calls == [], "on the only thread, before what was asked after it"
    with pytest.raises(ValueError, match="ours"):
        patience.ask(lambda: int("ours"))


# -- the version that serves ------------------------------------------------------------------------------------------


def agreements(databases):
    return [Agreement(database, f"backend {k}", Patience(wait_s=20)) for k, database in enumerate(databases)]


def wanted(version, at_once=False):
    return Successor(version, lambda: Named(None), at_once, version)


@pytest.mark.postgres
def test_a_version_serves_once_all_that_are_up_have_it(databases):
    first, second = agreements(databases)
    assert [first.join("v1"), second.join("v1")] == ["v1", "v1"]
    assert not first.may_serve(wanted("v2"))
    assert not first.may_serve(wanted("v2"))
    assert first.waits_for == (first.hosts()[1],)
    assert second.may_serve(wanted("v2"))
    assert first.may_serve(wanted("v2"))
    assert second.may_serve(wanted("v1", at_once=True))  # a rollback
    assert first.join("v9") == "v1"  # it starts anew: first what the other one serves
    assert not first.may_serve(wanted("v9"))
    second.leave()
    wait_for(lambda: first.may_serve(wanted("v9")))


@pytest.mark.postgres
def test_a_backend_that_is_gone_is_not_waited_for(databases, monkeypatch):
    first, second = agreements(databases)
    first.join("v1")
    second.join("v1")
    monkeypatch.setattr("backend.prediction.agreement.GONE_S", 0.3)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        first.beat()
        second.beat()
        assert not first.may_serve(wanted("v2"))
    wait_for(lambda: first.may_serve(wanted("v2")), 2)
    assert second.join("v1") == "v2"


@pytest.mark.postgres
def test_after_a_publish_no_backend_answers_with_the_old_version_once_one_answered_with_the_new(
    registry, url, tmp_path  # noqa: F811
):  # fmt: skip
    publish(registry, "v1")
    gates = [threading.Event(), threading.Event()]
    clients = []
    for k, gate in enumerate(gates):
        gate.set()
        settings = Settings(
            media_roots=(tmp_path,), data_dir=tmp_path / str(k), database_url=url, versions=registry.folder
        )
        load = lambda folder, gate=gate: Named(folder) if gate.wait(20) else None  # noqa: E731
        clients.append(create_app(settings, load_version=load).test_client())
    services = [client.application.extensions["calico"] for client in clients]
    answers: list[tuple[float, float, str]] = []
    ended = threading.Event()

    def ask(k):
        client = clients[k].application.test_client()
        number = 100 * k
        while not ended.is_set():
            number += 1
            began = time.monotonic()
            [entry] = predict(client, [pair_task(tmp_path, number)]).get_json()["results"]
            answers.append((began, time.monotonic(), entry["model_version"]))
            services[k].agreement.beat()

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(2)]
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.inbox.close)
        wait_for(lambda: all(client.get("/health").get_json()["model"] == "ready" for client in clients))
        gates[1].clear()
        for thread in threads:
            thread.start()
            stack.callback(thread.join, 20)
        stack.callback(ended.set)
        wait_for(lambda: len(answers) > 10)
        publish(registry, "v2")
        wait_for(lambda: "waits_for" in clients[0].get("/health").get_json())
        assert {version for _, _, version in answers} == {"v1"}
        gates[1].set()
        wait_for(lambda: [service.health().get("version") for service in services] == ["v2", "v2"], 20)
        num_new = len(answers)
        wait_for(lambda: len(answers) > num_new + 10)
        rolled_back = time.monotonic()
        registry.rollback()
        wait_for(lambda: [service.health().get("version") for service in services] == ["v1", "v1"], 40)
    first_new = min(end for _, end, version in answers if version == "v2")
    assert not [
        (began, end) for began, end, version in answers if version == "v1" and first_new < began and end < rolled_back
    ]  # what the rollback found under way may be of either
    first_old = min(end for began, end, version in answers if version == "v1" and began > rolled_back)
    assert not [a for a in answers if a[2] == "v2" and a[0] > first_old]


@pytest.mark.postgres
def test_what_one_stores_the_others_part_memories_learn_from(make, url, tmp_path):  # noqa: F811
    first, second = (
        make(database_url=url, data_dir=tmp_path / str(k), client=Host().client()).application.extensions["calico"]
        for k in range(2)
    )
    noticed, wanted = second.inbox.last(), []
    second.memories.wants_fit = wanted.append
    first.inbox.put(annotation_event())
    noticed = second.notice_others(noticed)
    assert second.notice_others(noticed) == noticed
    assert wanted == [2]


def test_nothing_is_shared_where_there_is_one_backend(make, tmp_path):  # noqa: F811
    services = make(FakeSegmenter()).application.extensions["calico"]
    assert (services.agreement, services.given) == (None, None)
    with services.inbox.database.reading() as connection:
        assert connection.execute(sa.select(given)).all() == []
