from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from backend_fakes import LIST_XML, PAIR_XML, FakeSegmenter, pair_task, picture, png
from waitress import create_server

from backend.codecs import brush_rle
from backend.host.client import LabelStudioClient
from backend.http.app import create_app
from backend.settings import Settings
from backend.telemetry.logs import Redact
from calico.checkpoints.fingerprint import EMBEDDED
from calico.drawings import draw
from calico.errors import CheckpointError

SECRET = "a-secret-of-the-path"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def make(tmp_path):
    """Makes test clients of apps over a fake segmenter; images may lie in tmp_path."""
    made = []

    def make(segmenter=None, *, load=None, client=None, given=None, **settings):
        values = {"media_roots": (tmp_path,), "data_dir": tmp_path / "state", **settings}
        load = load or (lambda: segmenter or FakeSegmenter())
        app = create_app(Settings(**values), load=load, client=client, **(given or {}))
        made.append(app)
        return app.test_client()

    yield make
    for app in made:
        app.extensions["calico"].inbox.close()


def predict(client, tasks, xml=PAIR_XML, context=None, path="/predict", **arguments):
    body = {"tasks": tasks, "project": "1.2", "label_config": xml, "params": {"context": context}}
    return client.post(path, json=body, **arguments)


def jobs_of(client, **query):
    return client.get("/jobs", query_string=query).get_json()


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def masks_of(entry):
    """{(to_name, item_index, label): mask} of a prediction."""
    return {
        (row["to_name"], row.get("item_index"), row["value"].get("brushlabels", [None])[0]): brush_rle.decode(
            row["value"]["rle"], row["original_height"], row["original_width"]
        )
        for row in entry["result"]
        if row["type"] == "brushlabels"
    }


def bright(image):
    return image[..., 1] > 127


def is_of_pair(entry, task_id):
    """Whether a prediction shows the images of `pair_task(folder, task_id)` and no others."""
    masks = masks_of(entry)
    return all(
        np.array_equal(masks[f"img{i}", None, "object"], bright(picture(task_id * 10 + i, size_hw=(24 + i, 32))))
        for i in (1, 2)
    )


# -- what the host asks -----------------------------------------------------------------------------------------------


def test_health_index_versions_setup(make):
    client = make()
    assert client.get("/health").get_json()["status"] == "UP"
    assert "/predict" in client.get("/").get_json()["routes"]
    setup = client.post("/setup", json={"project": "1.1", "schema": PAIR_XML, "access_token": "s3cret"})
    assert setup.get_json() == {"model_version": "fake-1"}
    assert client.get("/versions").get_json() == {"versions": ["fake-1"]}


def test_answers_at_once_while_loading(make, monkeypatch):
    gate, loaded = threading.Event(), threading.Event()
    client = make(load=lambda: (gate.wait(20), loaded.set(), FakeSegmenter())[2])
    monkeypatch.setattr("backend.services.SETUP_WAIT_S", 0.05)
    assert client.get("/health").get_json() == {"status": "UP", "model": "loading"}
    answer = client.post("/setup", json={})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    services = client.application.extensions["calico"]
    monkeypatch.setitem(vars(services), "version_of_files", lambda: "tiny-of-the-files")
    assert client.post("/setup", json={}).get_json() == {"model_version": "tiny-of-the-files"}
    assert not loaded.is_set()
    gate.set()
    wait_for(lambda: client.get("/health").get_json()["model"] == "ready")
    assert client.post("/setup", json={}).get_json() == {"model_version": "fake-1"}


def test_requests_wait_for_the_weights_within_their_budget(make, tmp_path):
    gate = threading.Event()
    client = make(load=lambda: (gate.wait(20), FakeSegmenter())[1], time_budget_s=0.2)
    tasks = [pair_task(tmp_path, 1)]
    assert predict(client, tasks).get_json() == {"results": [[]]}
    gate.set()
    wait_for(lambda: jobs_of(client)["counts"] == {"late": 1})
    assert is_of_pair(predict(client, tasks).get_json()["results"][0], 1)


