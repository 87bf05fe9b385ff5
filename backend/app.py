"""The Flask app: Label Studio's requests in, answers out. `create_app` makes it, and starts loading the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.client import LabelStudioClient
from backend.engine import Engine, NotReady, Segmenter
from backend.inbox import KNOWN_ACTIONS, Inbox, reconcile
from backend.jobs import Jobs
from backend.lane import LaneFull
from backend.media import Media
from backend.metrics import Metrics
from backend.predictor import Predictor, describe
from backend.security import guard
from backend.settings import Settings
from calico.errors import CalicoError, CheckpointError, InputError
from calico.fingerprint import checkpoint_version

log = logging.getLogger("calico.backend")

RETRY_AFTER_S = 5
SETUP_WAIT_S = 1.5  # the host gives up after 3 s
SPARE_THREADS = 3  # never taken by predictions, so that /health always answers


@dataclass(frozen=True)
class Services:
    """What the routes call; in tests it is looked at through `app.extensions["calico"]`."""

    settings: Settings
    metrics: Metrics
    engine: Engine
    media: Media
    jobs: Jobs
    predictor: Predictor
    inbox: Inbox
    client: LabelStudioClient | None


def load_segmenter(settings: Settings) -> Segmenter:
    """Imports torch and loads the weights: seconds, so never on a request's thread."""
    from calico.segmenter import CoSegmenter

    return CoSegmenter.from_checkpoint(settings.checkpoint, settings.device)


def create_app(
    settings: Settings, *, load: Callable[[], Segmenter] | None = None, client: LabelStudioClient | None = None
) -> Flask:
    """load: makes the segmenter, in the background. client: a connection to the host, else made from the settings.

    Raises InputError for settings that cannot work.
    """
    settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
    if client is None and settings.label_studio_url and settings.label_studio_api_key:
        client = LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key)
    metrics, jobs = Metrics(), Jobs()
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
    services = Services(settings, metrics, engine, media, jobs, predictor, Inbox(settings.inbox_url), client)
    app = Flask("calico-backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_mb * 1_000_000
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["calico"] = services
    _observe(app, metrics)
    guard(app, settings)
    _routes(app, services)
    return app


def start_reconcile(services: Services) -> threading.Thread | None:
    """Looks once for events that were missed while the backend was down, in the background."""
    client = services.client
    if client is None:
        return None

    def run() -> None:
        try:
            log.info("reconcile: %d annotations had been missed", reconcile(services.inbox, client))
        except Exception as error:  # the host may be down: that must not end the backend
            log.warning("reconcile: %s", describe(error))

    thread = threading.Thread(target=run, name="reconcile", daemon=True)
    thread.start()
    return thread


def _observe(app: Flask, metrics: Metrics) -> None:
    """Counts and times every request, and makes one line of JSON of every error."""

    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "other"
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.request_seconds.labels(route).observe(time.perf_counter() - g.started)
        return response

    @app.errorhandler(Exception)
    def answer(error: Exception) -> tuple[Response, int, dict[str, str]]:
        if isinstance(error, HTTPException):
            return jsonify(error=error.name), error.code or 500, {}
        if isinstance(error, (LaneFull, NotReady)):
            return jsonify(error=str(error)), 503, {"Retry-After": str(RETRY_AFTER_S)}
        log.warning("%s: %s", request.path, describe(error))
        if isinstance(error, InputError):
            return jsonify(error=str(error)), 400, {}
        if isinstance(error, CalicoError):
            return jsonify(error=str(error)), 503, {"Retry-After": str(RETRY_AFTER_S)}
        return jsonify(error="internal error; the log says where"), 500, {}


def _routes(app: Flask, services: Services) -> None:
    settings, engine = services.settings, services.engine
    predicting = threading.BoundedSemaphore(max(1, settings.threads - SPARE_THREADS))

    @app.get("/health")
    def health() -> tuple[Response, int]:
        failure = engine.failure
        if failure is not None:
            return jsonify(status="DOWN", model="failed", error=describe(failure)), 503
        return jsonify(status="UP", model=engine.state), 200

    @app.get("/")
    def index() -> Response:
        return jsonify(name="CALICO", model=engine.state, routes=sorted(rule.rule for rule in app.url_map.iter_rules()))

    @app.post("/setup")
    def setup() -> Response:
        _body()
        return jsonify(model_version=_version(services))

    @app.route("/versions", methods=["GET", "POST"])
    def versions() -> Response:
        return jsonify(versions=[_version(services)])

    @app.post("/predict")
    def predict() -> Response:
        body = _body()
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise InputError('expected {"tasks": [{...}, ...], "label_config": "..."}; tasks is no list of objects')
        label_config = body.get("label_config")
        if not isinstance(label_config, str):
            raise InputError("expected the labeling config as text in label_config; is the caller Label Studio?")
        context = (body.get("params") or {}).get("context") if isinstance(body.get("params"), Mapping) else None
        if not predicting.acquire(blocking=False):
            raise LaneFull("too many predictions at once; try again later")
        try:
            if isinstance(context, Mapping) and context.get("result"):
                if not tasks:
                    raise InputError("interactive request: expected a task, got none")
                return jsonify(results=[services.predictor.click(tasks[0], label_config, context)])
            return jsonify(results=services.predictor.predict(tasks, label_config, str(body.get("project", ""))))
        finally:
            predicting.release()

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        body = _body()
        action = str(body.get("action"))
        services.metrics.events.labels(action if action in KNOWN_ACTIONS else "other").inc()
        return jsonify(status="stored", event=services.inbox.put(body)), 201

    @app.get("/jobs")
    def jobs() -> Response:
        limit = request.args.get("limit", 200, type=int)
        task, state = request.args.get("task", type=int), request.args.get("state")
        return jsonify(
            services.jobs.as_json(limit=max(0, limit), task=task, state=state),
        )

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(services.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _version(services: Services) -> str:
    """At once, even while the weights are loading: the checkpoint's files tell it."""
    if services.engine.state == "loading":
        try:
            return services.engine.version(timeout_s=SETUP_WAIT_S)
        except NotReady:
            try:
                return checkpoint_version(services.settings.checkpoint)
            except (CheckpointError, OSError) as error:
                raise NotReady(f"the model is still loading ({describe(error)})") from None
    return services.engine.version(timeout_s=0)


def _body() -> Mapping[str, Any]:
    body = request.get_json(force=True, silent=True)
    if not isinstance(body, Mapping):
        raise InputError("expected a JSON object as the request's body")
    return body
