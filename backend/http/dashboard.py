"""The page `/` for a team's lead: what serves and why, what is being done, training, and what annotators did to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, jsonify, request, send_file

from backend.http.dashboard_page import dashboard_page, dashboard_parts
from backend.http.security import check_same_origin
from backend.learning.job_folders import RUN
from backend.services import Services
from calico.checkpoints.gate import SCORES, TEST_SCORES, decision_by
from calico.checkpoints.registry import Event, Refused, Registry
from calico.errors import InputError
from calico.snapshots.report import changes_by_week
from calico.snapshots.store import Snapshot

NUM_GROUPS, NUM_JOBS, NUM_VERSIONS = 20, 5, 8


def pictures_of(job: Path) -> dict[str, Path]:
    """What a browser may be shown of a job's folder, by name: its curves, and held-out groups before and after."""
    paths = [job / RUN / "version" / "curves.png", *sorted((job / RUN / "scores").glob(f"{TEST_SCORES}*.jpg"))]
    return {path.name: path for path in paths if path.is_file()}


class Dashboard:
    """What the page shows, as JSON-ready values. Safe to share between threads."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._changes: dict[Path, tuple[int, list[dict[str, Any]]]] = {}  # snapshot -> its time, its rows
        self._lock = threading.Lock()

    def data(self) -> dict[str, Any]:
        services = self._services
        groups = services.jobs.as_json(limit=NUM_GROUPS)
        for job in groups["jobs"]:
            job["host_link"] = self._host_link(job["project"], job["task"])
        return {
            "serving": self._serving(),
            "waiting": services.engine.depth,
            "part_memories": [] if services.memories is None else services.memories.as_json(),
            "groups": groups,
            "training": self._training(),
            "versions": self._versions(),
            "corrections": self._corrections(),
        }

    def _training(self) -> list[dict[str, Any]] | None:
        """The newest jobs, each with the names of its pictures."""
        training = self._services.training
        if training is None:
            return None
        jobs = training.as_json(limit=NUM_JOBS)
        return [{**job, "pictures": list(pictures_of(training.store.folder_of(job["id"])))} for job in jobs]

    @property
    def _registry(self) -> Registry | None:
        folder = self._services.settings.versions
        return None if folder is None else Registry(folder)

    def _serving(self) -> dict[str, Any]:
        """version, and since when and why it serves, in the gate's words."""
        serving = {"state": self._services.engine.state, **self._services.health()}
        try:
            history = [] if self._registry is None else self._registry.history()
        except InputError as error:
            return {**serving, "problem": str(error)}
        if history:
            event: Event = history[-1]
            serving |= {"since": event.at, "action": event.action, "reason": event.reason, "before": event.before}
        return serving

    def _versions(self) -> list[dict[str, Any]]:
        """The newest first."""
        if self._registry is None:
            return []
        try:
            current, versions = self._registry.current(), self._registry.versions()
        except InputError:
            return []  # the same error stands above, under `serving`
        return [
            {
                "id": version.id, "created_at": version.created_at, "is_current": version.id == current,
                "parent": version.parent, "decision": version.metrics.get("decision"),
            }
            for version in reversed(versions[-NUM_VERSIONS:])
        ]  # fmt: skip

    def _host_link(self, project: str, task: int | None) -> str | None:
        """The task in Label Studio; Label Studio calls a project `ID.epoch`."""
        base, number = self._services.settings.label_studio_url, project.partition(".")[0]
        if base is None or task is None or not number.isdigit():
            return None
        return f"{base}/projects/{number}/data?task={task}"

    def _corrections(self) -> list[dict[str, Any]]:
        """What annotators did to predictions, of each project that was trained on, as its newest snapshot tells."""
        training = self._services.training
        if training is None:
            return []
        projects = sorted({job["project"] for job in training.as_json(limit=1000)})
        folders = {project: training.store.snapshot_of(project) for project in projects}
        return [{"project": project, **row} for project in projects for row in self._rows(folders[project])]

    def _rows(self, folder: Path) -> list[dict[str, Any]]:
        try:
            stamp = (folder / "manifest.json").stat().st_mtime_ns
        except OSError:
            return []  # nothing was gathered yet
        with self._lock:
            if self._changes.get(folder, (0, []))[0] != stamp:
                try:
                    rows = changes_by_week(Snapshot(folder, check=False).records())
                except InputError:
                    rows = []  # it is being replaced; the next look reads the new one
                self._changes[folder] = stamp, rows
            return self._changes[folder][1]


def add_dashboard(app: Flask, services: Services) -> None:
    """Its routes. An action needs the credential, as all routes do, and comes from our own page or from a program."""
    dashboard = Dashboard(services)

    @app.get("/")
    def index() -> Response:
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
            rules = sorted(rule.rule for rule in app.url_map.iter_rules())
            return jsonify({"name": "CALICO", "model": services.engine.state, "routes": rules, **dashboard.data()})
        render = dashboard_parts if "parts" in request.args else dashboard_page
        headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
        page = render(dashboard.data(), request.script_root)
        return Response(page, content_type="text/html; charset=utf-8", headers=headers)

    @app.get("/groups/<int:number>/picture")
    def picture(number: int) -> Response:
        job = services.jobs.get(number)
        if job is None or job.draw is None:
            abort(404)
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(job.draw(), content_type="image/jpeg", headers=headers)

    @app.get("/jobs/training/<int:number>/pictures/<name>")
    def job_picture(number: int, name: str) -> Response:
        path = pictures_of(services.training_or_error().store.folder_of(number)).get(name)
        if path is None:
            abort(404)
        return send_file(path, max_age=0)

    def action(rule: str, act: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        def view() -> Response:
            check_same_origin(services.settings)
            body = request.get_json(silent=True) if request.is_json else None
            if not isinstance(body, dict):
                raise InputError("expected a JSON object as the request's body, with Content-Type: application/json")
            return jsonify(act(body))

        app.add_url_rule(rule, rule, view, methods=["POST"])

    def registry() -> Registry:
        if services.settings.versions is None:
            raise InputError("there are no versions here: set CALICO_VERSIONS to the folder where they go")
        return Registry(services.settings.versions)

    def train(body: dict[str, Any]) -> dict[str, Any]:
        project = body.get("project")
        if not isinstance(project, int) or isinstance(project, bool) or project < 1:
            raise InputError(f"project: expected its number, got {project!r}")
        job = services.training_or_error().request(project, "asked for on the dashboard")
        return {"job": job.id, "state": job.state.value}

    def publish(body: dict[str, Any]) -> dict[str, Any]:
        versions = registry()
        version = versions.get(str(body.get("version") or ""))
        reason = body.get("reason")
        if reason is not None and not isinstance(reason, str):
            raise InputError("reason: expected text, why it is published though the gate does not let it through")
        try:
            decision = decision_by(versions.path_of(version) / SCORES, services.settings.training_base_drop)
            event = versions.publish(version.id, decision=decision, force_reason=reason)
        except Refused as refusal:
            raise InputError(f"{refusal}; give a reason to publish it all the same") from None
        return {"version": event.version, "action": event.action}

    def rollback(body: dict[str, Any]) -> dict[str, Any]:
        event = registry().rollback(reason=str(body.get("reason") or "on the dashboard"))
        return {"version": event.version or "the embedded checkpoint", "action": event.action}

    action("/jobs/training", train)
    action("/versions/publish", publish)
    action("/versions/rollback", rollback)
