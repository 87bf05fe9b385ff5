"""Training as jobs: asked for, queued, followed, ended, whatever dies meanwhile. Jobs run a stand-in for a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from test_app import make, wait_for  # noqa: F401  make is a fixture
from test_inbox import annotation_event
from test_succession import Loads, publish, registry  # noqa: F401  registry is a fixture

from backend.database.schema import events
from backend.demo.processes import started_at
from backend.learning import job
from backend.learning.inbox import Inbox
from backend.learning.job_folders import NO_TOKEN, TrainingJob, TrainingState, TrainingStore
from backend.learning.scheduler import Training, visible_devices
from backend.prediction.engine import NotReady
from backend.services import start_watch
from backend.settings import Settings
from calico.checkpoints.registry import Registry
from calico.errors import CalicoError, InputError

OUTCOME = '{"version": "v-1", "published": true, "reason": "better by 0.1"}'
DONE = f"echo '{OUTCOME}' > $0/outcome.json"
HANG = "echo working; exec sleep 60"
TOKEN = "t0ken-of-the-host"
HOST = {"label_studio_url": "http://h", "label_studio_api_key": TOKEN}


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def start(tmp_path, database_url):
    """Makes the Training of a backend whose jobs run a line of shell; `$0` is the job's folder."""
    made: list[Training] = []
    inbox = Inbox(database_url)

    def start(line=DONE, clock=time.time, leads=lambda: True, **settings):
        values = {
            "versions": tmp_path / "registry", "data_dir": tmp_path / "state", **HOST, **settings,
        }  # fmt: skip
        training = Training(Settings(**values), inbox, command=["sh", "-c", line], clock=clock, leads=leads)
        made.append(training)
        return training

    start.inbox = inbox
    yield start
    for training in made:
        for process in training._processes.values():
            process.kill()
            process.wait()
    inbox.close()


def shown(training, job=None):
    return training.as_json(job=job)[0]


def run_to_the_end(training, job=None):
    wait_for(lambda: (training.tick(), shown(training, job)["state"] not in ("queued", "running"))[1])
    return shown(training, job)


def test_the_model_rests_while_a_job_trains_alone_and_serves_what_came_of_it(make, registry, monkeypatch):  # noqa: F811
    loads, line = Loads(), f"while ! test -e $0/go; do sleep 0.05; done; {DONE}"
    monkeypatch.setattr("backend.services.WATCH_S", 0.02)
    given = {"load_version": loads, "training_command": ["sh", "-c", line]}
    client = make(load=lambda: loads(None), given=given, versions=registry.folder, training_card="alone", **HOST)
    services, stop = client.application.extensions["calico"], threading.Event()
    wait_for(lambda: client.get("/health").get_json()["model"] == "ready")
    watch = start_watch(services, stop)
    try:
        number = services.training.request(7, "a test").id
        wait_for(lambda: client.get("/health").get_json()["model"] == "resting")
        wait_for(lambda: loads.made[0]() is None)
        with pytest.raises(NotReady):
            services.engine.version()
        publish(registry, "v1")
        (services.training.store.folder_of(number) / "go").touch()
        wait_for(lambda: client.get("/health").get_json().get("version") == "v1")
        assert [ref() is None for ref in loads.made] == [True, False]
    finally:
        stop.set()
        watch.join(10)


def test_a_job_runs_and_its_outcome_is_shown(start):
    line = f'echo hello; echo \'{{"what": "training", "share": 0.5, "note": "step 3"}}\' > $0/progress.json; {DONE}'
    training = start(line)
    job = training.request(3, "Start training")
    assert shown(training)["state"] == "queued"
    ended = run_to_the_end(training)
    assert (ended["id"], ended["project"], ended["state"], ended["reason"]) == (job.id, 3, "done", "better by 0.1")
    assert ended["outcome"]["version"] == "v-1"
    assert ended["progress"]["note"] == "step 3"
    assert ended["log"] == ["hello"]
    assert ended["seconds"] >= 0