def test_a_model_that_does_not_load_is_said_everywhere(make, tmp_path):
    def load():
        raise CheckpointError("weights/model.safetensors: cut short; download it again")

    client = make(load=load)
    wait_for(lambda: client.get("/health").status_code == 503)
    for answer in (client.get("/health"), client.post("/setup", json={}), predict(client, [pair_task(tmp_path, 1)])):
        assert answer.status_code == 503
        assert "cut short; download it again" in answer.get_json()["error"]


def test_predicts_each_image_in_its_own_control(make, tmp_path):
    tasks = [pair_task(tmp_path, task) for task in (1, 2, 3)]
    results = predict(make(), tasks).get_json()["results"]
    assert len(results) == 3
    for task, entry in zip(tasks, results, strict=True):
        assert is_of_pair(entry, task["id"])
        assert entry["model_version"] == "fake-1"
        assert 0 < entry["score"] <= 1
    rows = results[0]["result"]
    assert {row["labels"][0] for row in rows if row["type"] == "relation"} == {"same part"}
    assert {row["value"]["text"][0] for row in rows if row["type"] == "textarea"} == {"lamp", "shade"}


def test_predicts_a_list_of_images(make, tmp_path):
    paths = []
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(picture(i)))
        paths.append(str(tmp_path / f"{i}.png"))
    (entry,) = predict(make(), [{"id": 1, "data": {"images": paths}}], LIST_XML).get_json()["results"]
    masks = masks_of(entry)
    for i in range(3):
        assert np.array_equal(masks["img", i, "object"], bright(picture(i)))


def test_a_fixed_vocabulary_constrains_the_model(make, tmp_path):
    xml = re.sub(r'"(common|unique) part"', '"shade"', PAIR_XML).replace('"object"', '"lamp"', 4)
    segmenter = FakeSegmenter()
    predict(make(segmenter), [pair_task(tmp_path, 1)], xml)
    assert {"lamp", "shade"} <= set(segmenter.candidates[0])


# -- what fails -------------------------------------------------------------------------------------------------------


