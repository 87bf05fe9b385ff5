"""Finetuning a base that learnt from an index: its train split is replayed, its test split tells what was forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from micro import TOKENIZER, leave_out_curves, micro, quicken_memory, save_micro, shorten_answers, use_folds
from test_finetune import INPUTS, QUICK, group_of, write
from test_mixedparts_build import record, write_index, write_pictures

from calico.checkpoints.files import WEIGHTS
from calico.checkpoints.registry import Registry
from calico.drawings import CLASSES, draw
from calico.errors import InputError
from calico.mixedparts.writer import Bucket
from calico.snapshots.splits import Shares
from calico.snapshots.store import Snapshot
from calico.training.base_data import DRAWINGS, base_data_of, index_data, unguarded
from calico.training.batches import BatchSettings, Vocabulary
from calico.training.corrected_groups import corrected
from calico.training.corrections import CorrectionBatches
from calico.training.finetune import finetune
from calico.training.run_folder import RUN
from calico.values import SubTask
from scripts import finetune as verb

COMMON_OBJECT, COMMON_PARTS, _ = SubTask


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walruses and zebras, which no drawing shows; beside `index` the folder `photos`."""
    folder = tmp_path_factory.mktemp("part-data")
    records = [
        record(k, name, parts, split=split)
        for k, (split, name, parts) in enumerate(
            [("train", "walrus", ["tusk", "flipper"]), ("train", "zebra", ["mane"]), ("train", "walrus", ["tusk"])]
            + [("test", "zebra", ["mane"]), ("test", "zebra", ["mane", "hoof"]), ("test", "walrus", ["tusk"])]
        )
    ]
    write_pictures(folder / "photos", records)
    groups = {
        Bucket("train", "paco", COMMON_OBJECT): [[0, 2], [0, 1]],
        Bucket("train", "paco", COMMON_PARTS): [[1, 2]],
        Bucket("test", "paco", COMMON_OBJECT): [[3, 4], [4, 5]],
        Bucket("test", "paco", COMMON_PARTS): [[4, 3]],  # the first group, asked something else
    }
    write_index(folder / "index", records, groups)
    return folder / "index"


@pytest.fixture(scope="module")
def pictures(index: Path) -> list[str]:
    return [str(index.parent / "photos")]


def base_of(folder: Path, data_version: str) -> Path:
    return save_micro(folder, config=replace(micro(), data_version=data_version))


def test_what_is_replayed_is_of_the_train_split_and_depends_on_the_seed_alone(index: Path, pictures: list[str]) -> None:
    data = index_data(index, pictures)
    drawn = [data.draw(seed, 2, 32, ()) for seed in range(12)]
    assert {image.source.split()[1] for images in drawn for image in images} == {"0", "1", "2"}
    assert {len(images) for images in drawn} == {2}
    assert len(data.draw(0, 9, 32, ())) == 3  # there are no more
    again = index_data(index, pictures).draw(3, 2, 32, ())
    assert [image.source for image in again] == [image.source for image in drawn[3]]
    assert data.vocabulary == Vocabulary(["walrus", "zebra"], ["tusk", "flipper", "mane", "hoof"])


def test_questions_list_the_names_of_the_base_data(index: Path, pictures: list[str]) -> None:
    images = [draw(k, size_hw=(40, 40), object_name="mug") for k in (0, 1)]
    group = corrected(group_of(1, images), [item.image for item in images], 40, 1.0)
    listing = BatchSettings(4, 6, 2, 2, listed_share=1.0, candidate_share=1.0, dropout_share=0.0)

    def words(data: Any) -> set[str]:
        batches = CorrectionBatches([group], data.draw, TOKENIZER, listing, INPUTS, 0, data.vocabulary)
        texts = [TOKENIZER.text(row) for step in range(3) for row in batches.batch(step).prompts.token_ids.tolist()]
        return {name for name in (*CLASSES, "walrus", "zebra") if any(name in text for text in texts)}

    assert words(index_data(index, pictures)) <= {"mug", "walrus", "zebra"}
    assert len(words(DRAWINGS)) > 3


def test_the_base_test_is_distinct_groups_of_the_test_split(index: Path, pictures: list[str], tmp_path: Path) -> None:
    data = index_data(index, pictures)
    first, again = list(data.items(9)), list(data.items(9))
    assert [name for name, *_ in first] == [name for name, *_ in again]
    shown = [sorted(region.object_name for region in truth.regions if region.kind == "object") for *_, truth in first]
    assert sorted(shown) == [["walrus", "zebra"], ["zebra", "zebra"]]
    assert all(np.array_equal(a.images[0], b.images[0]) for (_, a, _), (_, b, _) in zip(first, again, strict=True))
    assert len(list(data.items(1))) == 1
    assert list(index_data(index, [str(tmp_path)]).items(9)) == []  # no picture is there


