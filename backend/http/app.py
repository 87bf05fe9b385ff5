"""The Flask app: Label Studio's requests in, answers out. `create_app` makes it, and starts loading the model."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException

from backend.database.schema import START
from backend.host.client import LabelStudioClient
from backend.http.dashboard import add_dashboard
from backend.http.security import check_same_origin, guard
from backend.learning.inbox import KNOWN_ACTIONS
from backend.learning.scheduler import COMMAND
from backend.prediction.champion import Load
from backend.prediction.engine import NotReady
from backend.prediction.lane import LaneFull
from backend.prediction.predictor import describe
from backend.prediction.protocol import Segmenter
from backend.services import Services, build_services
from backend.settings import Settings
from backend.telemetry.log_lines import one_line
from backend.telemetry.prometheus import Metrics
from calico.errors import CalicoError, InputError

log = logging.getLogger("calico.backend")

RETRY_AFTER_S = 5
MAX_TASKS = 10_000  # of one request; Label Studio sends all that are selected
MAX_NESTED = 1_000_000  # lists and objects in one request
MAX_LISTED = 10_000  # entries of one page of jobs
SPARE_THREADS = 3  # taken by no prediction and no click, so that /health always answers
CLICK_SHARE = (
    4  # of so many threads one is taken by no prediction, so that a click finds room beside any number of them
)


def create_app(
    settings: Settings,
    *,
    load: Callable[[], Segmenter] | None = None,
    load_version: Load | None = None,
    client: LabelStudioClient | None = None,
    training_command: Sequence[str] = COMMAND,
) -> Flask:
    """load: makes the segmenter, in the background. load_version: makes one from a version's folder. client: a
    connection to the host. training_command: what a training job runs, with its folder as the last argument. What is
    not given is made from the settings.

    Raises InputError for settings that cannot work.
    """
    services = build_services(
        settings, load=load, load_version=load_version, client=client, training_command=training_command
    )
    app = Flask("calico-backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_mb * 1_000_000
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["calico"] = services
    _observe(app, services.metrics)
    guard(app, settings)
    _routes(app, services)
    add_dashboard(app, services)
    return app


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
            return jsonify(error=one_line(str(error))), 503, {"Retry-After": str(RETRY_AFTER_S)}
        log.warning("%s: %s", one_line(request.path, 100), describe(error))
        if isinstance(error, InputError):
            return jsonify(error=one_line(str(error))), 400, {}
        if isinstance(error, CalicoError):
            return jsonify(error=one_line(str(error))), 503, {"Retry-After": str(RETRY_AFTER_S)}
        return jsonify(error="internal error; the log says where"), 500, {}


def _routes(app: Flask, services: Services) -> None:
    settings, engine = services.settings, services.engine
    num_clicks = max(1, settings.threads // CLICK_SHARE)
    clicking = threading.BoundedSemaphore(num_clicks)
    predicting = threading.BoundedSemaphore(max(1, settings.threads - SPARE_THREADS - num_clicks))

    @app.get("/health")
    def health() -> tuple[Response, int]:
        failure = engine.failure
        if failure is not None:
            return jsonify(status="DOWN", model="failed", error=describe(failure)), 503
        return jsonify(services.health()), 200

    @app.post("/setup")
    def setup() -> Response:
        body = _body()
        return jsonify(model_version=services.model_version(_text(body.get("project"))))

    @app.route("/versions", methods=["GET", "POST"])
    def versions() -> Response:
        return jsonify(versions=[services.model_version()])

    @app.post("/predict")
    def predict() -> Response:
        with services.metrics.span("json"):
            body = _body()
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise InputError('expected {"tasks": [{...}, ...], "label_config": "..."}; tasks is no list of objects')
        if len(tasks) > MAX_TASKS:
            raise InputError(f"expected up to {MAX_TASKS:,} tasks in a request, got {len(tasks):,}; ask about fewer")
        label_config = body.get("label_config")
        if not isinstance(label_config, str):
            raise InputError("expected the labeling config as text in label_config; is the caller Label Studio?")
        project = _text(body.get("project"))
        context = (body.get("params") or {}).get("context") if isinstance(body.get("params"), Mapping) else None
        if engine.state == "failed":
            engine.segmenter()  # raises why: better one clear error than a failure for every task
        click = context if isinstance(context, Mapping) and context.get("result") else None
        room = predicting if click is None else clicking
        if not room.acquire(blocking=False):
            raise LaneFull(f"too many {'predictions' if click is None else 'clicks'} at once; try again later")
        try:
            if click is not None:
                if not tasks:
                    raise InputError("interactive request: expected a task, got none")
                results: list[Any] = [services.predictor.click(tasks[0], label_config, click, project)]
            else:
                results = services.predictor.predict(tasks, label_config, project)
        finally:
            room.release()
        with services.metrics.span("json"):
            return jsonify(results=results)

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        body = _body()
        action = str(body.get("action"))
        services.metrics.events.labels(action if action in KNOWN_ACTIONS else "other").inc()
        event = services.store(body)
        answer: dict[str, Any] = {"status": "stored", "event": event}
        if action == START:
            answer["training"] = services.start_training(event, body)
        return jsonify(answer), 201

    @app.get("/jobs")
    def jobs() -> Response:
        limit = _limit(200)
        task, state = request.args.get("task", type=int), request.args.get("state")
        groups = services.jobs.as_json(limit=limit, task=task, state=state)
        training = None if services.training is None else services.training.as_json(limit=5)
        memories = None if services.memories is None else services.memories.as_json()
        return jsonify({**groups, "training": training, "part_memories": memories})

    @app.get("/jobs/training")
    def training() -> Response:
        job = request.args.get("job", type=int)
        return jsonify(jobs=services.training_or_error().as_json(limit=_limit(20), job=job))

    @app.post("/jobs/training/<number>/cancel")
    def cancel(number: str) -> Response:
        check_same_origin(settings)
        _body()
        training = services.training_or_error()
        if not re.fullmatch(r"\d{1,9}", number, re.ASCII):
            raise InputError(f"training job {one_line(number, 40)!r}: expected its number; GET /jobs lists them")
        training.cancel(int(number))
        return jsonify(training.as_json(job=int(number))[0])

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(services.metrics.render(), content_type="text/plain; version=0.0.4; charset=utf-8")


def _body() -> Mapping[str, Any]:
    """JSON under its own content type only: a page in somebody's browser cannot send that to another site unasked."""
    body = None
    if request.is_json:
        data = request.get_data()
        # Each list or object costs the parser and the collector of garbage far more than its bytes tell.
        num_nested = data.count(b"[") + data.count(b"{")
        if num_nested > MAX_NESTED:
            raise InputError(
                f"expected up to {MAX_NESTED:,} lists and objects in a request, got {num_nested:,}; split it"
            )
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
    if not isinstance(body, Mapping):
        raise InputError("expected a JSON object as the request's body, with Content-Type: application/json")
    return body


def _limit(default: int) -> int:
    """How many entries are wanted: of a number that is none, as many as by default; never more than there may be."""
    return min(max(0, request.args.get("limit", default, type=int)), MAX_LISTED)


def _text(value: Any) -> str:
    """What a request calls a project, as it is shown and counted by."""
    return one_line(str(value), 64) if isinstance(value, (str, int, float)) else ""
