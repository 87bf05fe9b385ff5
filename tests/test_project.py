"""`calico project`: configs that read back, tasks that they understand, and a doctor that finds what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from backend_fakes import FakeSegmenter, picture, png
from live_backend import LiveBackend, annotate, make_project
from old_layouts import write_old_config as write_config

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config, task_images
from backend.codecs.prediction import encode_prediction
from backend.codecs.task_data import task_address, task_of
from backend.demo.label_studio import LabelStudioHost
from backend.host.client import LabelStudioClient
from backend.project.backend_client import BackendClient
from backend.project.doctor import Check, examine_project
from backend.settings import Settings
from calico.checkpoints.card import knows
from calico.errors import InputError
from calico.values import ImageGroup
from scripts import project

# -- config ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "layout", "num_images", "vocabulary"),
    [
        (["--images", "2"], "A", 2, "group"),
        (["--images", "3", "--no-smart"], "A", 3, "group"),
        (["--layout", "B", "--names", "text"], "B", None, "open"),
        (["--images", "4", "--geometry", "polygon"], "A", 4, "group"),
    ],
)
def test_configs_read_back(
    options: list[str], layout: str, num_images: int | None, vocabulary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.main(["config", *options]) == 0
    config = read_config(capsys.readouterr().out)
    assert (config.layout, config.num_images, config.vocabulary) == (layout, num_images, vocabulary)
    assert (config.images[0].smart_keypoint is not None) != ("--no-smart" in options)


def test_a_list_of_labels_is_a_fixed_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("chair\nleg\n\nchair back\n", encoding="utf-8-sig")  # as Windows saves it
    out = tmp_path / "config.xml"
    assert project.main(["config", "--images", "2", "--labels", str(tmp_path / "names.txt"), "--out", str(out)]) == 0
    config = read_config(out.read_text())
    assert config.vocabulary == "fixed"
    assert {"chair", "leg", "chair back"} <= {label.value for label in config.labels}
    assert not any("\ufeff" in label.value for label in config.labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --images K"),
        (["--images", "9"], "shows 2 to 8 images, got 9"),
        (["--images", "2", "--labels", "nowhere.txt"], "nowhere.txt: not readable"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.main(["config", *options]) == 2
    assert message in capsys.readouterr().err


# -- groups ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders of two, one of one."""
    folder = tmp_path / "photos"
    for i, name in enumerate(("cars/a 1.png", "cars/a 2.png", "birds/b_1.png", "birds/b_2.png", "odd/c_1.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(picture(i)))
    return folder


def groups(*arguments: object) -> list[dict[str, Any]]:
    out = Path(str(arguments[0])).parent / "tasks.json"
    assert project.main(["groups", *map(str, arguments), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def test_folders_become_tasks_that_the_config_understands(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = groups(photos)
    assert [task["data"]["group"] for task in tasks] == ["birds", "cars"]
    assert task_images(read_config(write_config(2)), tasks[1]["data"]) == [
        "/data/local-files/?d=photos/cars/a%201.png",
        "/data/local-files/?d=photos/cars/a%202.png",
    ]
    told = capsys.readouterr()
    assert "2 groups of 4 images, 1 left over" in told.out
    assert "odd: 1 images left" in told.err


def test_layout_b_takes_groups_of_any_size(photos: Path) -> None:
    (photos / "cars" / "a 3.png").write_bytes(png(picture(9)))
    tasks = groups(photos, "--layout", "B", "--prefix", "https://x.org/p/")
    sizes = [len(task_images(read_config(write_config(layout="B")), task["data"])) for task in tasks]
    assert sizes == [2, 3]
    assert tasks[1]["data"]["images"][0] == "https://x.org/p/cars/a%201.png"


def test_a_pattern_and_a_list_make_tasks(photos: Path) -> None:
    tasks = groups(photos, "--by", "pattern", "--pattern", r"([ab])[ _]\d\.png$")
    assert [task["data"]["group"] for task in tasks] == ["b", "a"]
    listed = photos / "list.csv"
    listed.write_text("image,group\ncars/a 1.png,x\nhttps://x.org/2.png,x\n")
    [task] = groups(listed, "--by", "column", "--document-root", photos)
    assert task["data"]["image1"] == "/data/local-files/?d=cars/a%201.png"
    assert task["data"]["image2"] == "https://x.org/2.png"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group-size", "3"], "make no group; birds: 2 images left, a group has 3"),
        (["--by", "pattern"], "needs --pattern"),
        (["--by", "column"], "needs a CSV or JSON list"),
        (["--document-root", "/nowhere"], "not below /nowhere"),
    ],
)
def test_groups_that_cannot_be_are_one_line(
    photos: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.main(["groups", str(photos), "--out", str(photos / "tasks.json"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (photos / "tasks.json").exists()


def test_sizes_that_layout_a_cannot_show_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "cars" / "a 3.png").write_bytes(png(picture(9)))
    assert project.main(["groups", str(photos), "--out", str(photos / "tasks.json")]) == 2
    assert "groups of [2, 3] images: layout A has one size" in capsys.readouterr().err


def test_addresses_keep_to_what_the_host_can_serve(tmp_path: Path) -> None:
    inside = str(tmp_path / "photos" / "ä #1.png")
    assert task_address(inside, tmp_path / "photos") == "/data/local-files/?d=photos/%C3%A4%20%231.png"
    assert task_address("s3://bucket/1.png", tmp_path) == "s3://bucket/1.png"
    with pytest.raises(InputError, match="not below"):
        task_address(str(tmp_path / "other.png"), tmp_path / "photos", prefix="https://x.org")
    with pytest.raises(InputError, match="expected A or B"):
        task_of(["a", "b"], "C")


# -- doctor ------------------------------------------------------------------------------------------------------------

BACKEND = "http://127.0.0.1:9090/k/s3cret"

Answers = dict[str, Any]


def healthy() -> Answers:
    """Path -> answer of a host and a backend where nothing is wrong; an int is a status."""
    return {
        "/api/version/": {"release": "1.23.2"},
        "/api/current-user/whoami": {"email": "ann@x.org"},
        "/api/projects/1/": {"title": "birds", "task_number": 3, "label_config": write_config(2)},
        "/api/projects/1/model-versions/": {"now-1": 2, "before-1": 1},
        "/api/ml/": [{"id": 4, "url": BACKEND, "state": "CO", "readable_state": "Connected", "error_message": None}],
        "/api/ml/4/versions": {"versions": ["now-1"]},
        "/api/webhooks/": [{"id": 1, "url": f"{BACKEND}/webhook", "is_active": True}],
        "/api/tasks/": {"tasks": [{"id": 7, "project": 1, "data": {"image1": "/data/a.png", "image2": "/data/b.png"}}]},
        "/health": {"status": "UP", "model": "ready"},
        "/setup": {"model_version": "now-1"},
        "/predict": {"results": [{"result": [{"id": "x", "type": "brushlabels"}], "score": 0.5}]},
        "/jobs": {"jobs": [{"state": "failed", "reason": "image 2: no such file"}]},
    }


def examine(answers: Answers, **settings: Any) -> dict[str, Check]:
    def answer(request: httpx.Request) -> httpx.Response:
        given = answers[request.url.path.removeprefix("/k/s3cret")]
        if isinstance(given, tuple):
            return httpx.Response(given[0], json=given[1])
        return httpx.Response(200, json=given)

    transport = httpx.MockTransport(answer)
    client = LabelStudioClient("http://studio.test", "ab" * 20, transport=transport)
    checks = examine_project(client, 1, Settings(**settings), backend=BackendClient(BACKEND, transport=transport))
    found = {check.name: check for check in checks}
    assert not any("s3cret" in check.line or "\n" in check.line for check in found.values())
    return found


def test_a_healthy_project_passes_every_check() -> None:
    found = examine(healthy())
    assert [name for name, check in found.items() if not check.ok] == []
    assert list(found) == [
        "host", "token", "project", "labels", "connection", "host > backend", "address block", "webhook", "backend",
        "versions", "it knows", "a real task", "GPU",
    ]  # fmt: skip
    assert found["versions"].detail == "2 predictions of now-1; others: 1 of before-1"
    assert found["a real task"].detail == "task 7: 1 regions predicted"


def test_large_images_and_what_the_checkpoint_knows_are_told() -> None:
    answers = healthy()
    brush = {"id": "x", "type": "brush", "value": {"rle": [0]}, "original_width": 4000, "original_height": 3000}
    answers["/predict"] = {"results": [{"result": [{**brush, "id": str(i)} for i in range(10)], "score": 0.5}]}
    answers["/health"] = {"status": "UP", "model": "ready", "knows": knows(None)}
    found = examine(answers)
    assert found["large images"].ok
    assert found["large images"].line.startswith("!   large images")
    assert "Submit takes about 32 s" in found["large images"].detail
    assert found["it knows"].detail.startswith("It knows 14 classes of drawn objects (chair, stool,")
    assert found["it knows"].detail.endswith("It does not know your photographs.")


BLOCKED = (403, {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"})


def changed(path: str, answer: Any) -> Callable[[], Answers]:
    return lambda: healthy() | {path: answer}


@pytest.mark.parametrize(
    ("make", "broken", "message"),
    [
        (changed("/api/current-user/whoami", (401, {"detail": "Invalid token."})), ["token"], "make a new one"),
        (changed("/api/projects/1/", (404, {"detail": "Not found."})), ["project"], "check the id"),
        (
            changed("/api/projects/1/", {"title": "x", "task_number": 0, "label_config": write_config(2)}),
            ["project"],
            "has no tasks",
        ),
        (
            changed("/api/projects/1/", {"title": "x", "task_number": 1, "label_config": "<View/>"}),
            ["labels"],
            "no <Image",
        ),
        (changed("/api/ml/", []), ["connection"], "has no backend"),
        (
            changed("/api/ml/", [{"id": 4, "url": BACKEND, "state": "DI", "readable_state": "Disconnected"}]),
            ["connection"],
            "Disconnected",
        ),
        (changed("/api/ml/4/versions", BLOCKED), ["host > backend", "address block"], "BANNED_SUBNETS=false"),
        (changed("/api/ml/4/versions", (500, {"error": "refused"})), ["host > backend"], "as seen from the host"),
        (changed("/api/webhooks/", []), ["webhook"], "no annotation reaches it"),
        (
            changed("/api/webhooks/", [{"id": 1, "url": f"{BACKEND}/webhook", "is_active": False}]),
            ["webhook"],
            "switched off",
        ),
        (
            changed("/health", (503, {"status": "DOWN", "model": "failed", "error": "weights: missing"})),
            ["backend"],
            "weights: missing",
        ),
        (changed("/predict", {"results": [[]]}), ["a real task"], "image 2: no such file"),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(make: Callable[[], Answers], broken: list[str], message: str) -> None:
    answers = make()
    if broken == ["backend"]:  # then the images are looked at from here
        answers["/api/tasks/"] = {"tasks": []}
    found = examine(answers)
    assert [name for name, check in found.items() if not check.ok] == broken
    assert message in found[broken[0]].detail


def test_without_a_backend_the_images_are_fetched_from_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((5, 7, 3), np.uint8)))
    data = {"image1": str(tmp_path / "a.png"), "image2": str(tmp_path / "b.png")}
    answers = healthy() | {
        "/health": (503, {"model": "failed", "error": "no weights"}),
        "/api/tasks/": {"tasks": [{"id": 7, "project": 1, "data": data}]},
    }
    assert "b.png: no such file" in examine(answers, media_roots=(tmp_path,))["a real task"].detail
    data["image2"] = data["image1"]
    assert examine(answers, media_roots=(tmp_path,))["a real task"].detail == "task 7: images of 7 x 5, 7 x 5"


def test_a_gpu_that_is_not_there_is_named() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    found = examine(healthy(), device="cuda")
    assert not found["GPU"].ok
    assert "CALICO_DEVICE=cuda" in found["GPU"].detail


def test_the_doctor_gives_the_backend_its_basic_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Backend(BackendClient):
        def __init__(self, url: str, **options: Any) -> None:
            given.append((url, options.get("auth")))
            super().__init__(url, **options)

    monkeypatch.setattr("backend.project.backend_client.BackendClient", Backend)
    monkeypatch.setattr("backend.project.doctor.examine_project", lambda *_, **__: [])
    for name, value in {"LABEL_STUDIO_URL": "http://studio.test", "LABEL_STUDIO_API_KEY": "ab" * 20}.items():
        monkeypatch.setenv(name, value)
    assert project.main(["doctor", "--project", "1", "--backend", BACKEND]) == 0
    monkeypatch.setenv("CALICO_BASIC_AUTH_USER", "ann")
    monkeypatch.setenv("CALICO_BASIC_AUTH_PASS", "pass word")
    assert project.main(["doctor", "--project", "1", "--backend", BACKEND]) == 0
    assert given == [(BACKEND, None), (BACKEND, ("ann", "pass word"))]


@pytest.mark.host
def test_the_doctor_of_a_real_project(
    label_studio: LabelStudioHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.account.token)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))
    with (
        LabelStudioClient(label_studio.url, label_studio.account.token) as client,
        LiveBackend(label_studio, tmp_path / "backend", FakeSegmenter()) as live,
    ):
        number, _ = make_project(client, label_studio, "doctor", write_config(2), [[picture(1), picture(2)]])
        client.connect_backend(number, live.url)
        assert project.main(["doctor", "--project", str(number)]) == 0
        for hook in client.webhooks(number):
            client.request("DELETE", f"api/webhooks/{hook['id']}/")
        capsys.readouterr()
        assert project.main(["doctor", "--project", str(number)]) == 1
    told = capsys.readouterr()
    assert [line.split()[1] for line in told.out.splitlines() if line.startswith("NO")] == ["webhook"]
    assert "1 of 13 checks failed" in told.err


@pytest.mark.host
def test_a_real_project_is_upgraded(
    label_studio: LabelStudioHost, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config, its tasks and its predictions, mask by mask; once somebody has annotated, it stays as it is."""
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.account.token)
    old, found = write_config(2), FakeSegmenter().segment(ImageGroup((picture(1), picture(2))))
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        groups = [[picture(1), picture(2)]] * 2
        number, tasks = make_project(client, label_studio, "upgraded", old, groups)
        rows = encode_prediction(found, read_config(old), model_version="v1", task_id=tasks[0]).prediction["result"]
        client.create_prediction(tasks[0], rows, model_version="v1", score=0.8)
        upgrade = ["upgrade", "--project", str(number)]
        assert project.main([*upgrade, "--dry-run"]) == 0
        assert "would be" in capsys.readouterr().out
        assert [item["result"] for item in client.predictions(task=tasks[0])] == [rows]
        assert project.main(upgrade) == 0, capsys.readouterr().err
        config = read_config(client.project(number)["label_config"])
        assert config.vocabulary == "group"
        for task in tasks:
            assert [item["value"] for item in client.task(task)["data"]["parts"]][-1] == "other part"
        (made,) = client.predictions(task=tasks[0])
        data = client.task(tasks[0])["data"]
        assert [item["value"] for item in data["parts"]] == ["lamp", "shade", "other part"]
        moved = decode_annotation(made, config, task_data=data).cosegmentation
        assert {key: region.mask.tolist() for key, region in moved.by_key.items()} == {
            key: region.mask.tolist() for key, region in found.by_key.items()
        }
        assert (made["model_version"], made["score"]) == ("v1", 0.8)
        assert project.main(upgrade) == 2
        assert "are its groups' own part names already" in capsys.readouterr().err

        other, (task,) = make_project(client, label_studio, "annotated", old, groups[:1])
        annotate(client, task, rows)
        assert project.main(["upgrade", "--project", str(other)]) == 2
        assert "1 tasks have annotations" in capsys.readouterr().err
        assert client.project(other)["label_config"].strip() == old.strip()
