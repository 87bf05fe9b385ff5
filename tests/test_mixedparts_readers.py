"""Part data in its sources' own formats, written here with every awkward form they have, against exact masks."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recorded import all_of

from calico.coco import rows as coco_rows
from calico.coco.rows import CocoRows
from calico.errors import InputError
from calico.masks import encode_rle
from calico.mixedparts.ade20k import PartNames, read_ade20k, read_part_names
from calico.mixedparts.classes import comparable_pairs, read_class_list
from calico.mixedparts.paco import read_paco
from calico.mixedparts.partimagenet import read_partimagenet
from calico.mixedparts.records import (
    ObjectRecord,
    PartMask,
    ReadReport,
    annotated,
    inside,
    load_record_image,
    united,
)
from calico.mixedparts.released import ReleasedSource, read_mixedparts

SIZE_HW = (12, 16)


def box(x0: int, y0: int, x1: int, y1: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """HxW bool: a filled rectangle, x1 and y1 exclusive."""
    mask = np.zeros(size_hw, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def record(
    parts: dict[str, np.ndarray],
    whole: np.ndarray | None = None,
    *,
    name: str = "cat",
    number: str = "1",
    file: str = "a.jpg",
) -> ObjectRecord:
    rles = tuple(PartMask(part, encode_rle(mask)) for part, mask in parts.items())
    rle = None if whole is None else encode_rle(whole)
    return ObjectRecord("paco", number, file, SIZE_HW, name, rle, rles, "train")


IMAGE = np.zeros((*SIZE_HW, 3), np.uint8)


def test_a_record_draws_its_parts_on_its_object() -> None:
    head, eye, ear = box(2, 2, 8, 8), box(4, 4, 5, 5), box(7, 2, 9, 4)
    made = annotated(record({"The Head": head, "eye": eye, "ear": ear}, box(0, 0, 8, 12), name=" The  Cat"), IMAGE)
    assert (made.object_name, made.part_names) == ("cat", ("head", "ear", "eye"))
    assert (made.difficulty, made.source) == ("paco", "paco 1")
    masks = {item.part_name: item.mask for item in made.masks(0)}
    assert np.array_equal(masks["eye"], eye)
    assert np.array_equal(masks["ear"], ear)
    assert np.array_equal(masks["head"], head & ~eye & ~ear)
    assert np.array_equal(masks[None], box(0, 0, 8, 12) | ear)


def test_parts_of_one_name_are_united_and_stand_for_a_missing_object() -> None:
    left, right = box(0, 0, 2, 2), box(5, 5, 7, 8)
    made = annotated(record({"Leg": left, "leg": right}), IMAGE)
    assert made.part_names == ("leg",)
    assert np.array_equal(made.part_map, np.where(left | right, 2, 0))


def test_the_image_must_be_of_the_masks_size_and_the_masks_whole() -> None:
    with pytest.raises(InputError, match=r"is 16 x 12 .*12 x 16"):
        annotated(record({"leg": box(0, 0, 2, 2)}), np.zeros((16, 12, 3), np.uint8))
    with pytest.raises(InputError, match="no mask"):
        annotated(record({}), IMAGE)
    broken = ObjectRecord("paco", "7", "a.jpg", SIZE_HW, "cat", {"size": [12, 16], "counts": "0"}, (), "train")
    with pytest.raises(InputError, match=r"paco 7, 'cat' of a.jpg: RLE counts"):
        annotated(broken, IMAGE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_read_in_the_frame_of_its_masks(tmp_path: Path, orientation: int) -> None:
    """As stored, unless only the displayed frame has the masks' size."""
    stored = np.random.default_rng(orientation).integers(0, 255, (*SIZE_HW, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    item = record({"leg": box(0, 0, 2, 2)}, file="a.png")
    assert np.array_equal(load_record_image(item, tmp_path), stored)
    turned = ObjectRecord("paco", "1", "a.png", SIZE_HW[::-1], "cat", None, (), "train")
    assert load_record_image(turned, tmp_path).shape[:2] == (SIZE_HW[::-1] if orientation >= 5 else SIZE_HW)


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/passwd", "b/../../a.jpg", "", "..\\a.jpg", "C:/a.jpg", "a\0.jpg"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a file below"):
        inside(tmp_path, name)


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="a link leads out"):
        inside(tmp_path / "images", "a.jpg")
    assert inside(tmp_path / "images", "train2017/b.jpg") == tmp_path / "images" / "train2017" / "b.jpg"


def test_instances_of_one_name_and_image_become_one_record() -> None:
    a, b, dog = box(0, 0, 4, 4), box(8, 8, 12, 12), box(3, 3, 6, 6)
    items = [
        record({"leg": a}, a, number="1"),
        record({"tail": dog}, number="2", name="dog"),
        record({"leg": b}, number="3"),
        record({"leg": b}, number="4", file="b.jpg"),
    ]
    cat, other, alone = united(items)
    assert [item.object_id for item in (cat, other, alone)] == ["1+3", "2", "4"]
    assert np.array_equal(cat.masks()["leg"], a | b)
    assert np.array_equal(cat.masks()[None], a | b)
    assert cat.object_rle is not None
    assert alone.object_rle is None