def test_a_failing_group_takes_no_other_with_it_and_says_why(make, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    data = {
        2: {"image1": str(tmp_path / "missing.png"), "image2": "x"},
        4: {"image1": "only one"},
        5: "no object",
        6: {"image1": "/etc/passwd", "image2": "/etc/passwd"},
        8: {"image1": None, "image2": 3},
    }
    tasks = [
        pair_task(tmp_path, 1),
        {"id": 2, "data": data[2]},
        pair_task(tmp_path, 3, firsts=(RED, (0, 0, 0))),
        {"id": 4, "data": data[4]},
        {"id": 5, "data": data[5]},
        {"id": 6, "data": data[6]},
        pair_task(tmp_path, 7, firsts=(BLUE, (0, 0, 0))),
        {"id": 8, "data": data[8]},
        {},
        pair_task(tmp_path, 9),
    ]
    client = make()
    results = predict(client, tasks).get_json()["results"]
    assert [bool(entry) for entry in results] == [True] + [False] * 8 + [True]
    assert all(entry == [] for entry in results[1:9])
    assert is_of_pair(results[0], 1)
    assert is_of_pair(results[9], 9)
    shown = jobs_of(client)
    assert shown["counts"] == {"answered": 2, "failed": 8}
    reasons = {job["task"]: job["reason"] for job in shown["jobs"]}
    for task, part in {
        2: "no such file", 3: "RuntimeError", 4: "image2", 5: "expected an object", 6: "outside CALICO_MEDIA_ROOTS",
        7: "nothing was found", 8: "expected an address",
    }.items():  # fmt: skip
        assert part in reasons[task], task
        assert any(f"task {task} " in record.getMessage() and part in record.getMessage() for record in caplog.records)
    assert 'calico_groups_total{outcome="failed"} 8.0' in client.get("/metrics").get_data(as_text=True)


@pytest.mark.parametrize(
    ("xml", "part"),
    [
        ("", "expected XML"),
        ("<View><Image", "not well-formed"),
        ('<View><Text name="t" value="$t"/></View>', "no <Image"),
        ('<View><Image name="i" value="$image1"/></View>', "no brush or polygon"),
        (PAIR_XML.replace('"$image2"', '"$missing"'), "missing"),
        (PAIR_XML.replace("common part", "wheel").replace("unique part", "leg"), "no label"),
    ],
)
def test_a_config_that_does_not_fit_fails_the_group_with_a_reason(make, tmp_path, xml, part):
    client = make()
    answer = predict(client, [pair_task(tmp_path, 1)], xml)
    if answer.get_json()["results"] == [[]]:
        assert part in jobs_of(client)["jobs"][0]["reason"]
    else:  # the objects fit; what found no label is reported
        assert any(part in problem for problem in jobs_of(client)["jobs"][0]["problems"])


@pytest.mark.parametrize("num_images", [1, 9])
def test_groups_have_two_to_eight_images(make, tmp_path, num_images):
    client = make()
    task = {"id": 1, "data": {"images": [str(tmp_path / "never-read.png")] * num_images}}
    assert predict(client, [task], LIST_XML).get_json() == {"results": [[]]}
    assert f"the task has {num_images}" in jobs_of(client)["jobs"][0]["reason"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/json"),
        (b"[1, 2]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"tasks": 3, "label_config": ""}', "application/json"),
        (b'{"tasks": [3], "label_config": ""}', "application/json"),
        (b'{"tasks": []}', "application/json"),
        (b"{}", "text/plain"),
        (b"", None),
    ],
)
def test_malformed_requests_are_answered_in_a_line(make, body, content_type):
    answer = make().post("/predict", data=body, content_type=content_type)
    assert answer.status_code == 400
    assert answer.get_json()["error"].startswith("expected ")
    assert "Traceback" not in answer.get_data(as_text=True)


def test_no_tasks_is_no_error(make):
    assert predict(make(), []).get_json() == {"results": []}


def test_unknown_routes_and_methods(make):
    assert make().get("/nothing").status_code == 404
    assert make().get("/predict").status_code == 405


def test_an_internal_error_shows_nothing_of_itself(make, monkeypatch, caplog):
    client = make()
    monkeypatch.setattr(client.application.extensions["calico"].inbox, "put", lambda body: 1 / 0)
    answer = client.post("/webhook", json={"action": "A", "token": "s3cret"})
    assert answer.status_code == 500
    assert answer.get_json() == {"error": "internal error; the log says where"}
    assert "ZeroDivisionError" in caplog.text
    assert "s3cret" not in caplog.text
    assert "Traceback" not in caplog.text


# -- queue, budget, late results --------------------------------------------------------------------------------------


class Host:
    """A Label Studio that stores predictions."""

    def __init__(self, stored=()):
        self.stored = list(stored)
        self.status = 201

    def answer(self, request):
        if request.method == "GET":
            task = int(request.url.params["task"])
            return httpx.Response(200, json=[item for item in self.stored if item["task"] == task])
        self.stored += [json.loads(request.content)] if self.status == 201 else []
        return httpx.Response(self.status, json={})

    def client(self):
        return LabelStudioClient("http://studio", "0" * 40, transport=httpx.MockTransport(self.answer))


def test_a_large_batch_answers_what_is_ready_and_posts_the_rest_once(make, tmp_path):
    host, segmenter = Host(), FakeSegmenter(hold_after=3)
    client = make(segmenter, client=host.client(), time_budget_s=1.0, batch_groups=1)
    tasks = [pair_task(tmp_path, task) for task in range(10)]
    results = predict(client, tasks).get_json()["results"]
    answered = [task["id"] for task, entry in zip(tasks, results, strict=True) if entry]
    assert len(answered) == 3
    host.stored += [{**entry, "task": task["id"]} for task, entry in zip(tasks, results, strict=True) if entry]
    predict(client, tasks)  # the host asks again, impatiently
    segmenter.gate.set()
    wait_for(lambda: not {"queued", "running"} & set(jobs_of(client)["counts"]), 20)
    wait_for(lambda: sum(jobs_of(client)["counts"].values()) == 20)
    assert sorted(item["task"] for item in host.stored) == list(range(10))
    for item in host.stored:
        assert is_of_pair(item, item["task"])
        assert item["model_version"] == "fake-1"
    assert segmenter.num_groups == 10


def test_the_host_is_given_each_prediction_once_however_often_it_asks(make, tmp_path):
    host, segmenter = Host(), FakeSegmenter(hold_after=3)
    client = make(segmenter, client=host.client(), time_budget_s=2.0)
    tasks = [pair_task(tmp_path, task) for task in range(10)]

    def ask(some):
        results = predict(client.application.test_client(), some).get_json()["results"]
        found = [{**entry, "task": task["id"]} for task, entry in zip(some, results, strict=True) if entry]
        host.stored += found
        return [entry["task"] for entry in found]

    answered = ask(tasks)
    left = [task for task in tasks if task["id"] not in answered]
    with ThreadPoolExecutor(2) as pool:  # the rest again while it is late, and one of them opened
        again, opened = pool.submit(ask, left), pool.submit(ask, left[-1:])
        time.sleep(0.5)
        segmenter.gate.set()
        again.result()
        opened.result()
    wait_for(lambda: not {"queued", "running"} & set(jobs_of(client)["counts"]), 20)
    assert sorted(item["task"] for item in host.stored) == list(range(10))
    assert ask(tasks[:1]) == [0]  # asked anew, it is given anew


def test_a_task_that_is_opened_twice_gets_one_prediction(make, tmp_path):
    """The host asks again while an answer takes long, and would keep both."""
    client = make(FakeSegmenter(delay_s=0.5))
    task = pair_task(tmp_path, 1)
    with ThreadPoolExecutor(2) as pool:
        ask = lambda _: predict(client.application.test_client(), [task]).get_json()["results"]  # noqa: E731
        answers = list(pool.map(ask, range(2)))
    assert sorted(bool(entry) for (entry,) in answers) == [False, True]


def test_a_late_result_is_not_posted_over_one_that_the_host_has(make, tmp_path):
    host = Host([{"task": 1, "model_version": "fake-1"}, {"task": 2, "model_version": "older"}])
    client = make(FakeSegmenter(delay_s=0.2), client=host.client(), time_budget_s=0.1)
    assert predict(client, [pair_task(tmp_path, 1), pair_task(tmp_path, 2)]).get_json() == {"results": [[], []]}
    wait_for(lambda: jobs_of(client)["counts"] == {"late": 1, "posted": 1})
    assert [(item["task"], item["model_version"]) for item in host.stored] == [
        (1, "fake-1"),
        (2, "older"),
        (2, "fake-1"),
    ]


def test_a_late_result_that_cannot_be_posted_says_so(make, tmp_path):
    host = Host()
    host.status = 403
    client = make(FakeSegmenter(delay_s=0.2), client=host.client(), time_budget_s=0.1)
    predict(client, [pair_task(tmp_path, 1)])
    wait_for(lambda: jobs_of(client)["counts"] == {"failed": 1})
    assert "403" in jobs_of(client)["jobs"][0]["reason"]


def test_a_full_queue_refuses_with_retry_after(make, tmp_path):
    gate = threading.Event()
    client = make(load=lambda: (gate.wait(20), FakeSegmenter())[1], queue_size=3, time_budget_s=0.05)
    tasks = [pair_task(tmp_path, task) for task in range(12)]
    assert predict(client, tasks).get_json()["results"] == [[]] * 12
    predict(client, tasks)  # eight run, three wait: now there is no room at all
    wait_for(lambda: predict(client, tasks[:1]).status_code == 503)
    answer = predict(client, tasks[:1])
    assert int(answer.headers["Retry-After"]) > 0
    assert "try again later" in answer.get_json()["error"]
    counts = jobs_of(client)["counts"]
    assert counts["refused"] >= 24 - 3 - 8
    gate.set()
    wait_for(lambda: not {"queued", "running"} & set(jobs_of(client)["counts"]))
    assert predict(client, tasks[:1]).status_code == 200


def test_predictions_leave_threads_for_the_rest(make, tmp_path):
    gate = threading.Event()
    client = make(load=lambda: (gate.wait(20), FakeSegmenter())[1], threads=4)
    first = threading.Thread(target=predict, args=(client, [pair_task(tmp_path, 1)]))
    first.start()
    wait_for(lambda: jobs_of(client)["counts"] == {"running": 1})
    assert predict(client, [pair_task(tmp_path, 2)]).status_code == 503
    gate.set()
    first.join(10)
    assert predict(client, [pair_task(tmp_path, 2)]).status_code == 200


def test_a_click_finds_room_beside_all_the_predictions_that_may_wait(make, tmp_path):
    segmenter = FakeSegmenter(hold_after=0)
    client = make(segmenter, threads=11)
    tasks = [pair_task(tmp_path, task) for task in range(8)]
    waiting = [threading.Thread(target=predict, args=(client, [task])) for task in tasks[:6]]
    waiting[0].start()
    wait_for(lambda: segmenter.num_running == 1)  # alone: those that wait when the model is free are taken together
    for thread in waiting[1:]:
        thread.start()
    wait_for(lambda: jobs_of(client)["counts"] == {"running": 6})
    assert predict(client, [tasks[6]]).status_code == 503
    statuses = []
    context = {"result": [keypoint(50, 50)]}
    click = threading.Thread(target=lambda: statuses.append(predict(client, [tasks[7]], context=context).status_code))
    click.start()
    wait_for(lambda: client.application.extensions["calico"].engine.depth == 6)  # five groups and the click
    segmenter.gate.set()
    for thread in (click, *waiting):
        thread.join(10)
    assert statuses == [200]


# -- clicks -----------------------------------------------------------------------------------------------------------


def test_eight_people_may_click_at_once(make, tmp_path):
    segmenter = FakeSegmenter(hold_after=0)
    client = make(segmenter)
    tasks = [pair_task(tmp_path, task) for task in range(9)]
    statuses = []

    def click(task):
        statuses.append(predict(client, [task], context={"result": [keypoint(50, 50)]}).status_code)

    group = threading.Thread(target=predict, args=(client, tasks[8:]))
    group.start()
    wait_for(lambda: segmenter.num_running == 1)
    clicks = [threading.Thread(target=click, args=(task,)) for task in tasks[:8]]
    for thread in clicks:
        thread.start()
    wait_for(lambda: client.application.extensions["calico"].engine.depth == 8 or statuses)
    segmenter.gate.set()
    for thread in (group, *clicks):
        thread.join(10)
    assert statuses == [200] * 8


def test_a_click_waits_no_longer_than_somebody_before_a_screen(make, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.prediction.predictor.CLICK_S", 0.1)
    segmenter = FakeSegmenter(hold_after=0)
    client = make(segmenter, time_budget_s=50)
    group = threading.Thread(target=predict, args=(client, [pair_task(tmp_path, 1)]))
    group.start()
    wait_for(lambda: segmenter.num_running == 1)
    answer = predict(client, [pair_task(tmp_path, 2)], context={"result": [keypoint(50, 50)]})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert client.application.extensions["calico"].engine.depth == 1  # the one that ran is not ended, but nothing waits
    segmenter.gate.set()
    group.join(10)


def keypoint(x, y, *, positive=1, to_name="img2", **more):
    return {
        "id": "k", "type": "keypointlabels", "from_name": "keypoint2", "to_name": to_name, "is_positive": positive,
        "original_width": 32, "original_height": 26, "value": {"x": x, "y": y, "keypointlabels": ["common part"]},
        **more,
    }  # fmt: skip


def test_a_click_answers_with_a_mask_on_the_clicked_image(make, tmp_path):
    segmenter = FakeSegmenter()
    context = {"result": [keypoint(50, 50), keypoint(0, 100, positive=0)]}
    (entry,) = predict(make(segmenter), [pair_task(tmp_path, 1)], context=context).get_json()["results"]
    (row,) = entry["result"]
    assert (row["from_name"], row["to_name"], row["type"]) == ("brush2", "img2", "brushlabels")
    assert row["value"]["brushlabels"] == ["common part"]
    mask = masks_of(entry)["img2", None, "common part"]
    assert mask.shape == (26, 32)
    assert mask[13, 16]
    assert not mask[25, 0]
    assert segmenter.prompts == [((26, 32), ((16.0, 13.0), (0.0, 25.0)), (True, False), None)]


def test_a_box_on_a_page_of_a_list(make, tmp_path):
    paths = []
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(picture(i, size_hw=(20 + i, 40))))
        paths.append(str(tmp_path / f"{i}.png"))
    box = {
        "type": "rectanglelabels", "to_name": "img", "item_index": 2, "original_width": 40, "original_height": 22,
        "value": {"x": 25, "y": 50, "width": 50, "height": 25, "rectanglelabels": ["no such label"]},
    }  # fmt: skip
    other = {**box, "item_index": 0}
    answer = predict(make(), [{"id": 1, "data": {"images": paths}}], LIST_XML, {"result": [other, box]})
    (entry,) = answer.get_json()["results"]
    ((key, mask),) = masks_of(entry).items()
    assert key == ("img", 2, None), "no label rather than another"
    assert np.array_equal(np.argwhere(mask)[[0, -1]], [[11, 10], [15, 29]])


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([keypoint(1, 1, to_name="img7")], "no <Image>"),
        ([keypoint(None, 1)], "numbers"),
        ([keypoint(float("nan"), 1)], "finite"),
        ([keypoint(1, 1, positive=0)], "positive"),
        ([keypoint(1, 1, original_width=99)], "(99, 26)"),
        ([{"type": "brushlabels", "value": {}}], "keypoint or rectangle"),
        (["no object"], "keypoint or rectangle"),
    ],
)
def test_a_click_that_makes_no_sense_is_refused(make, tmp_path, rows, part):
    answer = predict(make(), [pair_task(tmp_path, 1)], context={"result": rows})
    assert answer.status_code == 400
    assert part in answer.get_json()["error"]


