"""Large photographs are labelled on reduced copies: the masks come out at the size of the originals."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.coco.display_copies import DisplayCopies, enlarged, reduced
from backend.codecs.annotation import decode_annotation
from backend.codecs.config import read_config, write_config
from backend.codecs.parts import Vocabulary, with_parts
from backend.codecs.prediction import encode_prediction
from backend.codecs.task_data import originals_of
from calico.correspondence import co_segmentation
from calico.data.loose_images import by_similarity
from calico.errors import InputError
from calico.images import load_image
from calico.masks import decode_rle
from calico.values import NamedMask
from scripts import export_coco, import_coco, project


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 90), st.integers(0, 90), st.integers(0, 2**32 - 1))
def test_an_enlarged_mask_is_the_same_mask(height: int, width: int, more: int, wider: int, seed: int):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    large = enlarged(mask, (height + more, width + wider))
    assert large.shape == (height + more, width + wider)
    assert (reduced(large, mask.shape) == mask).all()


def photographs(folder: Path) -> Path:
    """One lying, one that EXIF turns upright, one small, one in a format that browsers do not show."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size_wh, more in (
        ("a.jpg", (900, 600), {}),
        ("b.jpg", (900, 600), {"exif": exif}),
        ("c.png", (300, 200), {}),
        ("d.tif", (640, 480), {}),
    ):
        Image.fromarray(rng.integers(0, 255, (size_wh[1], size_wh[0], 3), np.uint8)).save(folder / name, **more)
    return folder


def test_groups_show_copies_and_the_export_has_the_size_of_the_originals(tmp_path: Path, capsys):
    folder, out = photographs(tmp_path / "photos"), tmp_path / "tasks.json"
    command = ["groups", str(folder), "--group-size", "2", "--max-side", "450", "--out", str(out)]
    assert project.main([*command, "--sheet", str(tmp_path / "sheet.html")]) == 0
    tasks = json.loads(out.read_text())
    data = [task["data"] for task in tasks]
    assert [row["image1"] for row in data] == [f"/data/local-files/?d=photos-450/{n}" for n in ("a.jpg", "c.png")]
    assert data[1]["image2"].endswith("photos-450/d.tif.jpg")
    assert [o.size_hw for row in data for o in originals_of(row, 2)] == [(600, 900), (900, 600), (200, 300), (480, 640)]
    shown = tmp_path / "photos-450"
    assert [load_image(shown / n).shape[:2] for n in ("a.jpg", "b.jpg", "c.png", "d.tif.jpg")] == [
        (300, 450), (450, 300), (200, 300), (338, 450),
    ]  # fmt: skip
    assert (shown / "c.png").stat().st_ino == (folder / "c.png").stat().st_ino
    assert (tmp_path / "sheet.html").read_text().count("data:image/jpeg") == 4

    xml = write_config(2)
    config = read_config(xml)
    mask = np.zeros((300, 450), bool)
    mask[100:200, 50:60] = True
    sizes = ((300, 450), (450, 300))
    coseg = co_segmentation(sizes, [NamedMask(0, "lamp", "foot", mask), NamedMask(1, "lamp", "foot", mask.T.copy())])
    task = {"id": 4, "data": with_parts(data[0], coseg, config, Vocabulary())}
    rows = encode_prediction(coseg, config, model_version="m", task_id=4, task_data=task["data"]).prediction["result"]
    task["annotations"] = [{"id": 1, "was_cancelled": False, "result": rows}]
    (tmp_path / "export.json").write_text(json.dumps([task]))
    (tmp_path / "config.xml").write_text(xml)
    export = [str(tmp_path / "coco.json"), "--tasks", str(tmp_path / "export.json")]
    export += ["--config", str(tmp_path / "config.xml"), "--images", str(folder)]
    assert export_coco.main(export) == 0, capsys.readouterr().err
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert [(row["file_name"], row["height"], row["width"]) for row in coco["images"]] == [
        ("photos/a.jpg", 600, 900), ("photos/b.jpg", 900, 600),
    ]  # fmt: skip
    assert coco["images"][1]["exif_orientation"] == 6
    own = [row for row in coco["annotations"] if row["image_id"] == 401]
    found = [decode_rle(row["segmentation"], size_hw=(600, 900)) for row in own]
    whole = np.zeros((600, 900), bool)
    whole[200:400, 100:120] = True
    assert [(item == whole).all() for item in found] == [True]

    # The file that came out goes in again, onto copies made anew: the same masks as were drawn on the first ones.
    again = tmp_path / "again.json"
    importing = [str(tmp_path / "coco.json"), "--out", str(again), "--config", str(tmp_path / "config.xml")]
    assert import_coco.main([*importing, "--max-side", "450"]) == 2
    assert "needs --images" in capsys.readouterr().err
    importing += ["--images", str(folder), "--copies", str(tmp_path / "copies"), "--as", "annotations"]
    assert import_coco.main([*importing, "--copies", str(tmp_path / "copies")]) == 2
    assert import_coco.main([*importing, "--max-side", "450"]) == 0, capsys.readouterr().err
    (second,) = json.loads(again.read_text())
    assert second["data"]["image2"] == "/data/local-files/?d=copies/b.jpg"
    assert second["data"]["originals"] == data[0]["originals"]
    assert load_image(tmp_path / "copies" / "b.jpg").shape[:2] == (450, 300)
    decoded = decode_annotation(second["annotations"][0], config, sizes, task_data=second["data"]).cosegmentation
    feet = {key: region.mask for key, region in decoded.by_key.items() if key.kind == "part"}
    assert feet.keys() == coseg.by_key.keys()
    assert all((mask == coseg.by_key[key].mask).all() for key, mask in feet.items())

    Image.new("RGB", (40, 30)).save(folder / "a.jpg")  # another picture than was copied
    assert export_coco.main([*export, "--restart"]) == 1


