"""Snapshots: lines there and back, splits that do not move, folders that are whole, purges, reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.snapshots.page import write_page
from calico.snapshots.records import AnnotatedGroup, ImageReference
from calico.snapshots.report import feedback_report
from calico.snapshots.splits import Shares, Splitter
from calico.snapshots.store import MANIFEST, SAMPLES, Snapshot
from calico.snapshots.writer import SnapshotWriter, purge
from calico.values import ImageGroup, NamedMask, RegionKey

SIZE = (12, 16)


def image_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def group_of(
    number: int, *, seeds: tuple[int, int] | None = None, annotator: str = "ann", accepted: bool = False, **more: Any
) -> tuple[AnnotatedGroup, list[np.ndarray]]:
    images = [image_of(seed) for seed in seeds or (2 * number, 2 * number + 1)]
    half = np.zeros(SIZE, bool)
    half[:, : 3 + number % 5] = True
    masks = [NamedMask(0, "chair", None, half), NamedMask(1, "chair", None, ~half), NamedMask(0, "chair", "leg", half)]
    masks.append(NamedMask(1, "chair", "foot", half))
    relations = [(RegionKey(0, "part", "leg"), RegionKey(1, "part", "foot"))]
    target = co_segmentation((SIZE, SIZE), masks, relations=relations)
    digests = ImageGroup(tuple(images)).digests
    references = tuple(ImageReference(f"/data/{d[:6]}.png", SIZE, d) for d in digests)
    provenance = {"task": number, "annotator": annotator, "accepted_as_is": accepted, **more}
    return AnnotatedGroup(f"1/{number}", references, target, provenance, order=number), images


def write(folder: Path, numbers: range | list[int], **options: Any) -> Snapshot:
    with SnapshotWriter(folder, **options) as writer:
        for number in numbers:
            writer.add(*group_of(number))
        return writer.finish()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_line_there_and_back() -> None:
    group, _ = group_of(3)
    back = AnnotatedGroup.from_record(json.loads(group.to_line()))
    assert back.to_line() == group.to_line()
    leg = back.target.by_key[RegionKey(0, "part", "leg")]
    assert leg.correspondence == (0, 1)  # a relation drawn by hand, which names do not tell
    np.testing.assert_array_equal(leg.mask, group.target.by_key[leg.key].mask)


def test_equal_input_gives_equal_bytes_in_any_order(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", range(20)), write(tmp_path / "b", [*reversed(range(20))])
    assert files_of(first.folder) == files_of(second.folder)
    again = write(tmp_path / "a", range(20))  # over itself
    assert files_of(again.folder) == files_of(second.folder)
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_groups_are_of_a_split_and_have_the_very_pixels(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "s", shares=Shares(0, 0)) as writer:
        writer.add(*group_of(1))
        writer.add(*group_of(2, accepted=True))
        snapshot = writer.finish()
    first, second = snapshot.groups("train")
    assert [group.provenance["accepted_as_is"] for group in (first, second)] == [False, True]
    np.testing.assert_array_equal(snapshot.load_images(first).images[1], image_of(3))
    assert list(snapshot.groups("test")) == []


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", range(3)).folder
    text = (folder / SAMPLES).read_text()
    (folder / SAMPLES).write_text(text.replace('"task":1', '"task":7'))
    with pytest.raises(InputError, match="expected sha256"):
        Snapshot(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Snapshot(folder)


def test_a_changed_picture_is_refused(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "s", range(1))
    first, second = sorted((snapshot.folder / "images").iterdir())
    shutil.copyfile(first, second)
    with pytest.raises(InputError, match="other pixels"):
        [snapshot.load_images(group) for group in snapshot.groups()]


def test_a_snapshot_made_anew_heals_its_pictures(tmp_path: Path) -> None:
    """Over itself: pictures are taken over from the one before, but not the spoilt ones."""
    snapshot = write(tmp_path / "s", range(2))
    first, second, third, _ = sorted((snapshot.folder / "images").iterdir())
    shutil.copyfile(first, second)
    third.write_bytes(b"cut off")
    healed = write(tmp_path / "s", range(2))
    assert [len(healed.load_images(group)) for group in healed.groups()] == [2, 2]


def test_a_damaged_snapshot_is_not_replaced_unasked(tmp_path: Path) -> None:
    """Its splits and purges would be lost with it."""
    folder = write(tmp_path / "s", range(3)).folder
    (folder / SAMPLES).write_text("")
    with pytest.raises(InputError, match=r"expected sha256.*splits and purges are to be kept.*or remove it"):
        write(folder, range(3))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        SnapshotWriter(tmp_path)


# -- splits -----------------------------------------------------------------------------------------------------------

groups_of_images = st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=4, unique=True), max_size=40)


@settings(deadline=None, max_examples=60)
@given(groups_of_images, st.integers(0, 40))
def test_splits_do_not_move_and_no_image_is_in_two(groups: list[list[int]], cut: int) -> None:
    def splits_of(given: list[list[int]]) -> list[str | None]:
        splitter = Splitter(Shares(0.25, 0.35))
        return [splitter.add([f"image {i}" for i in group]) for group in given]

    found = splits_of(groups)
    assert splits_of(groups[:cut]) == found[:cut]
    split_of_image: dict[int, str] = {}
    for group, split in zip(groups, found, strict=True):
        if split is None:
            continue
        for image in group:
            assert split_of_image.setdefault(image, split) == split


def test_shares_are_kept_and_nested() -> None:
    keys = [[f"{i}a", f"{i}b"] for i in range(4000)]
    small, large = Shares(0.1, 0.2), Shares(0.2, 0.4)
    splits = [small.split_of(k) for k in keys]
    assert abs(splits.count("test") / 4000 - 0.2) < 0.02
    assert abs(splits.count("validation") / 4000 - 0.1) < 0.02
    assert all(large.split_of(k) == s for k, s in zip(keys, splits, strict=True) if s != "train")
    assert small.split_of(["x", "y"]) == small.split_of(["y", "x", "y"])
    with pytest.raises(InputError, match="sum below 1"):
        Shares(0.5, 0.5)


def test_a_group_that_would_join_two_splits_is_left_out_and_explained(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", range(30))
    split_of = {r["provenance"]["task"]: r["split"] for r in plain.records()}
    train, test = (next(t for t, s in split_of.items() if s == name) for name in ("train", "test"))
    with SnapshotWriter(tmp_path / "more") as writer:
        for number in range(30):
            writer.add(*group_of(number))
        writer.add(*group_of(30, seeds=(2 * train, 2 * test)))
        writer.add(*group_of(31, seeds=(2 * test, 900)))  # shares an image with one of them only
        writer.add(*group_of(32, seeds=(900, 901)))  # and with that one
        snapshot = writer.finish()
    found = {r["provenance"]["task"]: r["split"] for r in snapshot.records()}
    assert split_of.items() <= found.items()
    assert (found[31], found[32]) == ("test", "test")
    assert 30 not in found
    assert snapshot.manifest["skipped"] == {"joins_splits": 1}
    assert [row["task"] for row in snapshot.skipped()] == [30]


def test_replacing_a_snapshot_keeps_splits_even_without_the_first_groups(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with SnapshotWriter(folder) as writer:
        for number in range(12):  # a chain: each shares an image with the next
            writer.add(*group_of(number, seeds=(number, number + 1)))
        [split] = {r["split"] for r in writer.finish().records()}
    for start in range(1, 12):
        with SnapshotWriter(folder) as writer:
            for number in range(start, 13):
                writer.add(*group_of(number, seeds=(number, number + 1)))
            assert {r["split"] for r in writer.finish().records()} == {split}


# -- kills ------------------------------------------------------------------------------------------------------------


def test_what_was_gathered_survives_a_kill(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", range(10), run="r")
    with SnapshotWriter(tmp_path / "s", run="r") as writer:
        for number in range(10):
            writer.add(*group_of(number))
            if number == 5:
                writer.checkpoint({"task": 5})
    with SnapshotWriter(tmp_path / "s", run="r") as writer:
        assert writer.position == {"task": 5}
        assert writer.num_groups == 6
        for number in range(6, 10):
            writer.add(*group_of(number))
        assert files_of(writer.finish().folder) == files_of(whole.folder)


def test_another_run_starts_anew(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "s", run="r") as writer:
        writer.add(*group_of(1))
        writer.checkpoint({"task": 1})
    with SnapshotWriter(tmp_path / "s", run="other") as writer:
        assert (writer.position, writer.num_groups) == (None, 0)


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "s"), pytest.raises(InputError, match="another process"):
        SnapshotWriter(tmp_path / "s").__enter__()


def test_a_kill_at_any_rename_leaves_a_whole_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = files_of(write(tmp_path / "s", range(3)).folder)
    rename = Path.rename
    for kill_at in range(2):
        calls = iter(range(10))

        def dying(self: Path, target: Path, calls: Any = calls, kill_at: int = kill_at) -> Path:
            if next(calls) == kill_at:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "s", range(5))
        monkeypatch.setattr(Path, "rename", rename)
        SnapshotWriter(tmp_path / "s")  # puts back what lay aside
        assert files_of(tmp_path / "s") == old


# -- purges -----------------------------------------------------------------------------------------------------------


def test_purge_by_annotator_and_task_and_it_stays_purged(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "s") as writer:
        writer.add(*group_of(1, annotator="ada"))
        writer.add(*group_of(2, annotator="bob"))
        writer.add(*group_of(3, annotator="bob", seeds=(2, 999)))  # shares an image with ada's
        writer.skip(4, "cancelled", "the annotation was cancelled")
        before = {r["id"]: r["split"] for r in writer.finish().records()}
    assert purge(tmp_path / "s", annotators=["ada"], tasks=[2, 4]) == 2
    snapshot = Snapshot(tmp_path / "s")
    assert [(r["id"], r["split"]) for r in snapshot.records()] == [("1/3", before["1/3"])]
    assert len(list((snapshot.folder / "images").iterdir())) == 2
    assert "ada" not in (snapshot.folder / SAMPLES).read_text()
    assert (snapshot.manifest["skipped"], list(snapshot.skipped())) == ({}, [])
    with SnapshotWriter(tmp_path / "s") as writer:
        assert writer.is_purged(task=9, annotator="ada")
        assert writer.is_purged(task=2, annotator="eve")
        assert not writer.is_purged(task=3, annotator="bob")


def test_another_snapshot_does_not_undo_a_purge(tmp_path: Path) -> None:
    """Both snapshots' purges and splits are kept, the folder's own splits before the other's."""
    own, other = tmp_path / "own", tmp_path / "other"
    write(own, [1, 2, 5], shares=Shares(0, 0))
    write(other, [2, 3, 4], shares=Shares(0, 0.999))
    purge(own, annotators=["ada"], tasks=[1])
    purge(other, annotators=["bob"], tasks=[4])
    with SnapshotWriter(own, shares=Shares(0.999, 0), previous=other) as writer:
        found = [writer.is_purged(task=task, annotator=who) for task, who in ((1, ""), (4, ""), (9, "ada"), (9, "bob"))]
        assert found == [True] * 4
        assert not writer.is_purged(task=2, annotator="eve")
        for number in (2, 3, 5, 6):
            writer.add(*group_of(number))
        snapshot = writer.finish()
    assert snapshot.manifest["purged"] == {"annotators": ["ada", "bob"], "tasks": [1, 4]}
    splits = {record["provenance"]["task"]: record["split"] for record in snapshot.records()}
    assert splits == {2: "train", 3: "test", 5: "train", 6: "validation"}
    again = write(own, [2, 3, 5, 6], previous=own)  # its own path is no other snapshot
    assert again.manifest["purged"] == snapshot.manifest["purged"]


