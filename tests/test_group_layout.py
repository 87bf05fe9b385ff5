"""Labels that are the group's own part names: what a task brings, what it is shown with, and what is read back."""

from __future__ import annotations

import copy
import json

import httpx
import numpy as np
import pytest
from old_layouts import write_old_config
from test_annotation_codec import as_saved_by_the_editor, same
from test_prediction_codec import SIZES, group

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config, write_config
from backend.codecs.palette import COLORS, OBJECT_COLOR
from backend.codecs.parts import COMMON_MARK, UNIQUE_MARK, Vocabulary, parts_of, unknown_parts, with_parts
from backend.codecs.prediction import encode_prediction
from backend.codecs.task_data import task_of
from backend.host.client import LabelStudioClient
from backend.prediction.project_parts import ProjectParts
from backend.project.upgrade import upgrade_project
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.values import CoSegmentation, NamedMask, RegionKey

CONFIGS = {
    "side by side": write_config(3),
    "a page each": write_config(layout="B"),
    "with arrows": write_config(3, arrows=True),
    "long vocabulary": write_config(
        3,
        labels=[
            "chair",
            "ottoman",
            *(f"{o}:{p}" for o in ("chair", "ottoman") for p in ("leg", "knob", "cushion", "arm", "seat", "back")),
        ],
    ),
}


def labels_of(coseg, config, known=None):
    return {"parts": parts_of(coseg, config, known or Vocabulary())}


@pytest.mark.parametrize("name", CONFIGS)
def test_there_and_back(name):
    """Holes, 3-pixel-wide parts, several pieces, one pixel, a whole image of ones: every mask at IoU 1.0."""
    config, truth = read_config(CONFIGS[name]), group(3)
    data = labels_of(truth, config)
    encoded = encode_prediction(truth, config, model_version="v1", task_id=7, task_data=data)
    assert encoded.problems == ()
    rows = encoded.prediction["result"]
    assert not [row for row in rows if row["type"] == "textarea"]
    assert bool([row for row in rows if row["type"] == "relation"]) == (name == "with arrows")
    for saved in (rows, as_saved_by_the_editor(rows)):
        decoded = decode_annotation({"result": saved}, config, SIZES, task_data=data)
        same(decoded.cosegmentation, truth)
        assert decoded.problems == ()


def test_a_name_has_one_key_and_the_mark_of_what_it_is_in_the_group():
    """The mark follows the names; a name that no image shows any more has none; text in names is no markup."""
    config, mask = read_config(write_config(2)), np.ones((4, 4), bool)
    names = [(0, None), (1, None), (0, "leg"), (1, "leg"), (0, "<i>")]
    found = co_segmentation([(4, 4)] * 2, [NamedMask(image, "chair", part, mask) for image, part in names])
    labels = {item["value"]: item for item in with_parts({}, found, config, Vocabulary())["parts"]}
    assert {value: item["hotkey"] for value, item in labels.items()} == {
        "leg": "1", "<i>": "2", "chair": "3", "other part": "0"
    }  # fmt: skip
    assert labels["leg"]["html"].endswith(f">{COMMON_MARK}</small>")
    assert labels["<i>"]["html"] == f'&lt;i&gt; <small title="unique">{UNIQUE_MARK}</small>'
    assert "html" not in labels["chair"]
    without = co_segmentation([(4, 4)] * 2, [NamedMask(image, "chair", part, mask) for image, part in names[:2]])
    again = with_parts({"parts": list(labels.values())}, without, config, Vocabulary())["parts"]
    assert [item["value"] for item in again if "html" in item] == []
    many = co_segmentation([(4, 4)] * 2, [NamedMask(0, "chair", f"part {n}", mask) for n in range(12)])
    keys = "".join(item["hotkey"] for item in with_parts({}, many, config, Vocabulary())["parts"])
    assert len(set(keys)) == len(keys) == 14
    assert not set(keys) & set("behkmoprvuw"), "keys of the editor's tools"


def test_labels_are_objects_then_parts_then_other():
    labels = labels_of(group(3), read_config(write_config(3)))["parts"]
    assert [(item["value"], item["hint"]) for item in labels] == [
        ("chair", "object"),
        ("ottoman", "object"),
        ("leg", "part"),
        ("cushion", "part"),
        ("knob", "part"),
        ("other part", "other part"),
    ]
    assert [item["background"] for item in labels] == [OBJECT_COLOR] * 2 + [*COLORS[:3], labels[-1]["background"]]


