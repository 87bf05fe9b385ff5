"""COCO files of others and of ours: every awkward form read right or counted, and tasks that say the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from old_layouts import write_old_config as write_config
from PIL import Image
from pycocotools import mask as coco_mask
from recorded import OTHERS, all_of

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config
from calico.coco.dataset import parse_coco
from calico.coco.encode import CocoOptions, ImageEntry, encode_group
from calico.coco.grouping import cosegmentation_of, group_objects
from calico.coco.names import Category, families_of, read_category
from calico.coco.orientation import upright
from calico.coco.segmentation import decode_segmentation, encode_polygons
from calico.coco.writer import CocoWriter
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import encode_rle
from calico.values import CoSegmentation, NamedMask, RegionKey
from scripts import import_coco

SIZE = (20, 30)


def box(x0: int, y0: int, x1: int, y1: int, size_hw: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size_hw, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def polygon(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
    counts = runs.tolist() if mask.T.ravel()[-1] == 0 or edges[-1] != mask.size else runs[:-1].tolist()
    return {"size": list(mask.shape), "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "mask", "short"),
    [
        ([polygon(2, 3, 9, 8)], box(2, 3, 9, 8), 0),
        (polygon(2, 3, 9, 8), box(2, 3, 9, 8), 0),
        ([[[2, 3], [9, 3], [9, 8], [2, 8]]], box(2, 3, 9, 8), 0),
        ([polygon(2, 3, 9, 8), polygon(20, 3, 29, 8)], box(2, 3, 9, 8) | box(20, 3, 29, 8), 0),
        ([polygon(2, 3, 9, 8), [1, 1, 19, 19], [5, 5]], box(2, 3, 9, 8), 2),
        (encode_rle(box(2, 3, 9, 8)), box(2, 3, 9, 8), 0),
        (uncompressed(box(2, 3, 9, 8)), box(2, 3, 9, 8), 0),
        (uncompressed(box(0, 0, 30, 20)), box(0, 0, 30, 20), 0),
        ([encode_rle(box(2, 3, 9, 8)), uncompressed(box(20, 3, 29, 8))], box(2, 3, 9, 8) | box(20, 3, 29, 8), 0),
        ({"counts": encode_rle(box(2, 3, 9, 8))["counts"]}, box(2, 3, 9, 8), 0),
        ([polygon(-5, -5, 9, 8)], box(0, 0, 9, 8), 0),
    ],
)
def test_every_form_of_a_segmentation(segmentation, mask, short):
    found = decode_segmentation(segmentation, SIZE)
    assert (found.mask == mask).all()
    assert found.num_short == short


@pytest.mark.parametrize(
    "segmentation",
    [
        None, [], [[]], "x", 5, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[1, 2, 1e9, 4, 5, 6]],
        [[1, 2, float("nan"), 4, 5, 6]], {"size": [9, 9], "counts": "0"}, {"size": [20, 30], "counts": [1, 2]},
        {"size": [20, 30]},
    ],
)  # fmt: skip
def test_damaged_segmentations(segmentation):
    with pytest.raises(InputError):
        decode_segmentation(segmentation, SIZE)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0.05, 0.95), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_polygons_hold_any_mask_exactly(height, width, share, scale, seed):
    mask = np.kron(np.random.default_rng(seed).random((height, width)) < share, np.ones((scale, scale))) > 0
    polygons, iou = encode_polygons(mask)
    assert iou == 1
    if mask.any():
        assert (decode_segmentation(polygons, mask.shape).mask == mask).all()
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))  # as pycocotools reads the file
        assert merged["counts"].decode() == encode_rle(mask)["counts"]


def test_simplified_polygons_stay_near_their_mask():
    y, x = np.mgrid[:80, :90]
    far = np.hypot(y - 40, x - 45)
    exact = encode_polygons((far < 35) & (far > 12))
    simple = encode_polygons((far < 35) & (far > 12), 2.0)
    assert exact[1] == 1
    assert 0.98 <= simple[1] < 1
    assert len(simple[0][0]) < len(exact[0][0]) / 2


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"name": "car_(automobile)", "supercategory": "OBJECT"}, ("car", None)),
        ({"name": "trash_can:inner_side", "supercategory": "PART"}, ("trash can", "inner side")),
        ({"name": "Car Tier", "supercategory": "Car"}, ("car", "tire")),
        ({"name": "Quadruped Head", "supercategory": "Quadruped"}, ("quadruped", "head")),
        ({"name": "chair's back", "supercategory": ""}, ("chair", "back")),
        ({"name": "sports ball", "supercategory": "sports"}, ("sports ball", None)),
        ({"name": "kite", "supercategory": "sports"}, ("kite", None)),
        ({"name": "rim", "supercategory": "part"}, (None, "rim")),
        ({"name": "Leg"}, ("leg", None)),
    ],
)
def test_category_names(row, names):
    others = [{"name": "kite", "supercategory": "sports"}, {"name": "Car Body", "supercategory": "Car"}]
    others.append({"name": "chair"})
    assert read_category(row, families_of([row, *others])) == names


TITLED = all_of("categories/title_case.json", "categories/partimagenet.json")
POSSESSIVE = all_of("categories/possessive.json", "categories/ade20k_part_234.json")


@pytest.mark.parametrize("path", [*TITLED, *POSSESSIVE], ids=lambda path: path.stem)
def test_category_lists_of_the_sources(path):
    """`Car Tier` with a family, as PartImageNet has it; `armchair's leg` beside `armchair`, as ADE20K-Part has it."""
    objects = json.loads(path.read_text())["objects"]
    parts = [(name, part) for name, own in objects.items() for part in own]
    if path in TITLED:
        rows = [{"name": f"{name} {part}", "supercategory": name} for name, part in parts]
    else:
        rows = [{"name": f"{name}'s {part}", "supercategory": ""} for name, part in parts]
        rows += [{"name": name, "supercategory": ""} for name in objects]
    found = [read_category(row, families_of(rows)) for row in rows[: len(parts)]]
    assert len(set(found)) == len(parts)
    assert len({owner for owner, _ in found}) == len([own for own in objects.values() if own])
    if path in TITLED:
        assert ("car", "tire") in found


@pytest.mark.parametrize("scheme", ["object:part", "object part"])
def test_our_names_come_back(scheme):
    kinds = [Category("table lamp", None), Category("table lamp", "shade"), Category("cup", "left handle")]
    rows = [dict(zip(("name", "supercategory"), kind.title(scheme), strict=True)) for kind in kinds]
    assert [read_category(row, families_of(rows)) for row in rows] == kinds


def paco() -> dict[str, Any]:
    """Two cups and a table; ids that are 0, an object row that is missing, a crowd, booleans, damage."""
    return {
        "images": [
            {"id": 0, "file_name": "val/a.jpg", "height": 20, "width": 30},
            {"id": 1, "file_name": "b.jpg", "height": 20, "width": 30},
            {"id": 2, "file_name": "c.jpg", "height": 20},
        ],
        "categories": [
            {"id": 0, "name": "cup", "supercategory": "OBJECT"},
            {"id": 1, "name": "cup:handle", "supercategory": "PART"},
            {"id": 2, "name": "cup:Handle", "supercategory": "PART"},
            {"id": 3, "name": "table", "supercategory": "OBJECT"},
        ],
        "annotations": [
            {"id": 0, "obj_ann_id": 0, "image_id": 0, "category_id": 0, "segmentation": [polygon(2, 2, 12, 12)]},
            {"id": 1, "obj_ann_id": 0, "image_id": 0, "category_id": 1, "iscrowd": False,
             "segmentation": [polygon(2, 2, 5, 5), [0, 0, 1, 1]]},
            {"id": 2, "obj_ann_id": 0, "image_id": 0, "category_id": 2, "segmentation": uncompressed(box(8, 2, 12, 5))},
            {"id": 3, "obj_ann_id": 9, "image_id": 1, "category_id": 1, "segmentation": encode_rle(box(3, 3, 9, 9))},
            {"id": 4, "image_id": 1, "category_id": 3, "iscrowd": True, "segmentation": uncompressed(box(0, 0, 5, 5))},
            {"id": 5, "image_id": 1, "category_id": 7, "segmentation": []},
            {"id": 6, "image_id": 2, "category_id": 3, "segmentation": []},
            {"id": 7, "image_id": 0, "category_id": 3, "segmentation": [[1, 1, 2, 2]]},
        ],
    }  # fmt: skip


def test_a_file_in_pacos_form_with_all_its_damage():
    dataset = parse_coco(paco())
    [group] = group_objects(dataset)
    coseg = cosegmentation_of(group, dataset.findings)
    assert {key: int(region.mask.sum()) for key, region in coseg.by_key.items()} == {
        RegionKey(0, "object", "cup"): 100,
        RegionKey(0, "part", "handle"): 9 + 12,
        RegionKey(1, "object", "cup"): 36,  # the union of its parts
        RegionKey(1, "part", "handle"): 36,
    }
    assert dataset.findings.counts == {
        "unreadable_image": 1, "missing_object": 1, "crowd": 1, "unknown_category": 1, "unknown_image": 1,
        "short_polygon": 1, "group_size": 1,
    }  # fmt: skip
    table = next(item for item in dataset.objects if item.object_name == "table")
    assert table.masks(dataset.findings) == {}
    assert dataset.findings.counts["unreadable_segmentation"] == 1


def test_part_categories_whose_ids_are_those_of_objects():
    document = paco() | {"part_categories": [{"id": 0, "name": "rim", "supercategory": "PART"}, {"id": [1]}]}
    document["categories"] = document["categories"][::3]
    document["annotations"] = [
        {"id": 5, "obj_ann_id": 5, "image_id": 0, "category_id": 0, "segmentation": [polygon(2, 2, 12, 12)]},
        {"id": 6, "obj_ann_id": 5, "image_id": 0, "category_id": 0, "segmentation": [polygon(2, 2, 5, 5)]},
    ]
    dataset = parse_coco(document)
    [item] = dataset.objects
    masks = item.masks(dataset.findings)
    assert item.object_name == "cup"
    assert (masks[None] == box(2, 2, 12, 12)).all()
    assert (masks["rim"] == box(2, 2, 5, 5)).all()
    assert dataset.findings.counts == {"unreadable_image": 1, "unreadable_category": 1}


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "obj_ann_id"])
def test_ids_that_are_none(key):
    document = paco()
    document["annotations"][0][key] = [0]
    assert parse_coco(document).findings.counts["unreadable_annotation"] == 1


@pytest.mark.parametrize("document", [[], {"images": []}, {"images": {}, "annotations": [], "categories": []}])
def test_files_that_are_no_coco(document):
    with pytest.raises(InputError):
        parse_coco(document)


def ours(folder: Path, options: CocoOptions) -> tuple[Path, CoSegmentation]:
    """A file of our own, with correspondences drawn by hand."""
    masks = [
        NamedMask(0, "cup", None, box(2, 2, 12, 12), 0.5), NamedMask(0, "cup", "ear", box(2, 2, 5, 5), 0.25),
        NamedMask(1, "mug", None, box(3, 3, 20, 12)), NamedMask(1, "mug", "handle", box(3, 3, 6, 6) | box(8, 8, 9, 9)),
        NamedMask(2, "mug", None, box(3, 3, 20, 12)),
    ]  # fmt: skip
    relations = [(RegionKey(0, "part", "ear"), RegionKey(1, "part", "handle"))]
    coseg = co_segmentation([SIZE] * 3, masks, relations=relations)
    entries = [ImageEntry(f"{i}.png", {"source": f"https://host/{i}.png"}) for i in range(3)]
    with CocoWriter(folder / "ours.json", scheme=options.scheme, run={}) as writer:
        writer.add(encode_group(coseg, entries, 5, options))
        writer.finish()
    return folder / "ours.json", coseg


def same(a: CoSegmentation, b: CoSegmentation) -> None:
    assert a.by_key.keys() == b.by_key.keys()
    for key, region in a.by_key.items():
        other = b.by_key[key]
        assert (region.mask == other.mask).all()
        assert (region.object_name, region.occurrence, region.correspondence, region.score) == (
            other.object_name, other.occurrence, other.correspondence, other.score,
        )  # fmt: skip


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("tolerance", [None, 0.0])
@pytest.mark.parametrize("scheme", ["object:part", "object part", "part"])
def test_our_own_file_there_and_back(tmp_path, scheme, tolerance, pieces):
    path, coseg = ours(tmp_path, CocoOptions(scheme, pieces, tolerance))
    dataset = parse_coco(json.loads(path.read_text()))
    [group] = group_objects(dataset)
    same(cosegmentation_of(group, dataset.findings), coseg)
    assert not dataset.findings.counts
    assert dataset.is_upright


@pytest.mark.parametrize("kind", ["predictions", "annotations"])
def test_tasks_say_what_the_file_says(tmp_path, kind):
    path, coseg = ours(tmp_path, CocoOptions())
    out = tmp_path / "tasks.json"
    assert import_coco.main([str(path), "--out", str(out), "--as", kind]) == 0
    [task] = json.loads(out.read_text())
    config = read_config((tmp_path / "tasks.xml").read_text())
    data = dict(task["data"])
    assert [item["value"] for item in task["data"].pop("parts")][-1] == "other part"
    assert task["data"] == {"group": "5", **{f"image{i + 1}": f"https://host/{i}.png" for i in range(3)}}
    rows = task[kind][0]["result"]
    assert {row["origin"] for row in rows if "origin" in row} == {"prediction" if kind == "predictions" else "manual"}
    decoded = decode_annotation(rows, config, [SIZE] * 3, task_data=data).cosegmentation
    assert {k: (r.mask.sum(), r.correspondence) for k, r in decoded.by_key.items()} == {
        k: (r.mask.sum(), r.correspondence) for k, r in coseg.by_key.items()
    }


def test_into_a_config_of_the_project(tmp_path):
    path, _ = ours(tmp_path, CocoOptions())
    labels = ["cup", "cup:ear", "mug", "mug:handle"]
    (tmp_path / "own.xml").write_text(write_config(layout="B", labels=labels))
    out = tmp_path / "tasks.json"
    assert import_coco.main([str(path), "--out", str(out), "--config", str(tmp_path / "own.xml")]) == 0
    [task] = json.loads(out.read_text())
    said = Counter(row["value"]["brushlabels"][0] for row in task["predictions"][0]["result"] if "brush" in row["type"])
    assert said == {"cup": 1, "cup:ear": 1, "mug": 2, "mug:handle": 1}
    assert not (tmp_path / "tasks.xml").exists()
    (tmp_path / "own.xml").write_text(write_config(2))
    assert import_coco.main([str(path), "--out", str(out), "--config", str(tmp_path / "own.xml")]) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_of_stored_pixels_are_turned(tmp_path, orientation):
    """As COCO's tools annotate: size and masks are of the file as stored, whatever its EXIF orientation."""
    stored = np.zeros((*SIZE, 3), np.uint8)
    stored[2:12, 2:9] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    document = paco()
    document["annotations"] = [
        {"id": i, "image_id": i, "category_id": 0, "segmentation": [polygon(2, 2, 9, 12)]} for i in range(2)
    ]
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(stored).save(tmp_path / "images" / name, exif=exif, quality=95)
    (tmp_path / "coco.json").write_text(json.dumps(document))
    out = tmp_path / "tasks.json"
    arguments = [str(tmp_path / "coco.json"), "--out", str(out), "--images", str(tmp_path / "images")]
    assert import_coco.main([*arguments, "--json", str(tmp_path / "report.json")]) == 0
    [task] = json.loads(out.read_text())
    assert task["data"]["image1"] == "/data/local-files/?d=images/a.jpg"
    shown = upright(stored[..., 0] > 127, orientation)
    config = read_config((tmp_path / "tasks.xml").read_text())
    decoded = decode_annotation(task["predictions"][0]["result"], config, [shown.shape] * 2).cosegmentation
    assert (decoded.by_key[0, "object", "cup"].mask == shown).all()
    assert bool(json.loads((tmp_path / "report.json").read_text())["turned"]) == (orientation != 1)


