"""Everything behind the routes, put together from the settings."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backend.host.client import LabelStudioClient
from backend.learning.card import ALONE, SHARE, tell_card
from backend.learning.inbox import NUM_WRITERS, Inbox, InboxUnavailable
from backend.learning.job_folders import NO_TOKEN
from backend.learning.part_memories import PartMemories, gather_from, project_of
from backend.learning.reconcile import Reconciler
from backend.learning.scheduler import COMMAND, Training
from backend.media.media import Media
from backend.prediction.activity import Jobs
from backend.prediction.champion import Champion, Load
from backend.prediction.engine import Engine
from backend.prediction.predictor import Predictor, describe
from backend.prediction.protocol import Segmenter
from backend.prediction.succession import give_back_memory
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.checkpoints.card import knows
from calico.errors import CheckpointError, InputError
from calico.inference.options import ServingOptions

log = logging.getLogger("calico.backend")

WATCH_S = 2.0  # between looks at the registry and at jobs
PRUNE_EVERY_S = 3600.0
SETUP_WAIT_S = 1.0  # the host gives `/setup` three seconds


@dataclass(frozen=True)
class Services:
    """What the routes call, at `app.extensions["calico"]`."""

    settings: Settings
    metrics: Metrics
    engine: Engine
    media: Media
    jobs: Jobs
    predictor: Predictor
    inbox: Inbox
    reconciler: Reconciler | None
    training: Training | None
    client: LabelStudioClient | None
    version_of_files: Callable[[], str]
    memories: PartMemories | None = None
    knows: Callable[[], str] = str

    def model_version(self, project: str = "") -> str:
        """What predictions for a project carry. At once, even while the weights are loading: the checkpoint's files
        tell it.

        Raises what loading raised if it failed, and NotReady where the files do not tell.
        """
        if self.engine.state == "loading":
            try:
                return self.version_of_files()
            except (CheckpointError, InputError, OSError):
                pass  # what is wrong with them, loading will say
        version = self.engine.version(SETUP_WAIT_S)
        return version if self.memories is None else self.memories.version(project_of(project), version)

    def health(self) -> dict[str, Any]:
        """What `/health` tells of a backend that is up: the model's state and version, and what keeps the next away."""
        models = self.engine.models
        serving = models.serving
        state = "resting" if models.is_resting else "ready" if serving.done() else "loading"
        told: dict[str, Any] = {"status": "UP", "model": state}
        if state == "ready":
            told["version"] = serving.result().version
            if known := self.knows():
                told["knows"] = known
        if (wanted := models.wanted) is not None:
            told["loading"] = wanted.name
        if (failed := models.not_loaded) is not None:
            told["problem"] = f"{failed.wanted.name} does not load: {describe(failed.error)}"
        if self.inbox.problem is not None:
            told["inbox"] = self.inbox.problem
        return told

    def training_or_error(self) -> Training:
        """Raises InputError where nothing is trained."""
        if self.training is None:
            raise InputError("nothing is trained here: set CALICO_VERSIONS to the folder where versions go")
        return self.training

    def store(self, body: Mapping[str, Any]) -> int:
        """The number of the stored event. Raises InboxUnavailable; the host is then asked for it later."""
        try:
            number = self.inbox.put(body)
            if self.memories is not None:
                self.memories.notice(body)
            return number
        except InboxUnavailable:
            if self.reconciler is not None:
                self.reconciler.wake()
            raise

    def start_training(self, event: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """Deals with a stored START_TRAINING; what became of it."""
        if self.training is None:
            log.warning("Start training: CALICO_VERSIONS names no registry of versions, so nothing is trained")
            self.inbox.mark_handled(event)
            return {"state": "refused", "reason": "CALICO_VERSIONS is not set"}
        if self.client is None:
            log.warning("Start training: %s", NO_TOKEN)
            self.inbox.mark_handled(event)
            return {"state": "refused", "reason": NO_TOKEN}
        project = body.get("project")
        number = project.get("id") if isinstance(project, Mapping) else None
        job = self.training.take(event, number if isinstance(number, int) else None)
        if job is None:
            return {"state": "refused", "reason": "the event names no project, or another backend trains"}
        return {"job": job.id, "state": job.state.value, "reason": job.reason}


def serving_options(settings: Settings) -> ServingOptions:
    return ServingOptions(
        dtype=settings.dtype,
        llm_bits=settings.llm_bits,
        compiled=settings.compile == "1",
        groups_at_once=settings.batch_groups,
        shares_card=settings.versions is not None and settings.training_card == SHARE,
        encoding_bytes=settings.encoding_cache_mb * 1_000_000,
        host_encoding_bytes=settings.host_encoding_cache_mb * 1_000_000,
    )


def champion_of(settings: Settings, load: Load | None = None) -> Champion:
    """What the settings let serve. load: other than torch's. Raises InputError for a registry that is damaged."""

    def load_segmenter(folder: Path | None) -> Segmenter:
        """Imports torch and loads the weights: seconds, so never on a request's thread."""
        from calico.inference.segmenter import CoSegmenter

        tell_card(settings, folder)
        segmenter = CoSegmenter.from_checkpoint(folder, settings.device, options=serving_options(settings))
        segmenter.warm_up()
        return segmenter

    return Champion(settings.versions, settings.checkpoint, load or load_segmenter)


def open_inbox(settings: Settings) -> Inbox:
    """Makes its folder if need be."""
    folder = settings.data_dir.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"CALICO_DATA_DIR: {folder} cannot be written ({error.strerror}); name a folder that can, e.g. "
            "/var/lib/calico"
        ) from None
    return Inbox(settings.inbox_url, num_writers=max(1, min(NUM_WRITERS, settings.threads // 4)))


def build_services(
    settings: Settings,
    *,
    load: Callable[[], Segmenter] | None = None,
    load_version: Load | None = None,
    client: LabelStudioClient | None = None,
    training_command: Sequence[str] = COMMAND,
) -> Services:
    """Starts loading the model in the background. load, load_version, client: other than the settings would make.

    load: makes the first segmenter; until that is ready, its version is not known. load_version: makes any, from a
    folder. training_command: what a training job runs.

    Raises InputError for settings that cannot work.
    """
    if client is None and settings.label_studio_url and settings.label_studio_api_key:
        client = LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
    metrics, jobs, inbox = Metrics(), Jobs(), open_inbox(settings)
    training = Training(settings, inbox, command=training_command) if settings.versions is not None else None
    champion = champion_of(settings, load_version)
    engine = Engine(
        load or champion.load,
        metrics,
        follow=champion.follow,
        cache_bytes=settings.result_cache_mb * 1_000_000,
        groups_at_once=settings.batch_groups,
        rests=training is not None and settings.training_card == ALONE and training.is_training,
    )
    if training is not None:
        alone = settings.training_card == ALONE
        training.before_job = engine.models.rest if alone else give_back_memory
        training.after_job = engine.models.wake
    reconciler = None if client is None else Reconciler(inbox, client)
    media = Media(settings, metrics, client)
    memories = None
    if client is not None and settings.part_memory == "1":
        memories = PartMemories(engine, gather_from(client, media))
    predictor = Predictor(
        engine,
        media,
        jobs,
        metrics,
        client=client,
        queue_size=settings.queue_size,
        time_budget_s=settings.time_budget_s,
        groups_at_once=settings.batch_groups,
        remembered=None if memories is None else memories.remembered,
        min_score=settings.min_score,
    )

    def version_of_files() -> str:
        if load is not None:
            raise CheckpointError("its version is not known yet")
        return champion.version_of_files()

    return Services(
        settings,
        metrics,
        engine,
        media,
        jobs,
        predictor,
        inbox,
        reconciler,
        training,
        client,
        version_of_files,
        memories,
        knows=lambda: "" if load is not None else knows(champion.folder),
    )


def start_watch(services: Services, until: threading.Event | None = None) -> threading.Thread:
    """Has new versions loaded before the next request comes, training started and followed, old events removed."""
    ended = until or threading.Event()
    if services.memories is not None:  # what was learnt before this process began
        for project in services.inbox.projects():
            services.memories.wants_fit(project)

    def run() -> None:
        pruned_at = -PRUNE_EVERY_S
        while not ended.wait(WATCH_S):
            try:
                if services.training is not None:
                    services.training.tick()
                services.engine.models.look()
                if time.monotonic() - pruned_at >= PRUNE_EVERY_S:
                    pruned_at = time.monotonic()
                    prune(services)
            except Exception as error:
                log.warning("versions, training and events: %s", describe(error))

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    return thread


def prune(services: Services) -> None:
    """Removes events older than CALICO_EVENTS_DAYS, none where that is 0."""
    settings = services.settings
    if settings.events_days:
        days = max(settings.events_days, settings.train_after_hours / 24)  # which looks back that far
        num_removed = services.inbox.prune(datetime.now(UTC) - timedelta(days=days))
        log.debug("%d events of more than %.0f days ago removed", num_removed, days)
