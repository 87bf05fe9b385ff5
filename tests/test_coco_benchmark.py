"""The comparison of COCO exporters: what it counts, and that it runs the converter as asked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coco import CASES, compare, judge
from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import encode_rle
from calico.values import NamedMask

CONVERTER = """
import json, pathlib
class Converter:
    def __init__(self, config, project_dir, download_resources):
        assert pathlib.Path(config).read_text().startswith("<View>")
    def convert(self, tasks, out, kind, is_dir):
        names = [task["data"].get("image1", "/x.mp3") for task in json.load(open(tasks))]
        images = [{"id": i, "file_name": n.rpartition("/")[2], "height": 9, "width": 9} for i, n in enumerate(names)]
        pathlib.Path(out).mkdir()
        document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "object"}]}
        (pathlib.Path(out) / "result_coco.json").write_text(json.dumps(document))
"""


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((12, 16), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_region_is_found_on_its_own_image_under_its_own_name() -> None:
    """Two pieces of one region are united; an annotation mostly elsewhere, or of another image, is none of it."""
    wheels = box(0, 0, 2, 2) | box(6, 0, 8, 2)
    masks = [NamedMask(0, "car", None, box(0, 0, 8, 8)), NamedMask(0, "car", "wheel", wheels)]
    masks += [NamedMask(1, "car", None, box(0, 0, 4, 4))]
    truth = co_segmentation([(12, 16)] * 2, masks)
    rows = [(0, 1, box(0, 0, 8, 6)), (0, 2, box(0, 0, 2, 2)), (0, 2, box(6, 0, 8, 2)), (0, 2, box(9, 5, 16, 12))]
    document = {
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "car:wheel"}],
        "images": [{"id": 0, "file_name": "x/1-0.png", "height": 12, "width": 16}],
        "annotations": [
            {"image_id": image, "category_id": category, "segmentation": encode_rle(mask)}
            for image, category, mask in rows
        ],
    }
    found = judge(document, [truth], by_name=True)
    assert found == {"images": 1, "annotations": 4, "found": 2, "exact": 1, "mean_iou": (0.75 + 1 + 0) / 3, "names": 2}
    assert judge(document, [truth], by_name=False)["found"] == 0
    document["images"][0]["width"] = 17  # an image of another size is not the region's
    assert judge(document, [truth], by_name=True)["found"] == 0


def test_both_exporters_read_the_same_tasks(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "label_studio_sdk" / "converter"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text(CONVERTER)
    (package / "converter.py").write_text("class Format:\n    BRUSH_TO_COCO = 17\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = compare(Path(sys.executable), 2)
    for case in CASES:
        ours, theirs = report[case]["ours"], report[case]["sdk"]
        assert ours["exact"] == ours["found"] == ours["annotations"] == report[case]["regions"] > 0
        assert (ours["mean_iou"], theirs["mean_iou"]) == (1.0, 0.0)
        assert theirs["images"] == 2
    assert report["A"]["regions"] > report["one image annotated"]["regions"]


def test_a_python_without_the_sdk_is_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "label_studio_sdk.py").write_text("raise ImportError('none here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match="could not convert: ImportError: none here; it needs label-studio-sdk"):
        compare(Path(sys.executable), 1)
