"""Against a real Label Studio: what it asks the backend, what it stores, what it tells back."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_fakes import FakeSegmenter, picture, stored_events
from live_backend import LiveBackend, annotate, make_project
from old_layouts import write_old_config as write_config

from backend.codecs.annotation import decode_annotation
from backend.codecs.brush_rle import decode
from backend.codecs.config import read_config
from backend.codecs.prediction import encode_prediction
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import HostError, LabelStudioClient
from backend.learning.inbox import RECONCILED
from backend.learning.reconcile import reconcile
from calico.checkpoints.registry import Registry
from calico.correspondence import truth_of
from calico.data.groups import evaluation_groups

pytestmark = pytest.mark.host

RED = (255, 0, 0)  # a first pixel that the fake segmenter fails at

VALIDATOR = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
given = json.load(sys.stdin)
interface = LabelInterface(given["config"])
interface.validate()
print(json.dumps([interface.validate_prediction(item, return_errors=True) for item in given["predictions"]]))
"""


@pytest.fixture(scope="module")
def client(label_studio: LabelStudioHost) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(label_studio.url, label_studio.account.token) as connected:
        yield connected


@pytest.fixture(scope="module")
def segmenter() -> FakeSegmenter:
    return FakeSegmenter()


@pytest.fixture(scope="module")
def backend(
    label_studio: LabelStudioHost, segmenter: FakeSegmenter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveBackend]:
    with LiveBackend(label_studio, tmp_path_factory.mktemp("backend"), segmenter) as live:
        yield live


