"""Part data in its sources' own formats, written here with every awkward form they have, against exact masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.errors import InputError
from calico.masks import encode_rle
from calico.mixedparts.records import (
    ObjectRecord,
    PartMask,
    ReadReport,
    annotated,
    inside,
    load_record_image,
    united,
)

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