def test_one_at_a_time_and_a_queued_one_says_so(start):
    training = start(HANG)
    first = training.request(1, "Start training")
    training.tick()
    second, again = training.request(2, "Start training"), training.request(2, "Start training")
    training.tick()
    assert again == second
    assert [(job["state"], job["reason"]) for job in training.as_json()] == [
        ("queued", f"waits for job {first.id}"),
        ("running", ""),
    ]
    training.cancel(first.id)
    wait_for(lambda: (training.tick(), shown(training, second.id)["state"] == "running")[1])
    assert shown(training, first.id)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo out of luck; exit 3", "ended with exit code 3 and no outcome; its last words: out of luck"),
        ("kill -9 $$", "killed by SIGKILL (often for want of memory)"),
        ('echo \'{"error": "no annotated group"}\' > $0/outcome.json; exit 1', "no annotated group"),
        ("echo '{\"version\": ' > $0/outcome.json; kill -15 $$", "killed by SIGTERM"),
    ],
)
def test_a_crash_says_why_and_keeps_the_champion(start, registry, line, reason):  # noqa: F811
    name = publish(registry, "v1")
    training = start(line)
    training.request(3, "Start training")
    ended = run_to_the_end(training)
    assert (ended["state"], ended["reason"]) == ("failed", reason)
    assert registry.current() == name
    training.request(3, "Start training")  # and the next one may try
    training.tick()
    assert [job["state"] for job in training.as_json()] == ["running", "failed"]


def test_a_job_that_dies_after_it_published_says_that(start, registry, tmp_path):  # noqa: F811
    training = start(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; kill -9 $$")
    training.request(3, "Start training")
    training.tick()
    name = publish(registry, "v1")
    (tmp_path / "go").touch()
    assert f"{name} became the current version meanwhile" in run_to_the_end(training)["reason"]


def test_a_program_that_is_not_there_fails_its_job(start):
    training = start()
    training._command = ("/no/such/program",)
    training.request(3, "Start training")
    training.tick()
    assert shown(training)["reason"] == "cannot be started: No such file or directory"


def test_cancelling_ends_all_that_the_job_started(start, tmp_path):
    training = start(f"trap '' TERM; sleep 60 & echo $! > {tmp_path}/child; wait; sleep 60")
    job = training.request(3, "Start training")
    training.tick()
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().strip())
    child = int((tmp_path / "child").read_text())
    training.cancel(job.id)
    assert shown(training)["is_being_cancelled"]
    clock = training._clock
    training._clock = lambda: clock() + 11  # it does not listen: the next look is rough
    assert run_to_the_end(training)["state"] == "cancelled"
    wait_for(lambda: started_at(child) is None)
    waiting = training.request(4, "Start training")
    training.cancel(waiting.id)
    assert shown(training)["reason"] == "cancelled before it started"
    with pytest.raises(InputError, match="has ended already"):
        training.cancel(waiting.id)
    with pytest.raises(InputError, match="there is none"):
        training.cancel(99)


def test_a_job_has_its_own_session_is_nice_and_holds_no_secret_in_view(start):
    training = start(
        'while [ "$(nice)" -lt 10 ]; do sleep 0.05; done; '
        'echo "$LABEL_STUDIO_API_KEY $CALICO_DATA_DIR $@"; exec sleep 60'
    )
    job = training.request(3, "Start training")
    training.tick()
    wait_for(lambda: shown(training)["log"])
    job = training._table.get(job.id)
    assert os.getsid(job.pid) == job.pid
    assert shown(training)["log"] == [f"*** {training.store.folder.parent} "]
    assert TOKEN not in Path(f"/proc/{job.pid}/cmdline").read_text()
    assert TOKEN not in json.dumps(training.as_json())
    assert TOKEN not in (training.store.folder_of(job.id) / "job.json").read_text()