def faults(host: LabelStudioHost, config: str, predictions: list[dict[str, Any]]) -> list[list[str]]:
    """What the host's own LabelInterface says against each prediction."""
    python = host.executable.parent / "python"
    given = json.dumps({"config": config, "predictions": predictions})
    done = subprocess.run([python, "-c", VALIDATOR], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


def rows_of(prediction: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in prediction["result"] if row["type"] == kind]


PAIRS = [[picture(10 * g + i, size_hw=(48 + 8 * i, 64)) for i in range(2)] for g in range(3)]


@pytest.fixture(scope="module")
def pairs(client: LabelStudioClient, label_studio: LabelStudioHost, backend: LiveBackend) -> tuple[int, list[int], str]:
    """A project of layout A with stored predictions: its id, its tasks, its config."""
    config = write_config(2, layout="A", smart=True)
    project, tasks = make_project(client, label_studio, "pairs A", config, PAIRS)
    client.connect_backend(project, backend.url, is_interactive=True)
    client.retrieve_predictions(project)
    return project, tasks, config


def test_layout_a_is_stored_as_sent(
    client: LabelStudioClient, label_studio: LabelStudioHost, pairs: tuple[int, list[int], str]
) -> None:
    _, tasks, config = pairs
    predictions = [client.predictions(task=task) for task in tasks]
    assert [len(stored) for stored in predictions] == [1, 1, 1]
    for (prediction,), group in zip(predictions, PAIRS, strict=True):
        assert prediction["model_version"] == "fake-1"
        assert 0 < prediction["score"] <= 1
        brushes = rows_of(prediction, "brushlabels")
        assert Counter((row["to_name"], *row["value"]["brushlabels"]) for row in brushes) == {
            (f"img{i}", label): 1 for i in (1, 2) for label in ("object", "common part")
        }
        for row in brushes:
            image = group[int(row["to_name"][-1]) - 1]
            height, width = image.shape[:2]
            assert (row["original_height"], row["original_width"]) == (height, width)
            expected = image[..., 1] > 127
            if row["value"]["brushlabels"] == ["common part"]:
                expected[height // 2 :] = False
            assert np.array_equal(decode(row["value"]["rle"], height, width), expected)
        ids = {row["id"] for row in brushes}
        texts = rows_of(prediction, "textarea")
        assert {row["id"] for row in texts} == ids
        assert Counter(row["value"]["text"][0] for row in texts) == {"lamp": 2, "shade": 2}
        (relation,) = rows_of(prediction, "relation")
        assert {relation["from_id"], relation["to_id"]} <= ids
    assert faults(label_studio, config, [stored for (stored,) in predictions]) == [[], [], []]


def test_layout_b_is_stored_as_sent(
    client: LabelStudioClient, label_studio: LabelStudioHost, backend: LiveBackend
) -> None:
    config = write_config(layout="B", smart=True)
    groups = [[picture(100 * k + i, size_hw=(40 + 4 * i, 64)) for i in range(k)] for k in (2, 3)]
    project, tasks = make_project(client, label_studio, "any size B", config, groups)
    client.connect_backend(project, backend.url)
    client.retrieve_predictions(project)
    predictions = [client.predictions(task=task)[0] for task in tasks]
    for prediction, group in zip(predictions, groups, strict=True):
        brushes = rows_of(prediction, "brushlabels")
        assert Counter(row["item_index"] for row in brushes) == dict.fromkeys(range(len(group)), 2)
        for row in brushes:
            height, width = group[row["item_index"]].shape[:2]
            assert (row["original_height"], row["original_width"]) == (height, width)
            assert decode(row["value"]["rle"], height, width).any()
    assert faults(label_studio, config, predictions) == [[], []]


def test_a_failing_group_leaves_the_others(
    client: LabelStudioClient, label_studio: LabelStudioHost, backend: LiveBackend
) -> None:
    groups = [[picture(7), picture(8)], [picture(7, first=RED), picture(8)], [picture(9), picture(10)]]
    project, tasks = make_project(client, label_studio, "one fails", write_config(2), groups)
    client.connect_backend(project, backend.url)
    client.retrieve_predictions(project)
    assert [len(client.predictions(task=task)) for task in tasks] == [1, 0, 1]
    (failed,) = [job for job in backend.services.jobs.as_json(limit=50)["jobs"] if job["task"] == tasks[1]]
    assert "out of memory" in json.dumps(failed)


def test_a_new_version_predicts_again_beside_the_old(
    client: LabelStudioClient, label_studio: LabelStudioHost, backend: LiveBackend, segmenter: FakeSegmenter
) -> None:
    project, tasks = make_project(client, label_studio, "versions", write_config(2), PAIRS[:2])
    client.connect_backend(project, backend.url)
    client.retrieve_predictions(project)
    client.retrieve_predictions(project)  # the same version again stores nothing
    assert client.model_versions(project) == {"fake-1": 2}
    segmenter.version = "fake-2"
    try:
        client.retrieve_predictions(project)
    finally:
        del segmenter.version
    assert client.model_versions(project) == {"fake-1": 2, "fake-2": 2}
    assert client.delete_predictions(project, model_version="fake-1") == 2
    assert [[p["model_version"] for p in client.predictions(task=task)] for task in tasks] == [["fake-2"]] * 2


def test_annotations_reach_the_inbox_with_their_prediction(
    client: LabelStudioClient, backend: LiveBackend, pairs: tuple[int, list[int], str]
) -> None:
    project, tasks, config = pairs
    (prediction,) = client.predictions(task=tasks[0])
    made = annotate(client, tasks[0], prediction["result"], parent_prediction=prediction["id"])

    def event(action: str) -> Any:
        stored = reversed(stored_events(backend.services.inbox))
        return next((item for item in stored if item.action == action and item.annotation in (made["id"], None)), None)

    created = eventually(lambda: event("ANNOTATION_CREATED"))
    [annotation] = client.annotations(tasks[0])
    assert (created.task, created.annotation_updated_at) == (tasks[0], annotation["updated_at"])
    reconcile(backend.services.inbox, client)  # other tests' projects on this host are new to this inbox, ours is not
    stored = stored_events(backend.services.inbox)
    assert [item for item in stored if (item.action, item.project) == (RECONCILED, project)] == []
    assert annotation["parent_prediction"] == prediction["id"]
    pulled = decode_annotation(annotation, read_config(config)).cosegmentation
    for i, image in enumerate(PAIRS[0]):
        (whole,) = [region for region in pulled.regions if region.image == i and region.kind == "object"]
        assert np.array_equal(whole.mask, image[..., 1] > 127)

    client.request("PATCH", f"api/annotations/{made['id']}/", json={"result": prediction["result"][:1]})
    assert eventually(lambda: event("ANNOTATION_UPDATED")).annotation == made["id"]
    client.request("DELETE", f"api/annotations/{made['id']}/")
    assert eventually(lambda: event("ANNOTATIONS_DELETED"))


def test_a_click_is_answered_on_the_clicked_image(client: LabelStudioClient, pairs: tuple[int, list[int], str]) -> None:
    project, tasks, _ = pairs
    height, width = PAIRS[1][1].shape[:2]
    click = {
        "from_name": "keypoint2",
        "to_name": "img2",
        "type": "keypointlabels",
        "original_width": width,
        "original_height": height,
        "is_positive": True,
        "value": {"x": 50.0, "y": 50.0, "width": 1.0, "keypointlabels": ["common part"]},
    }
    number = client.backends(project)[0]["id"]
    body = {"task": tasks[1], "context": {"result": [click]}}
    answer = client.request("POST", f"api/ml/{number}/interactive-annotating", json=body).json()["data"]
    (row,) = [row for row in answer["result"] if row["type"] == "brushlabels"]
    assert (row["from_name"], row["to_name"]) == ("brush2", "img2")
    mask = decode(row["value"]["rle"], height, width)
    assert mask[height // 2, width // 2]
    assert mask.sum() == 25


def test_a_personal_access_token_does_all_that_a_legacy_one_does(
    client: LabelStudioClient, label_studio: LabelStudioHost, segmenter: FakeSegmenter, tmp_path: Path
) -> None:
    token = client.request("POST", "api/token/").json()["token"]
    with (
        LabelStudioClient(label_studio.url, token) as personal,
        LiveBackend(label_studio, tmp_path, segmenter, token=token) as backend,
    ):
        assert personal.token_kind == "personal"
        project, tasks = make_project(personal, label_studio, "personal", write_config(2), PAIRS[:1])
        personal.connect_backend(project, backend.url)
        personal.retrieve_predictions(project)
        assert len(personal.predictions(task=tasks[0])) == 1
        assert [task["id"] for task in personal.tasks(project, page_size=1)] == tasks


def test_the_hosts_refusals_become_one_line(client: LabelStudioClient, label_studio: LabelStudioHost) -> None:
    def whoami(url: str) -> object:
        with LabelStudioClient(url, "0" * 40) as stranger:
            return stranger.whoami()

    for call, expected in [
        (lambda: client.project(10**6), r"answered 404.*check the id"),
        (lambda: client.create_project("broken", "<View"), r"answered 400; .*label_config"),
        (lambda: client.add_local_files(1, "/"), r"answered 400; .*subdirectory"),
        (lambda: whoami(label_studio.url), r"answered 401; Invalid token"),
        (lambda: whoami("http://127.0.0.1:9"), r"not reachable"),
    ]:
        with pytest.raises(HostError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_start_training_ends_in_a_version_that_predicts(
    client: LabelStudioClient, label_studio: LabelStudioHost, tmp_path: Path
) -> None:
    """The loop at its smallest, with the real model: corrected groups, the button, a job, a version, its predictions.

    So few groups and steps give the gate no reason to publish; then the version is published by force. Without the
    part memory, which makes versions of its own in between.
    """
    drawn = list(evaluation_groups(11, 4, 2, size=96))
    registry = Registry(tmp_path / "registry")
    with LiveBackend(
        label_studio, tmp_path / "state", None, versions=registry.folder, device="cpu", training_minutes=0.05,
        training_base_groups=1, part_memory="0",
    ) as backend:  # fmt: skip
        before = backend.services.engine.version(120)
        config = write_config(2)
        pictures = [[item.image for item in group] for group in drawn]
        project, tasks = make_project(client, label_studio, "the loop", config, pictures)
        client.connect_backend(project, backend.url)
        client.retrieve_predictions(project, tasks[:1])
        for task, group in zip(tasks, drawn, strict=True):
            truth = encode_prediction(truth_of(group), read_config(config), model_version="truth", task_id=task)
            stored = client.predictions(task=task)
            parent = {"parent_prediction": stored[0]["id"]} if stored else {}
            annotate(client, task, truth.prediction["result"], **parent)

        client.start_training(client.backends(project)[0]["id"])
        training = backend.services.training
        job = eventually(lambda: next(iter(training.as_json()), None))
        assert (job["project"], job["trigger"]) == (project, "Start training")
        eventually(lambda: training.as_json()[0]["state"] not in ("queued", "running"), 900)
        [job] = training.as_json()
        assert job["state"] == "done", job
        assert job["outcome"]["snapshot"]["num_groups"] == 4
        assert job["reason"] == job["outcome"]["reason"]
        assert label_studio.account.token not in json.dumps(training.as_json())
        [version] = registry.versions()
        assert job["outcome"]["version"] == version.id
        if not job["outcome"]["published"]:
            assert backend.services.engine.version() == before
            registry.publish(version.id, force_reason="a test of the way to the next prediction")
        assert eventually(lambda: backend.services.engine.version() == version.id, 120)
        client.retrieve_predictions(project, tasks[:1])
        assert {item["model_version"] for item in client.predictions(task=tasks[0])} == {before, version.id}
        registry.rollback()
        assert backend.services.engine.version(60) == before
