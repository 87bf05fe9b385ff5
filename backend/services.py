"""Everything behind the routes, put together from the settings."""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from backend.cluster.pool import ModelPool
from backend.cluster.sights import PooledLooks
from backend.database.leader import Leader
from backend.database.patience import Patience
from backend.host.client import LabelStudioClient
from backend.learning.card import ALONE, SHARE, tell_card
from backend.learning.inbox import NUM_WRITERS, Inbox, InboxUnavailable
from backend.learning.job_folders import NO_TOKEN
from backend.learning.part_memories import PartMemories, gather_from, project_of
from backend.learning.reconcile import Reconciler
from backend.learning.scheduler import COMMAND, Training
from backend.media.media import Media
from backend.prediction.activity import Jobs
from backend.prediction.agreement import Agreement
from backend.prediction.champion import Champion, Load
from backend.prediction.engine import Engine
from backend.prediction.given import Given, SharedGiven
from backend.prediction.late_results import LateResults
from backend.prediction.model_import import import_model
from backend.prediction.predictor import Predictor, describe
from backend.prediction.protocol import Segmenter
from backend.prediction.succession import give_back_memory
from backend.settings import Settings
from backend.telemetry.memory import give_back
from backend.telemetry.prometheus import Metrics
from calico.checkpoints.card import knows
from calico.errors import CheckpointError, InputError
from calico.inference.options import ServingOptions

log = logging.getLogger("calico.backend")

WATCH_S = 2.0  # between looks at the registry and at jobs
PRUNE_EVERY_S = 3600.0
GIVE_BACK_EVERY_S = 60.0
GIVEN_KEPT_S = 24 * 3600.0  # no request takes as long
AGREE_WAIT_S = 5.0  # for the database while a version is taking over
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
    leader: Leader
    memories: PartMemories | None = None
    knows: Callable[[], str] = str
    agreement: Agreement | None = None
    given: SharedGiven | None = None
    late: LateResults | None = None
    pool: ModelPool | None = None

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
        health: dict[str, Any] = {"status": "UP", "model": state}
        if state == "ready":
            health["version"] = serving.result().version
            if part_names := self.knows():
                health["knows"] = part_names
        if (successor := models.successor) is not None:
            health["loading"] = successor.name
            if self.agreement is not None and self.agreement.waits_for:
                health["waits_for"] = list(self.agreement.waits_for)
        if self.pool is not None:
            health["workers"] = self.pool.shown()
        if (failed := models.not_loaded) is not None:
            health["problem"] = f"{failed.successor.name} does not load: {describe(failed.error)}"
        if self.inbox.problem is not None:
            health["inbox"] = self.inbox.problem
        return health

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

    def notice_others(self, after: int) -> int:
        """Has part memories learn from events that other backends stored after this one; the newest there is."""
        newest = self.inbox.last()
        if self.memories is not None and newest > after:
            for project in self.inbox.projects(after=after):
                self.memories.wants_fit(project)
        return newest

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
        if not isinstance(number, int):
            self.inbox.mark_handled(event)
            return {"state": "refused", "reason": "the event names no project"}
        job = self.training.take(event, number)
        if job is None:
            return {"state": "queued", "reason": f"project {number} waits for a job already"}
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


def champion_of(
    settings: Settings, load: Load | None = None, join: Callable[[str], str] = lambda current: current
) -> Champion:
    """What the settings let serve. load: other than torch's. Raises InputError for a registry that is damaged."""

    def load_here(folder: Path | None) -> Segmenter:
        import_model()
        tell_card(settings, folder)
        return loader_of(settings)(folder)

    return Champion(settings.versions, settings.checkpoint, load or load_here, join)


def loader_of(settings: Settings) -> Load:
    """Loads a folder as the settings say; nothing secret is in it, so it may go to other machines."""
    return partial(load_segmenter, settings.device, serving_options(settings))


def load_segmenter(device: str | None, options: ServingOptions, folder: Path | None) -> Segmenter:
    """Imports torch and loads the weights: seconds, so never on a request's thread."""
    import_model()
    from calico.inference.segmenter import CoSegmenter

    segmenter = CoSegmenter.from_checkpoint(folder, device, options=options)
    segmenter.warm_up()
    return segmenter