def test_colours_and_names_of_other_tasks_are_kept():
    config, known = read_config(write_config(3)), Vocabulary()
    known.learn_from([{"value": "leg", "background": COLORS[4], "hint": "part", "of": "chair"}])
    known.learn_from([{"value": "armrest", "background": COLORS[0], "hint": "part", "of": "chair"}])
    color_of = {item["value"]: item["background"] for item in labels_of(group(3), config, known)["parts"]}
    assert (color_of["leg"], color_of["armrest"]) == (COLORS[4], COLORS[0])
    assert color_of["cushion"] == COLORS[1]


def test_a_new_prediction_keeps_the_names_that_a_task_has():
    config, known = read_config(write_config(2)), Vocabulary()
    first = with_parts({"image1": "a"}, group(), config, known)
    regions = tuple(region for region in group().regions if region.name != "knob")
    again = with_parts(first, CoSegmentation(SIZES[:2], regions), config, known)
    assert [item["value"] for item in again["parts"]] == ["chair", "ottoman", "leg", "cushion", "knob", "other part"]
    fresh = with_parts({"parts": unknown_parts()}, group(), config, known)
    assert "object" not in [item["value"] for item in fresh["parts"]]


def test_a_part_that_is_called_like_an_object():
    masks = [NamedMask(0, "head", None, np.ones((4, 4), bool)), NamedMask(1, "doll", "head", np.eye(4, dtype=bool))]
    coseg = co_segmentation([(4, 4)] * 2, [*masks, NamedMask(1, "doll", None, np.ones((4, 4), bool))])
    config = read_config(write_config(2))
    data = labels_of(coseg, config)
    assert "head (part)" in [item["value"] for item in data["parts"]]
    rows = encode_prediction(coseg, config, model_version="v1", task_data=data).prediction["result"]
    assert set(decode_annotation(rows, config, task_data=data).cosegmentation.by_key) == set(coseg.by_key)


def test_names_that_the_task_does_not_bring_are_typed_beside_other_part():
    config, data = read_config(write_config(2)), {"parts": unknown_parts()}
    encoded = encode_prediction(group(), config, model_version="v1", task_data=data)
    texts = [row["value"]["text"] for row in encoded.prediction["result"] if row["type"] == "textarea"]
    assert texts == [["leg"], ["knob"], ["leg"], ["cushion"]]
    same(decode_annotation(encoded.prediction, config, task_data=data).cosegmentation, group())


def test_an_annotator_renames_by_a_click_or_by_typing():
    config = read_config(write_config(2))
    data = labels_of(group(), config)
    rows = encode_prediction(group(), config, model_version="v1", task_data=data).prediction["result"]
    knob = next(row for row in rows if row["value"].get("labels") == ["knob"])
    renamed = copy.deepcopy(rows)
    next(row for row in renamed if row == knob)["value"]["labels"] = ["cushion"]
    found = decode_annotation(renamed, config, task_data=data).cosegmentation.by_key
    assert RegionKey(1, "part", "knob") not in found
    typed = copy.deepcopy(rows)
    next(row for row in typed if row == knob)["value"]["labels"] = ["other part"]
    decoded = decode_annotation(typed, config, task_data=data)
    assert [problem.code for problem in decoded.problems] == ["unreadable_region"]
    typed.append({**knob, "from_name": "name2", "type": "textarea", "value": {"text": ["Button"]}})
    assert RegionKey(1, "part", "button") in decode_annotation(typed, config, task_data=data).cosegmentation.by_key


class Host:
    """Tasks, predictions and one project, in memory."""

    def __init__(self, config: str, tasks: dict[int, dict]) -> None:
        self.project = {"id": 1, "title": "x", "label_config": config, "task_number": len(tasks)}
        self.tasks = tasks
        self.deleted: list[int] = []
        self.created: list[dict] = []
        self.order: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"null")
        if request.method != "GET":
            self.order.append(f"{request.method} {path}")
        if path == "/api/projects/1/":
            self.project |= body or {}
            return httpx.Response(200, json=self.project)
        if path == "/api/tasks/":
            query = json.loads(request.url.params["query"])
            after = query["filters"]["items"][0]["value"]
            wanted = [task for number, task in self.tasks.items() if number > after]
            if any("annotations" in item["filter"] for item in query["filters"]["items"]):
                wanted = [task for task in wanted if task.get("annotations")]
            return httpx.Response(200, json={"tasks": wanted})
        if path.startswith("/api/tasks/"):
            task = self.tasks[int(path.split("/")[3])]
            task |= body or {}
            return httpx.Response(200, json=task)
        if request.method == "DELETE":
            self.deleted.append(int(path.split("/")[3]))
            return httpx.Response(204)
        self.created.append(body)
        return httpx.Response(201, json=body)


