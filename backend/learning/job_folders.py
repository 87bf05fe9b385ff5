"""What jobs that train leave on disk, where they run. How they stand is in the database (`job_table`).

training/jobs/000007/   job.json      what was asked for and how it stands, as the database has it
                        progress.json what it is doing; by the job
                        outcome.json  what came of it; by the job, last of all
                        log.txt       all that it said
                        run/          the finetune's own folder
training/projects/3/    the snapshot of a project's corrections, kept from job to job
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from backend.demo.processes import started_at
from backend.telemetry.logs import blanked
from calico.errors import InputError
from calico.files import write_text

JOB, PROGRESS, OUTCOME, LOG, RUN = "job.json", "progress.json", "outcome.json", "log.txt", "run"
NO_TOKEN = (
    "training reads the corrections from Label Studio: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY to its address "
    "and a token of it"
)
TAIL_BYTES, TAIL_LINES = 16_384, 20


class TrainingState(StrEnum):
    """QUEUED, then RUNNING, then one of the others. DONE: it came to its end, whether the gate said yes or no."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({TrainingState.QUEUED, TrainingState.RUNNING})


@dataclass
class TrainingJob:
    """job.json. Times in seconds since 1970.

    Attributes:
        trigger: who asked.
        event: of the inbox, that asked.
        up_to_event: the newest one when it started; corrections after it are not in it.
        process_started: as `processes.started_at` says.
        champion: the version before, None for the checkpoint.
        place: the machine or container in which `pid` means something.
        owner: the backend there that looks after it.
        beat: counts on while it does.
        shown: progress, outcome and log as JSON, for backends that do not see the folder.
    """

    id: int
    project: int
    trigger: str
    requested_at: float
    event: int | None = None
    up_to_event: int = 0
    state: TrainingState = TrainingState.QUEUED
    reason: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    pid: int | None = None
    process_started: str | None = None
    cancelled_at: float | None = None
    champion: str | None = None
    place: str | None = None
    owner: str | None = None
    beat: int = 0
    shown: str | None = None

    @property
    def is_alive(self) -> bool:
        """Whether its process runs: the number alone may have been given to another one since."""
        return (
            self.pid is not None and self.process_started is not None and started_at(self.pid) == self.process_started
        )


class TrainingStore:
    """One folder of jobs. Raises InputError where one's file is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder_of(self, job: int) -> Path:
        return self.folder / "jobs" / f"{job:06d}"

    def snapshot_of(self, project: int) -> Path:
        return self.folder / "projects" / str(project)

    def load(self) -> list[TrainingJob]:
        """All that ran here, oldest first. A folder without job.json is what a kill left of one that never ran."""
        return [_read(path) for path in sorted((self.folder / "jobs").glob(f"*/{JOB}")) if path.parent.name.isdigit()]

    def make_room(self, job: int) -> Path:
        """The folder of a new job. One of that number is there where the database was lost: it is put aside."""
        folder = self.folder_of(job)
        if folder.exists():
            number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}.old-{n}").exists())
            folder.rename(folder.with_name(f"{folder.name}.old-{number}"))
        folder.mkdir(mode=0o700)
        return folder

    def save(self, job: TrainingJob) -> None:
        write_json(self.folder_of(job.id) / JOB, asdict(job))

    def report_of(self, job: int, name: str) -> dict[str, Any] | None:
        """progress.json or outcome.json of a job, None where there is none."""
        try:
            content = json.loads((self.folder_of(job) / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def log_tail(self, job: int, secrets: Iterable[str]) -> list[str]:
        """The last lines of its log, secrets blanked."""
        try:
            with (self.folder_of(job) / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return blanked(text, secrets).splitlines()[-TAIL_LINES:]


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, also when the machine goes down; readable by its owner only."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False), is_private=True)


def _read(path: Path) -> TrainingJob:
    try:
        job = TrainingJob(**json.loads(path.read_text(encoding="utf-8")))
        job.state = TrainingState(job.state)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not readable as a job ({error}); remove its folder") from None
    return job