def test_a_copy_is_made_again_only_where_its_image_changed(tmp_path: Path):
    folder = photographs(tmp_path / "photos")
    copies = DisplayCopies(folder, tmp_path / "out", 450)
    first = copies.copy(str(folder / "a.jpg")).path
    os.utime(first, (2e9, 2e9))
    assert copies.copy(str(folder / "a.jpg")).path.stat().st_mtime == 2e9
    Image.new("RGB", (1000, 100)).save(folder / "a.jpg")
    assert load_image(copies.copy(str(folder / "a.jpg")).path).shape[:2] == (45, 450)


def test_what_cannot_be_copied_is_one_line(tmp_path: Path):
    folder = photographs(tmp_path / "photos")
    with pytest.raises(InputError, match="lies within"):
        DisplayCopies(folder, folder / "small", 450)
    with pytest.raises(InputError, match="2048 suits"):
        DisplayCopies(folder, tmp_path / "out", 20)
    copies = DisplayCopies(folder, tmp_path / "out", 450)
    with pytest.raises(InputError, match="not a file"):
        copies.copy("https://example.com/a.jpg")
    with pytest.raises(InputError, match="expected 'originals'"):
        originals_of({"originals": [{"file": "a.jpg", "height": 3}]}, 1)


def test_images_that_are_unlike_all_others_are_left_over():
    features = np.array([[1, 0, 0], [0.99, 0.1, 0], [0, 1, 0], [0, 0.98, 0.1], [-1, -1, -1]], float)
    grouping = by_similarity(list("abcde"), features, 2, min_similarity=0.8)
    assert [group.sources for group in grouping.groups] == [("a", "b"), ("c", "d")]
    assert all(group.similarity > 0.8 for group in grouping.groups)
    assert grouping.left_over == ("e",)
    assert len(by_similarity(list("abcd"), features[:4], 2, min_similarity=0.999).left_over) == 4