def pool_of(settings: Settings, load: Load | None = None) -> ModelPool | None:
    """The workers of CALICO_WORKERS, None where it is unset. Raises InputError where they cannot be had."""
    if settings.workers is None:
        return None
    load = load or loader_of(settings)
    return ModelPool(settings.workers, load, num_gpus=settings.worker_gpus, least=settings.min_workers)


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
    database, leader, patience = inbox.database, Leader(inbox.database), Patience()
    leader.look()
    name = f"{socket.gethostname()}/{uuid.uuid4().hex}"
    agreement = Agreement(database, name, Patience(wait_s=AGREE_WAIT_S)) if database.is_shared else None
    training = None
    if settings.versions is not None:
        training = Training(settings, inbox, command=training_command, leads=lambda: leader.is_leader)
    pool = pool_of(settings, load_version) if load is None else None
    load_version = load_version if pool is None else pool.load
    champion = champion_of(settings, load_version, agreement.join) if agreement else champion_of(settings, load_version)
    engine = Engine(
        load or champion.load,
        metrics,
        follow=champion.follow,
        may_serve=agreement.may_serve if agreement else lambda successor: True,
        cache_bytes=settings.result_cache_mb * 1_000_000,
        groups_at_once=settings.batch_groups,
        lanes=pool,
        rests=training is not None and settings.training_card == ALONE and training.is_training,
    )
    if training is not None:
        alone = settings.training_card == ALONE
        training.before_job = engine.models.rest if alone else give_back_memory
        training.after_job = engine.models.wake
    if pool is not None:
        pool.demand = lambda: engine.depth
        metrics.follow_workers(pool.shown, lambda: pool.num_deaths)
        database.on_close.append(pool.close)
    reconciler = None if client is None else Reconciler(inbox, client, leads=lambda: leader.is_leader)
    media = Media(settings, metrics, client)
    memories = None
    if client is not None and settings.part_memory == "1":
        looks = None if pool is None else PooledLooks(settings.time_budget_s)
        memories = PartMemories(engine, gather_from(client, media), looks=looks)
    given = SharedGiven(database, patience) if database.is_shared else None
    late = None if client is None else LateResults(database, name)
    predictor = Predictor(
        engine,
        media,
        jobs,
        metrics,
        client=client,
        queue_size=settings.queue_size,
        time_budget_s=settings.time_budget_s,
        groups_at_once=settings.batch_groups * (1 if pool is None else pool.max_lanes),
        remembered=None if memories is None else memories.remembered,
        min_score=settings.min_score,
        given=Given(given),
        late=late,
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
        leader,
        memories,
        knows=lambda: "" if load is not None else knows(champion.folder),
        agreement=agreement,
        given=given,
        late=late,
        pool=pool,
    )


def start_watch(services: Services, until: threading.Event | None = None) -> threading.Thread:
    """Has new versions loaded before the next request comes, training started and followed, old events removed."""
    ended = until or threading.Event()
    noticed = services.inbox.last()
    if services.memories is not None:  # what was learnt before this process began
        for project in services.inbox.projects():
            services.memories.wants_fit(project)

    def run() -> None:
        nonlocal noticed
        pruned_at, gave_back_at = -PRUNE_EVERY_S, time.monotonic()
        while not ended.wait(WATCH_S):
            if time.monotonic() - gave_back_at >= GIVE_BACK_EVERY_S:
                gave_back_at = time.monotonic()
                give_back()
            try:
                services.engine.models.look()
                if services.agreement is not None:
                    services.agreement.beat()
                services.leader.look()
                if services.training is not None:
                    services.training.tick()
                services.predictor.late_posts.look()
                if services.memories is not None and services.inbox.database.is_shared:
                    noticed = services.notice_others(noticed)
                if services.leader.is_leader and time.monotonic() - pruned_at >= PRUNE_EVERY_S:
                    pruned_at = time.monotonic()
                    prune(services)
            except Exception as error:
                log.warning("versions, training and events: %s", describe(error))

    thread = threading.Thread(target=run, name="watch", daemon=True)
    thread.start()
    return thread


def prune(services: Services) -> None:
    """Removes events older than CALICO_EVENTS_DAYS, none where that is 0, and what else nobody asks about any more."""
    settings = services.settings
    if settings.events_days:
        days = max(settings.events_days, settings.train_after_hours / 24)  # which looks back that far
        num_removed = services.inbox.prune(datetime.now(UTC) - timedelta(days=days))
        log.debug("%d events of more than %.0f days ago removed", num_removed, days)
    if services.given is not None:
        services.given.prune(GIVEN_KEPT_S)
    if services.late is not None and (num_lost := services.late.prune()):
        log.warning("%d late results could not be posted for a day and are given up", num_lost)
