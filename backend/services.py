"""Everything behind the routes, put together from the settings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.client import LabelStudioClient
from backend.engine import Engine, Segmenter
from backend.inbox import Inbox, reconcile
from backend.jobs import Jobs
from backend.media import Media
from backend.metrics import Metrics
from backend.predictor import Predictor, describe
from backend.settings import Settings
from calico.errors import CheckpointError
from calico.fingerprint import checkpoint_version

log = logging.getLogger("calico.backend")

RECONCILE_PAUSE_S = 15.0
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
    client: LabelStudioClient | None
    version_of_files: Callable[[], str]

    def model_version(self) -> str:
        """At once, even while the weights are loading: the checkpoint's files tell it.

        Raises what loading raised if it failed, and NotReady where the files do not tell.
        """
        if self.engine.state == "loading":
            try:
                return self.version_of_files()
            except (CheckpointError, OSError):
                pass  # what is wrong with them, loading will say
        return self.engine.version(SETUP_WAIT_S)


def load_segmenter(settings: Settings) -> Segmenter:
    """Imports torch and loads the weights: seconds, so never on a request's thread."""
    from calico.segmenter import CoSegmenter

    return CoSegmenter.from_checkpoint(settings.checkpoint, settings.device)


def open_inbox(settings: Settings) -> Inbox:
    """Makes its folder if need be."""
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
    return Inbox(settings.inbox_url)


def build_services(
    settings: Settings, *, load: Callable[[], Segmenter] | None = None, client: LabelStudioClient | None = None
) -> Services:
    """Starts loading the model in the background. load, client: other than the settings would make.

    Until a segmenter of another `load` is ready, its version is not known.

    Raises InputError for settings that cannot work.
    """
    if client is None and settings.label_studio_url and settings.label_studio_api_key:
        client = LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
    metrics, jobs, inbox = Metrics(), Jobs(), open_inbox(settings)
    engine = Engine(
        load or (lambda: load_segmenter(settings)), metrics, cache_bytes=settings.result_cache_mb * 1_000_000
    )
    media = Media(settings, metrics, client)
    predictor = Predictor(
        engine,
        media,
        jobs,
        metrics,
        client=client,
        queue_size=settings.queue_size,
        time_budget_s=settings.time_budget_s,
    )

    def version_of_files() -> str:
        if load is not None:
            raise CheckpointError("its version is not known yet")
        return checkpoint_version(settings.checkpoint)

    return Services(settings, metrics, engine, media, jobs, predictor, inbox, client, version_of_files)


def start_reconcile(services: Services) -> threading.Thread | None:
    """Looks once for events that were missed while the backend was down, in the background.

    Tries again, less and less often, until it succeeds: the host may start after the backend.
    """
    client = services.client
    if client is None:
        return None

    def run() -> None:
        pause_s = RECONCILE_PAUSE_S
        while True:
            try:
                log.info("reconcile: %d annotations had been missed", reconcile(services.inbox, client))
                return
            except Exception as error:
                log.warning("reconcile: %s; trying again in %.0f s", describe(error), pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 3600)

    thread = threading.Thread(target=run, name="reconcile", daemon=True)
    thread.start()
    return thread
