"""The adapter under both lines of label-studio-ml, over stand-ins of its base class: the package is optional."""

from __future__ import annotations

import importlib
import sys
import types
from typing import ClassVar

import pytest
from backend_fakes import PAIR_XML, FakeSegmenter, pair_task, stored_events
from flask import Flask, jsonify, request

from backend.services import build_services
from backend.settings import Settings


class BaseOf1:
    """As in label-studio-ml 1.0.9."""

    def __init__(self, label_config=None, train_output=None, **kwargs):
        self.label_config = label_config
        self.train_output = train_output or {}

    def process_event(self, event, data, job_id, additional_params):
        return self.fit((), event=event, data=data, job_id=job_id, **additional_params)


class BaseOf2:
    """As in label-studio-ml 2.x: values live in a cache of the process, `setup` runs within the constructor."""

    CACHE: ClassVar[dict] = {}

    def __init__(self, project_id=None, label_config=None):
        self.project_id = project_id or ""
        self.set("label_config", label_config)
        if not self.get("model_version"):
            self.set("model_version", "0.0.1")
        self.setup()

    @property
    def label_config(self):
        return self.get("label_config")

    def get(self, key):
        return self.CACHE.get((self.project_id, key))

    def set(self, key, value):
        if not isinstance(value, str):
            raise TypeError("the cache takes text only")
        self.CACHE[self.project_id, key] = value

    def set_extra_params(self, extra_params):
        self.set("extra_params", extra_params)


@pytest.fixture(params=[BaseOf1, BaseOf2], ids=["1.0.9", "2.x"])
def adapter(request, monkeypatch, tmp_path):
    """backend.model over one of the two bases, with a fake segmenter behind it."""
    package, module = types.ModuleType("label_studio_ml"), types.ModuleType("label_studio_ml.model")
    module.LabelStudioMLBase = request.param
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    monkeypatch.delitem(sys.modules, "backend.model", raising=False)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CALICO_MEDIA_ROOTS", str(tmp_path))
    BaseOf2.CACHE.clear()
    adapter = importlib.import_module("backend.model")
    loads = []
    monkeypatch.setattr(
        adapter,
        "build_services",
        lambda settings: build_services(settings, load=lambda: loads.append(1) or FakeSegmenter()),
    )
    adapter.loads = loads
    yield adapter
    sys.modules.pop("backend.model", None)
    for holder in (adapter._inbox, adapter._services and adapter._services.inbox):
        if holder:
            holder.close()


def made(adapter):
    """An object as the package's server makes it."""
    base = adapter.LabelStudioMLBase
    if base is BaseOf1:
        return adapter.CalicoBackend(label_config=PAIR_XML, train_output=None, hostname="", access_token="s3cret")
    return adapter.CalicoBackend(project_id="1", label_config=PAIR_XML)


def test_predicts_plain_dictionaries_and_loads_once(adapter, tmp_path):
    tasks = [pair_task(tmp_path, 1), {"id": 2, "data": {}}, pair_task(tmp_path, 3)]
    for _ in range(3):  # an object per request
        results = made(adapter).predict(tasks, context=None, login=None, password=None)
    assert [type(entry) for entry in results] == [dict, list, dict]
    assert results[0]["model_version"] == "fake-1"
    assert adapter.loads == [1]


def test_a_click(adapter, tmp_path):
    row = {
        "type": "keypointlabels", "to_name": "img1", "original_width": 32, "original_height": 25,
        "value": {"x": 50, "y": 50, "keypointlabels": ["object"]},
    }  # fmt: skip
    (entry,) = made(adapter).predict([pair_task(tmp_path, 1)], context={"result": [row]})
    assert [(row["from_name"], row["to_name"]) for row in entry["result"]] == [("brush1", "img1")]
    with pytest.raises(ValueError, match="expected a task"):
        made(adapter).predict([], context={"result": [row]})


def test_events_are_stored_however_fit_is_called(adapter):
    body = {"project": {"id": 4}, "annotation": {"id": 5}}
    model = made(adapter)
    assert model.fit("ANNOTATION_CREATED", body, anything=1) is None
    model.fit((), event="ANNOTATION_UPDATED", data=body, job_id="1", workdir=None)
    if adapter.LabelStudioMLBase is BaseOf1:
        model.process_event("PROJECT_UPDATED", body, "2", {"workdir": "."})
    stored = [(event.action, event.project, event.annotation) for event in stored_events(adapter.inbox())]
    assert stored[:2] == [("ANNOTATION_CREATED", 4, 5), ("ANNOTATION_UPDATED", 4, 5)]
    assert len(stored) == (3 if adapter.LabelStudioMLBase is BaseOf1 else 2)


@pytest.mark.parametrize("adapter", [BaseOf2], indirect=True)
def test_setup_tells_the_version_of_2x(adapter):
    model = made(adapter)
    model.set_extra_params({"an": "object"})
    assert model.get("model_version") == "fake-1"


def test_its_server_is_guarded(monkeypatch, tmp_path):
    """`_wsgi.py` puts the same guard before the package's app, and refuses to be open to the network."""
    from backend import _wsgi

    app = Flask("label-studio-ml")
    app.add_url_rule("/predict", view_func=lambda: jsonify(path=request.path), methods=["POST"])
    api, package = types.ModuleType("label_studio_ml.api"), types.ModuleType("label_studio_ml")
    api.init_app = lambda model_class: app
    model = types.ModuleType("backend.model")
    model.CalicoBackend, model.services = object, lambda: None
    for name, module in {"label_studio_ml": package, "label_studio_ml.api": api, "backend.model": model}.items():
        monkeypatch.setitem(sys.modules, name, module)
    served: list[Settings] = []
    monkeypatch.setattr("backend.http.server.serve", lambda app, settings: served.append(settings) or 0)
    monkeypatch.setattr("backend.http.server.configure_logging", lambda settings: None)
    watched: list[None] = []
    monkeypatch.setattr("backend.services.start_watch", watched.append)
    monkeypatch.setattr(sys, "path", ["backend", *sys.path[1:]])
    for name in ("CALICO_HOST", "CALICO_PORT", "CALICO_BASIC_AUTH_USER", "CALICO_BASIC_AUTH_PASS"):
        monkeypatch.setenv(name, "")
    assert _wsgi.main(["--host", "0.0.0.0"]) == 2
    arguments = ["-p", "9999", "--host", "0.0.0.0", "--basic-auth-user", "u", "--basic-auth-pass", "p"]
    assert _wsgi.main(arguments) == 0
    assert (served[0].host, served[0].port) == ("0.0.0.0", 9999)
    assert watched == [None]
    assert app.test_client().post("/predict").status_code == 401
    assert app.test_client().post("/predict", auth=("u", "p")).get_json() == {"path": "/predict"}
