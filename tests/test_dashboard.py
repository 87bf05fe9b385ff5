"""The page for a team's lead: what it says, who may press its buttons, and (marked browser) that they work."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from backend_fakes import PAIR_XML, FakeSegmenter, pair_task
from chromium import Chromium
from conftest import chromium_executables
from live_backend import LiveBackend
from PIL import Image
from test_app import make, predict, wait_for  # noqa: F401  a fixture
from test_training_jobs import HANG, HOST

from calico.checkpoints.gate import SCORES, Scores, decide
from calico.checkpoints.registry import Registry
from calico.snapshots.report import changes_by_week

HTML = {"Accept": "text/html,*/*;q=0.8"}


def page_of(client, path="/"):
    answer = client.get(path, headers=HTML)
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def add_version(registry, folder, name, *, gain):
    """A version whose finetune measured that it is better by `gain` than the embedded checkpoint."""
    source = folder / name
    source.mkdir()
    (source / "adapter.safetensors").write_bytes(name.encode())
    groups = [f"g{k}" for k in range(40)]
    base = dict.fromkeys([f"b{k}" for k in range(40)], 0.7)
    scores = Scores("calico-x", dict.fromkeys(groups, 0.5), dict.fromkeys(groups, 0.5 + gain), base, base)
    (source / SCORES).write_text(json.dumps(asdict(scores)))
    metrics = {"decision": decide(scores).as_json()}
    return registry.add(source, kind="adapter", preset="calico-x", metrics=metrics).id


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry")


@pytest.fixture
def client(make, registry):  # noqa: F811
    client = make(given={"training_command": ["sh", "-c", HANG]}, versions=registry.folder, **HOST)
    return client


def test_programs_get_json_and_people_a_page(make):  # noqa: F811
    client = make()
    assert {"name", "model", "routes", "serving", "groups", "training", "versions", "corrections"} <= set(
        client.get("/").get_json()
    )
    page = page_of(client)
    assert "fake-1" in page
    assert page.count("<main") == 1
    assert "<main" not in page_of(client, "/?parts=1")
    assert "CALICO_VERSIONS names no registry" in page


def test_a_group_has_its_title_its_link_and_its_picture(make, tmp_path):  # noqa: F811
    client = make(label_studio_url="http://host:8080")
    task = pair_task(tmp_path, 5)
    task["data"]["title"] = "<b>chairs</b>"
    predict(client, [task])
    page = page_of(client)
    assert "&lt;b&gt;chairs&lt;/b&gt;" in page
    assert 'href="http://host:8080/projects/1/data?task=5"' in page
    assert "<td>1</td>" in page, "the project's number, without the time that the host adds to it"
    [job] = client.get("/jobs").get_json()["jobs"]
    assert job["has_picture"]
    picture = client.get(f"/groups/{job['id']}/picture")
    strip = np.asarray(Image.open(io.BytesIO(picture.data)))
    assert strip.shape[0] == 320
    assert strip.shape[1] > 2 * 320
    assert client.get("/groups/99/picture").status_code == 404


def test_a_picture_whose_result_is_gone_says_so(make, tmp_path):  # noqa: F811
    client = make(result_cache_mb=0)
    predict(client, [pair_task(tmp_path, 5)])
    answer = client.get("/groups/1/picture")
    assert (answer.status_code, "not kept" in answer.get_json()["error"]) == (400, True)


def test_what_is_remembered_of_a_group_holds_no_masks(make, tmp_path):  # noqa: F811
    """A thousand groups are remembered: their results must be free to go."""
    import gc

    from calico.values import CoSegmentation

    client = make(result_cache_mb=0)
    gc.collect()
    before = sum(type(item) is CoSegmentation for item in gc.get_objects())
    predict(client, [pair_task(tmp_path, k) for k in range(5)])
    gc.collect()
    assert sum(type(item) is CoSegmentation for item in gc.get_objects()) <= before + 1


def test_versions_are_published_and_rolled_back(client, registry, tmp_path):
    good, bad = (add_version(registry, tmp_path, name, gain=gain) for name, gain in (("good", 0.2), ("bad", -0.2)))
    assert page_of(client).count(">Publish<") == 2
    assert client.post("/versions/publish", json={"version": good}).get_json() == {"version": good, "action": "publish"}
    refused = client.post("/versions/publish", json={"version": bad})
    assert (refused.status_code, "give a reason" in refused.get_json()["error"]) == (400, True)
    assert registry.current() == good
    forced = client.post("/versions/publish", json={"version": bad, "reason": "we know better"})
    assert forced.get_json()["action"] == "force"
    serving = client.get("/").get_json()["serving"]
    assert (serving["reason"], serving["before"]) == ("we know better", good)
    assert client.post("/versions/rollback", json={}).get_json()["version"] == good
    assert registry.current() == good
    assert client.post("/versions/publish", json={"version": "nothing"}).status_code == 400


def test_training_is_asked_for(client):
    assert client.post("/jobs/training", json={"project": 3}).get_json() == {"job": 1, "state": "queued"}
    for wrong in ({}, {"project": "3"}, {"project": True}, {"project": 0}):
        assert client.post("/jobs/training", json=wrong).status_code == 400
    assert "asked for on the dashboard" in page_of(client)


ACTIONS = ("/jobs/training", "/jobs/training/1/cancel", "/versions/publish", "/versions/rollback")


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "rebound.example:9090"},
        {"Host": "rebound.example:9090", "Origin": "http://rebound.example:9090"},
    ],
)
def test_a_foreign_page_presses_no_button(client, registry, tmp_path, path, headers):
    version = add_version(registry, tmp_path, "good", gain=0.2)
    answer = client.post(path, json={"version": version, "project": 3}, headers=headers)
    assert answer.status_code == 403
    assert registry.current() is None
    assert client.get("/jobs").get_json()["training"] == []


@pytest.mark.parametrize("path", ACTIONS)
def test_a_form_is_no_action(client, path):
    assert client.post(path, data={"project": "3"}).status_code == 400
    assert client.post(path, data='{"project": 3}', content_type="text/plain").status_code == 400


def test_an_action_wants_the_credential(make, registry):  # noqa: F811
    client = make(versions=registry.folder, webhook_secret="s" * 16, **HOST)
    for path in ACTIONS:
        assert client.post(path, json={"project": 3}).status_code == 401
    own = {"Origin": "http://calico.example", "Host": "calico.example", "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"/k/{'s' * 16}/jobs/training", json={"project": 3}, headers=own).status_code == 200
    page = page_of(client, f"/k/{'s' * 16}/")
    assert f'data-self="/k/{"s" * 16}/?parts=1"' in page
    assert f"/k/{'s' * 16}/jobs/training" in page


def record(version, time, *changes, untouched=False):
    source = {"model_version": version, "updated_at": time, "accepted_as_is": untouched}
    return {"provenance": source, "changes": [{"change": change} for change in changes]}


def test_corrections_by_version_and_week():
    records = [
        record("v1", "2026-11-23T09:00:00Z", "kept", "kept", untouched=True),
        record("v1", "2026-11-29T23:00:00Z", "edited", "added"),
        record("v1", "2026-11-30T09:00:00Z", "deleted"),
        record("v2", None, "kept"),
        {"provenance": {"accepted_as_is": False}, "changes": None},
    ]
    rows = changes_by_week(records)
    assert [(row["week"], row["version"], row["groups"]) for row in rows] == [
        ("2026-W49", "v1", 1), ("2026-W48", "v1", 2), ("", "v2", 1),
    ]  # fmt: skip
    assert {name: rows[1][name] for name in ("untouched", "kept", "edited", "added", "deleted")} == {
        "untouched": 1, "kept": 2, "edited": 1, "added": 1, "deleted": 0,
    }  # fmt: skip


@pytest.mark.browser
def test_the_page_in_a_browser(tmp_path, registry):
    good = add_version(registry, tmp_path, "good", gain=0.2)
    host = SimpleNamespace(url="http://127.0.0.1:9", account=SimpleNamespace(token="t0ken"))
    browser, driver = chromium_executables()
    settings = {"media_roots": (tmp_path,), "versions": registry.folder}
    live = LiveBackend(host, tmp_path / "state", FakeSegmenter(), **settings)
    with live as backend, Chromium(browser, driver, tmp_path) as chromium:
        backend.services.predictor.predict([pair_task(tmp_path, k) for k in range(3)], PAIR_XML, "1.2")
        chromium.open(backend.url + "/")
        assert "task 2" in chromium.text()
        chromium.run("window.confirm = () => true")
        chromium.click_text("Publish")
        wait_for(lambda: registry.current() == good)
        chromium.wait_for(lambda: "serves" in chromium.text() and good in chromium.text())