def client_of(host: Host) -> LabelStudioClient:
    return LabelStudioClient("http://host", "t" * 40, transport=httpx.MockTransport(host))


def old_project(*, labels=None, annotated=0) -> Host:
    xml = write_old_config(2, labels=labels)
    result = encode_prediction(group(), read_config(xml), model_version="v1", task_id=5).prediction["result"]
    prediction = {"id": 9, "model_version": "v1", "score": 0.6, "result": result}
    task = {"id": 5, "data": {"image1": "a", "image2": "b"}, "predictions": [prediction]}
    host = Host(xml, {5: task, 6: {"id": 6, "data": {"image1": "c", "image2": "d"}, "predictions": []}})
    host.project["num_tasks_with_annotations"] = annotated
    return host


@pytest.mark.parametrize(
    "labels", [None, ["chair", "ottoman", *(f"chair:{i}" for i in range(12)), "leg", "knob", "cushion"]]
)
def test_an_old_project_is_upgraded(labels):
    host = old_project(labels=labels)
    with client_of(host) as client:
        assert upgrade_project(client, 1, dry_run=True).predictions == 1
        assert host.order == []
        done = upgrade_project(client, 1)
    assert (done.tasks, done.predictions, done.unreadable) == (2, 1, 0)
    config = read_config(host.project["label_config"])
    assert config.vocabulary == "group"
    assert [call for call in host.order if "predictions" not in call][-1] == "PATCH /api/projects/1/", "tasks first"
    (made,) = host.created
    assert (made["task"], made["model_version"], made["score"], host.deleted) == (5, "v1", 0.6, [9])
    same(decode_annotation(made, config, task_data=host.tasks[5]["data"]).cosegmentation, group())
    scores = sorted(row["score"] for row in made["result"] if "score" in row)
    assert scores == [0.25, 0.5, 0.75, 0.75, 0.9, 0.9]
    assert host.tasks[6]["data"]["parts"][-1]["value"] == ("other part" if labels is None else "object")


def test_an_annotated_project_is_not_upgraded():
    host = old_project(annotated=3)
    with client_of(host) as client, pytest.raises(InputError, match="3 tasks have annotations"):
        upgrade_project(client, 1)
    assert host.order == []


def test_what_is_predicted_gives_a_task_its_labels():
    """Names of other tasks and what annotators typed are offered; the host is told once."""
    xml = write_config(2)
    config = read_config(xml)
    data = {**task_of(["a", "b"], "A")["data"]}
    rows = encode_prediction(group(), config, model_version="v1", task_data=data).prediction["result"]
    next(row for row in rows if row["type"] == "textarea" and row["to_name"] == "img1")["value"]["text"] = ["castor"]
    host = Host(xml, {5: {"id": 5, "data": data}, 6: {"id": 6, "data": dict(data), "annotations": [{"result": rows}]}})
    with client_of(host) as client:
        parts = ProjectParts(client, 1)
        fitted = parts.fit(5, data, group(), config)
        assert parts.fit(5, fitted, group(), config) == fitted
    assert host.order == ["PATCH /api/tasks/5/"]
    assert host.tasks[5]["data"] == fitted
    assert [item["value"] for item in fitted["parts"]] == [
        "chair",
        "ottoman",
        "leg",
        "cushion",
        "knob",
        "castor",
        "other part",
    ]


def test_a_group_is_offered_what_the_one_before_it_shows():
    xml = write_config(2)
    config = read_config(xml)
    data = task_of(["a", "b"], "A")["data"]
    host = Host(xml, {number: {"id": number, "data": dict(data)} for number in (5, 6)})
    whole = group()
    one = next(region for region in whole.regions if region.part_name is not None)
    less = co_segmentation(
        whole.sizes_hw,
        [
            NamedMask(r.image, r.object_name, r.part_name, r.mask, r.score)
            for r in whole.regions
            if r.part_name != one.part_name
        ],
    )
    with client_of(host) as client:
        parts = ProjectParts(client, 1)
        parts.fit(5, data, whole, config)
        offered = parts.fit(6, data, less, config)["parts"]
    assert {"value": one.part_name, "of": one.object_name}.items() <= next(
        item for item in offered if item["value"] == one.part_name
    ).items()
