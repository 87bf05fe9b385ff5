"""A user's own annotated photographs, from a COCO file to a version that serves; and as the team that corrects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import leave_out_curves, use_folds
from PIL import Image
from test_finetune import TOKENIZER, micro
from test_part_memory import sign

from calico.checkpoints.files import save_checkpoint
from calico.coco.dataset import NamingOptions, parse_coco
from calico.errors import InputError
from calico.inference.segmenter import CoSegmenter
from calico.masks import encode_rle
from calico.model.builder import build
from calico.part_memory import fitting
from calico.simulation.photos import PhotoPool
from scripts import evaluate, feedback, finetune, import_coco, simulate_loop, versions

QUICK = fitting.MemorySettings(steps=80, rows_per_step=192, hidden=16, learning_rate=0.01, dropout=0.0)


def folder_of(folder: Path, count: int, names: tuple[str, str, str] = ("sign", "sign:board", "sign:post")) -> Path:
    """annotations.json and images/ of small pictures, two of each photograph."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for k in range(count):
        item, name = sign(k), f"{k:03d}.png"
        Image.fromarray(item.image).save(folder / "images" / name)
        images.append({"id": k, "file_name": name, "height": 64, "width": 64, "source_photo": f"photo {k // 2}"})
        masks = [item.part_map > 0, item.part_map == 2, item.part_map == 3]
        for category, mask in enumerate(masks, start=1):
            row = {"id": 3 * k + category, "image_id": k, "category_id": category, "segmentation": encode_rle(mask)}
            annotations.append({**row, "obj_ann_id": 3 * k + 1, "area": int(mask.sum()), "iscrowd": 0})
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (folder / "annotations.json").write_text(text)
    return folder


# -- naming -----------------------------------------------------------------------------------------------------------


def test_all_categories_become_parts_of_one_object_renamed_or_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "own", 2, ("sign", "big board", "Post_1"))
    document = json.loads((folder / "annotations.json").read_text())
    plain = parse_coco(document)
    assert {item.object_name for item in plain.objects} == {"sign", "big board", "post 1"}
    given = {"big board": "board", "Post_1": ""}
    found = parse_coco(document, naming=NamingOptions(given=given, object_name="sign"))
    assert [(item.object_name, sorted(str(part) for part, _ in item.rows)) for item in found.objects] == [
        ("sign", ["None", "board"])
    ] * 2
    assert found.findings.counts == {"left_out_category": 2}
    assert NamingOptions(object_name="car").owned(("truck", "door")) == ("car", "door")


# -- the page "Your photographs, from a COCO file to a served version" -------------------------------------------------


def test_from_a_coco_file_to_a_version_with_nothing_else_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALICO_DATA_DIR", str(tmp_path / "data"))
    own = folder_of(tmp_path / "own", 20, ("sign", "board", "post"))
    use_folds(2, monkeypatch)
    leave_out_curves(monkeypatch)
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    monkeypatch.setattr("calico.checkpoints.fingerprint.EMBEDDED", tmp_path / "base")
    for name in ("calico.training.challenge", "calico.training.starting_model", "calico.checkpoints.adapter"):
        monkeypatch.setattr(f"{name}.EMBEDDED", tmp_path / "base")
    monkeypatch.setattr("calico.training.memory_fit.THOROUGH", QUICK)
    whole = CoSegmenter._generate  # a model of random weights never ends its answers
    monkeypatch.setattr(CoSegmenter, "_generate", lambda *args: whole(*args, limit=4))
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "base", build(micro()), micro(), TOKENIZER)
    tasks, data, registry = tmp_path / "tasks.json", tmp_path / "feedback", tmp_path / "registry"
    told = [str(own / "annotations.json"), "--out", str(tasks), "--images", str(own / "images"), "--object", "sign"]
    assert import_coco.main([*told, "--as", "annotations"]) == 0
    shares = ["--validation-share", "0", "--test-share", "0.5"]
    config = ["--labeling-config", str(tasks.with_suffix(".xml"))]
    assert feedback.main(["--export", str(tasks), *config, "--out", str(data), *shares]) == 2
    assert "set CALICO_LOCAL_FILES_ROOT" in capsys.readouterr().err
    monkeypatch.setenv("CALICO_LOCAL_FILES_ROOT", str(own))
    assert feedback.main(["--export", str(tasks), *config, "--out", str(data), *shares]) == 0
    run = ["--data", str(data), "--registry", str(registry), "--out", str(tmp_path / "run"), "--steps", "0"]
    report = tmp_path / "report.json"
    finetune.main([*run, "--base-groups", "1", "--base-drop", "1", "--json", str(report)])
    version = json.loads(report.read_text())["version"]
    assert versions.main(["show", version, "--registry", str(registry)]) == 0
    capsys.readouterr()
    place = str(registry / "versions" / version)
    assert evaluate.main(["--snapshot", str(data), "--checkpoint", place, "--json", str(report)]) == 0
    found = json.loads(report.read_text())
    assert found["reconciled"]["strict_miou_parts"] > 0.4  # by the memory: the language model knows nothing
    assert found["num_trained_on"] == 0
    assert evaluate.main(["--snapshot", str(data), "--split", "train", "--checkpoint", place]) == 0
    assert "not a fair test" in capsys.readouterr().out


# -- photographs as the team that corrects -----------------------------------------------------------------------------


def test_pictures_of_one_photograph_stay_on_one_side(tmp_path: Path) -> None:
    pool = PhotoPool(folder_of(tmp_path / "own", 24))
    held = {name for _, group, _ in pool.held_out(99) for name in group.names}
    groups = pool.labelled(0)
    used = [name for group in groups for name in group.sources]
    photo = {item.image.file_name: item.image.row["source_photo"] for item in pool.objects}
    assert len(used) == len(set(used)) >= 14
    assert not {photo[name] for name in held} & {photo[name] for name in used}
    assert [group.sources for group in groups] != [group.sources for group in pool.labelled(1)]
    assert {region.part_name for region in groups[0].truth.regions} == {None, "board", "post"}
    (tmp_path / "own" / "images" / "003.png").unlink()
    with pytest.raises(InputError, match=r"003\.png"):
        PhotoPool(tmp_path / "own")


def test_the_memory_alone_learns_from_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calico.simulation.memory_curve.THOROUGH", QUICK)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "base", build(micro()), micro(), TOKENIZER)
    told = ["--photos", str(folder_of(tmp_path / "own", 24)), "--checkpoint", str(tmp_path / "base")]
    told += ["--out", str(tmp_path / "out"), "--memory-only", "2", "5", "--seeds", "0", "--base-groups", "1"]
    assert simulate_loop.main(told) == 0
    rows = json.loads((tmp_path / "out" / "memory.json").read_text())["rows"]
    assert [row["groups"] for row in rows] == [2, 5]
    assert rows[1]["strict_miou_parts"] > 0.4
    assert rows[1]["name_precision"] > 0.8
    assert "held-out groups" in capsys.readouterr().out
    assert np.isfinite(rows[1]["estimate"])
    assert simulate_loop.main([*told[:-8], "--scenario", "class", "--memory-only"]) == 2