@pytest.mark.parametrize(
    ("device", "environment", "expected"),
    [
        (None, {}, {}),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3"}, {}),
        ("cpu", {}, {"CUDA_VISIBLE_DEVICES": ""}),
        ("cuda:1", {}, {"CUDA_VISIBLE_DEVICES": "1", "CALICO_DEVICE": "cuda"}),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,6"}, {"CUDA_VISIBLE_DEVICES": "6", "CALICO_DEVICE": "cuda"}),
    ],
)
def test_a_job_trains_on_the_device_that_serves(device, environment, expected):
    assert visible_devices(device, environment) == expected


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_a_job_outlives_the_backend(start, tmp_path):
    before = start(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; {DONE}")
    before.request(3, "Start training")
    before.tick()
    before.request(4, "Start training")
    after = start(DONE)
    after.tick()
    assert [job["state"] for job in after.as_json()] == ["queued", "running"]
    (tmp_path / "go").touch()
    wait_for(lambda: (after.tick(), {job["state"] for job in after.as_json()} == {"done"})[1])


def test_a_job_that_died_with_the_backend_has_failed(start):
    before = start("kill -9 $$")
    job = before.request(3, "Start training")
    before.tick()
    before._processes[job.id].wait()
    after = start()
    after.tick()
    assert "its process is gone and left no outcome" in shown(after)["reason"]


def test_another_process_of_the_same_number_is_not_the_job(start):
    before = start(HANG)
    job = before.request(3, "Start training")
    before.tick()
    [stored] = before._table.newest(limit=1)
    assert stored.is_alive
    before._table.change(stored.id, TrainingState.RUNNING, process_started="another time")
    after = start()
    after.tick()
    assert shown(after)["state"] == "failed"
    assert before._processes[job.id].poll() is None  # and nobody else's process was ended


def test_two_backends_run_each_job_once(start):
    first, second = start(HANG), start(HANG)
    job = first.request(3, "Start training")
    assert second.request(3, "Start training").id == job.id
    threads = [threading.Thread(target=training.tick) for training in (first, second) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(first._processes) + len(second._processes) == 1
    second.request(4, "Start training")
    second.tick()
    assert [job["state"] for job in second.as_json()] == ["queued", "running"]
    assert len(first._processes) + len(second._processes) == 1
    second.cancel(job.id)
    wait_for(lambda: (first.tick(), shown(second, job.id)["state"] == "cancelled")[1])


def test_a_job_on_a_machine_that_is_gone_has_failed_after_a_while(start):
    clock = Clock()
    gone, left, follower = start(HANG, clock), start(HANG, clock), start(HANG, clock, leads=lambda: False)
    gone._place, gone._owner = "another machine", "7/1.0"
    job = gone.request(3, "Start training")
    gone.tick()
    for seconds in (1, 60, 60, 60):
        clock.now += seconds
        left.tick()
        follower.tick()
        gone.tick() if seconds == 1 else None
    assert shown(left)["state"] == "running"
    clock.now += 61
    follower.tick()
    assert shown(left)["state"] == "running"
    left.tick()
    assert "nothing was heard for 120 s of where it ran (another machine)" in shown(left)["reason"]
    gone._processes[job.id].kill()
    gone.tick()  # it comes back, too late
    assert shown(left)["state"] == "failed"


def test_jobs_of_a_release_without_a_table_are_taken_over(start, tmp_path):
    store = TrainingStore(tmp_path / "state" / "training")
    for number, state in ((3, TrainingState.DONE), (7, TrainingState.QUEUED)):
        old = {"id": number, "project": number, "trigger": "Start training", "requested_at": 0.0, "state": state}
        store.folder_of(number).mkdir()
        (store.folder_of(number) / "job.json").write_text(json.dumps(old))
    training = start(HANG)
    assert [(job["id"], job["state"]) for job in training.as_json()] == [(7, "queued"), (3, "done")]
    assert training.request(9, "Start training").id == 8
    assert [job["id"] for job in start(HANG).as_json()] == [8, 7, 3]


def test_a_damaged_job_file_is_named(tmp_path):
    store = TrainingStore(tmp_path)
    (store.folder_of(1)).mkdir()
    (store.folder_of(1) / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"000001/job\.json: not readable"):
        store.load()


# -- who asks ---------------------------------------------------------------------------------------------------------


def started(project=3):
    return {"action": "START_TRAINING", "project": {"id": project}}


def test_a_request_that_was_stored_and_not_dealt_with_is_not_lost(start):
    start.inbox.put(started())
    training = start()
    training.tick()
    assert shown(training)["trigger"] == "Start training"
    assert start.inbox.pending("START_TRAINING") == []
    run_to_the_end(training)
    training.tick()
    assert len(training.as_json()) == 1


def test_a_request_is_dealt_with_once(start):
    number = start.inbox.put(started())
    training = start()
    job = training.take(number, 3)
    assert training.take(number, 3) == job
    again = start()
    assert again.take(number, 3).id == job.id


def test_a_stale_or_nameless_request_is_left(start):
    start.inbox.put(started())
    start.inbox.put({"action": "START_TRAINING"})
    training = start(clock=lambda: time.time() + 25 * 3600)
    training.tick()
    assert training.as_json() == []
    assert start.inbox.pending("START_TRAINING") == []


def correct(inbox, clock, task, project=2):
    """An annotation of a task, received now by the clock."""
    event = annotation_event(annotation=task)
    event["task"]["id"], event["project"]["id"] = task, project
    number = inbox.put(event)
    with inbox.database.engine.begin() as connection:
        at = datetime.fromtimestamp(clock.now, UTC)
        connection.execute(sa.update(events).where(events.c.id == number).values(received_at=at))


def due(training, clock, seconds=31.0):
    """How many jobs there are after a while."""
    clock.now += seconds
    training.tick()
    return len(training.as_json())


def test_enough_corrections_start_a_job_once_it_is_quiet(start):
    clock = Clock()
    training = start(clock=clock, train_after_groups=3, train_quiet_minutes=10)
    for task in (1, 2, 2):
        correct(start.inbox, clock, task)
    assert due(training, clock, 3600) == 0  # two groups
    correct(start.inbox, clock, 3)
    correct(start.inbox, clock, 9, project=7)
    assert due(training, clock, 599) == 0
    assert due(training, clock) == 1
    assert shown(training)["trigger"] == "automatic: 3 groups were corrected in the last 1.2 hours"
    assert shown(training)["project"] == 2
    assert run_to_the_end(training)["state"] == "done"
    assert due(training, clock, 7200) == 1  # nothing new since
    for task in range(6):
        correct(start.inbox, clock, task)
    assert due(training, clock) == 2  # so many that it waits no longer


def test_a_failed_job_is_not_tried_again_without_new_corrections(start):
    clock = Clock()
    training = start("exit 1", clock=clock, train_after_groups=1, train_quiet_minutes=0)
    correct(start.inbox, clock, 1)
    assert due(training, clock) == 1
    assert run_to_the_end(training)["state"] == "failed"
    assert due(training, clock, 7200) == 1
    correct(start.inbox, clock, 2)
    assert due(training, clock) == 2


def test_old_corrections_start_a_job_however_few(start):
    clock = Clock()
    training = start(clock=clock, train_after_hours=2, train_quiet_minutes=1)
    assert due(training, clock, 1e6) == 0
    correct(start.inbox, clock, 1)
    assert due(training, clock, 7100) == 0
    assert due(training, clock, 101) == 1


def test_nothing_starts_by_itself_unless_it_was_asked_for(start):
    clock = Clock()
    training = start(clock=clock)
    for task in range(50):
        correct(start.inbox, clock, task)
    assert due(training, clock, 1e6) == 0
    with pytest.raises(InputError, match="CALICO_VERSIONS"):
        Settings(train_after_groups=3)
    with pytest.raises(InputError, match="LABEL_STUDIO_API_KEY"):
        Settings(train_after_groups=3, versions=Path("registry"))


def test_a_clock_that_is_set_back_does_not_silence_automatic_training(start):
    """By ten days, after corrections came: minutes are still minutes."""
    clock = Clock()
    training = start(clock=clock, train_after_groups=2, train_quiet_minutes=10)
    for task in (1, 2):
        correct(start.inbox, clock, task)
    assert due(training, clock, 60) == 0
    clock.now -= 10 * 86400
    assert due(training, clock, 60) == 0
    assert due(training, clock, 700) == 1
    run_to_the_end(training)
    for task in (3, 4):
        correct(start.inbox, clock, task)  # told by the clock as it is now
    assert due(training, clock, 500) == 1
    assert due(training, clock, 200) == 2


def test_a_clock_that_is_set_back_does_not_make_corrections_young_for_ever(start):
    clock = Clock()
    training = start(clock=clock, train_after_hours=2, train_quiet_minutes=1)
    correct(start.inbox, clock, 1)
    clock.now -= 30 * 86400
    assert due(training, clock, 60) == 0
    assert due(training, clock, 7300) == 1


def test_a_job_that_does_not_end_is_killed_though_the_clock_is_set_back(start, tmp_path):
    training = start(f"trap '' TERM; echo > {tmp_path}/up; while :; do sleep 0.05; done")
    job = training.request(2, "test")
    training.tick()
    wait_for((tmp_path / "up").exists)
    training.cancel(job.id)
    clock = training._clock
    training._clock = lambda: clock() - 86400
    assert run_to_the_end(training)["state"] == "cancelled"
    assert shown(training)["seconds"] >= 0


def test_jobs_are_told_busy_and_not_waited_for_when_the_database_hangs(start, monkeypatch):
    if not start.inbox.database.is_shared:
        return  # SQLite's file is on this machine
    monkeypatch.setattr("backend.learning.scheduler.SHOW_WAIT_S", 0.05)
    training, gate, ended = start(), threading.Event(), threading.Event()
    monkeypatch.setattr(training._table, "newest", lambda **_: (gate.wait(10), ended.set(), [])[2])
    with pytest.raises(CalicoError, match="did not answer within"):
        training.as_json()
    with pytest.raises(CalicoError, match="did not answer just now"):
        training.as_json()
    gate.set()
    assert ended.wait(10)


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_the_routes_start_show_and_cancel(make, tmp_path):  # noqa: F811
    given = {"training_command": ["sh", "-c", f"echo '<b>'; {HANG}"]}
    client = make(given=given, versions=tmp_path / "registry", **HOST)
    training = client.application.extensions["calico"].training
    answer = client.post("/webhook", json=started()).get_json()
    assert answer == {"status": "stored", "event": 1, "training": {"job": 1, "state": "queued", "reason": ""}}
    training.tick()
    answer = client.post("/webhook", json=started(4)).get_json()
    assert answer["training"] == {"job": 2, "state": "queued", "reason": "waits for job 1"}
    assert client.post("/webhook", json={"action": "START_TRAINING"}).get_json()["training"]["state"] == "refused"
    wait_for(lambda: client.get("/jobs/training?job=1").get_json()["jobs"][0]["log"] == ["<b>", "working"])
    page = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.content_type.startswith("text/html")
    assert "(it said nothing yet)" in page.get_data(as_text=True)  # of the newest, which waits
    assert "waits for job 1" in page.get_data(as_text=True)
    assert [job["id"] for job in client.get("/jobs").get_json()["training"]] == [2, 1]
    assert client.post("/jobs/training/1/cancel", json={}).get_json()["is_being_cancelled"]
    assert client.post("/jobs/training/1/cancel").status_code == 400
    assert client.post("/jobs/training/9/cancel", json={}).status_code == 400
    assert client.post("/jobs/training/2/cancel", json={}).get_json()["state"] == "cancelled"
    wait_for(lambda: (training.tick(), shown(training, 1)["state"] == "cancelled")[1])
    assert "&lt;b&gt;" in client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)


def test_without_a_registry_the_button_is_answered_and_refused(make, caplog):  # noqa: F811
    client = make()
    assert client.post("/webhook", json=started()).get_json()["training"]["reason"] == "CALICO_VERSIONS is not set"
    assert "CALICO_VERSIONS" in caplog.text
    assert client.get("/jobs").get_json()["training"] is None
    assert client.get("/jobs/training").status_code == 400
    page = client.get("/", headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "CALICO_VERSIONS names no registry" in page


def test_without_a_token_nothing_is_trained_and_the_line_says_what_to_set(make, tmp_path, monkeypatch):  # noqa: F811
    client = make(versions=tmp_path / "registry")
    assert client.post("/webhook", json=started()).get_json()["training"] == {"state": "refused", "reason": NO_TOKEN}
    store = TrainingStore(tmp_path / "training")
    store.save(TrainingJob(1, project=3, trigger="Start training", requested_at=0.0))
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CALICO_VERSIONS", str(tmp_path / "registry"))
    assert job.main([str(store.folder_of(1))]) == 1
    assert store.report_of(1, "outcome.json") == {"error": NO_TOKEN}


BACKEND = """
import sys, time
from pathlib import Path
from backend_fakes import Named
from waitress import create_server
from backend.http.app import create_app
from backend.services import start_watch
from backend.settings import Settings
folder, slow = Path(sys.argv[1]), sys.argv[2]
def load_version(path):
    if slow in (path / "model.safetensors").read_text():
        (folder / "is-loading").touch()
        time.sleep(60)
    return Named(path)
settings = Settings(
    versions=folder / "registry", data_dir=folder / "state", label_studio_url="http://h", label_studio_api_key="t"
)
app = create_app(settings, load_version=load_version, training_command=["sh", "-c", "exec sleep 60"])
start_watch(app.extensions["calico"])
server = create_server(app, host="127.0.0.1", port=0)
print(server.effective_port, flush=True)
server.run()
"""


@contextmanager
def killed_in_the_end(folder, slow="none"):
    """A backend with the registry and the state of the folder; loading the version `slow` takes a minute."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    command = [sys.executable, "-c", BACKEND, str(folder), slow]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert process.stdout is not None
        with httpx.Client(base_url=f"http://127.0.0.1:{process.stdout.readline().strip()}", timeout=10) as http:
            yield http
    finally:
        process.kill()
        process.communicate()


def test_kill_9_of_the_backend_during_a_switch(registry, tmp_path):  # noqa: F811
    """No broken registry, every event answered 2xx is there, the job goes on, the next start serves the new version."""
    publish(registry, "v1")
    with killed_in_the_end(tmp_path, slow="v2") as http:
        wait_for(lambda: http.get("/health").json().get("version") == "v1", 20)
        stored = [http.post("/webhook", json=annotation_event(n)).json()["event"] for n in range(5)]
        stored.append(http.post("/webhook", json=started()).json()["event"])
        wait_for(lambda: http.get("/jobs").json()["training"][0]["state"] == "running", 20)
        name = publish(registry, "v2")
        wait_for((tmp_path / "is-loading").exists, 20)
        stored.append(http.post("/webhook", json=annotation_event(9)).json()["event"])
        assert http.get("/health").json()["version"] == "v1"
    found = Registry(registry.folder)
    assert found.current() == name
    for version in found.versions():
        found.verify(version)
    inbox = Inbox(f"sqlite:///{tmp_path / 'state' / 'inbox.db'}")
    with inbox.database.engine.connect() as connection:
        assert sorted(connection.execute(sa.select(events.c.id)).scalars()) == sorted(stored)
    inbox.close()
    with killed_in_the_end(tmp_path) as http:
        wait_for(lambda: http.get("/health").json().get("version") == "v2", 20)
        [job] = http.get("/jobs").json()["training"]
        assert job["state"] == "running"
        assert http.post("/jobs/training/1/cancel", json={}).json()["is_being_cancelled"]
        wait_for(lambda: http.get("/jobs").json()["training"][0]["state"] == "cancelled", 20)
    assert TrainingStore(tmp_path / "state" / "training").load()[0].state is TrainingState.CANCELLED
