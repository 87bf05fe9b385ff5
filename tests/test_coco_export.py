"""COCO export: exact masks in every layout, in the upright frame, the same bytes every time, and readable by others."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from live_backend import annotate, make_project
from old_layouts import write_old_config as write_config
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from recorded import recordings

from backend.coco.export import CocoExporter, ExportOptions
from backend.coco.images import FolderImages
from backend.coco.task_files import choose, file_name_of, read_tasks
from backend.codecs.config import read_config
from backend.codecs.prediction import encode_prediction
from backend.host.client import LabelStudioClient
from calico.coco.orientation import upright
from calico.coco.writer import CocoWriter, read_category_ids
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import tight_box_xyxy
from calico.values import CoSegmentation, NamedMask
from scripts import export_coco, import_coco

# pycocotools' own, under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
REPEATER = """<View><Repeater on="$images" indexFlag="{{idx}}">
  <Image name="img_{{idx}}" value="$images[{{idx}}]"/>
  <BrushLabels name="brush_{{idx}}" toName="img_{{idx}}">
    <Label value="object"/><Label value="common part"/><Label value="unique part"/></BrushLabels>
  <TextArea name="name_{{idx}}" toName="img_{{idx}}" perRegion="true"/>
</Repeater></View>"""
SIZES = ((40, 64), (57, 33), (48, 48))


def ring_and_slivers(size_hw: tuple[int, int], seed: int) -> dict[str | None, np.ndarray]:
    """An object with a hole; parts: 3 pixels wide, of many pieces, of 3 pixels, of a single one."""
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    far = np.hypot(y - height / 2, x - width / 2)
    ring = (far < min(size_hw) / 2 - 2) & (far > min(size_hw) / 5)
    dots = np.zeros(size_hw, np.bool_)
    dots[2::5, 1::4] = True
    dots |= np.random.default_rng(seed).random(size_hw) < 0.03
    sliver, chip, speck = (np.zeros(size_hw, np.bool_) for _ in range(3))
    sliver[3:-3, 5:8] = True
    chip[0, 20:22] = chip[1, 20] = True
    speck[-1, -1] = True
    return {None: ring, "rim": sliver, "spots": dots, "chip": chip, f"stud {seed % 2}": speck}


def group(num_images: int = 3) -> CoSegmentation:
    masks = [
        NamedMask(image, "vase", part, mask)
        for image in range(num_images)
        for part, mask in ring_and_slivers(SIZES[image], image).items()
    ]
    return co_segmentation(SIZES[:num_images], masks)


def config_of(layout: str, geometry: str = "brush", num_images: int = 3) -> str:
    return REPEATER if layout == "C" else write_config(num_images, layout=layout, geometry=geometry)


def task_of(number: int, coseg: CoSegmentation, xml: str, folder: str = "/data/local-files/?d=x") -> dict[str, Any]:
    config = read_config(xml)
    addresses = [f"{folder}/{number}_{i}.png" for i in range(len(coseg.sizes_hw))]
    data: dict[str, Any] = {"images": addresses}
    if config.layout == "A":
        data = {f"image{i}": address for i, address in enumerate(addresses, start=1)}
    prediction = encode_prediction(coseg, config, model_version="m-1", task_id=number, task_data=data).prediction
    annotation = {"id": 10 * number, "completed_by": 3, "was_cancelled": False, "result": prediction["result"]}
    return {"id": number, "data": data, "annotations": [annotation], "predictions": [{"id": 1, **prediction}]}


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def export(folder: Path, tasks: list[dict], xml: str, *options: str, name: str = "out.json", code: int = 0) -> dict:
    """The file that the command writes, and its report under `report`."""
    arguments = ["--tasks", write(folder / "tasks.json", tasks), "--config", write(folder / "config.xml", xml)]
    arguments += ["--json", folder / "report.json", *(() if "--images" in options else ("--no-images",)), *options]
    assert export_coco.main([str(a) for a in (folder / name, *arguments)]) == code
    report = json.loads((folder / "report.json").read_text())
    return {**json.loads((folder / name).read_text()), "report": report}


def masks_of(path: Path) -> dict[tuple[int, str], np.ndarray]:
    """(image id, category) -> mask, as pycocotools reads the file."""
    coco = COCO(path)
    return {
        (row["image_id"], coco.cats[row["category_id"]]["name"]): coco.annToMask(row) > 0 for row in coco.anns.values()
    }


@pytest.mark.parametrize("layout", ["A", "B", "C"])
def test_masks_are_exact_in_every_layout(tmp_path, layout):
    coseg = group()
    out = export(tmp_path, [task_of(7, coseg, config_of(layout))], config_of(layout))
    found = masks_of(tmp_path / "out.json")
    for region in coseg.regions:
        name = "vase" if region.part_name is None else f"vase:{region.part_name}"
        assert (found.pop((701 + region.image, name)) == region.mask).all()
    assert not found
    assert [(row["height"], row["width"]) for row in out["images"]] == list(SIZES)
    assert [row["file_name"] for row in out["images"]] == [f"x/7_{i}.png" for i in range(3)]
    assert all(set(row) == {"id", "name", "supercategory"} for row in out["categories"])
    assert {row["supercategory"] for row in out["categories"]} == {"vase"}
    assert out["licenses"] == []
    assert "date_captured" not in out["images"][0]
    first = {row["id"]: row for row in out["annotations"]}
    for row in out["annotations"]:
        region = coseg.regions[0]
        assert row["iscrowd"] == 0
        assert row["group_id"] == 7
        assert row["provenance"] == {"task": 7, "annotation": 70, "annotator": 3}
        mask = COCO(tmp_path / "out.json").annToMask(row) > 0
        x0, y0, x1, y1 = tight_box_xyxy(mask)
        assert (row["bbox"], row["area"]) == ([x0, y0, x1 - x0, y1 - y0], mask.sum())
        if "part_of" in row:
            assert first[row["part_of"]]["image_id"] == row["image_id"]
        else:
            assert row["category_id"] == out["categories"][0]["id"]
    spots = [row for row in out["annotations"] if row["correspondence_id"] == "part:spots"]
    assert [row["occurrence"] for row in spots] == ["common"] * 3
    assert {row["occurrence"] for row in out["annotations"] if "stud 1" in row["correspondence_id"]} == {"unique"}


@pytest.mark.parametrize("layout", ["A", "B"])
def test_polygons_drawn_by_annotators(tmp_path, layout):
    solid = np.zeros((50, 40), np.bool_)
    solid[10:31, 5:20] = True
    solid[12:20, 20:23] = True
    masks = [NamedMask(i, "cup", name, solid) for i in range(2) for name in (None, "handle")]
    coseg = co_segmentation([(50, 40)] * 2, masks)
    xml = config_of(layout, "polygon", 2)
    export(tmp_path, [task_of(1, coseg, xml)], xml)
    assert all((mask == solid).all() for mask in masks_of(tmp_path / "out.json").values())


@pytest.mark.parametrize("tolerance", ["0", "1.5"])
def test_polygons_written_keep_holes_and_pieces(tmp_path, tolerance):
    coseg = group()
    out = export(tmp_path, [task_of(7, coseg, config_of("B"))], config_of("B"), "--polygons", tolerance)
    assert out["info"]["polygon_tolerance_px"] == float(tolerance)
    assert all(isinstance(row["segmentation"], list) for row in out["annotations"])
    found = masks_of(tmp_path / "out.json")
    for region in coseg.regions:
        mask = found[701 + region.image, "vase" if region.part_name is None else f"vase:{region.part_name}"]
        iou = (mask & region.mask).sum() / (mask | region.mask).sum()
        assert iou == 1 if tolerance == "0" else iou >= 0.98
    ring = next(row for row in out["annotations"] if "part_of" not in row)
    assert ring["area"] == next(r for r in coseg.regions if r.part_name is None).mask.sum()


def test_an_export_against_itself_has_ap_1(tmp_path):
    tasks = [task_of(number, group(), config_of("A")) for number in range(1, 4)]
    export(tmp_path, tasks, config_of("A"))
    export(tmp_path, tasks, config_of("A"), "--predictions", name="predicted.json")
    truth = COCO(tmp_path / "out.json")
    rows = json.loads((tmp_path / "predicted.json").read_text())["annotations"]
    for kind in ("segm", "bbox"):
        scoring = COCOeval(truth, truth.loadRes(rows), kind)
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
        assert scoring.stats[0] == 1.0
        if kind == "segm":  # every mask with itself, as pycocotools counts: one of each category on an image
            own = [ious for ious in scoring.ious.values() if len(ious)]
            assert len(own) == len(rows)
            assert all(ious.tolist() == [[1.0]] for ious in own)


def test_the_same_bytes_twice_and_after_a_stop(tmp_path):
    tasks = [task_of(number, group(2), config_of("A", num_images=2)) for number in range(1, 48)]
    export(tmp_path, tasks, config_of("A", num_images=2))
    once = (tmp_path / "out.json").read_bytes()
    export(tmp_path, tasks, config_of("A", num_images=2), name="again.json")
    assert (tmp_path / "again.json").read_bytes() == once

    config, seen = read_config(config_of("A", num_images=2)), []

    def broken(after: int, done: int):
        for task in tasks[done : done + 30]:
            seen.append(task["id"])
            yield task
        if done == 0:
            raise ConnectionError("the host went away")

    def run(name: str) -> Any:
        with CocoWriter(tmp_path / name, scheme="object:part", run={"id": 1}) as writer:
            return CocoExporter(writer, config, ExportOptions()).run(broken)

    with pytest.raises(ConnectionError):
        run("stopped.json")
    assert not (tmp_path / "stopped.json").exists()
    coverage = run("stopped.json")
    assert (tmp_path / "stopped.json").read_bytes() == once
    assert coverage.tasks == coverage.tasks_exported == 47
    assert seen == [*range(1, 31), *range(21, 48)]
    assert not list(tmp_path.glob("*.part"))


def test_an_unfinished_run_of_other_options_is_not_gone_on_with(tmp_path):
    for run, saved in (({"id": 1}, None), ({"id": 2}, None), ({"id": 2}, "here")):
        with CocoWriter(tmp_path / "out.json", scheme="part", run=run) as writer:
            assert writer.saved == saved
            writer.save("here")


def test_ids_stay_when_the_project_grows(tmp_path):
    xml = config_of("B")
    before = export(tmp_path, [task_of(5, group(), xml)], xml)
    lamp = co_segmentation(SIZES, [NamedMask(0, "lamp", None, np.ones(SIZES[0], bool))])
    after = export(
        tmp_path, [task_of(2, lamp, xml), task_of(5, group(), xml)], xml,
        "--categories", str(tmp_path / "out.json"), name="after.json",
    )  # fmt: skip
    rows = {row["id"]: row for row in after["annotations"]}
    assert all(rows[row["id"]] == row for row in before["annotations"])
    assert read_category_ids(tmp_path / "after.json").items() > read_category_ids(tmp_path / "out.json").items()


def test_pieces(tmp_path):
    out = export(tmp_path, [task_of(1, group(2), config_of("B"))], config_of("B"), "--pieces")
    whole = masks_of(tmp_path / "out.json")
    assert len(out["annotations"]) > 40
    spots = [row for row in out["annotations"] if row["correspondence_id"] == "part:spots" and row["image_id"] == 101]
    coco = COCO(tmp_path / "out.json")
    assert (sum(coco.annToMask(row) for row in spots) == group(2).by_key[0, "part", "spots"].mask).all()
    assert len({row["id"] for row in out["annotations"]}) == len(out["annotations"])
    assert whole


def test_a_piece_belongs_to_the_piece_of_the_object_that_it_lies_on(tmp_path):
    two, part = np.zeros((9, 20), np.bool_), np.zeros((9, 20), np.bool_)
    two[1:8, 1:8] = two[1:8, 11:18] = True
    part[2:4, 2:4] = part[2:4, 12:14] = part[8, 19] = True
    coseg = co_segmentation([(9, 20)] * 2, [NamedMask(0, "pair", None, two), NamedMask(0, "pair", "eye", part)])
    rows = export(tmp_path, [task_of(1, coseg, config_of("B"))], config_of("B"), "--pieces")["annotations"]
    places = {row["id"]: place for place, row in enumerate(rows)}
    assert [places[row["part_of"]] for row in rows if "part_of" in row] == [0, 1, 0]


def test_more_pieces_than_ids_are_refused(tmp_path):
    dust = np.zeros((202, 202), np.bool_)
    dust[::2, ::2] = True
    coseg = co_segmentation([dust.shape] * 2, [NamedMask(0, "dust", None, dust)])
    tasks = [task_of(1, coseg, config_of("B"))]
    out = export(tmp_path, tasks, config_of("B"), "--pieces", code=1)
    assert out["report"]["skipped"]["counts"] == {"unreadable_task": 1}
    assert len(export(tmp_path, tasks, config_of("B"))["annotations"]) == 1


@pytest.mark.parametrize(
    ("scheme", "named"), [("object:part", "vase:rim"), ("object part", "vase rim"), ("part", "rim")]
)
def test_category_names(tmp_path, scheme, named):
    out = export(tmp_path, [task_of(1, group(2), config_of("B"))], config_of("B"), "--names", scheme)
    assert {"vase", named} <= {row["name"] for row in out["categories"]}


def test_predictions_keep_their_scores(tmp_path):
    masks = [NamedMask(i, "cup", None, np.eye(9, dtype=bool), 0.25 + i / 4) for i in range(2)]
    xml = config_of("A", num_images=2)
    task = task_of(1, co_segmentation([(9, 9)] * 2, masks), xml)
    out = export(tmp_path, [task], xml, "--predictions")
    assert [row["score"] for row in out["annotations"]] == [0.25, 0.5]
    assert out["annotations"][0]["provenance"] == {"task": 1, "prediction": 1, "model_version": "m-1"}
    export(tmp_path, [task], xml, "--predictions", "--model-version", "m-2", code=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """The masks are of what an annotator sees; upright copies show just that."""
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[:20, :15] = 255
    stored[5:12, 50:57, 0] = 200
    shown = upright(stored, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    images = tmp_path / "images" / "x"
    images.mkdir(parents=True)
    for place in range(2):
        Image.fromarray(stored).save(images / f"1_{place}.png", exif=exif)
    mask = shown[..., 0] > 127
    parts = {name: part for name, part in ring_and_slivers(mask.shape, orientation).items() if name is not None}
    parts["hole"] = ring_and_slivers(mask.shape, orientation)[None]
    masks = [NamedMask(i, "patch", name, drawn) for i in range(2) for name, drawn in {None: mask, **parts}.items()]
    coseg = co_segmentation([mask.shape] * 2, masks)
    xml = config_of("A", num_images=2)
    tasks = [task_of(1, coseg, xml)]
    out = export(tmp_path, tasks, xml, "--images", str(tmp_path / "images"))
    assert {(row["height"], row["width"]) for row in out["images"]} == {mask.shape}
    found = masks_of(tmp_path / "out.json")
    assert (found[101, "patch"] == mask).all()
    assert all((found[102, f"patch:{name}"] == part).all() for name, part in parts.items())
    turned = [] if orientation == 1 else [["x/1_0.png", orientation], ["x/1_1.png", orientation]]
    assert out["report"]["turned"] == turned

    copies = tmp_path / "copies"
    out = export(tmp_path, tasks, xml, "--images", str(tmp_path / "images"), "--write-images", str(copies))
    assert not out["report"]["turned"]
    for row in out["images"]:
        with Image.open(copies / row["file_name"]) as image:  # as a reader sees it that knows nothing of EXIF
            assert (np.asarray(image.convert("RGB")) == shown).all()
            assert image.size == (row["width"], row["height"])
            assert image.getexif().get(0x0112, 1) == 1


def test_what_is_skipped_is_counted(tmp_path):
    xml = config_of("A", num_images=2)
    good = task_of(1, group(2), xml)
    cancelled = task_of(2, group(2), xml)
    cancelled["annotations"][0]["was_cancelled"] = True
    unlabeled = {**task_of(3, group(2), xml), "annotations": []}
    other_keys = {**task_of(4, group(2), xml), "data": {"photo": "a.jpg"}}
    damaged = task_of(5, group(2), xml)
    damaged["annotations"][0]["result"][0]["value"]["rle"] = [1, 2, 3]
    half = task_of(6, group(2), xml)
    half["annotations"][0]["result"] = [r for r in half["annotations"][0]["result"] if r.get("to_name") == "img1"]
    twice = task_of(7, group(2), xml)
    twice["annotations"].append({**twice["annotations"][0], "id": 71, "ground_truth": True})
    emptied = task_of(8, group(2), xml)
    emptied["annotations"].append({**emptied["annotations"][0], "id": 81, "updated_at": "2099", "result": []})
    sizeless = task_of(9, group(2), xml)
    sizeless["annotations"][0]["result"] = [{"type": "relation", "from_id": "a", "to_id": "b"}]
    tasks = [good, cancelled, unlabeled, other_keys, damaged, half, good, twice, emptied, sizeless]
    out = export(tmp_path, tasks, xml)
    report = out["report"]
    assert report["skipped"]["counts"] == {
        "no_annotation": 2, "unreadable_task": 1, "duplicate_task": 1, "no_image": 1,
    }  # fmt: skip
    assert report["problems"]["counts"]["unreadable_region"] == 1
    assert report["problems"]["counts"]["other_annotations"] == 1
    assert report["problems"]["counts"]["unknown_size"] == 3
    assert report["tasks"] == 10
    assert report["tasks_exported"] == 5
    assert [row["id"] for row in out["images"]] == [101, 102, 501, 502, 601, 701, 702, 801, 802]
    assert {row["image_id"] for row in out["annotations"]} >= {801, 802}  # the newer one is empty, and does not count


def test_an_image_without_regions_is_exported_where_its_size_is_known(tmp_path):
    xml = config_of("A", num_images=2)
    task = task_of(1, co_segmentation(SIZES[:2], [NamedMask(0, "cup", None, np.ones(SIZES[0], bool))]), xml)
    (tmp_path / "x").mkdir()
    for place, size in enumerate(SIZES[:2]):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "x" / f"1_{place}.png")
    out = export(tmp_path, [task], xml, "--images", str(tmp_path))
    assert [(row["height"], row["width"]) for row in out["images"]] == list(SIZES[:2])
    assert len(out["annotations"]) == 1


def test_an_image_that_was_replaced_is_told(tmp_path):
    xml = config_of("A", num_images=2)
    (tmp_path / "x").mkdir()
    for place in range(2):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "x" / f"1_{place}.png")
    out = export(tmp_path, [task_of(1, group(2), xml)], xml, "--images", str(tmp_path))
    assert not out["annotations"]
    assert out["report"]["problems"]["counts"]["unreadable_region"] == 10


def test_from_a_project_page_by_page(tmp_path, monkeypatch):
    xml = config_of("A", num_images=2)
    tasks = [task_of(number, group(2), xml) for number in range(1, 46)]
    export(tmp_path, tasks, xml, name="file.json")
    pages = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/projects/9/":
            return httpx.Response(200, json={"label_config": xml, "task_number": len(tasks)})
        assert request.url.path == "/api/tasks/"
        after = json.loads(request.url.params["query"])["filters"]["items"][0]["value"]
        found = [task for task in tasks if task["id"] > after][: int(request.url.params["page_size"])]
        assert request.url.params["fields"] == "all"
        pages.append(len(found))
        return httpx.Response(200, json={"tasks": found})

    class Client(LabelStudioClient):
        def __init__(self, url: str, token: str) -> None:
            super().__init__(url, token, transport=httpx.MockTransport(answer))

    monkeypatch.setattr("backend.host.client.LabelStudioClient", Client)
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://localhost:8080")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0" * 40)
    assert export_coco.main([str(tmp_path / "api.json"), "--project", "9", "--no-images"]) == 0
    assert (tmp_path / "api.json").read_bytes() == (tmp_path / "file.json").read_bytes()
    assert pages == [20, 20, 5]


def test_images_as_the_backend_fetches_them(tmp_path, monkeypatch):
    media = tmp_path / "media"
    media.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for place, size in enumerate(SIZES[:2]):
        Image.fromarray(np.zeros((*size[::-1], 3), np.uint8)).save(media / f"1_{place}.jpg", exif=exif)
    xml = config_of("A", num_images=2)
    task = task_of(1, group(2), xml)
    task["data"] = {"image1": str(media / "1_0.jpg"), "image2": "/data/upload/1/gone.jpg"}
    write(tmp_path / "tasks.json", [task])
    write(tmp_path / "config.xml", xml)
    monkeypatch.setenv("CALICO_MEDIA_ROOTS", str(media))
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "cache"))
    arguments = ["--tasks", tmp_path / "tasks.json", "--config", tmp_path / "config.xml", "--json", tmp_path / "r.json"]
    arguments += ["--write-images", tmp_path / "copies"]
    assert export_coco.main([str(a) for a in (tmp_path / "out.json", *arguments)]) == 0
    report, out = (json.loads((tmp_path / name).read_text()) for name in ("r.json", "out.json"))
    assert report["unread"] == report["problems"]["counts"]["unread_image"] == 1
    assert [row["file_name"] for row in out["images"]] == ["1-1-1_0.png", "upload/1/gone.jpg"]
    with Image.open(tmp_path / "copies" / "1-1-1_0.png") as image:
        assert image.size == SIZES[0][::-1]


def test_memory_does_not_grow_with_the_export(tmp_path):
    path = tmp_path / "tasks.json"
    with path.open("w") as file:
        file.write("[" + ",".join(json.dumps({"id": i, "data": {}, "rle": "0" * 40_000}) for i in range(600)) + "]")
    tracemalloc.start()
    num_tasks = sum(1 for _ in read_tasks(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_tasks == 600
    assert peak < path.stat().st_size / 3


def test_reading_exports_of_any_chunking(tmp_path, monkeypatch):
    tasks = [{"id": i, "data": {"a": "]}," * i}} for i in range(30)]
    for size in (1, 7, 1000):
        monkeypatch.setattr("backend.coco.task_files.CHUNK_CHARS", size)
        for text in (json.dumps(tasks), json.dumps(tasks, indent=2), "\n".join(map(json.dumps, tasks))):
            assert list(read_tasks(write(tmp_path / "t.json", text))) == tasks


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{", "no whole JSON"),
        ('[{"data": {}}', "ends within"),
        ("hello", "expected tasks"),
        ('[{"image": "a.jpg", "label": []}]', "JSON-MIN"),
    ],
)
def test_files_that_are_no_export(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        list(read_tasks(write(tmp_path / "t.json", text)))


def test_which_annotation_stands_for_a_task():
    def of(*annotations):
        return choose({"annotations": [{"result": [{}], **a} for a in annotations]}, "annotations")

    assert of() is None
    assert of({"id": 1, "was_cancelled": True}) is None
    assert of({"id": 1, "updated_at": "2026-02"}, {"id": 2, "updated_at": "2026-01"}).provenance["annotation"] == 1
    assert of({"id": 1, "ground_truth": True}, {"id": 2, "updated_at": "2026"}).others == 1
    newer_and_empty = of({"id": 1, "updated_at": "2026-01"}, {"id": 2, "updated_at": "2026-02", "result": []})
    assert newer_and_empty.provenance["annotation"] == 1
    assert newer_and_empty.result
    assert of({"id": 1, "result": []}) is None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/0a1b2c3d-a%20b.jpg", "upload/1/0a1b2c3d-a b.jpg"),
        ("/data/local-files/?d=x/a.jpg", "x/a.jpg"),
        ("s3://bucket/x/a.jpg", "x/a.jpg"),
        ("https://host/x/a.jpg?token=1", "x/a.jpg"),
        ("data:image/png;base64,AAAA", ""),
    ],
)
def test_file_names(address, name):
    assert file_name_of(address) == name


def test_images_of_a_folder_are_found_and_none_beside_it(tmp_path):
    inside = tmp_path / "images"
    (inside / "x").mkdir(parents=True)
    for path, content in ((inside / "x" / "a.jpg", b"1"), (inside / "b.jpg", b"2"), (tmp_path / "c.jpg", b"3")):
        path.write_bytes(content)
    images = FolderImages(inside)
    assert images.content("/data/local-files/?d=set/x/a.jpg", 1) == b"1"
    assert images.content("/data/upload/1/0a1b2c3d-b.jpg", 1) == b"2"
    for address in ("/data/local-files/?d=../c.jpg", "../c.jpg", "/data/upload/1/none.jpg", "data:,x"):
        with pytest.raises(InputError):
            images.content(address, 1)


RECORDINGS = recordings()


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_groups(tmp_path, name):
    recording = RECORDINGS[name]
    out = export(tmp_path, [recording.task | {"id": 1}], recording.config)
    assert out["annotations"]
    assert "unreadable_region" not in out["report"]["problems"]["counts"]
    assert all(row["area"] > 0 for row in out["annotations"])


@pytest.mark.host
def test_a_real_project_is_exported_as_its_masks_are(label_studio, tmp_path, monkeypatch):
    """Images of all orientations; the API and the host's own JSON export give the same file; and in again."""
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.account.token)
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))
    xml = config_of("A", num_images=2)
    exif = Image.Exif()
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        project, tasks = make_project(client, label_studio, "coco", xml, [[np.zeros((9, 9, 3), np.uint8)] * 2] * 4)
        for number, task in enumerate(tasks):
            for place, orientation in enumerate((2 * number + 1, 2 * number + 2)):
                exif[0x0112] = orientation
                stored = SIZES[place] if orientation < 5 else SIZES[place][::-1]
                path = label_studio.files_dir / "coco" / f"{number}-{place}.png"
                Image.fromarray(np.zeros((*stored, 3), np.uint8)).save(path, exif=exif)
            result = task_of(task, group(2), xml)["annotations"][0]["result"]
            annotate(client, task, result)
        answer = client.request("GET", f"api/projects/{project}/export", params={"exportType": "JSON"})
        write(tmp_path / "tasks.json", answer.text)
        write(tmp_path / "config.xml", xml)
        own = client.request("GET", f"api/projects/{project}/export", params={"exportType": "BRUSH_TO_COCO"})
    out = tmp_path / "out.json"
    assert export_coco.main([str(out), "--project", str(project), "--json", str(tmp_path / "r.json")]) == 0
    found = masks_of(out)
    for task in tasks:
        for region in group(2).regions:
            name = "vase" if region.part_name is None else f"vase:{region.part_name}"
            assert (found.pop((100 * task + 1 + region.image, name)) == region.mask).all()
    assert not found
    assert [row[1] for row in json.loads((tmp_path / "r.json").read_text())["turned"]] == list(range(2, 9))
    arguments = ["--tasks", str(tmp_path / "tasks.json"), "--config", str(tmp_path / "config.xml")]
    assert export_coco.main([str(tmp_path / "file.json"), *arguments]) == 0
    assert (tmp_path / "file.json").read_bytes() == out.read_bytes()

    assert import_coco.main([str(out), "--out", str(tmp_path / "again.json"), "--as", "annotations"]) == 0
    with LabelStudioClient(label_studio.url, label_studio.account.token) as client:
        again = client.create_project("coco again", (tmp_path / "again.xml").read_text())["id"]
        client.import_tasks(again, json.loads((tmp_path / "again.json").read_text()))
    assert export_coco.main([str(tmp_path / "second.json"), "--project", str(again), "--no-images"]) == 0
    before, after = (json.loads(path.read_text()) for path in (out, tmp_path / "second.json"))
    assert [row["segmentation"] for row in after["annotations"]] == [
        row["segmentation"] for row in before["annotations"]
    ]
    with zipfile.ZipFile(io.BytesIO(own.content)) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".json")]
        theirs = json.loads(archive.read(name))
    # The host's own exporter puts every mask on the task's first image: why this command exists.
    assert len({row["image_id"] for row in theirs["annotations"]}) <= len(tasks)


