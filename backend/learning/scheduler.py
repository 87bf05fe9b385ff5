"""Training, asked for by Label Studio's button or by enough corrections: one job at a time, in its own process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC
from pathlib import Path
from typing import Any

from backend.database.schema import START
from backend.demo.processes import started_at
from backend.learning.inbox import Inbox
from backend.learning.job_folders import LOG, OPEN, OUTCOME, PROGRESS, TrainingJob, TrainingState, TrainingStore
from backend.settings import Settings
from calico.checkpoints.registry import Registry
from calico.errors import CalicoError, InputError
from calico.files import locked

log = logging.getLogger("calico.backend")

COMMAND = (sys.executable, "-m", "backend.learning.job")
NICENESS = 10  # predictions go first
STOP_S = 10.0  # from a polite end to a forced one
SHOW_WAIT_S = 3.0  # for who holds the jobs, which may be waiting for a database
TRIGGER_S = 30.0  # between looks whether enough was corrected
STALE_S = 24 * 3600.0  # a request that was not dealt with for so long is forgotten, not surprising
ROOT = Path(__file__).resolve().parents[2]


class Training:
    """Jobs below `data_dir/training`, as they stand on disk. Safe to share between threads.

    Only one backend at a time may run jobs there; another one shows them. command: what a job runs, with the job's
    folder as its last argument. clock: seconds since 1970.

    Raises InputError for a job's file that is damaged.
    """

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        *,
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if settings.versions is None:
            raise InputError("CALICO_VERSIONS: expected the folder of a registry, where trained versions go")
        self._settings, self._inbox, self._command, self._clock = settings, inbox, tuple(command), clock
        self._registry = Registry(settings.versions)
        self.store = TrainingStore(settings.data_dir.expanduser().resolve() / "training")
        self._lock = threading.RLock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._elapsed, self._told = 0.0, clock()  # seconds that went by, however the clock was set meanwhile
        self._looked_at = -TRIGGER_S
        self._seen: dict[tuple[int, str], tuple[float, float]] = {}  # an event's time, and when it was first known
        self._open = ExitStack()
        try:
            self._open.enter_context(locked(self.store.folder / ".lock"))
            self.is_owner = True
        except InputError:
            self.is_owner = False
            log.warning("%s: another backend trains here; this one only shows its jobs", self.store.folder)
        self._jobs = {job.id: job for job in self.store.load()}
        self.before_job: Callable[[], None] = _nothing  # called when a job is about to start, for its memory
        self.after_job: Callable[[], None] = _nothing  # and at each tick without one

    @property
    def is_training(self) -> bool:
        """Whether a job runs, also one that was started before this backend."""
        return self.is_owner and self._running() is not None

    def close(self) -> None:
        """Lets another backend run the jobs. What runs goes on."""
        self._open.close()

    # -- asking -------------------------------------------------------------------------------------------------------

    def request(self, project: int, trigger: str, event: int | None = None) -> TrainingJob:
        """The new job, or the one of this project that waits already."""
        with self._lock:
            for job in self._jobs.values():
                if job.project == project and job.state is TrainingState.QUEUED:
                    return job
            job = TrainingJob(self.store.next_id(), project, trigger, self._clock(), event)
            job.up_to_event = self._inbox.last()
            if running := self._running():
                job.reason = f"waits for job {running.id}"
            self._put(job)
            log.info("training job %d of project %d is queued: %s", job.id, project, trigger)
            return job

    def take(self, event: int, project: int | None) -> TrainingJob | None:
        """The job of a stored START_TRAINING; None where the event names no project."""
        if not self.is_owner:
            return None
        with self._lock:
            job = next((job for job in self._jobs.values() if job.event == event), None)
            if job is None and project is not None:
                job = self.request(project, "Start training", event)
            self._inbox.mark_handled(event)
        return job

    def cancel(self, number: int) -> TrainingJob:
        """Ends a job that waits or runs. Raises InputError where there is none, or it has ended."""
        with self._lock:
            job = self._jobs.get(number)
            if job is None or not self.is_owner:
                raise InputError(f"training job {number}: there is none here; GET /jobs lists them")
            if job.state not in OPEN:
                raise InputError(f"training job {number} has ended already: {job.state.value}")
            if job.state is TrainingState.QUEUED:
                self._end(job, TrainingState.CANCELLED, "cancelled before it started")
            elif job.cancelled_at is None:
                job.cancelled_at = self._clock()
                self._put(job)
                _signal(job, signal.SIGTERM)
            return job

    # -- the course of things -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Notes what has ended, asks for what is due, starts what waits. Call it every few seconds."""
        if not self.is_owner:
            return
        with self._lock:
            for job in [job for job in self._jobs.values() if job.state is TrainingState.RUNNING]:
                self._follow(job)
            self._take_missed()
            now = self._clock()
            self._elapsed, self._told = self._elapsed + max(0.0, now - self._told), now
            if self._elapsed - self._looked_at >= TRIGGER_S:
                self._looked_at = self._elapsed
                self._trigger()
            waiting = min(
                (job for job in self._jobs.values() if job.state is TrainingState.QUEUED), key=_id, default=None
            )
            if waiting is not None and self._running() is None:
                self._start(waiting)
            if self._running() is None:
                self.after_job()

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
            jobs = [job for job in self._jobs.values() if job.project == project]
            if any(job.state in OPEN for job in jobs):
                continue
            new = self._inbox.annotated_since(project, max((job.up_to_event for job in jobs), default=0))
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
        folder = self.store.folder_of(job.id)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {**os.environ, **self._settings.as_environment(), "PYTHONPATH": path}
        environment |= visible_devices(self._settings.device, environment)
        job.champion = self._current()
        job.up_to_event = self._inbox.last()
        job.state, job.reason, job.started_at = TrainingState.RUNNING, "", self._clock()
        self._put(job)  # before it runs: after a kill right here it has failed, and does not run twice
        self.before_job()
        try:
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
        self._put(job)
        with suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, process.pid, NICENESS)
        log.info("training job %d of project %d runs, process %d", job.id, job.project, process.pid)

    def _follow(self, job: TrainingJob) -> None:
        process = self._processes.get(job.id)
        code = process.poll() if process else None
        if (process and code is None) or (not process and job.is_alive):
            if job.cancelled_at is not None and not 0 <= self._clock() - job.cancelled_at < STOP_S:
                _signal(job, signal.SIGKILL)
            return
        self._processes.pop(job.id, None)
        outcome = self.store.told(job.id, OUTCOME)
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
        job.state, job.reason, job.finished_at = state, reason, self._clock()
        self._put(job)
        say = log.info if state is TrainingState.DONE else log.warning
        say("training job %d of project %d: %s: %s", job.id, job.project, state.value, reason)

    def _put(self, job: TrainingJob) -> None:
        self.store.save(job)
        self._jobs[job.id] = job

    def _running(self) -> TrainingJob | None:
        return next((job for job in self._jobs.values() if job.state is TrainingState.RUNNING), None)

    # -- showing ------------------------------------------------------------------------------------------------------

    def as_json(self, *, limit: int = 20, job: int | None = None) -> list[dict[str, Any]]:
        """The newest first; nothing secret in it."""
        if not self._lock.acquire(timeout=SHOW_WAIT_S):
            raise CalicoError("training is being looked after just now, or its database does not answer; try again")
        try:
            jobs = self._jobs if self.is_owner else {entry.id: entry for entry in self.store.load()}
            newest = [entry for number, entry in sorted(jobs.items(), reverse=True) if job in (None, number)]
            return [self._shown(entry) for entry in newest[:limit]]
        finally:
            self._lock.release()

    def _shown(self, job: TrainingJob) -> dict[str, Any]:
        progress, outcome = self.store.told(job.id, PROGRESS), self.store.told(job.id, OUTCOME)
        end = job.finished_at or self._clock()
        return {
            "id": job.id, "project": job.project, "state": job.state.value, "trigger": job.trigger,
            "reason": job.reason, "requested_at": job.requested_at,
            "seconds": None if job.started_at is None else round(max(0.0, end - job.started_at), 1),
            "is_being_cancelled": job.state is TrainingState.RUNNING and job.cancelled_at is not None,
            "progress": progress, "outcome": outcome, "log": self.store.log_tail(job.id, self._settings.secrets),
        }  # fmt: skip


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


def _id(job: TrainingJob) -> int:
    return job.id


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