def test_a_report_counts_all_and_shows_the_first() -> None:
    report = ReadReport("paco")
    for number in range(7):
        report.skip("short_polygon", f"annotation {number}", 2)
    report.repair("boolean_crowd", "annotation 9")
    report.count(record({"leg": box(0, 0, 1, 1)}))
    found = report.as_json()
    assert found["skipped"] == {"short_polygon": 14}
    assert found["repaired"] == {"boolean_crowd": 1}
    assert found["examples"]["short_polygon"] == [f"annotation {number}" for number in range(5)]
    assert (found["objects"], found["parts"]) == (1, 1)


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as a list, zeros first."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = bool(pixel)
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def coco(images: list[Any], annotations: list[Any], categories: list[Any], **more: Any) -> dict[str, Any]:
    return {"info": {"year": 2023}, **more, "annotations": annotations, "categories": categories, "images": images}


def image_row(number: Any, file_name: str) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "height": SIZE_HW[0], "width": SIZE_HW[1], "license": 1}


PACO_CATEGORIES = [
    {"id": 0, "name": "car_(automobile)", "supercategory": "OBJECT", "synset": "car.n.01"},
    {"id": 23, "name": "trash_can", "supercategory": "OBJECT"},
    {"id": 2000, "name": "car_(automobile):wheel", "supercategory": "PART"},
    {"id": 2001, "name": "car_(automobile):door_handle", "supercategory": "PART"},
    {"id": 2002, "name": "trash_can:inner_side", "supercategory": "PART"},
]
WHEELS = box(1, 8, 4, 11) | box(10, 8, 13, 11)
CAR = box(0, 3, 15, 11)
PACO_ROWS = [
    # an object with both forms of RLE, polygons and a part of two polygons, one of them too short
    {"id": 7, "image_id": 3, "category_id": 0, "obj_ann_id": 7, "segmentation": encode_rle(CAR), "attribute_ids": []},
    {"id": 8, "image_id": 3, "category_id": 2000, "obj_ann_id": 7, "segmentation": [
        rectangle(1, 8, 4, 11), rectangle(10, 8, 13, 11), [3, 3, 9, 9], [1, 2]]},
    {"id": 9, "image_id": 3, "category_id": 2001, "obj_ann_id": 7, "segmentation": uncompressed(box(5, 5, 8, 6)),
     "iscrowd": False},
    {"id": 10, "image_id": 3, "category_id": 2001, "obj_ann_id": 7, "segmentation": [rectangle(9, 5, 10, 6)],
     "iscrowd": 0},
    # another car beside it, its row after its part's; the boxes would mislead
    {"id": 12, "image_id": 3, "category_id": 2000, "obj_ann_id": 11, "bbox": [0, 3, 15, 8],
     "segmentation": [rectangle(14, 0, 16, 2)]},
    {"id": 11, "image_id": 3, "category_id": 0, "obj_ann_id": 11, "segmentation": uncompressed(box(12, 0, 16, 3))},
    # an id 0 for the image and the object
    {"id": 0, "image_id": 0, "category_id": 23, "obj_ann_id": 0, "segmentation": [rectangle(0, 0, 6, 6)]},
    # an object row that is missing
    {"id": 14, "image_id": 0, "category_id": 2002, "obj_ann_id": 13, "segmentation": [rectangle(8, 2, 12, 6)]},
    # rows to leave out: a crowd, short polygons alone, damage, nothing on the image, an unknown category or image
    {"id": 15, "image_id": 0, "category_id": 23, "obj_ann_id": 15, "iscrowd": True, "segmentation": encode_rle(CAR)},
    {"id": 16, "image_id": 0, "category_id": 2002, "obj_ann_id": 0, "segmentation": [[1, 1, 5, 5]]},
    {"id": 17, "image_id": 0, "category_id": 2002, "obj_ann_id": 0, "segmentation": {"size": [12, 16], "counts": [1]}},
    {"id": 18, "image_id": 0, "category_id": 2002, "obj_ann_id": 0, "segmentation": [rectangle(20, 20, 25, 25)]},
    {"id": 19, "image_id": 0, "category_id": 999, "obj_ann_id": 0, "segmentation": [rectangle(0, 0, 1, 1)]},
    {"id": 20, "image_id": 77, "category_id": 0, "obj_ann_id": 20, "segmentation": [rectangle(0, 0, 1, 1)]},
    {"id": 9, "image_id": 3, "category_id": 2001, "obj_ann_id": 7, "segmentation": [rectangle(0, 0, 1, 1)]},
    {"id": 21, "image_id": 0, "category_id": [0], "obj_ann_id": 21, "segmentation": [rectangle(0, 0, 1, 1)]},
    "no row",
]  # fmt: skip
PACO_IMAGES = [image_row(3, "train2017/000000000003.jpg"), image_row(0, "000000000000.jpg")]


def by_id(records: Iterable[ObjectRecord]) -> dict[str, ObjectRecord]:
    found = {item.object_id: item for item in records}
    assert all(item.parts or item.object_rle for item in found.values())
    return found


def assert_masks(item: ObjectRecord, expected: dict[str | None, np.ndarray]) -> None:
    found = item.masks()
    assert set(found) == set(expected)
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask), name


