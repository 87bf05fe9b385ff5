"""Exports, tasks and annotators as people reported them elsewhere, through the verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_fakes import PAIR_XML
from PIL import Image

from backend.codecs.brush_rle import encode
from scripts import export_coco, feedback

REPORTS = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "reports"
MASK = np.zeros((48, 64), np.bool_)
MASK[8:40, 10:50] = True


def reported(case: str) -> Path:
    path = REPORTS / case
    if not path.exists():
        pytest.skip("the collection of reported files is not beside the repository")
    return path


def task(number: Any, first: str = "a.png", second: str = "b.png", **more: Any) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for image in (1, 2):
        base = {"id": f"r{image}", "to_name": f"img{image}", "original_width": 64, "original_height": 48}
        value = {"format": "rle", "rle": encode(MASK), "brushlabels": ["object"]}
        rows.append({**base, "from_name": f"brush{image}", "type": "brushlabels", "origin": "manual", "value": value})
        rows.append({**base, "from_name": f"name{image}", "type": "textarea", "value": {"text": ["chair"]}})
    annotation = {"id": 100, "completed_by": 1, "result": rows, **more}
    found = {"data": {"image1": first, "image2": second}, "annotations": [annotation]}
    return found if number is None else {"id": number, **found}


def exported(folder: Path, tasks: list[Any], *options: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Exit code, report, COCO file of `calico export_coco`."""
    (folder / "tasks.json").write_text(json.dumps(tasks))
    (folder / "config.xml").write_text(PAIR_XML, encoding="utf-8-sig")
    arguments = [
        str(folder / "out.json"),
        "--tasks",
        str(folder / "tasks.json"),
        "--config",
        str(folder / "config.xml"),
    ]
    code = export_coco.main([*arguments, "--json", str(folder / "report.json"), *options])
    return code, json.loads((folder / "report.json").read_text()), json.loads((folder / "out.json").read_text())


def photos(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        (folder / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / "photos" / name)
    return folder / "photos"


@pytest.mark.parametrize("address", ["http://[foo]/a.png", "https://h.example:port]/a.png"])
def test_an_address_that_cannot_be_split_costs_its_task(tmp_path: Path, address: str) -> None:
    tasks = [task(1), task(2, address), task(3)]
    code, report, coco = exported(tmp_path, tasks, "--images", str(photos(tmp_path)))
    assert code == 0
    assert report["skipped"]["counts"] == {"unreadable_task": 1} or report["tasks_exported"] == 3
    assert {row["group_id"] for row in coco["images"]} >= {1, 3}


def test_a_name_that_is_too_long_costs_its_image(tmp_path: Path) -> None:
    tasks = [task(1, "x" * 300 + ".png"), task(2)]
    code, report, coco = exported(tmp_path, tasks, "--images", str(photos(tmp_path)))
    assert code == 0
    assert report["unread"] == 1
    assert len(coco["images"]) == 4


def test_keys_of_buckets_are_kept_whole(tmp_path: Path) -> None:
    tasks = [task(1, "s3://bucket/set a/part #1.png", " s3://bucket/what?.png")]
    _, _, coco = exported(tmp_path, tasks, "--no-images")
    assert [row["file_name"] for row in coco["images"]] == ["set a/part #1.png", "what?.png"]


def test_tasks_without_a_number_take_none_of_another(tmp_path: Path) -> None:
    tasks = [task(None), task(1), task("6f1e"), task("2"), task(1)]
    _, report, coco = exported(tmp_path, tasks, "--no-images")
    assert report["tasks_exported"] == 4
    assert report["skipped"]["counts"] == {"duplicate_task": 1}, "of the two that really have one id"
    numbers = {row["group_id"] for row in coco["images"]}
    assert len(numbers) == 4
    assert numbers >= {1, 2}
    assert len({row["id"] for row in coco["annotations"]}) == 8
    assert max(row["id"] for row in coco["annotations"]) < 2**53


def test_a_purge_by_e_mail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path)
    paths = [str(folder / name) for name in ("a.png", "b.png")]
    tasks = [
        task(number, *paths, completed_by=who)
        for number, who in ((1, {"email": "Ann@example.org"}), (2, {"email": "bob@example.org"}))
    ]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    (tmp_path / "config.xml").write_text(PAIR_XML)
    out = ["--out", str(tmp_path / "snap")]
    source = [
        "--export",
        str(tmp_path / "tasks.json"),
        "--labeling-config",
        str(tmp_path / "config.xml"),
        "--no-images",
    ]
    assert feedback.main([*source, *out]) == 0
    assert feedback.main([*out, "--purge-annotator", "ann@example.org"]) == 0
    assert "1 groups taken out" in capsys.readouterr().out
    assert feedback.main([*out, "--purge-annotator", "ann@example.org"]) == 1, "nothing of theirs is left"
    assert "nothing of these annotators" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "exported_tasks"),
    [
        ("00_control/control", 1),
        ("09_bucket_prefix_quoting/export_bad_ipv6", 2),
        ("43_ids_of_tasks/first_without_id_then_id_1", 3),
        ("43_ids_of_tasks/uuid_ids", 2),
        ("44_boxes_of_negative_size/negative_box", 1),
        ("10_two_brush_controls/annotated", 1),
    ],
)
def test_reported_exports(case: str, exported_tasks: int, tmp_path: Path) -> None:
    path = reported(case + ".json")
    config = path.with_suffix(".xml") if path.with_suffix(".xml").exists() else path.with_name("c.xml")
    arguments = [str(tmp_path / "out.json"), "--tasks", str(path), "--config", str(config)]
    report = tmp_path / "report.json"
    assert export_coco.main([*arguments, "--no-images", "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["tasks_exported"] == exported_tasks, told["skipped"]
