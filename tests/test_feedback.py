"""Annotations -> snapshots: what is chosen, left out and said, provenance, memory, all three sources, the verb."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from backend_fakes import PAIR_XML, picture, png
from recorded import recordings

from backend.coco.task_files import UNNUMBERED
from backend.codecs.annotation import LeftOut
from backend.codecs.annotations_of_task import annotation_that_counts
from backend.codecs.brush_rle import encode
from backend.codecs.config import read_config
from backend.codecs.prediction import encode_prediction
from backend.host.client import LabelStudioClient
from backend.learning.feedback import Collector, annotator_hash, sub_tasks_without
from backend.learning.feedback_sources import AnnotatedTask, export_tasks, project_tasks
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.snapshots.before_after import before_and_after, predicted
from calico.snapshots.page import write_page
from calico.snapshots.report import feedback_report
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.values import CoSegmentation, NamedMask, RegionKey, SubTask
from scripts import feedback as verb

CONFIG = read_config(PAIR_XML)
SIZES = ((24, 32), (20, 30))


def coseg(parts: Iterable[tuple[int, str]] = ((0, "leg"), (1, "leg"), (1, "arm"))) -> CoSegmentation:
    masks = []
    for image, (height, width) in enumerate(SIZES):
        whole = np.zeros((height, width), bool)
        whole[4:18, 4:28] = True
        masks.append(NamedMask(image, "chair", None, whole))
    for image, name in parts:
        mask = np.zeros(SIZES[image], bool)
        left = {"leg": 5, "arm": 14}.get(name, 22)
        mask[6:12, left : left + 5] = True
        masks.append(NamedMask(image, "chair", name, mask))
    return co_segmentation(SIZES, masks)


def rows_of(found: CoSegmentation | None = None, task: int = 1) -> list[dict[str, Any]]:
    return encode_prediction(found or coseg(), CONFIG, model_version="v1", task_id=task).prediction["result"]


def annotation_of(number: int, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    known = {
        "id": number,
        "result": copy.deepcopy(rows),
        "was_cancelled": False,
        "ground_truth": False,
        "lead_time": 9.5,
    }
    known |= {"completed_by": 7, "updated_at": f"2026-01-01T00:00:{number % 60:02}Z", "parent_prediction": None}
    return known | more


def task_of(number: int, *annotations: dict[str, Any], predicted: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    data = {"image1": f"/data/{number}a.png", "image2": f"/data/{number}b.png"}
    predictions = [{"id": 500 + number, "model_version": "v1", "result": predicted}] if predicted is not None else []
    return {"id": number, "project": 3, "data": data, "annotations": list(annotations), "predictions": predictions}


def load(address: str, task: int | None) -> np.ndarray:
    if "gone" in address:
        raise InputError(f"{address}: 404")
    seed = sum(address.encode())
    return np.random.default_rng(seed).integers(0, 255, (*SIZES["b.png" in address], 3), dtype=np.uint8)


def collect(folder: Path, tasks: Iterable[dict[str, Any]], *, config: str = PAIR_XML, **options: Any) -> Snapshot:
    with SnapshotWriter(folder) as writer:
        Collector(writer, options.pop("load_image", load), **options).run(AnnotatedTask(t, config) for t in tasks)
        return writer.finish()


def edited(rows: list[dict[str, Any]], **names: str) -> list[dict[str, Any]]:
    """Rows with texts changed: edited(rows, leg="foot")."""
    changed = copy.deepcopy(rows)
    for row in changed:
        if row["type"] == "textarea":
            row["value"]["text"] = [names.get(text, text) for text in row["value"]["text"]]
    return changed


# -- what a group says ------------------------------------------------------------------------------------------------


def test_an_untouched_prediction_is_marked_and_a_corrected_one_tells_what_was_done(tmp_path: Path) -> None:
    rows = rows_of()
    arm = next(r["id"] for r in rows if r["type"] == "textarea" and r["value"]["text"] == ["arm"])
    corrected = [r for r in edited(rows, leg="foot") if arm not in (r.get("id"), r.get("from_id"), r.get("to_id"))]
    tasks = [
        task_of(1, annotation_of(11, rows, parent_prediction=501), predicted=rows),
        task_of(2, annotation_of(12, corrected, parent_prediction=502), predicted=rows),
        task_of(3, annotation_of(13, [row | {"origin": "manual"} for row in rows])),
    ]
    snapshot = collect(tmp_path / "s", tasks)
    groups = {group.provenance["task"]: group for group in snapshot.groups()}
    assert [groups[t].provenance["accepted_as_is"] for t in (1, 2, 3)] == [True, False, False]
    assert {row["change"] for row in groups[1].changes or ()} == {"kept"}
    told = {(row["image"], row["part"]): row["change"] for row in groups[2].changes or ()}
    assert told == {
        (0, None): "kept", (1, None): "kept", (0, "leg"): "relabelled", (1, "leg"): "relabelled", (1, "arm"): "deleted"
    }  # fmt: skip
    assert groups[3].changes is None
    source = groups[2].provenance
    assert (source["prediction"], source["model_version"], source["annotation"]) == (502, "v1", 12)
    assert (source["annotator"], source["lead_time_s"]) == (annotator_hash({"id": 7, "email": "a@b.c"}), 9.5)
    assert groups[2].target.by_key[RegionKey(1, "part", "foot")].correspondence == (0, 1)
    assert snapshot.manifest["accepted_as_is"] == 1
    report = feedback_report(snapshot.records())
    assert report["by_version"]["v1"]["name_accuracy"] == pytest.approx(7 / 9)
    assert report["regions"] == {"untouched": 7, "of_untouched_groups": 5, "corrected": 3, "added": 0}

    for task in (1, 2):  # what was predicted can be shown again, whatever was done to it
        before = predicted(groups[task])
        assert before is not None
        masks = {key: region.mask for key, region in coseg().by_key.items()}
        assert before.by_key.keys() == masks.keys()
        assert all((region.mask == masks[key]).all() for key, region in before.by_key.items())
    assert predicted(groups[3]) is None
    pictures = before_and_after(snapshot, [group.id for group in groups.values()])
    assert pictures.keys() == {groups[1].id, groups[2].id}
    write_page(tmp_path / "page.html", report, pictures, host_url="http://studio.test")
    page = (tmp_path / "page.html").read_text()
    assert "3 regions corrected, 0 added, 7 left untouched" in page
    assert f'<a href="http://studio.test/projects/{groups[2].id.replace("/", "/data?task=")}">' in page
    assert page.count("data:image/jpeg") == 2 * 2 * 2  # two groups, among the best and the worst, before and after


def test_a_redrawn_mask_is_edited_with_its_iou_and_a_stale_label_is_counted(tmp_path: Path) -> None:
    rows = rows_of()
    smaller = coseg().by_key[RegionKey(1, "part", "arm")].mask.copy()
    smaller[6:9] = False
    changed = edited(rows, arm="leg ")
    masks = [NamedMask(1, "chair", "arm", smaller), NamedMask(1, "chair", None, smaller)]
    redrawn = next(
        r["value"]["rle"]
        for r in rows_of(co_segmentation(SIZES, masks))
        if r["type"] == "brushlabels" and r["value"]["brushlabels"] != ["object"]
    )
    arm = next(r["id"] for r in rows if r["type"] == "textarea" and r["value"]["text"] == ["arm"])
    for row in changed:
        if row.get("id") == arm and row["type"] == "brushlabels":
            row["value"]["rle"] = redrawn  # still labelled `unique part`, but named as the common leg
    leg = next(
        r["id"] for r in rows if r["type"] == "textarea" and r["value"]["text"] == ["leg"] and r["to_name"] == "img2"
    )
    changed = [r for r in changed if leg not in (r.get("id"), r.get("from_id"), r.get("to_id"))]
    task = task_of(1, annotation_of(11, changed, parent_prediction=501), predicted=rows)
    snapshot = collect(tmp_path / "s", [task])
    [group] = snapshot.groups()
    [arm_row] = [r for r in group.changes or () if r["part"] == "arm"]
    figures = ("change", "iou", "is_name_right", "is_occurrence_right")
    assert tuple(arm_row[name] for name in figures) == (
        "edited",
        0.5,
        False,
        False,
    )
    assert snapshot.manifest["problems"] == {"occurrence_disagrees": 1}


def test_a_prediction_that_was_replaced_is_told_by_origin(tmp_path: Path) -> None:
    rows = rows_of()
    moved = copy.deepcopy(rows)
    moved[0]["origin"] = "prediction-changed"
    tasks = [task_of(n, annotation_of(n, r, parent_prediction=999)) for n, r in ((1, rows), (2, moved))]
    tasks.append(task_of(3, annotation_of(3, rows)))  # the host forgets the parent with the prediction
    found = {g.provenance["task"]: g for g in collect(tmp_path / "s", tasks).groups()}
    assert [found[n].provenance["accepted_as_is"] for n in (1, 2, 3)] == [True, False, True]
    assert (found[1].changes, found[1].provenance["prediction"]) == (None, 999)


def test_one_annotation_counts_by_the_rule() -> None:
    rows = rows_of()
    old, new = annotation_of(1, rows), annotation_of(2, rows)
    golden = annotation_of(0, rows, ground_truth=True)
    cancelled, empty = annotation_of(9, rows, was_cancelled=True), annotation_of(8, [])
    assert annotation_that_counts([old, new]).annotation is new
    assert annotation_that_counts([old, annotation_of(2, rows, updated_at=old["updated_at"])]).annotation["id"] == 2
    chosen = annotation_that_counts([cancelled, old, golden, empty, new])
    assert chosen.annotation is golden
    assert [other.code for other in chosen.others] == ["cancelled", "empty", "superseded", "superseded"]
    assert annotation_that_counts([cancelled, empty]).annotation is None
    assert annotation_that_counts([]) == (None, [])


def test_what_is_left_out_is_counted_and_explained_by_task(tmp_path: Path) -> None:
    rows = rows_of()
    nameless = edited(rows, leg=" ")
    resized = copy.deepcopy(rows)
    for row in resized:
        if row.get("to_name") == "img1":
            row["original_width"] = 64
    no_object = [r for r in edited(rows) if r["type"] != "brushlabels" or r["value"]["brushlabels"] != ["object"]]
    for row in no_object:
        row.pop("meta", None)
    other_project = task_of(4, annotation_of(4, rows)) | {"data": {"text": "hello"}}
    gone = task_of(5, annotation_of(5, rows)) | {"data": {"image1": "/data/gone.png", "image2": "/data/b.png"}}
    tasks = [
        task_of(1, annotation_of(1, nameless)),
        task_of(2, annotation_of(2, resized)),
        task_of(3, annotation_of(3, no_object)),
        other_project,
        gone,
        task_of(6, annotation_of(6, rows, was_cancelled=True)),
        task_of(7, annotation_of(7, [])),
        task_of(8),
        task_of(9, annotation_of(9, rows)),
        task_of(9, annotation_of(9, rows)),
        task_of(10, annotation_of(10, [{"nonsense": 1}])),
        {"data": {}, "annotations": [annotation_of(11, rows)]},
        task_of(12, annotation_of(12, rows_of(coseg([(0, "leg"), (0, "foot"), (1, "leg")])))),
    ]
    snapshot = collect(tmp_path / "s", tasks)
    codes = {row["task"]: row["code"] for row in snapshot.skipped()}
    assert codes == {
        1: "unreadable_region", 2: "unreadable_region", 3: "no_object_name", 4: "other_config", 5: "image_gone",
        6: "cancelled", 7: "empty", 8: "not_annotated", 9: "twice", 10: "malformed_row", None: "no_id",
    }  # fmt: skip
    assert all(len(row["message"]) > 15 and "\n" not in row["message"] for row in snapshot.skipped())
    assert sorted(group.provenance["task"] for group in snapshot.groups()) == [9, 12]
    assert snapshot.manifest["problems"] == {}


def test_a_region_that_cannot_be_read_costs_itself_where_the_rest_is_true(tmp_path: Path) -> None:
    """`arm` is unique: the objects and common parts are whole without it, the unique parts are not."""
    tasks = [task_of(1, annotation_of(1, edited(rows_of(), arm=" "))), task_of(2, annotation_of(2, rows_of()))]
    snapshot = collect(tmp_path / "s", tasks)
    partial, whole = snapshot.groups()
    assert "arm" not in {region.part_name for region in partial.target.regions}
    assert {region.key for region in whole.target.regions} - {region.key for region in partial.target.regions} == {
        region.key for region in whole.target.regions if region.part_name == "arm"
    }
    assert partial.sub_tasks == (SubTask.COMMON_OBJECT, SubTask.COMMON_PARTS)
    assert partial.partial_images == {1}
    assert whole.sub_tasks == tuple(SubTask)
    assert not whole.partial_images
    assert snapshot.manifest["problems"] == {"unreadable_region": 1}
    assert list(snapshot.skipped()) == []


def part(image: int, name: str) -> NamedMask:
    return NamedMask(image, "chair", name, np.ones((4, 4), np.bool_))


@pytest.mark.parametrize(
    ("missing", "others", "expected"),
    [
        ((0, False, "arm", "unique"), [(1, "leg")], 2),
        ((0, False, "leg", "common"), [(1, "leg"), (0, "seat")], 0),
        ((0, False, None, "unique"), [(1, "leg")], 2),
        ((0, False, None, "common"), [(1, "leg")], 0),
        ((0, False, None, "common"), [(0, "leg"), (1, "leg")], 1),
        ((0, False, None, None), [(0, "leg"), (1, "leg"), (0, "arm")], 1),
        ((0, True, "chair", None), [(1, "leg")], 0),
        ((0, None, None, None), [(0, "leg"), (1, "leg")], 0),
    ],
)
def test_what_stays_true_without_a_region(missing: Any, others: list[Any], expected: int) -> None:
    target = co_segmentation([(4, 4)] * 2, [part(image, name) for image, name in others])
    left_out = [LeftOut("r", *missing)]
    assert sub_tasks_without(left_out, target) == tuple(SubTask)[:expected]
    assert sub_tasks_without([], target) == tuple(SubTask)


def test_an_annotator_is_one_person_however_the_export_names_them() -> None:
    assert len({annotator_hash(given) for given in (7, "7", 7.0, {"id": 7, "email": "a@b.org"})}) == 1
    by_mail = {annotator_hash(given) for given in ("Ann@Example.org ", {"email": "ann@example.org"})}
    assert len(by_mail | {annotator_hash({"email": "bob@example.org"}), annotator_hash(None)}) == 3


def test_overlapping_duplicates_are_doubtful_not_lost(tmp_path: Path) -> None:
    twice = coseg([(0, "knob"), (0, "handle"), (1, "leg")])  # both in one place
    snapshot = collect(tmp_path / "s", [task_of(1, annotation_of(1, rows_of(twice)))])
    assert snapshot.manifest["problems"] == {"overlapping_regions": 1}
    assert snapshot.manifest["num_groups"] == 1


def test_secrets_and_pictures_stay_out_of_addresses(tmp_path: Path) -> None:
    task = task_of(1, annotation_of(1, rows_of()))
    task["data"] = {
        "image1": "https://u:pw@x.test/a.png?X-Signature=secret",
        "image2": "data:image/png;base64,AAAA,b.png",
    }
    snapshot = collect(tmp_path / "s", [task])
    [record] = snapshot.records()
    assert [image["source"] for image in record["images"]] == ["https://x.test/a.png", "data:image/png;base64"]


def test_without_pictures_sizes_come_from_the_rows(tmp_path: Path) -> None:
    only_first = [r for r in rows_of() if r.get("to_name") == "img1"]
    tasks = [task_of(1, annotation_of(1, rows_of())), task_of(2, annotation_of(2, only_first))]
    snapshot = collect(tmp_path / "s", tasks, load_image=None)
    [group] = snapshot.groups()
    assert group.target.sizes_hw == SIZES
    assert snapshot.manifest["skipped"] == {"unknown_size": 1}
    with pytest.raises(InputError, match="without images"):
        [snapshot.load_images(group) for group in snapshot.groups()]


def test_held_out_groups_are_told_apart(tmp_path: Path) -> None:
    tasks = [task_of(n, annotation_of(n, rows_of())) for n in range(1, 21)]
    found = [g.provenance["held_out"] for g in collect(tmp_path / "s", tasks, holdout=0.5).groups()]
    assert 3 <= found.count(True) <= 17
    assert found.count(None) == 0
    assert {g.provenance["held_out"] for g in collect(tmp_path / "t", tasks).groups()} == {None}


def test_a_purged_annotator_is_left_out_ever_after(tmp_path: Path) -> None:
    from calico.snapshots.writer import purge

    mine, yours = annotation_of(1, rows_of(), completed_by=1), annotation_of(2, rows_of(), completed_by={"id": 2})
    tasks = [task_of(1, mine, yours), task_of(2, annotation_of(3, rows_of(), completed_by=2))]
    assert collect(tmp_path / "s", tasks).manifest["num_groups"] == 2
    assert purge(tmp_path / "s", annotators=[annotator_hash(2)]) == 2
    [group] = collect(tmp_path / "s", tasks).groups()
    assert group.provenance["annotation"] == 1


def test_memory_does_not_grow_with_the_project(tmp_path: Path) -> None:
    rows = rows_of()

    def peak(num_tasks: int, attempt: int) -> int:
        tasks = (
            task_of(n, annotation_of(n, rows, parent_prediction=500 + n), predicted=rows)
            for n in range(1, num_tasks + 1)
        )
        tracemalloc.start()
        collect(tmp_path / f"{num_tasks}-{attempt}", tasks, load_image=None)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    def grows(attempt: int) -> bool:
        """An index entry a group is kept; its masks and rows as parsed are over 20 kB."""
        return peak(70, attempt) - peak(10, attempt) >= 60 * 2500

    assert not all(grows(attempt) for attempt in range(3)), "three times: other tests' threads allocate too"


RECORDINGS = recordings()


@pytest.mark.parametrize("name", [name for name, recording in RECORDINGS.items() if recording.num_edited])
def test_recorded_edits(tmp_path: Path, name: str) -> None:
    recording = RECORDINGS[name]
    snapshot = collect(tmp_path / "s", [recording.task], config=recording.config, load_image=None)
    told = {row["code"]: row["message"] for row in snapshot.skipped()}
    changes = [row["change"] for group in snapshot.groups() for row in group.changes or ()]
    assert told or set(changes) - {"kept"}, "the editor changed something, so not all is kept"
    assert set(told) <= {"no_object_name"}, told


def test_a_region_that_was_drawn_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    rows = rows_of()
    twice = [{**row, "id": "again"} for row in rows if row.get("id") == row_id("arm")]
    snapshot = collect(tmp_path / "s", [task_of(1, annotation_of(1, [*rows, *twice]))])
    assert snapshot.manifest["problems"] == {"duplicate_region": 1}
    [group] = snapshot.groups()
    assert len(group.target.regions) == len(coseg().regions)


# -- where tasks come from --------------------------------------------------------------------------------------------


def test_a_project_resumes_where_it_was_killed_and_gives_the_same_bytes(tmp_path: Path) -> None:
    tasks = {n: task_of(n, annotation_of(n, rows_of(task=n))) for n in range(1, 61)}
    asked: list[int] = []

    def host(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/projects/3/":
            return httpx.Response(200, json={"label_config": PAIR_XML, "task_number": 60})
        items = json.loads(request.url.params["query"])["filters"]["items"]
        assert "filter:tasks:total_annotations" in {item["filter"] for item in items}
        after = next(item["value"] for item in items if item["filter"] == "filter:tasks:id")
        asked.append(after)
        page = [tasks[n] for n in sorted(tasks) if n > after][: int(request.url.params["page_size"])]
        return httpx.Response(200, json={"tasks": page})

    client = LabelStudioClient("http://studio.test", "ab" * 20, transport=httpx.MockTransport(host))

    def dying(found: Iterator[AnnotatedTask]) -> Iterator[AnnotatedTask]:
        for number, item in enumerate(found):
            if number == 55:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt), SnapshotWriter(tmp_path / "a", run=1) as writer:
        Collector(writer, None).run(dying(project_tasks(client, 3)))
    with SnapshotWriter(tmp_path / "a", run=1) as writer:
        assert (writer.position, writer.num_groups) == ({"num_tasks": 50, "task": 50}, 50)
        asked.clear()
        assert Collector(writer, None).run(project_tasks(client, 3, after=writer.position["task"])) == 60
        resumed = writer.finish()
    assert asked == [50]
    whole = collect(tmp_path / "b", tasks.values(), load_image=None)
    assert resumed.content_sha256 == whole.content_sha256
    assert resumed.manifest == whole.manifest


# -- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export of three tasks with pictures on disk, and the settings to read them."""
    for name in ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CALICO_MEDIA_ROOTS", str(tmp_path))
    tasks: list[dict[str, Any]] = []
    for number in (1, 2, 3):
        task = task_of(number, annotation_of(number, rows_of(), parent_prediction=500 + number, completed_by=number),
                       predicted=rows_of())  # fmt: skip
        for key, size in zip(("image1", "image2"), SIZES, strict=True):
            path = tmp_path / f"{number}{key}.png"
            path.write_bytes(png(picture(number * 10 + len(tasks), size_hw=size)))
            task["data"][key] = str(path)
        tasks.append(task)
    (tmp_path / "config.xml").write_text(PAIR_XML)
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    return tmp_path