def test_paco_is_read_with_every_awkward_form(tmp_path: Path) -> None:
    path = write(tmp_path / "paco_lvis_v1_train.json", coco(PACO_IMAGES, PACO_ROWS, PACO_CATEGORIES))
    report = ReadReport()
    found = by_id(read_paco(path, split="train", report=report))
    assert [(i.object_id, i.object_name, i.image_file) for i in found.values()] == [
        ("7", "car", "train2017/000000000003.jpg"),
        ("11", "car", "train2017/000000000003.jpg"),
        ("0", "trash can", "000000000000.jpg"),
        ("13", "trash can", "000000000000.jpg"),
    ]
    handles = box(5, 5, 8, 6) | box(9, 5, 10, 6)
    assert_masks(found["7"], {None: CAR, "wheel": WHEELS, "door handle": handles})
    assert_masks(found["11"], {None: box(12, 0, 16, 3), "wheel": box(14, 0, 16, 2)})
    assert_masks(found["0"], {None: box(0, 0, 6, 6)})
    assert_masks(found["13"], {None: box(8, 2, 12, 6), "inner side": box(8, 2, 12, 6)})
    assert found["13"].object_rle is None
    assert report.as_json() | {"examples": None} == {
        "source": "paco", "images": 2, "rows": 15, "objects": 4, "parts": 4, "examples": None,
        "repaired": {"short_polygon": 2, "missing_object": 1},
        "skipped": {
            "unreadable_annotation": 2, "unknown_image": 1, "duplicate_annotation": 1, "unknown_category": 1,
            "crowd": 1, "unreadable_segmentation": 2, "empty_mask": 1,
        },
    }  # fmt: skip
    assert "annotation 15 of 000000000000.jpg" in report.examples["crowd"][0]


def test_the_documented_form_of_paco_has_part_categories_whose_ids_are_those_of_objects(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image_id": 0, "category_id": 23, "obj_ann_id": 1, "segmentation": encode_rle(CAR)},
        {"id": 2, "image_id": 0, "category_id": 23, "obj_ann_id": 1, "segmentation": [rectangle(1, 4, 3, 6)]},
        {"id": 4, "image_id": 0, "category_id": 24, "obj_ann_id": 3, "segmentation": [rectangle(1, 4, 3, 6)]},
    ]
    parts = [{"id": 23, "name": "rim", "supercategory": "PART"}, {"id": 24, "name": "lid", "supercategory": "PART"}]
    document = coco(PACO_IMAGES, rows, PACO_CATEGORIES[:2], part_categories=parts)
    report = ReadReport()
    rows.append({"id": 5, "image_id": 0, "category_id": 23, "segmentation": [rectangle(1, 4, 3, 6)]})
    found, other = read_paco(write(tmp_path / "paco.json", document), split="val", report=report)
    assert found.object_name == "trash can"
    assert (other.object_name, other.parts) == ("trash can", ())  # without an owner it is an object's id
    assert_masks(found, {None: CAR, "rim": box(1, 4, 3, 6)})
    assert report.skipped == {"no_object": 1}  # nothing says what object 3 was


def test_parts_without_an_object_id_are_joined_by_name_never_by_box(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image_id": 0, "category_id": 0, "segmentation": encode_rle(CAR)},
        {"id": 2, "image_id": 0, "category_id": 2000, "segmentation": [rectangle(1, 8, 4, 11)]},
        {"id": 3, "image_id": 0, "category_id": 2000, "segmentation": [rectangle(10, 8, 13, 11)]},
    ]
    report = ReadReport()
    path = write(tmp_path / "a.json", coco(PACO_IMAGES, rows, PACO_CATEGORIES))
    found = by_id(read_paco(path, split="train", report=report))
    assert_masks(found["1"], {None: CAR})
    assert_masks(found["0:car"], {None: WHEELS, "wheel": WHEELS})
    assert report.repaired == {"missing_object": 1}


