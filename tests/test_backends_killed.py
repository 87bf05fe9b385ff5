"""Two real backends before one PostgreSQL, events and Start training all the time; one is killed, then the database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from test_app import wait_for
from test_backend_kills import PROJECT, UPDATED_AT, Host
from test_inbox import annotation_event

from backend.database.schema import events, training_jobs
from backend.learning.inbox import RECONCILED, Inbox

pytestmark = pytest.mark.postgres

BACKEND = """
import sys
from pathlib import Path
from backend_fakes import Named
from waitress import create_server
import backend.services
backend.services.WATCH_S = 0.1
from backend.http.app import create_app
from backend.settings import Settings
folder, name, url, host = Path(sys.argv[1]), *sys.argv[2:]
settings = Settings(
    versions=folder / "registry", data_dir=folder / name, database_url=url, label_studio_url=host,
    label_studio_api_key="t" * 40, part_memory="0",
)
# A job writes which project it is of, and that it was run by this backend.
line = f'''sleep 0.05; grep -o '"project": [0-9]*' $0/job.json | grep -o '[0-9]*' >> {folder}/ran-{name}
echo '{{"version": "v", "published": false, "reason": "no better"}}' > $0/outcome.json'''
app = create_app(settings, load_version=Named, training_command=["sh", "-c", line])
services = app.extensions["calico"]
services.reconciler.start()
backend.services.start_watch(services)
server = create_server(app, host="127.0.0.1", port=0, threads=8)
print(server.effective_port, flush=True)
server.run()
"""

NUM_EVENTS, NUM_STARTS = 500, 40


def start(folder: Path, name: str, url: str, host: str) -> tuple[subprocess.Popen, str]:
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    command = [sys.executable, "-c", BACKEND, str(folder), name, url, host]
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{process.stdout.readline().strip()}"


def send(bases: list[str], bodies: list[dict], answered: dict[int, dict]) -> None:
    """Each to the backend whose turn it is, as a proxy would, to the other one where that is gone; once."""
    with httpx.Client(timeout=10, trust_env=False) as http:
        for number, body in enumerate(bodies):
            for base in (bases[number % 2], bases[1 - number % 2]):
                try:
                    answer = http.post(f"{base}/webhook", json=body)
                except httpx.ConnectError:
                    continue
                except httpx.HTTPError:
                    break  # nobody knows whether it was stored
                if answer.status_code == 201:
                    answered[answer.json()["event"]] = body
                break


def test_two_backends_one_killed_in_a_storm(postgres, tmp_path):
    url, host = postgres.new_database(), Host()
    host.num_annotations = 60  # that never sent an event: one of the two finds them
    answered: dict[int, dict] = {}
    with host.serving():
        first, base_1 = start(tmp_path, "first", url, host.url)
        second, base_2 = start(tmp_path, "second", url, host.url)
        try:
            storm = [annotation_event(10_000 + number, f"t{number}") for number in range(2 * NUM_EVENTS)]
            starts = [{"action": "START_TRAINING", "project": {"id": 100 + number}} for number in range(NUM_STARTS)]
            for number, body in enumerate(starts):  # among the others
                storm.insert(25 * number, body)
            threads = [
                threading.Thread(target=send, args=([base_1, base_2], storm[part::4], answered)) for part in range(4)
            ]
            for thread in threads:
                thread.start()
            wait_for(lambda: len(answered) > 300, 60)
            first.kill()
            first.wait()
            for thread in threads:
                thread.join(120)
            inbox = Inbox(url)
            wait_for(lambda: not inbox.pending("START_TRAINING") and is_quiet(inbox), 120)
            wait_for(lambda: {(n, UPDATED_AT) for n in range(1, 61)} <= inbox.states(PROJECT), 30)
        finally:
            for process in (first, second):
                process.kill()
                process.communicate()
    with inbox.database.reading() as connection:
        stored = {row.id: row for row in connection.execute(sa.select(events))}
        jobs = list(connection.execute(sa.select(training_jobs)))
    inbox.close()
    for number, body in answered.items():
        if "annotation" in body:
            assert stored[number].annotation == body["annotation"]["id"]
    told = Counter(row.annotation for row in stored.values() if row.action != RECONCILED and row.annotation)
    assert set(told.values()) == {1}
    assert len(told) >= 2 * NUM_EVENTS - 8  # a request of each thread at most was cut off
    reconciled = Counter(row.annotation for row in stored.values() if row.action == RECONCILED)
    assert set(reconciled) >= set(range(1, 61))
    assert set(reconciled.values()) == {1}
    asked = {body["project"]["id"] for body in answered.values() if body["action"] == "START_TRAINING"}
    ran = Counter(line for path in tmp_path.glob("ran-*") for line in path.read_text().split())
    assert len(asked) >= NUM_STARTS - 4
    assert {int(project) for project in ran} >= asked - {job.project for job in jobs if job.state != "done"}
    assert set(ran.values()) == {1}
    assert Counter(job.project for job in jobs).most_common(1)[0][1] == 1
    assert sum(job.state != "done" for job in jobs) <= 1  # what ran when its backend was killed may have ended unseen


def is_quiet(inbox: Inbox) -> bool:
    query = sa.select(sa.func.count()).where(training_jobs.c.state.in_(["queued", "running"]))
    with inbox.database.reading() as connection:
        return connection.execute(query).scalar() == 0


def test_the_database_is_killed_in_a_storm_and_what_was_answered_is_there(postgres, tmp_path):
    url, host, answered = postgres.new_database(), Host(), {}
    with host.serving():
        process, base = start(tmp_path, "only", url, host.url)
        try:
            storm = [annotation_event(20_000 + number, f"t{number}") for number in range(600)]
            thread = threading.Thread(target=send, args=([base, base], storm, answered))
            thread.start()
            wait_for(lambda: len(answered) > 100, 60)
            postgres.kill()
            with suppress(httpx.HTTPError):
                health = httpx.get(f"{base}/health", timeout=10, trust_env=False).json()
                assert health["status"] == "UP"
            time.sleep(0.5)
            postgres.start()
            thread.join(120)
            number = len(answered)
            send([base, base], [annotation_event(30_000, "t")], answered)
            assert len(answered) == number + 1
        finally:
            process.kill()
            process.communicate()
    inbox = Inbox(url)
    with inbox.database.reading() as connection:
        stored = dict(connection.execute(sa.select(events.c.id, events.c.annotation)).all())
    inbox.close()
    assert {event: stored.get(event) for event in answered} == {
        event: body["annotation"]["id"] for event, body in answered.items()
    }