def test_an_index_without_a_test_split_or_pictures_is_refused(index: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --images DIR"):
        index_data(index)
    write_index(tmp_path / "x", [record(0, "cat", ["ear"]), record(1, "cat", [])], {
        Bucket("train", "paco", COMMON_OBJECT): [[0, 1]]
    })  # fmt: skip
    with pytest.raises(InputError, match="no samples of test"):
        index_data(tmp_path / "x", [str(tmp_path)])


def test_a_base_that_knows_no_drawings_needs_its_own_data(index: Path, pictures: list[str], tmp_path: Path) -> None:
    """Said before the weights are read."""
    base = base_of(tmp_path / "base", "mixedparts-0123456789ab")
    (base / WEIGHTS).write_bytes(b"")
    with pytest.raises(InputError, match=r"learnt from mixedparts-0123456789ab, not from drawings.*--replay INDEX"):
        finetune(write(tmp_path / "s", range(3)), base, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()
    data = index_data(index, pictures)
    config = replace(micro(), data_version=data.name)
    assert base_data_of(config, data, base) is data
    assert base_data_of(micro(), None, base) is DRAWINGS


def test_a_base_of_drawings_and_more_is_held_to_both(index: Path, pictures: list[str]) -> None:
    given = index_data(index, pictures)
    config = replace(micro(), data_version=f"drawings-v1+{given.name}")
    data = base_data_of(config, given, None)
    assert data.name == f"drawings+{given.name}"
    assert base_data_of(config, data, None) is data
    images = data.draw(5, 5, 40, ("lamp",))
    assert [image.source for image in data.draw(5, 5, 40, ("lamp",))] == [image.source for image in images]
    assert [image.object_name in CLASSES for image in images] == [True, True, True, False, False]
    assert data.draw(5, 1, 40, ())[0].object_name in CLASSES
    assert {"lamp", "walrus"} <= set(data.vocabulary.classes)
    assert {"leg", "tusk"} <= set(data.vocabulary.parts)
    assert [name.split("-")[0] for name, *_ in data.items(3)] == ["drawings", "drawings", "index"]
    assert len(list(data.items(1))) == 1
    assert unguarded(config, data) == []
    assert unguarded(config, DRAWINGS) == [given.name]
    assert unguarded(replace(config, data_version="drawings-v1+mixedparts-0"), data) == ["mixedparts-0"]


def test_the_verb_says_what_it_does_not_guard_and_mixes_it_with_drawings_where_it_is_given(
    index: Path,
    pictures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten_answers(monkeypatch)
    leave_out_curves(monkeypatch)
    use_folds(1, monkeypatch)
    known = index_data(index, pictures).name
    registry = Registry(tmp_path / "registry")
    base = registry.add(base_of(tmp_path / "base", f"drawings-v1+{known}"), kind="checkpoint", preset="calico-tiny")
    registry.publish(base.id, force_reason="what the test starts from")
    made = write(tmp_path / "s", range(2), Shares(0.0, 0.0))
    command = ["--data", str(made.folder), "--registry", str(registry.folder), "--steps", "1", "--base-groups", "2"]
    command += ["--no-memory", "--json", str(tmp_path / "report.json")]
    assert verb.main([*command, "--out", str(tmp_path / "alone")]) == 0
    assert f"{base.id} says that it learnt from {known}: that is neither" in capsys.readouterr().err
    command += ["--replay", str(index), "--images", pictures[0], "--out", str(tmp_path / "both")]
    assert verb.main(command) == 0
    assert "neither rehearsed" not in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    scores = json.loads((registry.path_of(report["version"]) / "scores.json").read_text())
    assert sorted(name.split("-")[0] for name in scores["base_challenger"]) == ["drawings", "index"]


def test_the_verb_replays_an_index_and_looks_for_forgetting_on_it(
    index: Path,
    pictures: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shorten_answers(monkeypatch)
    leave_out_curves(monkeypatch)
    quicken_memory(monkeypatch)
    use_folds(2, monkeypatch)
    data = index_data(index, pictures)
    registry = Registry(tmp_path / "registry")
    base = registry.add(base_of(tmp_path / "base", data.name), kind="checkpoint", preset="calico-tiny")
    registry.publish(base.id, force_reason="what the test starts from")
    made: Snapshot = write(tmp_path / "s", range(2), Shares(0.0, 0.0))
    command = ["--data", str(made.folder), "--registry", str(registry.folder), "--steps", "1", "--base-groups", "2"]
    command += ["--json", str(tmp_path / "report.json"), "--out", str(tmp_path / "run")]
    assert verb.main(command) == 2
    assert "--replay INDEX" in capsys.readouterr().err
    assert verb.main([*command, "--images", pictures[0]]) == 2
    assert "--images is for the index that --replay names" in capsys.readouterr().err
    command += ["--replay", str(index), "--images", pictures[0]]
    assert verb.main(command) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["figures"]["base"]["challenger"]["n_groups"] == 2
    scores = json.loads((registry.path_of(report["version"]) / "scores.json").read_text())
    assert scores["base_challenger"].keys() == {name for name, *_ in data.items(2)}
    assert json.loads((tmp_path / "run" / RUN).read_text())["base_data"] == data.name
    assert json.loads((tmp_path / "run" / "fold-1" / RUN).read_text())["base_data"] == data.name
    assert verb.main(command[:-4]) == 2
    assert f"holds a run of snapshot {made.content_sha256[:12]}" in capsys.readouterr().err