def test_images_are_looked_for_where_users_put_them_and_counted_where_missing(tmp_path: Path) -> None:
    rows = [
        {"id": n, "image_id": n, "category_id": 0, "obj_ann_id": n, "segmentation": encode_rle(CAR)} for n in range(5)
    ]
    names = ["train2017/a.jpg", "b.jpg", "train2017/c.jpg", "missing.jpg", "../../secret.jpg"]
    path = write(tmp_path / "a.json", coco([image_row(n, name) for n, name in enumerate(names)], rows, PACO_CATEGORIES))
    root = tmp_path / "coco"
    for place in ("train2017/a.jpg", "val2017/b.jpg", "c.jpg"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    report = ReadReport()
    found = [item.image_file for item in read_paco(path, split="train", report=report, images=root)]
    assert found == ["train2017/a.jpg", "val2017/b.jpg", "c.jpg"]
    assert report.skipped == {"missing_image": 1, "bad_file_name": 1}


@pytest.mark.parametrize("source", ["paco", "partimagenet", "ade20k"])
def test_sizes_that_no_row_states_are_those_of_the_images(tmp_path: Path, source: str) -> None:
    names = {"paco": "000000000003.jpg", "partimagenet": "n02814533_7.JPEG", "ade20k": "ADE_train_00000001.jpg"}
    folders = {"paco": "train2017", "partimagenet": "n02814533", "ade20k": "training"}
    (tmp_path / "photos" / folders[source]).mkdir(parents=True)
    Image.new("RGB", SIZE_HW[::-1]).save(tmp_path / "photos" / folders[source] / names[source])
    row = {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [rectangle(0, 3, 15, 11)]}
    images = [{"id": 0, "file_name": names[source], "height": None}, {"id": 1, "file_name": "missing.jpg"}]
    categories = [{"id": 0, "name": "Car Tier", "supercategory": "Car"}] if source == "partimagenet" else ADE_CATEGORIES
    path = write(tmp_path / "a.json", coco(images, [row], categories))
    report = ReadReport()
    more: dict[str, Any] = {"split": "train", "report": report, "images": tmp_path / "photos"}
    if source == "ade20k":
        (item,) = read_ade20k(path, tmp_path, read_part_names(write(tmp_path / "names.json", ADE_NAMES)), **more)
    else:
        (item,) = {"paco": read_paco, "partimagenet": read_partimagenet}[source](path, **more)
    assert item.size_hw == SIZE_HW
    assert report.skipped["unreadable_image"] == 1, "the one that is not there"


def test_of_categories_with_one_id_the_first_counts(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "image_id": 1, "category_id": 0, "obj_ann_id": 1, "segmentation": encode_rle(CAR)},
        {"id": 2, "image_id": 1, "category_id": 2000, "obj_ann_id": 1, "segmentation": encode_rle(WHEELS)},
    ]
    more = [{"id": 2000, "name": "car_(automobile):door"}, {"id": "0", "name": "sofa"}]
    path = write(tmp_path / "a.json", coco([image_row(1, "a.jpg")], rows, [*PACO_CATEGORIES, *more]))
    report = ReadReport()
    (item,) = read_paco(path, split="train", report=report)
    assert (item.object_name, [part.name for part in item.parts]) == ("car", ["wheel"])
    assert report.skipped == {"duplicate_category": 2}


@pytest.mark.parametrize(
    "name", ["/data/local-files/?d=set/a%20b.jpg", "https://h.example/set/a%20b.jpg?v=2", "s3://bucket/a b.jpg"]
)
def test_addresses_name_the_file_of_their_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"x")
    row = {"id": 1, "image_id": 1, "category_id": 0, "obj_ann_id": 1, "segmentation": encode_rle(CAR)}
    path = write(tmp_path / "a.json", coco([image_row(1, name)], [row], PACO_CATEGORIES))
    report = ReadReport()
    found = [item.image_file for item in read_paco(path, split="train", report=report, images=tmp_path)]
    assert (found, report.skipped) == (["a b.jpg"], {})


@pytest.mark.parametrize("chunk_bytes", range(3, 14))
def test_rows_are_found_again_whatever_the_order_spacing_and_signs(tmp_path, monkeypatch, chunk_bytes) -> None:
    """The file in pieces of a few bytes; names beyond ASCII; annotations before images; other keys between."""
    monkeypatch.setattr(coco_rows, "CHUNK_BYTES", chunk_bytes)
    rows = [{"id": "ä", "image_id": "é1", "category_id": 5, "segmentation": [rectangle(0, 0, 2, 2)], "x": {"y": [[]]}}]
    document = {"n": 123456789012, "annotations": rows, "licenses": [1, "ü", [2]], "empty": [], "o": {"images": [{}]}}
    document |= {"categories": [{"id": 5, "name": "grün:Ölkanne"}], "images": [image_row("é1", "日本/ö.jpg")]}
    path = tmp_path / "a.json"
    path.write_text("\ufeff \n" + json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    report = ReadReport()
    with CocoRows(path, report) as found:
        assert [item.file_name for item in found.images.values()] == ["日本/ö.jpg"]
        assert found.rows_of("é1") == rows
        assert found.by_ids(["ä", "b", None, [1]]) == {"ä": rows[0]}
        assert found.categories == document["categories"]
    assert report.skipped == {}


def test_memory_does_not_grow_with_the_masks(tmp_path: Path, monkeypatch) -> None:
    """Ten times the run lengths, the same memory: rows are not kept."""
    monkeypatch.setattr(coco_rows, "CHUNK_BYTES", 1 << 14)
    peaks, sizes = [], []
    for length in (500, 5000):
        segmentation = {"size": list(SIZE_HW), "counts": "0" * length}
        rows = [
            {"id": n, "image_id": n % 50, "category_id": 0, "obj_ann_id": n, "segmentation": segmentation}
            for n in range(200)
        ]
        images = [image_row(n, f"{n}.jpg") for n in range(50)]
        path = write(tmp_path / f"{length}.json", coco(images, rows, PACO_CATEGORIES))
        sizes.append(path.stat().st_size)
        tracemalloc.start()
        with CocoRows(path, ReadReport()) as found:
            assert sum(len(found.rows_of(n)) for n in range(50)) == 200
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sizes[1] > 7 * sizes[0]
    assert peaks[1] < peaks[0] + sizes[1] / 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a JSON object"),
        ("[]", "'images' is missing"),
        ("{}", "'images' is missing"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": [{"id": 1}, ', "no whole JSON"),
        ('{"images": [{"id": 1} {"id": 2}]}', "expected one of ',]'"),
        ('{"images": [tru]}', "no whole JSON"),
        ('{1: []}', "a key is '1'"),
        ('{"images" []}', "expected one of ':'"),
        ('{"images": []', "got its end"),
        ("[" * 100_000, "no whole JSON"),
    ],
)  # fmt: skip
def test_files_that_are_no_coco_files(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(says)):
        list(read_paco(path, split="train", report=ReadReport()))


