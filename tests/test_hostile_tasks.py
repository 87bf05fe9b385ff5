"""Task data, clicks and configs that mean harm, or are broken: whoever wrote them harms nobody else's tasks."""

from __future__ import annotations

import threading
import time

import pytest
from backend_fakes import LIST_XML, PAIR_XML, FakeSegmenter, pair_task

from backend.codecs.config import read_config
from backend.http.app import create_app
from backend.media.media import image_host
from backend.prediction.interactive import MAX_PROMPTS, read_prompts
from backend.prediction.lane import Lane, Priority
from backend.prediction.predictor import config_of
from backend.settings import Settings
from calico.errors import InputError


def test_no_owner_has_more_than_its_share_of_threads():
    lane, gate, lock = Lane("test", num_threads=4, capacity=100, share=2), threading.Event(), threading.Lock()
    running, most = {"a": 0, "b": 0}, {"a": 0, "b": 0}

    def call(owner):
        with lock:
            running[owner] += 1
            most[owner] = max(most[owner], running[owner])
        gate.wait(10)
        with lock:
            running[owner] -= 1

    futures = [lane.submit(lambda: call("a"), owners=["project a", "host x"]) for _ in range(10)]
    futures += [lane.submit(lambda: call("b"), owners=["project b"]) for _ in range(10)]
    until = time.monotonic() + 10
    while sum(most.values()) < 4 and time.monotonic() < until:
        time.sleep(0.005)
    urgent = lane.submit(lambda: None, Priority.FIRST)
    gate.set()
    for future in [*futures, urgent]:
        future.result(10)
    assert most == {"a": 2, "b": 2}
    assert lane.submit(lambda: 7, owners=["project a"]).result(5) == 7
    assert not +lane._running


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("http://Slow.example:8080/a.png?x=1", "slow.example:8080"),
        ("https://user:pass@slow.example/a", "slow.example"),
        ("HTTP://slow.example", "slow.example"),
        ("/data/upload/1/a.png", "Label Studio"),
        ("s3://bucket/a.png", "Label Studio"),
        ("data:image/png;base64,AAAA", None),
        ("a/b.png", None),
        ("file:///a", None),
        ("", None),
    ],
)
def test_whose_machine_an_image_is_on(source, host):
    assert image_host(source) == host


@pytest.mark.parametrize("by", ["project", "host"])
def test_a_hanging_host_takes_no_threads_from_other_projects(tmp_path, by):
    """Its eight tasks and more hang in their downloads, in one project or in many: others' are answered at once."""
    settings = Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state", time_budget_s=8.0)
    app = create_app(settings, load=FakeSegmenter)
    services, gate = app.extensions["calico"], threading.Event()

    def hang(url, **_):
        gate.wait(20)
        raise InputError("slow")

    services.media._fetcher.get = hang

    def ask(project, tasks):
        body = {"tasks": tasks, "label_config": PAIR_XML, "project": project}
        return app.test_client().post("/predict", json=body).get_json()["results"]

    def address(number):
        host = "slow.example" if by == "host" else f"slow{number}.example"
        return f"http://{host}/{number}.png"

    slow = [{"id": n, "data": {"image1": address(n), "image2": address(n)}} for n in range(40)]
    project = "p{}".format if by == "host" else "p".format
    threads = [threading.Thread(target=ask, args=(project(n % 5), slow[n::5])) for n in range(5)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        started = time.monotonic()
        results = ask("other", [pair_task(tmp_path, task) for task in range(4)])
        assert all(results)
        assert time.monotonic() - started < 4
    finally:
        gate.set()
        for thread in threads:
            thread.join(20)
        services.inbox.close()


def test_a_config_that_cannot_be_read_is_read_once(monkeypatch):
    reads = []
    monkeypatch.setattr("backend.prediction.predictor.read_config", lambda text: reads.append(1) or read_config(text))
    for _ in range(3):
        with pytest.raises(InputError, match="not well-formed"):
            config_of("<View><Unclosed of this test")
    assert len(reads) == 1


# -- clicks ------------------------------------------------------------------------------------------------------------


def keypoint(x, y, **more):
    value = {"x": x, "y": y, "keypointlabels": ["object"]}
    return {"type": "keypointlabels", "from_name": "keypoint2", "to_name": "img2", "value": value, **more}


CONFIG = read_config(PAIR_XML)


def test_as_many_clicks_as_there_may_be_are_read_at_once():
    started = time.process_time()
    prompts = read_prompts({"result": [keypoint(1, 2)] * MAX_PROMPTS}, CONFIG)
    assert len(prompts.points_percent) == MAX_PROMPTS
    assert time.process_time() - started < 1
    for number in (MAX_PROMPTS + 1, 40_000):
        with pytest.raises(InputError, match="up to 1,000 clicks"):
            read_prompts({"result": [keypoint(1, 2)] * number}, CONFIG)


ODD = [
    [keypoint(10**400, 1)],
    [keypoint(1, -(10**400))],
    [keypoint(1e308 * 10, 1)],
    [keypoint(float("nan"), 1)],
    [keypoint([], 1)],
    [keypoint({}, 1)],
    [keypoint(1, 1, original_width=float("inf"), original_height=3)],
    [keypoint(1, 1, original_width="wide", original_height=3)],
    [keypoint(1, 1, original_width=[1], original_height=3)],
    [keypoint(1, 1, item_index="0")],
    [keypoint(1, 1, item_index=[0])],
    [keypoint(1, 1, item_index=1.5)],
    [keypoint(1, 1, to_name=["img2"])],
    [keypoint(1, 1, to_name=None)],
    [{"type": "rectanglelabels", "to_name": "img2", "value": {"x": 1, "y": 1, "width": 10**400, "height": 1}}],
    [{"type": "rectanglelabels", "to_name": "img2", "value": {"x": 1, "y": 1}}],
    [{"type": ["keypoint"], "to_name": "img2", "value": {}}],
    "keypoint",
    {"type": "keypointlabels"},
    7,
    [None],
    [[]],
]


@pytest.mark.parametrize("rows", ODD, ids=range(len(ODD)))
def test_odd_clicks_are_a_line(rows):
    with pytest.raises(InputError, match="interactive request"):
        read_prompts({"result": rows}, CONFIG)


@pytest.mark.parametrize(
    "label", [{}, {"a": 1}, [], [[]], [{}], 7, None, "object", [None, "object"], "\ud800", "a" * 10**5]
)
def test_odd_labels_of_clicks_are_answered(tmp_path, label):
    app = create_app(Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state"), load=FakeSegmenter)
    row = keypoint(50, 50)
    row["value"]["keypointlabels"] = label
    body = {"tasks": [pair_task(tmp_path, 1)], "label_config": PAIR_XML, "params": {"context": {"result": [row]}}}
    assert app.test_client().post("/predict", json=body).status_code == 200
    app.extensions["calico"].inbox.close()


@pytest.mark.parametrize("index", [-1, -2, 10**30, 2**63])
def test_a_click_on_an_image_that_is_not_there_is_refused(tmp_path, index):
    app = create_app(Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state"), load=FakeSegmenter)
    data = {"images": list(pair_task(tmp_path, 1)["data"].values())}
    row = keypoint(50, 50, to_name="img", item_index=index)
    body = {"tasks": [{"id": 1, "data": data}], "label_config": LIST_XML, "params": {"context": {"result": [row]}}}
    answer = app.test_client().post("/predict", json=body)
    assert answer.status_code == 400
    assert "of a task that has 2" in answer.get_json()["error"]
    app.extensions["calico"].inbox.close()