def test_what_was_gathered_before_a_purge_is_gathered_anew(tmp_path: Path) -> None:
    other = write(tmp_path / "other", [1, 2]).folder
    with SnapshotWriter(tmp_path / "s", previous=other, run="r") as writer:
        writer.add(*group_of(1))
        writer.checkpoint({"task": 1})
    purge(other, tasks=[1])
    with SnapshotWriter(tmp_path / "s", previous=other, run="r") as writer:
        assert (writer.position, writer.num_groups) == (None, 0)


def test_a_damaged_snapshot_is_not_replaced_by_way_of_another(tmp_path: Path) -> None:
    own, other = write(tmp_path / "own", [1]).folder, write(tmp_path / "other", [2]).folder
    (own / SAMPLES).write_text("")
    with pytest.raises(InputError, match=r"expected sha256.*restore .*own, or remove it"):
        SnapshotWriter(own, previous=other)


# -- the report -------------------------------------------------------------------------------------------------------


def change(kind: str, *, part: str | None = "leg", iou: float | None = 1.0, name: bool | None = True) -> dict[str, Any]:
    gone = kind in ("deleted", "added")
    return {
        "image": 0, "object": "chair", "part": part, "change": kind, "iou": None if gone else iou,
        "boundary_f": None if gone else iou, "is_name_right": None if gone else name,
        "is_occurrence_right": None if gone else True,
    }  # fmt: skip