def test_a_missing_annotation_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        list(read_paco(tmp_path / "none.json", split="train", report=ReadReport()))


PIN_PARTS = ["Quadruped Head", "Quadruped Body", "Car Tier", "Car Side Mirror"]
PIN_ROWS = [
    # ids and categories from 0; a Tier in two rows, one of them with two polygons
    {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [rectangle(0, 0, 3, 3)], "iscrowd": 0},
    {"id": 1, "image_id": 0, "category_id": 1, "segmentation": encode_rle(box(2, 2, 9, 9)), "iscrowd": False},
    {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [rectangle(1, 8, 4, 11), rectangle(5, 8, 6, 11)]},
    {"id": 3, "image_id": 1, "category_id": 2, "segmentation": [rectangle(10, 8, 13, 11), [1, 1, 2, 2]]},
    {"id": 4, "image_id": 1, "category_id": 3, "segmentation": uncompressed(box(0, 0, 1, 2)), "iscrowd": 0},
    {"id": 5, "image_id": 1, "category_id": 44, "segmentation": [rectangle(0, 0, 3, 3)]},
]
PIN_IMAGES = [image_row(0, "n02100735_10042.JPEG"), image_row(1, "n02814533_7.JPEG")]
TIRES = WHEELS | box(5, 8, 6, 11)


@pytest.mark.parametrize("form", ["stock", "without supercategory", "MixedParts"])
def test_partimagenet_is_read_in_each_form(tmp_path: Path, form: str) -> None:
    rows = []
    for number, name in enumerate(PIN_PARTS):
        above, _, part = name.partition(" ")
        row: dict[str, Any] = {"id": number, "name": part if form == "MixedParts" else name}
        rows.append(row if form == "without supercategory" else row | {"supercategory": above})
    report = ReadReport()
    path = write(tmp_path / "train.json", coco(PIN_IMAGES, PIN_ROWS, rows))
    quadruped, car = read_partimagenet(path, split="train", report=report)
    assert (quadruped.object_name, quadruped.object_id) == ("quadruped", "0:quadruped")
    assert quadruped.object_rle is None
    both = box(0, 0, 3, 3) | box(2, 2, 9, 9)
    assert_masks(quadruped, {None: both, "head": box(0, 0, 3, 3), "body": box(2, 2, 9, 9)})
    assert_masks(car, {None: TIRES | box(0, 0, 1, 2), "tire": TIRES, "side mirror": box(0, 0, 1, 2)})
    assert report.repaired == {"short_polygon": 1}
    assert report.skipped == {"unknown_category": 1}


def pin_categories() -> list[dict[str, Any]]:
    return [{"id": n, "name": name, "supercategory": name.split()[0]} for n, name in enumerate(PIN_PARTS)]


def test_partimagenet_takes_objects_from_the_file_of_whole_ones(tmp_path: Path) -> None:
    """Matched by file name: the ids of images are others there."""
    rows = [{"id": 0, "image_id": 9, "category_id": 3, "segmentation": [rectangle(0, 0, 10, 10)]}]
    categories = [{"id": 3, "name": "English_setter", "supercategory": "Quadruped"}]
    parts = write(tmp_path / "train.json", coco(PIN_IMAGES, PIN_ROWS, pin_categories()))
    whole = write(tmp_path / "whole.json", coco([image_row(9, "x/n02100735_10042.JPEG")], rows, categories))
    report = ReadReport()
    setter, car = read_partimagenet(parts, split="train", report=report, objects=whole)
    assert setter.object_name == "english setter"
    assert_masks(setter, {None: box(0, 0, 10, 10), "head": box(0, 0, 3, 3), "body": box(2, 2, 9, 9)})
    assert (car.object_name, car.object_rle) == ("car", None)
    assert report.repaired == {"short_polygon": 1, "missing_object": 1}


def test_partimagenet_images_lie_flat_by_split_or_by_class(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", coco(PIN_IMAGES, PIN_ROWS, pin_categories()))
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "n02814533").mkdir()
    (tmp_path / "images" / "train" / "n02100735_10042.JPEG").write_bytes(b"x")
    (tmp_path / "images" / "n02814533" / "n02814533_7.JPEG").write_bytes(b"x")
    found = read_partimagenet(path, split="train", report=ReadReport(), images=tmp_path / "images")
    assert [i.image_file for i in found] == ["train/n02100735_10042.JPEG", "n02814533/n02814533_7.JPEG"]


ADE_NAMES = ["chair's back", "chair's leg", "chair's leg", "chest of drawers's drawer", "table's leg"]
ADE_CATEGORIES = [
    {"id": 0, "name": "chair"},
    {"id": 1, "name": "chest of drawers, chest, bureau, dresser"},
    {"id": 2, "name": "table"},
]


def ade_map() -> np.ndarray:
    part_map = np.full(SIZE_HW, 65535, np.uint16)
    part_map[0:4, 0:4] = 0  # a part id 0 is a part
    part_map[6:10, 0:2] = 1
    part_map[6:10, 4:6] = 2  # of the same label
    part_map[6:10, 10:12] = 4
    return part_map


