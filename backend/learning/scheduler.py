"""Training, asked for by Label Studio's button or by enough corrections: one job at a time, in its own process."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any

from backend.database.patience import Patience
from backend.database.schema import START
from backend.demo.processes import started_at
from backend.learning.inbox import Inbox
from backend.learning.job_folders import LOG, OUTCOME, PROGRESS, TrainingJob, TrainingState, TrainingStore
from backend.learning.job_table import JobTable
from backend.settings import Settings
from calico.checkpoints.registry import Registry
from calico.errors import InputError

log = logging.getLogger("calico.backend")

COMMAND = (sys.executable, "-m", "backend.learning.job")
NICENESS = 10  # predictions go first
STOP_S = 10.0  # from a polite end to a forced one
SHOW_WAIT_S = 3.0  # for the database
BEAT_S = 30.0  # between two signs of life of a job, where nobody else is there to see them
LOST_S = 120.0  # a job of which its backend said nothing for so long has failed: its machine is gone
TRIGGER_S = 30.0  # between looks whether enough was corrected
STALE_S = 24 * 3600.0  # a request that was not dealt with for so long is forgotten, not surprising
ROOT = Path(__file__).resolve().parents[2]


class Training:
    """Jobs of the database; what they leave lies below `data_dir/training` where they run. Safe between threads.

    Any backend may run one, one at a time runs. command: what a job runs, with the job's folder as its last argument.
    clock: seconds since 1970. leads: whether this backend also asks for jobs by itself and looks after orphans.

    Raises InputError for a job's file of an earlier release that is damaged.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        *,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.time,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        if settings.versions is None:
            raise InputError("CALICO_VERSIONS: expected the folder of a registry, where trained versions go")
        self._settings, self._inbox, self._command, self._clock = settings, inbox, tuple(command), clock
        self._leads = leads
        self._registry = Registry(settings.versions)
        self.store = TrainingStore(settings.data_dir.expanduser().resolve() / "training")
        self._table = JobTable(inbox.database)
        self._is_shared = inbox.database.is_shared
        self._patience = Patience(wait_s=SHOW_WAIT_S)
        self._lock = threading.RLock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._adopted: set[int] = set()
        self._beat_at = -BEAT_S
        self._told_to_end: dict[int, float] = {}  # job -> when, by the clock
        self._beats: dict[int, tuple[int, float]] = {}  # of others' jobs: the last beat, and when it was first seen
        self._elapsed, self._told = 0.0, clock()  # seconds that went by, however the clock was set meanwhile
        self._looked_at = -TRIGGER_S
        self._seen: dict[tuple[int, str], tuple[float, float]] = {}  # an event's time, and when it was first known
        self._place, self._owner = here()
        self._table.take_over([replace(job, place=self._place) for job in self.store.load()])
        self.before_job: Callable[[], None] = _nothing  # called when a job is about to start here, for its memory
        self.after_job: Callable[[], None] = _nothing  # and at each tick without one

    @property
    def is_training(self) -> bool:
        """Whether a job runs on this machine, also one that was started before this backend."""
        return any(job.place == self._place for job in self._table.in_state(TrainingState.RUNNING))

    # -- asking -------------------------------------------------------------------------------------------------------

    def request(self, project: int, trigger: str, event: int | None = None) -> TrainingJob:
        """The new job, or the one of this project that waits already."""
        with self._lock:
            return self._waiting(self._table.request(project, trigger, self._clock(), event))

    def take(self, event: int, project: int | None) -> TrainingJob | None:
        """The job of a stored START_TRAINING; None where the event names no project, or came to a job that waited."""
        with self._lock:
            job = self._table.take(event, project, "Start training", self._clock())
            return job and self._waiting(job)

    def _waiting(self, job: TrainingJob) -> TrainingJob:
        """With what it waits for, if it does."""
        running = self._running()
        if job.state is TrainingState.QUEUED and not job.reason and running is not None:
            job.reason = f"waits for job {running.id}"
            self._table.change(job.id, TrainingState.QUEUED, reason=job.reason)
        if job.state is TrainingState.QUEUED:
            log.info("training job %d of project %d is queued: %s", job.id, job.project, job.trigger)
        return job

    def cancel(self, number: int) -> TrainingJob:
        """Ends a job that waits or runs, wherever. Raises InputError where there is none, or it has ended."""
        with self._lock:
            job = self._table.get(number)
            if job is None:
                raise InputError(f"training job {number}: there is none here; GET /jobs lists them")
            reason = "cancelled before it started"
            if self._table.cancel_waiting(number, self._clock(), reason):
                log.warning("training job %d of project %d: %s", number, job.project, reason)
            elif self._table.cancel_running(number, self._clock()):
                self._tell_to_end(self._table.get(number) or job)
            else:
                raise InputError(f"training job {number} has ended already: {job.state.value}")
            return self._table.get(number) or job

    # -- the course of things -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Notes what has ended, asks for what is due, starts what waits. Call it every few seconds."""
        with self._lock:
            now = self._clock()
            self._elapsed, self._told = self._elapsed + max(0.0, now - self._told), now
            for job in self._table.in_state(TrainingState.RUNNING):
                self._look_after(job)
            if self._leads():
                self._take_missed()
                if self._elapsed - self._looked_at >= TRIGGER_S:
                    self._looked_at = self._elapsed
                    self._trigger()
            claimed = self._table.claim(
                place=self._place, owner=self._owner, at=self._clock(), champion=self._current()
            )
            if claimed is not None:
                self._start(claimed)
            if not self.is_training:
                self.after_job()

    def _look_after(self, job: TrainingJob) -> None:
        """Ours is followed. One of a backend that is gone from this machine is ours from now on; of one that is not
        heard of any more, wherever it was, the leader says so."""
        if job.owner != self._owner and job.place == self._place and not is_up(job.owner):
            job = self._table.adopted(job, self._owner)
            self._adopted.add(job.id)
        if job.owner == self._owner:
            if job.pid is not None or job.id in self._adopted or job.id in self._processes:
                self._follow(job)  # else it is just being started
            return
        beat, first_seen = self._beats.get(job.id, (-1, 0.0))
        if beat != job.beat:
            self._beats = {job.id: (job.beat, self._elapsed)}
        elif self._leads() and self._elapsed - first_seen > LOST_S:
            self._end(job, TrainingState.FAILED, f"nothing was heard for {LOST_S:.0f} s of where it ran ({job.place})")

    def _take_missed(self) -> None:
        """Requests that were stored, and the backend ended before it dealt with them."""
        for event in self._inbox.pending(START):
            at = event["received_at"]
            age_s = self._clock() - (at.timestamp() if at.tzinfo else at.replace(tzinfo=UTC).timestamp())
            if age_s > STALE_S:
                log.warning("a request to train project %s is %.0f hours old: left", event["project"], age_s / 3600)
                self._inbox.mark_handled(event["id"])
            else:
                self.take(event["id"], event["project"])

    def _trigger(self) -> None:
        """Enough corrections, or old ones, and nobody at work on them just now."""
        settings = self._settings
        if not settings.train_after_groups and not settings.train_after_hours:
            return
        for project in self._inbox.projects():
            learnt_up_to = self._table.learnt_up_to(project)
            if learnt_up_to is None:
                continue
            new = self._inbox.annotated_since(project, learnt_up_to)
            threshold = settings.train_after_groups
            is_quiet = self._age_s(project, "last", new.last_at) >= 60 * settings.train_quiet_minutes
            is_enough = threshold and new.num_tasks >= threshold and (is_quiet or new.num_tasks >= 2 * threshold)
            hours = self._age_s(project, "first", new.first_at) / 3600
            is_old = settings.train_after_hours and new.num_tasks and hours >= settings.train_after_hours
            if is_enough or (is_old and is_quiet):
                self.request(project, f"automatic: {new.num_tasks} groups were corrected in the last {hours:.1f} hours")

    def _age_s(self, project: int, which: str, at: float) -> float:
        """How long ago the first or last correction came: by the clock, or since it has been known here, whichever is
        longer. After the clock was set back an event may be of the future."""
        first_seen = self._seen.get((project, which))
        if first_seen is None or first_seen[0] != at:
            first_seen = self._seen[project, which] = at, self._elapsed
        return max(self._clock() - at, self._elapsed - first_seen[1])

    def _start(self, job: TrainingJob) -> None:
        """One that is claimed: after a kill right here it has failed, and does not run twice."""
        try:
            folder = self.store.make_room(job.id)
            self.store.save(job)
            self.before_job()
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
            environment = {**os.environ, **self._settings.as_environment(), "PYTHONPATH": path}
            environment |= visible_devices(self._settings.device, environment)
            with os.fdopen(os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                process = subprocess.Popen(
                    [*self._command, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,  # it outlives the backend
                )
        except OSError as error:
            self._end(job, TrainingState.FAILED, f"cannot be started: {error.strerror}")
            return
        job.pid, job.process_started = process.pid, started_at(process.pid)
        self._processes[job.id] = process
        self._table.change(job.id, TrainingState.RUNNING, pid=job.pid, process_started=job.process_started)
        self.store.save(job)
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, process.pid, NICENESS)
        log.info("training job %d of project %d runs, process %d", job.id, job.project, process.pid)

    def _follow(self, job: TrainingJob) -> None:
        process = self._processes.get(job.id)
        code = process.poll() if process else None
        if (process and code is None) or (not process and job.is_alive):
            if job.cancelled_at is not None:
                self._tell_to_end(job)
                if not 0 <= self._clock() - self._told_to_end[job.id] < STOP_S:
                    _signal(job, signal.SIGKILL)
            if self._is_shared or self._elapsed - self._beat_at >= BEAT_S:
                self._beat_at = self._elapsed
                details = json.dumps(self._left(job)) if self._is_shared else None
                self._table.change(job.id, TrainingState.RUNNING, beat=job.beat + 1, shown=details)
            return
        self._processes.pop(job.id, None)
        outcome = self.store.report_of(job.id, OUTCOME)
        if outcome is not None and "error" not in outcome:
            self._end(job, TrainingState.DONE, str(outcome.get("reason", "")))
        elif job.cancelled_at is not None:
            self._end(job, TrainingState.CANCELLED, "cancelled while it ran" + self._meanwhile(job))
        elif outcome is not None:
            self._end(job, TrainingState.FAILED, str(outcome["error"]) + self._meanwhile(job))
        else:
            last = next(
                (line for line in reversed(self.store.log_tail(job.id, self._settings.secrets)) if line.strip()), ""
            )
            last_words = f"; its last words: {last.strip()[:300]}" if last else ""
            self._end(job, TrainingState.FAILED, _how_it_ended(code) + self._meanwhile(job) + last_words)

    def _tell_to_end(self, job: TrainingJob) -> None:
        """Politely, once, if it runs here."""
        if job.place == self._place and job.id not in self._told_to_end:
            self._told_to_end[job.id] = self._clock()
            _signal(job, signal.SIGTERM)

    def _meanwhile(self, job: TrainingJob) -> str:
        """It may have been killed right after it published."""
        current = self._current()
        return (
            f"; {current or 'the checkpoint'} became the current version meanwhile" if current != job.champion else ""
        )

    def _current(self) -> str | None:
        try:
            return self._registry.current()
        except InputError:
            return None

    def _end(self, job: TrainingJob, state: TrainingState, reason: str) -> None:
        finished_at = self._clock()
        details = json.dumps(self._left(job)) if self._is_shared and job.place == self._place else job.shown
        if job.place == self._place and job.started_at is not None:
            self.store.save(replace(job, state=state, reason=reason, finished_at=finished_at))
        values = {"state": state.value, "reason": reason, "finished_at": finished_at, "shown": details}
        if not self._table.change(job.id, job.state, **values):
            return  # another backend was first
        say = log.info if state is TrainingState.DONE else log.warning
        say("training job %d of project %d: %s: %s", job.id, job.project, state.value, reason)

    def _running(self) -> TrainingJob | None:
        return next(iter(self._table.in_state(TrainingState.RUNNING)), None)

    # -- showing ------------------------------------------------------------------------------------------------------

    def as_json(self, *, limit: int = 20, job: int | None = None) -> list[dict[str, Any]]:
        """The newest first; nothing secret in it. Raises Unavailable where a shared database does not answer."""
        newest = partial(self._table.newest, limit=limit, job=job)
        return [self._shown(job) for job in (self._patience.ask(newest) if self._is_shared else newest())]

    def _left(self, job: TrainingJob) -> dict[str, Any]:
        """What its folder tells of it, where it ran."""
        progress, outcome = self.store.report_of(job.id, PROGRESS), self.store.report_of(job.id, OUTCOME)
        return {"progress": progress, "outcome": outcome, "log": self.store.log_tail(job.id, self._settings.secrets)}

    def _shown(self, job: TrainingJob) -> dict[str, Any]:
        end = job.finished_at or self._clock()
        is_elsewhere = job.shown is not None and job.place != self._place
        return {
            "id": job.id, "project": job.project, "state": job.state.value, "trigger": job.trigger,
            "reason": job.reason, "requested_at": job.requested_at,
            "seconds": None if job.started_at is None else round(max(0.0, end - job.started_at), 1),
            "is_being_cancelled": job.state is TrainingState.RUNNING and job.cancelled_at is not None,
            **(json.loads(job.shown) if is_elsewhere and job.shown else self._left(job)),
        }  # fmt: skip


def here() -> tuple[str, str]:
    """(where process numbers mean what they mean here, this process there)."""
    namespace = os.stat("/proc/self/ns/pid").st_ino if os.path.exists("/proc/self/ns/pid") else 0
    return f"{socket.gethostname()}/{namespace}", f"{os.getpid()}/{started_at(os.getpid())}"


def is_up(owner: str | None) -> bool:
    """Whether a backend of this place still runs."""
    pid, _, started = (owner or "").partition("/")
    return pid.isdigit() and started_at(int(pid)) == started


def visible_devices(device: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables under which a job trains where the backend serves."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if device is None or not device.startswith("cuda:"):
        return {}
    number = int(device.removeprefix("cuda:"))
    devices = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return {"CUDA_VISIBLE_DEVICES": devices[number] if number < len(devices) else str(number), "CALICO_DEVICE": "cuda"}


def _nothing() -> None:
    """Where nobody has memory to give."""


def _signal(job: TrainingJob, sign: signal.Signals) -> None:
    """To the job's whole process group, if it is still the one that was started."""
    if job.pid is not None and job.is_alive:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, sign)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "its process is gone and left no outcome (the machine or the container was stopped, or it was killed)"
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (often for want of memory)" if name == "SIGKILL" else "")
    return f"ended with exit code {code} and no outcome"