def test_the_verb_from_export_to_report_and_purge(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(exported / "s")]
    source = ["--export", str(exported / "export.json"), "--labeling-config", str(exported / "config.xml"), "--report"]
    assert verb.main([*source, *out, "--json", str(exported / "told.json")]) == 0
    assert "3 groups" in capsys.readouterr().out
    told = json.loads((exported / "told.json").read_text())
    assert (told["num_tasks"], told["feedback"]["overall"]["kept"]) == (3, 15)
    assert "What the predictions were worth" in (exported / "s" / "report.html").read_text()
    first = Snapshot(exported / "s").manifest
    assert [len(Snapshot(exported / "s").load_images(g)) for g in Snapshot(exported / "s").groups()] == [2, 2, 2]
    assert verb.main([*source, *out]) == 0
    assert Snapshot(exported / "s").manifest == first
    assert verb.main([*out, "--purge-annotator", "2"]) == 0
    assert "1 groups taken out" in capsys.readouterr().out
    assert verb.main([*source, *out]) == 0
    assert Snapshot(exported / "s").manifest["num_groups"] == 2
    assert verb.main([*out, "--report"]) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "the source is empty); nothing written: submit annotations first"),
        ("", "the source is empty"),
        ('{"tasks": 1}', "no task with `data`"),
        ('[{"id": 1, "data": {}', "export it again"),
    ],
)
def test_exports_that_hold_nothing_are_refused(
    exported: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    (exported / "bad.json").write_text(content)
    source = ["--export", str(exported / "bad.json"), "--labeling-config", str(exported / "config.xml")]
    assert verb.main([*source, "--out", str(exported / "s")]) == 2
    assert says in capsys.readouterr().err
    assert not (exported / "s").exists()


def row_id(name: str) -> str:
    """Of the second image's region that has this name."""
    named = (row for row in rows_of() if row["type"] == "textarea" and row["to_name"] == "img2")
    return next(row["id"] for row in named if row["value"]["text"] == [name])


def changed(change: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """The rows of an annotation with every brush of the first image changed."""
    rows = rows_of()
    for row in rows:
        if row["type"] == "brushlabels" and row["to_name"] == "img1":
            change(row)
    return rows


def without_object() -> list[dict[str, Any]]:
    """The rows of an annotation whose first image has parts, and nothing that says of what."""
    rows = changed(lambda row: row.pop("meta", None))
    brushes = (row for row in rows if row["type"] == "brushlabels" and row["to_name"] == "img1")
    whole = next(row["id"] for row in brushes if row["value"]["brushlabels"] == ["object"])
    return [row for row in rows if whole not in (row.get("id"), row.get("from_id"), row.get("to_id"))]


WRONG_ROWS: dict[str, tuple[list[dict[str, Any]], str, list[str]]] = {
    "a region without a name": (
        edited(rows_of(), leg=" "), "unreadable_region", ["image 1", "and 1 more", "type the part's name"],
    ),
    "a name on an image without an object": (
        without_object(), "no_object_name", ["image 1", "draw an `object` region"],
    ),
    "rows of another size": (
        changed(lambda row: row.update(original_width=64)), "unreadable_region",
        ["image 1", "(24, 64)", "(24, 32)", "draw the region again"],
    ),
    "a mask of another size": (
        changed(lambda row: row["value"].update(rle=encode(np.ones((10, 10), bool)))), "unreadable_region",
        ["image 1", "400", "3072", "send the mask of the original image"],
    ),
    "regions of another project's images": (
        changed(lambda row: row.update(to_name="photo")), "unknown_image", ["'photo'", "img1, img2", "another project"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_ROWS)
def test_wrong_rows_are_reported_by_task_and_the_rest_goes_on(
    exported: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    rows, code, told = WRONG_ROWS[what]
    [row] = skipped_with(exported, lambda task: task["annotations"][0].update(result=rows))
    assert (row["task"], row["annotation"], row["code"]) == (2, 2, code)
    assert [word for word in told if word not in row["message"]] == [], row["message"]
    assert f"task 2 left out: {row['message']}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (lambda task: task.update(data={"text": "hello"}), "other_config", ["$image1", "text", "the project's config"]),
        (lambda task: Path(task["data"]["image2"]).unlink(), "image_gone", ["image 2", "2image2.png", "put it back"]),
        (lambda task: Path(task["data"]["image1"]).write_text("<html>"), "image_gone", ["image 1", "PNG or JPEG"]),
        (lambda task: task.update(annotations="none"), "unreadable", ["a list, got str", "export it again"]),
    ],
)
def test_a_wrong_task_is_reported_and_the_rest_goes_on(
    exported: Path, change: Callable[[dict[str, Any]], Any], code: str, told: list[str]
) -> None:
    [row] = skipped_with(exported, change)
    assert (row["task"], row["code"]) == (2, code)
    assert [word for word in told if word not in row["message"]] == [], row["message"]


@pytest.mark.parametrize(
    "value",
    [
        {"original_height": 10**12},
        {"original_height": 10**12, "original_width": 10**12},
        {"original_height": -5},
        {"original_height": 10**400},
        {"value": {"rle": {"a": 1}, "brushlabels": ["object"]}},
        {"value": {"rle": [[]], "brushlabels": ["object"]}},
        {"value": {"points": [[10**400, 1]] * 4, "brushlabels": ["object"]}},
        {"value": {"points": {"a": 1}, "brushlabels": ["object"]}},
        {"id": 10**400},
        {"to_name": "img1" * 10**5},
        {"image_rotation": []},
        {"meta": {"text": [[]], "names": 7}},
    ],
    ids=range(12),
)
def test_no_prediction_ends_a_run(tmp_path: Path, value: dict[str, Any]) -> None:
    """Whatever stands in a stored prediction: other tasks are collected, and memory is not taken by its word."""
    rows = rows_of()
    broken = [{**rows[0], **value}, *rows[1:]]
    tasks = [
        task_of(n, annotation_of(10 + n, rows, parent_prediction=500 + n), predicted=broken if n == 2 else rows)
        for n in (1, 2, 3)
    ]
    snapshot = collect(tmp_path / "s", tasks)
    assert {1, 3} <= {group.provenance["task"] for group in snapshot.groups()}


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("surprise\nof many lines"), RecursionError(), KeyError(7)]
)
def test_any_error_of_one_task_leaves_that_task_out(tmp_path: Path, error: Exception) -> None:
    def fail_at_2(address: str, task: int | None) -> np.ndarray:
        if task == 2:
            raise error
        return load(address, task)

    tasks = [task_of(n, annotation_of(10 + n, rows_of())) for n in (1, 2, 3)]
    snapshot = collect(tmp_path / "s", tasks, load_image=fail_at_2)
    assert [group.provenance["task"] for group in snapshot.groups()] == [1, 3]
    [row] = snapshot.skipped()
    assert (row["task"], row["code"]) == (2, "unreadable")
    assert type(error).__name__ in row["message"]
    assert "\n" not in row["message"]


def skipped_with(exported: Path, change: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """What `calico feedback --export` leaves out of the three tasks, the second one changed."""
    tasks = json.loads((exported / "export.json").read_text())
    change(tasks[1])
    (exported / "wrong.json").write_text(json.dumps(tasks))
    source = ["--export", str(exported / "wrong.json"), "--labeling-config", str(exported / "config.xml")]
    assert verb.main([*source, "--out", str(exported / "s")]) == 0
    snapshot = Snapshot(exported / "s")
    assert [group.provenance["task"] for group in snapshot.groups()] == [1, 3]
    return list(snapshot.skipped())


def test_a_config_that_cannot_hold_a_group_is_refused_once(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exported / "other.xml").write_text('<View><Text name="t" value="$text"/></View>')
    source = ["--export", str(exported / "export.json"), "--labeling-config", str(exported / "other.xml")]
    assert verb.main([*source, "--out", str(exported / "s")]) == 2
    assert "no <Image" in capsys.readouterr().err
    assert not (exported / "s").exists()


def test_the_verb_asks_for_what_it_needs(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(exported / "s")]
    for argv, says in (
        ([], "nothing to read"),
        (["--project", "3"], "LABEL_STUDIO_URL"),
        (["--export", str(exported / "export.json")], "--labeling-config"),
        (["--report"], "calico feedback"),
    ):
        assert verb.main([*argv, *out]) == 2
        assert says in capsys.readouterr().err


def test_an_export_is_read_by_the_task(exported: Path) -> None:
    assert [item.task["id"] for item in export_tasks(exported / "export.json", PAIR_XML)] == [1, 2, 3]


def test_a_task_without_a_number_takes_none_of_another(exported: Path) -> None:
    tasks = json.loads((exported / "export.json").read_text())
    for place, number in enumerate((None, 1, None, 2)):
        tasks.insert(place, {**tasks[-1], "id": number})
        if number is None:
            del tasks[place]["id"]
    path = exported / "mixed.json"
    path.write_text(json.dumps(tasks[:4]))
    numbers = [item.task["id"] for item in export_tasks(path, PAIR_XML)]
    assert numbers == [UNNUMBERED + 1, 1, 3, 2], "their place, where no other task has that number"
    source = ["--export", str(path), "--labeling-config", str(exported / "config.xml"), "--no-images"]
    assert verb.main([*source, "--out", str(exported / "s")]) == 0
    assert {group.provenance["task"] for group in Snapshot(exported / "s").groups()} == set(numbers)