def ade_files(tmp_path: Path, rows: list[Any], part_map: np.ndarray | None) -> tuple[Path, Path, PartNames]:
    images = [image_row(0, "ADE_train_00000001.jpg")]
    folder = tmp_path / "annotations_detectron2_part" / "training"
    folder.mkdir(parents=True)
    if part_map is not None:
        Image.fromarray(part_map).save(folder / "ADE_train_00000001.png")
    names = read_part_names(write(tmp_path / "names.json", ADE_NAMES))
    path = write(tmp_path / "ade20k_instance_train.json", coco(images, rows, ADE_CATEGORIES))
    return path, folder.parent, names


def ade_row(number: int, category: int, mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 0, "category_id": category, "segmentation": encode_rle(mask), **more}


def test_ade20k_parts_are_cut_out_of_the_map_by_their_object(tmp_path: Path) -> None:
    left, right = box(0, 0, 5, 12), box(5, 0, 16, 12)
    rows = [
        ade_row(0, 0, left, iscrowd=0),
        ade_row(1, 0, right, part_category_id=[1, 2, 2]),
        ade_row(2, 2, right, part_category_id=4),
        ade_row(3, 2, right, part_category_id=[0, 300, "x"]),
        ade_row(4, 1, left),
        ade_row(5, 0, left, iscrowd=True),
    ]
    report = ReadReport()
    path, maps, names = ade_files(tmp_path, rows, ade_map())
    found = by_id(read_ade20k(path, maps, names, split="train", report=report))
    # ids 1 and 2 are both "leg"; the object's mask cuts the second in two
    assert_masks(found["0"], {None: left, "back": box(0, 0, 4, 4), "leg": box(0, 6, 2, 10) | box(4, 6, 5, 10)})
    assert_masks(found["1"], {None: right, "leg": box(5, 6, 6, 10)})
    assert_masks(found["2"], {None: right, "leg": box(10, 6, 12, 10)})  # the table's, not the chair's
    assert_masks(found["3"], {None: right})
    assert (found["4"].object_name, found["4"].parts) == ("chest of drawers", ())
    assert report.skipped == {"crowd": 1, "foreign_part_id": 3}
    assert "lists 0 (chair's back) as a part of a table" in report.examples["foreign_part_id"][0]


@pytest.mark.parametrize(
    ("part_map", "code"),
    [
        (None, "missing_part_map"),
        (np.zeros((3, 3), np.uint16), "bad_part_map"),
        (np.zeros((*SIZE_HW, 3), np.uint8), "bad_part_map"),
    ],
)
def test_ade20k_objects_stay_where_their_part_map_cannot_be_used(tmp_path: Path, part_map, code: str) -> None:
    path, maps, names = ade_files(tmp_path, [ade_row(0, 0, CAR)], part_map)
    report = ReadReport()
    (found,) = read_ade20k(path, maps, names, split="train", report=report)
    assert_masks(found, {None: CAR})
    assert report.skipped == {code: 1}


def test_ade20k_ids_that_name_no_part_are_reported(tmp_path: Path) -> None:
    part_map = ade_map()
    part_map[0, 0], part_map[0, 1] = 234, 400
    path, maps, names = ade_files(tmp_path, [ade_row(0, 0, box(0, 0, 4, 4))], part_map)
    report = ReadReport()
    (found,) = read_ade20k(path, maps, names, split="train", report=report)
    assert_masks(found, {None: box(0, 0, 4, 4), "back": box(0, 0, 4, 4) & (part_map == 0)})
    assert report.skipped == {"unknown_part_id": 2}
    assert "holds [234, 400]" in report.examples["unknown_part_id"][0]


def test_ade20k_part_names_are_read_in_each_form(tmp_path: Path) -> None:
    expected = {0: ("chair", "back"), 1: ("table", "leg")}
    names = ["chair's back", "table's leg"]
    forms: list[Any] = [names, {"class_order": names}, {"0": names[0], "1": names[1]}]
    forms.append({"categories": [{"id": 1, "name": "table:leg"}, {"id": 0, "name": names[0]}]})
    for number, form in enumerate(forms):
        assert read_part_names(write(tmp_path / f"{number}.json", form)) == expected
    for bad in (["chair"], [], {"x": "chair's back"}, [3], "text"):
        with pytest.raises(InputError, match="part"):
            read_part_names(write(tmp_path / "bad.json", bad))


def released_sources(tmp_path: Path) -> dict[str, ReleasedSource]:
    paco_images = [*PACO_IMAGES, image_row(5, "000000000005.jpg")]
    more = [
        {"id": 30, "image_id": 5, "category_id": 0, "obj_ann_id": 30, "segmentation": [rectangle(0, 0, 8, 8)]},
        {"id": 31, "image_id": 5, "category_id": 2000, "obj_ann_id": 30, "segmentation": [rectangle(0, 6, 2, 8)]},
        {"id": 32, "image_id": 5, "category_id": 0, "obj_ann_id": 32, "segmentation": [rectangle(12, 0, 13, 1)]},
    ]
    paco_file = write(tmp_path / "paco.json", coco(paco_images, [*PACO_ROWS, *more], PACO_CATEGORIES))
    heads = [{"id": 3, "name": "English_setter", "supercategory": "Quadruped"}]
    whole_rows = [
        {"id": 0, "image_id": 0, "category_id": 3, "segmentation": [rectangle(0, 0, 10, 10)]},
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [rectangle(2, 2, 14, 12)]},
    ]
    pin_parts = write(tmp_path / "pin.json", coco(PIN_IMAGES, PIN_ROWS, pin_categories()))
    pin_whole = write(tmp_path / "pin_whole.json", coco(PIN_IMAGES, whole_rows, heads))
    ade, maps, names = ade_files(
        tmp_path, [ade_row(0, 0, box(0, 0, 5, 12)), ade_row(1, 2, box(5, 0, 16, 12))], ade_map()
    )
    return {
        "paco_lvis": ReleasedSource(paco_file),
        "part_image_net": ReleasedSource(pin_whole, parts=pin_parts),
        "ade20k_part234": ReleasedSource(ade, part_maps=maps, part_names=names),
    }