def record_of(number: int, rows: list[dict[str, Any]] | None, **source: Any) -> dict[str, Any]:
    known = {"accepted_as_is": False, "model_version": "v1", "prediction": None if rows is None else number}
    return {"id": f"1/{number}", "provenance": known | source, "changes": rows}


def test_the_report_counts_with_its_n() -> None:
    rows = [change("kept"), change("edited", iou=0.5), change("relabelled", name=False), change("deleted")]
    records = [record_of(1, [*rows, change("added", part="arm")]), record_of(2, [change("kept", part=None)])]
    report = feedback_report([*records, record_of(3, None)])
    overall = report["overall"]
    assert [overall[c] for c in ("kept", "edited", "relabelled", "deleted", "added")] == [2, 1, 1, 1, 1]
    assert overall["iou"] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert (overall["name_accuracy"], overall["n"]["name_accuracy"]) == (0.75, 4)
    assert (overall["n"]["occurrence_accuracy"], overall["n"]["kept"]) == (3, 5)  # no object, and none added
    assert report["by_part"]["leg"]["edited"] == 1
    assert report["by_part"]["arm"]["iou"] is None
    assert [g["group"] for g in report["best_groups"]] == ["1/2", "1/1"]
    assert report["worst_groups"][0] == {"group": "1/1", "score": pytest.approx(2.5 / 5)}
    assert (report["num_groups"], report["num_groups_with_prediction"]) == (3, 2)
    assert report["lead_time"] is None


def test_lead_time_compares_random_arms_only() -> None:
    records = [
        record_of(1, [], held_out=False, lead_time_s=10.0),
        record_of(2, None, held_out=True, lead_time_s=30.0),
        record_of(3, None, held_out=True, lead_time_s=99.0, has_predictions=True),  # spoilt
        record_of(4, None, held_out=False, lead_time_s=99.0),  # no prediction, but not by lot
    ]
    arms = feedback_report(records)["lead_time"]
    assert arms["with_prediction"] == {"n": 1, "mean_s": 10.0, "median_s": 10.0}
    assert arms["without_prediction"] == {"n": 1, "mean_s": 30.0, "median_s": 30.0}


def test_the_page_escapes_and_needs_nothing(tmp_path: Path) -> None:
    rows = [change("kept") | {"object": "<script>alert(1)</script>"}]
    write_page(tmp_path / "p.html", feedback_report([record_of(1, rows, held_out=True, lead_time_s=3.0)]))
    text = (tmp_path / "p.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "http" not in text
    write_page(tmp_path / "p.html", feedback_report([]))