def test_clicks_do_not_wait_for_a_batch(make, tmp_path):
    segmenter = FakeSegmenter(delay_s=0.1)
    client = make(segmenter, time_budget_s=0.05)
    tasks = [pair_task(tmp_path, task) for task in range(20)]
    predict(client, tasks)  # two seconds of work are queued
    client.application.extensions["calico"].predictor._time_budget_s = 10
    answer = predict(client, tasks[:1], context={"result": [keypoint(50, 50)]})
    assert answer.status_code == 200
    assert jobs_of(client)["counts"].get("queued", 0) > 5
    segmenter.delay_s = 0


# -- who may ask ------------------------------------------------------------------------------------------------------


def basic(user, password, encoding="utf-8"):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode(encoding)).decode()}


def test_without_credentials_set_everything_is_open_but_secret_paths(make):
    assert make().get("/jobs").status_code == 200
    assert make().get("/k/anything/jobs").status_code == 401


@pytest.mark.parametrize("route", ["/", "/versions", "/jobs", "/metrics", "/nothing"])
def test_every_route_but_health_wants_a_credential(make, route):
    client = make(webhook_secret=SECRET, basic_auth_user="Zoë", basic_auth_pass="pÄss:wörd")
    assert client.get("/health").status_code == 200
    good = {200, 404}
    assert client.get(route).status_code == 401
    assert client.get(f"/k/{SECRET}{route}").status_code in good
    assert client.get(route, headers={"X-Calico-Secret": SECRET}).status_code in good
    assert client.get(route, headers=basic("Zoë", "pÄss:wörd")).status_code in good
    assert client.get(route, headers=basic("Zoë", "pÄss:wörd", "latin-1")).status_code in good
    wrong = [basic("Zoë", "pÄss"), basic("zoë", "pÄss:wörd"), {"X-Calico-Secret": SECRET[:-1]}, basic("", "")]
    wrong += [{"Authorization": value} for value in ("Basic", "Basic é", "Basic ====", f"Bearer {SECRET}", "")]
    for headers in wrong:
        answer = client.get(route, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
    for path in (f"/k/{SECRET}x", f"/k/{SECRET[:-1]}", "/k/", "/k", f"/k/{SECRET.upper()}", "/k/%C3%A9"):
        assert client.get(path + route).status_code == 401, path


def test_the_host_can_do_everything_below_the_secret_path(make, tmp_path):
    client = make(webhook_secret=SECRET)
    below = f"/k/{SECRET}"
    assert client.get(f"{below}/health").status_code == 200
    assert client.post(f"{below}/setup", json={}).get_json() == {"model_version": "fake-1"}
    assert is_of_pair(predict(client, [pair_task(tmp_path, 1)], path=f"{below}/predict").get_json()["results"][0], 1)
    assert client.post(f"{below}/webhook", json={"action": "TASKS_CREATED"}).status_code == 201
    assert client.post("/webhook", json={"action": "TASKS_CREATED"}).status_code == 401


def test_events_are_stored_and_counted(make):
    client = make()
    for action in ("ANNOTATION_CREATED", "START_TRAINING", "SOMETHING_NEW", None):
        assert client.post("/webhook", json={"action": action, "project": {"id": 1}}).status_code == 201
    inbox = client.application.extensions["calico"].inbox
    assert inbox.counts() == {"ANNOTATION_CREATED": 1, "START_TRAINING": 1, "SOMETHING_NEW": 1, "": 1}
    assert inbox.pending("START_TRAINING") == []
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'calico_webhook_events_total{action="START_TRAINING"} 1.0' in metrics
    assert 'calico_webhook_events_total{action="other"} 2.0' in metrics


def test_an_event_that_the_database_does_not_take_is_503_and_looked_for_later(make):
    client = make(label_studio_url="http://127.0.0.1:1", label_studio_api_key="t")
    services = client.application.extensions["calico"]
    with services.inbox.database.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE events"))
    answer = client.post("/webhook", json={"action": "ANNOTATION_CREATED"})
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
    assert "no such table" in client.get("/health").get_json()["inbox"]
    assert services.reconciler._wake.is_set()


def test_large_bodies_are_refused(make):
    client = make(max_request_mb=1)
    assert client.post("/webhook", json={"action": "x" * 1_100_000}).status_code == 413
    assert client.post("/webhook", json={"action": "x" * 900_000}).status_code == 201


def test_secrets_are_blanked_in_the_log():
    record = logging.LogRecord("x", logging.INFO, "f", 1, "to %s with %s", ("http://h/k/s3cret-s3cret", "id"), None)
    Redact(["s3cret-s3cret", "id"]).filter(record)
    assert record.getMessage() == "to http://h/k/*** with id"
    record = logging.LogRecord("x", logging.INFO, "f", 1, "failed", (), (ValueError, ValueError("s3cret"), None))
    Redact([]).filter(record)
    assert record.exc_info is None


# -- as it is served --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(make):
    """Serves an app under waitress on loopback; gives the port."""
    servers = []

    def serve(*arguments, threads=16, **settings):
        client = make(*arguments, threads=threads, **settings)
        limit = client.application.config["MAX_CONTENT_LENGTH"]
        server = create_server(
            client.application, host="127.0.0.1", port=0, threads=threads, max_request_body_size=limit
        )
        threading.Thread(target=server.run, daemon=True).start()
        servers.append(server)
        return server.effective_port, client.application.extensions["calico"]

    yield serve
    for server in servers:
        server.trigger.pull_trigger(server.close)  # in its own thread: another would close what it is waiting on


def run_backend(**environment):
    """`python -m backend` as it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "backend"],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "part"),
    [({"CALICO_PORT": "ninety"}, "CALICO_PORT: expected"), ({"CALICO_HOST": "0.0.0.0"}, "refusing to listen")],
)
def test_a_wrong_setting_ends_the_start_with_a_line(environment, part):
    ended = run_backend(**environment)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert part in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_taken_port_is_named(served, tmp_path):
    port, _ = served()
    ended = run_backend(CALICO_PORT=str(port), CALICO_DATA_DIR=str(tmp_path))
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "choose another port" in ended.stderr


def test_a_body_of_100_mb_is_refused_before_it_is_read(served):
    port, _ = served()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(100_000_000))
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_two_clients_200_mixed_requests_each(served, tmp_path):
    """No answer carries another group's image, the queue stays bounded, and /health answers meanwhile."""
    segmenter = FakeSegmenter(delay_s=0.001)
    port, services = served(segmenter, queue_size=50)
    tasks = {task: pair_task(tmp_path, task) for task in range(30)}
    wrong: list[str] = []
    empty: list[bool] = []
    depths: list[int] = []
    health: list[float] = []
    predictions: list[float] = []
    done = threading.Event()

    def ask(seed):
        choose = random.Random(seed)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for _ in range(200):
                kind = choose.choice(["single", "batch", "click", "setup", "webhook"])
                ids = choose.sample(sorted(tasks), 4 if kind == "batch" else 1)
                if kind in ("single", "batch"):
                    started = time.perf_counter()
                    results = predict(client, [tasks[i] for i in ids]).json()["results"]
                    predictions.append(time.perf_counter() - started)
                    found = zip(ids, results, strict=True)  # [] for what the other client is being given
                    wrong.extend(kind for i, entry in found if not (entry == [] or is_of_pair(entry, i)))
                    empty.extend(entry == [] for entry in results)
                elif kind == "click":
                    x = choose.randrange(10, 90)
                    (entry,) = predict(client, [tasks[ids[0]]], context={"result": [keypoint(x, 50)]}).json()["results"]
                    mask = masks_of(entry)["img2", None, "common part"]
                    wrong.extend([] if mask[13, int(x * 32 / 100)] and mask.sum() <= 25 else [kind])
                elif client.post(f"/{kind}", json={"action": "A"}).status_code >= 300:
                    wrong.append(kind)
                depths.append(services.predictor._groups.depth)

    def watch():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            while not done.wait(0.02):
                started = time.perf_counter()
                assert client.get("/health").status_code == 200
                health.append(time.perf_counter() - started)

    watcher = threading.Thread(target=watch)
    clients = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    for thread in [watcher, *clients]:
        thread.start()
    for thread in clients:
        thread.join(120)
    done.set()
    watcher.join(10)
    assert not wrong
    assert np.mean(empty) < 0.5
    assert segmenter.most_running == 1
    assert len(depths) == 400
    assert max(depths) <= 50
    assert len(health) > 10
    assert np.median(health) < np.median(predictions), "it does not wait behind them"


def test_two_clients_12_requests_each_with_the_real_model(served, tmp_path):
    """Side by side, every answer is the one that is given alone."""
    if not (EMBEDDED / "model.safetensors").exists():
        pytest.skip(f"{EMBEDDED} has no weights: train a checkpoint first")
    from calico.inference.segmenter import CoSegmenter

    segmenter = CoSegmenter.from_checkpoint(device="cpu")
    tasks = []
    for task, name in enumerate(["chair", "mug"]):
        data = {}
        for i in (1, 2):
            path = tmp_path / f"{name}{i}.png"
            path.write_bytes(png(draw(10 * task + i, size_hw=(96, 128), object_name=name).image))
            data[f"image{i}"] = str(path)
        tasks.append({"id": task, "data": data})
    clicks = [{"result": [keypoint(x, 50, original_width=128, original_height=96)]} for x in (30, 60)]
    requests = [([task], None) for task in tasks] + [([task], click) for task in tasks for click in clicks]
    port, _ = served(segmenter, result_cache_mb=0)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        expected = [predict(client, tasks, context=context).json() for tasks, context in requests]
    assert all(len(answer["results"]) == len(tasks) for answer, (tasks, _) in zip(expected, requests, strict=True))
    wrong: list[int] = []

    def ask(seed):
        choose = random.Random(seed)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            for _ in range(12):
                number = choose.randrange(len(requests))
                tasks, context = requests[number]
                is_given_elsewhere = [{"results": [[]]}] if context is None else []
                if predict(client, tasks, context=context).json() not in (expected[number], *is_given_elsewhere):
                    wrong.append(number)

    clients = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(300)
    assert not wrong