RELEASED: list[Any] = [
    {"dataset_name": "paco_lvis", "is_object": True, "img_ids": [3, 5], "common": [
        {"cat": "car", "ann_ids": [[7, 11], [30, 15]], "visibility": [0.5, 0.25]},  # 15 is another image's
        {"cat": "car", "ann_ids": [[7], [32]], "visibility": [0.5, 0.01]},  # one pixel: under 2 % of the image
    ]},
    {"dataset_name": "paco_lvis", "is_object": False, "img_ids": [3, 5], "pairs": [
        {"cats": ["car", "car"], "ann_ids": [[7], [30]], "visibility": [0.5, 0.25],
         "common": [{"part_cat": "wheel", "part_ann_ids": [[8], [31]], "part_visibility": [0.1, 0.1]}],
         "unique": {"part_cats": [["door handle"], []], "part_ann_ids": [[[9, 10]], []]}},
        {"cats": ["car", "car"], "ann_ids": [[7], [30]], "visibility": [0.5, 0.25], "common": None, "unique": None},
    ]},
    {"dataset_name": "part_image_net", "is_object": False, "img_ids": [0, 1], "pairs": [
        {"cats": ["english setter", "english setter"], "ann_ids": [[0], [1]], "visibility": [0.5, 0.5],
         "common": None,
         "unique": {"part_cats": [["head", "body"], ["tier"]], "part_ann_ids": [[[0], [1]], [[2, 3, 99]]]}},
    ]},
    {"dataset_name": "ade20k_part234", "is_object": False, "img_ids": [0, 0], "pairs": [
        {"cats": ["chair", "table"], "ann_ids": [[0], [1]], "visibility": [0.5, 0.5],
         "common": [{"part_cat": "leg", "part_cat_ids": [[1, 2], [4]], "part_visibility": [0.1, 0.1]}],
         "unique": {"part_cats": [["back"], ["drawer"]], "part_cat_ids": [[[0]], [[3]]]}},
    ]},
    {"dataset_name": "paco_lvis", "is_object": True, "img_ids": [3, 88], "common": []},
    {"dataset_name": "paco_lvis", "is_object": True, "img_ids": [3, 5], "common": [
        {"cat": "car", "ann_ids": [[7], [99]], "visibility": [0.5, 0.5]}]},
    {"dataset_name": "pascal", "is_object": True},
    {"dataset_name": "paco_lvis", "img_ids": [3, 5]},
]  # fmt: skip


def test_released_records_are_resolved_in_their_sources(tmp_path: Path) -> None:
    report = ReadReport()
    path = write(tmp_path / "mixed_parts_train.json", RELEASED)
    pairs = list(read_mixedparts(path, released_sources(tmp_path), split="train", report=report))
    assert [(pair.record, pair.source, pair.sub_task.value) for pair in pairs] == [
        (0, "paco", "common_object"),
        (1, "paco", "common_parts"),
        (1, "paco", "unique_parts"),
        (2, "partimagenet", "unique_parts"),
        (3, "ade20k", "common_parts"),
        (3, "ade20k", "unique_parts"),
    ]
    objects, common, unique, setters, legs, others = (pair.objects for pair in pairs)
    assert [(item.object_id, item.object_name) for item in objects] == [("7+11", "car"), ("30+15", "car")]
    assert_masks(objects[0], {None: CAR | box(12, 0, 16, 3)})
    assert_masks(objects[1], {None: box(0, 0, 8, 8)})
    assert_masks(common[0], {None: CAR, "wheel": WHEELS})
    assert_masks(common[1], {None: box(0, 0, 8, 8), "wheel": box(0, 6, 2, 8)})
    assert_masks(unique[0], {None: CAR, "door handle": box(5, 5, 8, 6) | box(9, 5, 10, 6)})
    assert_masks(unique[1], {None: box(0, 0, 8, 8)})
    assert_masks(setters[0], {None: box(0, 0, 10, 10), "head": box(0, 0, 3, 3), "body": box(2, 2, 9, 9)})
    assert_masks(setters[1], {None: box(2, 2, 14, 12), "tire": TIRES})
    assert_masks(legs[0], {None: box(0, 0, 5, 12), "leg": box(0, 6, 2, 10) | box(4, 6, 5, 10)})
    assert_masks(legs[1], {None: box(5, 0, 16, 12), "leg": box(10, 6, 12, 10)})
    assert_masks(others[0], {None: box(0, 0, 5, 12), "back": box(0, 0, 4, 4)})
    assert_masks(others[1], {None: box(5, 0, 16, 12)})
    assert pairs[0].visibility == (0.5, 0.25)
    assert report.skipped == {
        "unreadable_annotation": 2, "unknown_image": 2,  # of PACO_ROWS: one; of the records: one
        "unknown_annotation": 3, "small_object": 1, "no_question": 1, "no_part": 1, "no_object": 1,
        "other_source": 1, "unreadable_record": 1,
    }  # fmt: skip


