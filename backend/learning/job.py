"""What a training job runs, in a process of its own: corrections -> snapshot -> finetune -> gate -> published or not.

python -m backend.learning.job DATA_DIR/training/jobs/000007
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.learning.card import cut_to_card
from backend.learning.collect import Source, collect
from backend.learning.job_folders import JOB, NO_TOKEN, OUTCOME, PROGRESS, RUN, TrainingStore, write_json
from backend.prediction.predictor import describe
from backend.settings import Settings
from backend.telemetry.logs import blanked, configure_logging
from calico.errors import CalicoError, InputError

log = logging.getLogger("calico.backend")

PROGRESS_S = 1.0  # between writes of progress.json


class Progress:
    """Writes progress.json now and then, and a line of the log at each step. elapsed_s: of what is being done now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._what = ""
        self._written_at = self._began_at = 0.0

    def __call__(self, what: str, share: float, note: str) -> None:
        if what == self._what and time.monotonic() - self._written_at < PROGRESS_S and share < 1:
            return
        now = time.monotonic()
        if what != self._what:
            log.info("%s", what)
            self._began_at = now
        self._what, self._written_at = what, now
        progress = {"what": what, "share": round(share, 4), "note": note, "elapsed_s": round(now - self._began_at, 1)}
        write_json(self._path, progress)


def train(settings: Settings, folder: Path, progress: Progress) -> dict[str, Any]:
    """The job's outcome. Raises InputError or CheckpointError."""
    from calico.checkpoints.registry import Registry
    from calico.training.base_data import index_data
    from calico.training.challenge import asked_settings, challenge
    from calico.training.processes import Processes

    assert settings.versions is not None  # or nobody would have started this
    registry = Registry(settings.versions)
    if settings.checkpoint is not None and registry.current() is None:
        raise InputError(
            f"CALICO_CHECKPOINT={settings.checkpoint}: a job starts from the registry's current version or the "
            "embedded checkpoint; `calico versions add` this one and `calico versions publish --force` it first"
        )
    store = TrainingStore(folder.parent.parent)
    number, project = int(folder.name), int((store.report_of(int(folder.name), JOB) or {})["project"])
    if not settings.label_studio_api_key:
        raise InputError(NO_TOKEN)
    snapshot, num_tasks = collect(
        settings,
        Source(project=project),
        store.snapshot_of(project),
        run=number,
        on_progress=lambda done, note: progress("gathering corrections", 0.0, f"{done} tasks: {note}"),
    )
    log.info("%d groups of %d tasks: %s", snapshot.manifest["num_groups"], num_tasks, snapshot.folder)
    run_settings = asked_settings(
        registry,
        None,
        minutes=settings.training_minutes,
        cpu_minutes=settings.training_cpu_minutes or None,
        bits=settings.llm_bits,
        replay_share=settings.training_replay_share,
        part_memory=settings.part_memory == "1",
    )
    current = registry.current()
    start = None if current is None else registry.path_of(current)
    outcome = challenge(
        snapshot,
        registry,
        folder / RUN,
        cut_to_card(run_settings, start, Processes().device, lambda note: progress("waiting for the GPU", 0.0, note)),
        base_data=None if settings.training_replay is None else index_data(settings.training_replay),
        publish=True,
        num_base_groups=settings.training_base_groups,
        max_base_drop=settings.training_base_drop,
        command=shlex.join(["python", "-m", "backend.learning.job", str(folder)]),
        on_progress=progress,
    )
    counted = {name: snapshot.manifest[name] for name in ("content_sha256", "num_groups", "splits", "skipped")}
    return {
        "version": outcome.version,
        "published": outcome.published,
        "reason": outcome.decision.reason,
        "decision": asdict(outcome.decision),
        "figures": outcome.figures,
        "snapshot": counted,
    }


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 where it failed; outcome.json then holds the error."""
    folder = Path((sys.argv[1:] if argv is None else argv)[0])
    settings = Settings.from_environment()
    configure_logging(settings)
    try:
        outcome = train(settings, folder, Progress(folder / PROGRESS))
    except Exception as error:
        if not isinstance(error, CalicoError):
            print(blanked(traceback.format_exc(), settings.secrets), file=sys.stderr)
        write_json(folder / OUTCOME, {"error": blanked(describe(error), settings.secrets)})
        log.error("%s", describe(error))
        return 1
    write_json(folder / OUTCOME, outcome)
    log.info("%s: %s", outcome["version"], outcome["reason"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