def test_missing_and_other_images_are_counted(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg")
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "b.jpg")
    document = paco()
    document["images"][2]["width"] = 30
    (tmp_path / "coco.json").write_text(json.dumps(document))
    arguments = [str(tmp_path / "coco.json"), "--out", str(tmp_path / "t.json"), "--images", str(tmp_path / "images")]
    assert import_coco.main([*arguments, "--json", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"]["counts"]["missing_image"] == 2
    assert not (tmp_path / "t.json").exists()


def lvis() -> dict[str, Any]:
    """As LVIS writes it: no `iscrowd`, more keys than COCO's, several polygons and rows of one object."""
    shapes = [  # image, category, (x0, y0, x1, y1) of each polygon
        (1, 7, [(10, 10, 60, 40)]),
        (1, 7, [(50, 30, 90, 70)]),  # over the one before
        (1, 9, [(0, 80, 20, 100), (30, 80, 50, 100)]),
        (2, 9, [(5, 5, 115, 95)]),
        (2, 7, [(20.5, 20.25, 40.75, 60.5)]),
    ]
    rows = []
    for number, (image, category, boxes) in enumerate(shapes):
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
        rows.append({
            "id": number, "image_id": image, "category_id": category, "area": area,
            "segmentation": [polygon(*corners) for corners in boxes],
        })  # fmt: skip
    images = [
        {"id": k, "height": 100, "width": 120, "file_name": f"COCO_val2014_{k:012}.jpg", "neg_category_ids": [3],
         "not_exhaustive_category_ids": [], "coco_url": f"http://images.invalid/val2017/{k:012}.jpg"}
        for k in (1, 2)
    ]  # fmt: skip
    names = {7: "oil_lamp", 9: "cup_(drink)"}
    categories = [
        {"id": k, "name": name, "synset": f"{name}.n.01", "synonyms": [name], "frequency": "r"}
        for k, name in names.items()
    ]
    return {"images": images, "annotations": rows, "categories": categories, "info": {}, "licenses": []}


@pytest.mark.parametrize("path", [None, *OTHERS.glob("coco/lvis_val_100.json")], ids=str)
def test_lvis_without_its_photos(tmp_path, path):
    document = lvis() if path is None else json.loads(path.read_text())
    dataset = parse_coco(document)
    masks = [(item, mask) for item in dataset.objects for mask in item.masks(dataset.findings).values()]
    assert sum(len(item.rows) for item in dataset.objects) == len(document["annotations"])
    assert not dataset.findings.counts
    # One object of an image is the union of its rows: no larger than their areas together, no smaller than the largest.
    for item, mask in masks:
        areas = [row["area"] for _, row in item.rows]
        assert max(areas) * 0.7 - 40 <= mask.sum() <= sum(areas) * 1.3 + 40 * len(areas)
    written = tmp_path / "lvis.json"
    written.write_text(json.dumps(document))
    out = tmp_path / "tasks.json"
    assert import_coco.main([str(written), "--out", str(out)]) == 0
    tasks = json.loads(out.read_text())
    assert tasks
    assert all(task["data"]["image1"].startswith("http") for task in tasks)


def test_coco_annotators_export():
    """As coco-annotator and Label Studio write it: `iscrowd` as a word, one flat polygon, an empty one, more keys."""
    document = {
        "categories": [{"id": 1, "name": "Class_1", "supercategory": "", "color": "#594b6f", "metadata": {}}],
        "images": [
            {"id": k, "dataset_id": None, "category_ids": [], "width": 40, "height": 60, "annotated": False,
             "path": f"image{k}.jpg", "file_name": f"image{k}.jpg", "deleted": False}
            for k in range(2)
        ],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 1, "segmentation": [polygon(5, 6, 20, 30)], "area": 360,
             "bbox": [5, 6, 15, 24], "iscrowd": "false", "isbbox": False, "color": "#000000", "metadata": {}},
            {"id": 1000, "image_id": 1, "category_id": 1, "segmentation": [], "area": 0, "bbox": [0, 0, 0, 0],
             "iscrowd": "false", "isbbox": False, "color": "#000000", "metadata": {}},
        ],
    }  # fmt: skip
    dataset = parse_coco(document)
    num_read = sum(len(item.rows) for item in dataset.objects)
    assert num_read >= 1
    assert num_read + sum(dataset.findings.counts.values()) == len(document["annotations"])