def test_files_that_are_no_released_records(tmp_path: Path) -> None:
    for document in ({"a": [1]}, [3]):
        path = write(tmp_path / "a.json", document)
        with pytest.raises(InputError, match="expected a list of records"):
            list(read_mixedparts(path, {}, split="train", report=ReadReport()))
    with pytest.raises(InputError, match="expected one of paco_lvis"):
        list(read_mixedparts(path, {"coco": ReleasedSource(path)}, split="train", report=ReadReport()))
    ade, _, _ = ade_files(tmp_path, [], None)
    with pytest.raises(InputError, match="expected part_maps and part_names"):
        list(read_mixedparts(path, {"ade20k_part234": ReleasedSource(ade)}, split="train", report=ReadReport()))


def category_lists(own: str, *others: str) -> list[Path]:
    """Ours and, of the real sources, those that are at hand: CALICO_CATEGORY_LISTS names their folder."""
    found = all_of(f"categories/{own}", *(f"categories/{name}" for name in others))
    if folder := os.environ.get("CALICO_CATEGORY_LISTS"):
        found += [path for name in others if (path := Path(folder) / name).is_file()]
    return found


def counted(parts_of: dict[str, list[str]]) -> tuple[int, int, set[str]]:
    """(pairs of different classes, those that share a part, the parts shared): counted pair by pair."""
    num_pairs, num_shared, names = 0, 0, set()
    classes = list(parts_of)
    for i in range(len(classes)):
        for j in range(i):
            same = [part for part in parts_of[classes[i]] if part in parts_of[classes[j]]]
            num_pairs += 1
            num_shared += bool(same)
            names.update(same)
    return num_pairs, num_shared, names


COUNTS = {"paco_lvis": (75, 2775, 900), "partimagenet": (11, 55, 55), "ade20k_part_234": (44, 946, 319)}


@pytest.mark.parametrize(
    "path",
    category_lists("*.json", "paco_lvis.json", "partimagenet.json", "ade20k_part_234.json"),
    ids=lambda path: path.stem,
)
def test_comparable_classes_of_the_sources(path: Path) -> None:
    listed = json.loads(path.read_text())["objects"]
    expected = counted(listed)
    found = read_class_list(path)
    pairs = comparable_pairs(found)
    assert (len(found), expected[0], len(pairs)) == COUNTS.get(path.stem, (len(listed), *expected[:2]))
    assert len(pairs) == expected[1]
    shared = {name.replace("_", " ").lower().replace("tier", "tire") for name in expected[2]}
    assert set().union(*(pair.shared for pair in pairs)) == shared


@pytest.mark.parametrize("path", category_lists("colon.json", "paco_lvis.json"), ids=lambda path: path.stem)
def test_readers_name_classes_and_parts_as_the_category_lists_do(tmp_path: Path, path: Path) -> None:
    """A file with one object and each of its parts per class, in PACO's own categories."""
    lists = json.loads(path.read_text())
    categories = lists["raw_categories"]
    rows: list[Any] = []
    whole = {row["name"]: row["id"] for row in categories if ":" not in row["name"]}
    for row in categories:
        owner = whole[row["name"].partition(":")[0]]
        rows.append(
            {"id": row["id"], "image_id": 0, "category_id": row["id"], "obj_ann_id": owner,
             "segmentation": [rectangle(0, 0, 2, 2)]}
        )  # fmt: skip
    report = ReadReport()
    written = write(tmp_path / "paco.json", coco(PACO_IMAGES, rows, categories))
    found = {item.object_name: item for item in read_paco(written, split="train", report=report)}
    num_parts = sum(len(parts) for parts in lists["objects"].values())
    assert (len(found), report.num_parts) == (len(lists["objects"]), num_parts)
    assert (report.skipped, report.repaired) == ({}, {})
    assert len(categories) == len(lists["objects"]) + num_parts
    parts_of = {name: frozenset(part.name for part in item.parts) for name, item in found.items()}
    assert parts_of == read_class_list(path)


def test_comparable_classes_of_a_small_list(tmp_path: Path) -> None:
    listed = {
        "chair": ["leg", "back", "seat"], "table": ["leg", "top"], "sofa": ["Back", "arm"],
        "trash_can": ["rim"], "cup_(drink)": ["rim", "handle"], "ball": [],
    }  # fmt: skip
    pairs = comparable_pairs(read_class_list(write(tmp_path / "a.json", {"objects": listed})))
    assert [(pair.first, pair.second, set(pair.shared)) for pair in pairs] == [
        ("chair", "sofa", {"back"}),
        ("chair", "table", {"leg"}),
        ("cup", "trash can", {"rim"}),
    ]
    assert counted({k: [p.lower() for p in v] for k, v in listed.items()})[:2] == (15, 3)