SUPERVISION = """
import json, sys
import supervision as sv
data = sv.DetectionDataset.from_coco(sys.argv[1], sys.argv[2], force_masks=True)
found = {}
for path, image, detections in data:
    found[path.replace("\\\\", "/").rpartition("/")[2]] = [list(image.shape[:2])] + [
        [data.classes[int(c)], int(m.sum())] for c, m in zip(detections.class_id, detections.mask)]
print(json.dumps({"classes": data.classes, "found": found}))
"""


def test_it_opens_in_supervision(tmp_path):
    python = os.environ.get("CALICO_SUPERVISION_PYTHON", sys.executable)
    if not shutil.which(python) or subprocess.run([python, "-c", "import supervision"], capture_output=True).returncode:
        pytest.skip("CALICO_SUPERVISION_PYTHON names no Python that has supervision")
    for place, size in enumerate(SIZES):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"1_{place}.png")
    xml, coseg = config_of("B"), group()
    copies = tmp_path / "copies"
    out = export(tmp_path, [task_of(1, coseg, xml)], xml, "--images", str(tmp_path), "--write-images", str(copies))
    done = subprocess.run(
        [python, "-c", SUPERVISION, str(copies), str(tmp_path / "out.json")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["classes"] == [row["name"] for row in out["categories"]]
    for image, row in enumerate(out["images"]):
        size, *found = answer["found"][row["file_name"]]
        assert tuple(size) == SIZES[image]
        expected = [
            ["vase" if r.part_name is None else f"vase:{r.part_name}", int(r.mask.sum())]
            for r in coseg.regions if r.image == image
        ]  # fmt: skip
        assert sorted(found) == sorted(expected)
