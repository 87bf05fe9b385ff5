"""Comparable classes, the index on disk, the builder's rules, statistics, and training on what was built.

Photographs are drawings here, in files as PACO and PartImageNet write them, so the truth of every sample is known.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from micro import TOKENIZER, micro
from PIL import Image
from recorded import all_of

from benchmarks.part_data import benchmark_data
from calico.correspondence import truth_of
from calico.drawings import draw
from calico.errors import InputError
from calico.language.tokenizer import CalicoTokenizer
from calico.masks import encode_rle
from calico.mixedparts.builder import BuildSettings, build_index
from calico.mixedparts.classes import Overrides, comparable_pairs, read_class_list, read_overrides
from calico.mixedparts.groups import GroupRules, Member, Pool, choose_samples
from calico.mixedparts.index import MixedParts
from calico.mixedparts.page import statistics_page
from calico.mixedparts.records import ObjectRecord, PartMask
from calico.mixedparts.sources import SourceFile, parse_source
from calico.mixedparts.statistics import COLUMNS, statistics, table_rows
from calico.mixedparts.tables import Table, TableWriter
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter, write_manifest
from calico.model.inputs import ModelInputs
from calico.training.batches import BatchSettings
from calico.training.sources import Batches, IndexSamples
from calico.values import AnnotatedImage, SubTask
from scripts import mixedparts, train

SOURCES = ("paco_lvis", "partimagenet", "ade20k_part_234")
LISTS = all_of("categories/*.json", *(f"categories/{name}.json" for name in SOURCES))
COLONS = all_of("categories/colon.json", "categories/paco_lvis.json")
COMMON_OBJECT, COMMON_PARTS, UNIQUE_PARTS = SubTask


# Comparable classes


COUNTS = {"paco_lvis": (75, 900), "partimagenet": (11, 55), "ade20k_part_234": (44, 319)}  # of the whole lists


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_comparable_pairs_equal_an_independent_count(path: Path) -> None:
    parts_of = read_class_list(path)
    found = comparable_pairs(parts_of)
    # The same from the file's own spelling, without any of our names.
    listed = json.loads(path.read_text())["objects"]
    shared = [len(set(listed[a]) & set(listed[b])) for a, b in combinations(listed, 2)]
    assert sum(map(bool, shared)) == len(found) > 0
    assert sum(len(pair.shared) for pair in found) == sum(shared)
    assert (len(parts_of), len(found)) == COUNTS.get(path.stem, (len(listed), len(found)))


@pytest.mark.parametrize("path", COLONS, ids=lambda path: path.stem)
def test_categories_of_a_coco_file_say_the_same_as_its_list_of_objects(tmp_path: Path, path: Path) -> None:
    raw = json.loads(path.read_text())["raw_categories"]
    (tmp_path / "coco.json").write_text(json.dumps({"categories": raw}))
    assert read_class_list(tmp_path / "coco.json") == read_class_list(path)


PARTS_OF = {
    "bench": frozenset({"leg", "seat", "logo"}),
    "chair": frozenset({"leg", "seat", "arm"}),
    "mug": frozenset({"handle", "logo"}),
    "table": frozenset({"leg"}),
}


def pair_names(overrides: str, tmp_path: Path, suffix: str = ".toml") -> list[str]:
    path = tmp_path / f"overrides{suffix}"
    path.write_text(overrides)
    return [f"{pair.first}-{pair.second}" for pair in comparable_pairs(PARTS_OF, read_overrides(path)["x"])]


def test_overrides_take_pairs_away(tmp_path: Path) -> None:
    every = ["bench-chair", "bench-mug", "bench-table", "chair-table"]
    assert pair_names("[x]", tmp_path) == every
    assert pair_names('[x]\nignore_parts = ["logo"]', tmp_path) == [name for name in every if name != "bench-mug"]
    assert pair_names('[x]\nexclude = [["Table", "the chair"]]', tmp_path) == every[:3]
    assert pair_names('{"x": {"only": [["mug", "bench"]]}}', tmp_path, ".json") == ["bench-mug"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ('[x]\nexclude = [["chiar", "mug"]]', "did you mean 'chair'"),
        ('[x]\nonly = [["chair", "mug"]]', "share no part name"),
        ("[x]\ninclude = []", "unknown include"),
        ('[x]\nonly = ["chair"]', "list of pairs"),
        ("x = 3", "a table per source"),
        ("[x", "cannot be read"),
    ],
)
def test_overrides_that_cannot_be_meant_are_refused(overrides: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pair_names(overrides, tmp_path)


# The index


def test_a_table_gives_back_its_rows_and_notices_damage(tmp_path: Path) -> None:
    dtype = np.dtype([("a", "<u4"), ("b", "<i4", (2,))])
    with TableWriter(tmp_path / "t.npy", dtype) as writer:
        numbers = [writer.add(k, (k, -k)) for k in range(5)]
    table = Table(tmp_path / "t.npy", dtype)
    assert numbers == list(range(5))
    assert np.array_equal(np.load(tmp_path / "t.npy"), table[:])
    assert table[-1]["b"].tolist() == [4, -4]
    assert table[1:3]["a"].tolist() == [1, 2]
    assert pickle.loads(pickle.dumps(table))[3]["a"] == 3  # noqa: S301
    with pytest.raises(IndexError):
        table[5]
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match="cut off"):
        Table(tmp_path / "t.npy", dtype)
    with pytest.raises(InputError, match="expected rows of"):
        Table(tmp_path / "t.npy", np.dtype("<u4"))


SIZE_HW = (40, 60)


def record(
    number: int,
    name: str,
    parts: Sequence[str],
    *,
    source: str = "paco",
    split: str = "train",
    image: str | None = None,
    side: int = 24,
) -> ObjectRecord:
    """An object of `side` pixels, its parts in stripes; without parts a mask of its own."""
    whole = np.zeros(SIZE_HW, bool)
    whole[4 : 4 + side, 10 : 10 + side] = True
    masks = []
    for k, part in enumerate(parts):
        mask = np.zeros(SIZE_HW, bool)
        mask[4 : 4 + side // 2, 10 + 4 * k : 14 + 4 * k] = True
        masks.append(PartMask(part, encode_rle(mask)))
    rle = encode_rle(whole) if number % 2 or not parts else None  # half of them are the union of their parts
    file = image or f"{split}/{source}-{number}.png"
    return ObjectRecord(source, str(number), file, SIZE_HW, name, rle, tuple(masks), split)


def write_pictures(folder: Path, records: Sequence[ObjectRecord]) -> None:
    for k, item in enumerate(records):
        path = folder / item.image_file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*item.size_hw, 3), 20 * (k % 12), np.uint8)).save(path)


def write_index(folder: Path, records: Sequence[ObjectRecord], groups: dict[Bucket, list[list[int]]]) -> None:
    folder.mkdir(parents=True)
    sources = sorted({item.source for item in records})
    with ObjectWriter(folder, sources) as objects:
        for item in records:
            objects.add(item, 0)
    with SampleWriter(folder, sources) as samples:
        for bucket, members in groups.items():
            samples.add(bucket, np.array(members), np.zeros(len(members), bool))
    about = {"sources": sources, "classes": list(objects.classes), "parts": list(objects.parts)}
    write_manifest(folder, about | {"ranges": samples.ranges, "images": {}})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ObjectRecord]]:
    records = [
        record(0, "chair", ["leg", "seat"]),
        record(1, "chair", ["leg"]),
        record(2, "table", ["leg", "top"]),
        record(3, "dog", [], source="ade20k", split="test"),
        record(4, "dog", ["ear"], source="ade20k", split="test"),
    ]
    folder = tmp_path_factory.mktemp("small")
    write_pictures(folder / "photos", records)
    groups = {
        Bucket("train", "paco", COMMON_PARTS): [[0, 1, 2], [0, 2, -1]],
        Bucket("train", "paco", UNIQUE_PARTS): [[0, 1, -1]],
        Bucket("test", "ade20k", COMMON_OBJECT): [[3, 4]],
    }
    write_index(folder / "index", records, groups)
    return folder, records


def test_the_index_gives_back_the_records(small: tuple[Path, list[ObjectRecord]]) -> None:
    folder, records = small
    data = MixedParts(folder / "index")
    assert [data.record(k) for k in range(data.num_objects)] == records
    assert len(data) == 4
    assert [entry.objects for entry in data.entries()] == [(0, 1, 2), (0, 2), (0, 1), (3, 4)]
    assert [data.entry(i) for i in range(4)] == list(data.entries())
    assert data.entry(-1) == data.entry(3)
    with pytest.raises(IndexError):
        data.entry(4)


def test_a_view_holds_only_what_was_asked_for(small: tuple[Path, list[ObjectRecord]]) -> None:
    folder, _ = small
    assert [e.objects for e in MixedParts(folder / "index", "train").entries()] == [(0, 1, 2), (0, 2), (0, 1)]
    assert MixedParts(folder / "index", sub_task=UNIQUE_PARTS).entry(0).objects == (0, 1)
    assert len(MixedParts(folder / "index", source="ade20k")) == 1
    with pytest.raises(InputError, match="no samples of val; it has test/ade20k, train/paco"):
        MixedParts(folder / "index", "val")


def test_a_sample_has_the_masks_and_names_of_its_objects(small: tuple[Path, list[ObjectRecord]]) -> None:
    folder, records = small
    data = pickle.loads(pickle.dumps(MixedParts(folder / "index", images=folder / "photos")))  # noqa: S301
    sample = data[0]
    assert sample.group.sizes_hw == (SIZE_HW,) * 3
    assert {(r.image, r.name) for r in sample.target.regions if r.kind == "part"} == {
        (0, "leg"),
        (1, "leg"),
        (2, "leg"),
    }
    for region in sample.target.regions:
        expected = records[region.image].masks()[region.part_name]
        assert np.array_equal(region.mask, expected)
    assert sample.provenance["objects"] == ["0", "1", "2"]
    images, sub_task = data.annotated(2)
    assert sub_task is UNIQUE_PARTS
    assert [item.part_names for item in images] == [("leg", "seat"), ("leg",)]
    assert images[0].image[0, 0, 0] == 0
    assert images[1].image[0, 0, 0] == 20


def test_a_picture_is_opened_only_when_asked_for(small: tuple[Path, list[ObjectRecord]], tmp_path: Path) -> None:
    folder, _ = small
    data = MixedParts(folder / "index", images=tmp_path)
    assert data.records(0)[0].object_name == "chair"
    with pytest.raises(InputError, match=r"paco-0.png: no such file"):
        data[0]
    with pytest.raises(InputError, match="--images"):
        MixedParts(folder / "index")[0]


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="calico mixedparts build"):
        MixedParts(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "num_groups": 3}')
    with pytest.raises(InputError, match="no index of version 1"):
        MixedParts(tmp_path)


# The builder

KINDS = ("chair", "stool", "mug", "teapot", "car")


def write_source(
    folder: Path, source: str, split: str, number: int, start: int, kinds: Sequence[str]
) -> dict[str, Any]:
    """Drawings of 64 pixels with an annotation file in the source's form; file name -> the drawing."""
    drawn: dict[str, AnnotatedImage] = {}
    images, rows = [], []
    categories: dict[str, int] = {}
    for k in range(start, start + number):
        item = draw(k, size_hw=(64, 64), object_name=kinds[k % len(kinds)], difficulty="clean")
        name = f"{source}{k}.png"
        drawn[name] = item
        Image.fromarray(item.image).save(folder / "photos" / name)
        images.append({"id": k, "file_name": name, "height": 64, "width": 64})
        whole = 10_000 * (k + 1)
        masks = item.masks(0)
        if source == "partimagenet":
            masks = [mask for mask in masks if mask.part_name]  # which has no object rows
        for place, mask in enumerate(masks):
            title = item.object_name + (f":{mask.part_name}" if mask.part_name else "")
            row = {"id": whole + place, "image_id": k, "segmentation": encode_rle(mask.mask), "iscrowd": 0}
            row["category_id"] = categories.setdefault(title, len(categories))
            rows.append(row | ({"obj_ann_id": whole} if source == "paco" else {}))
    listed = []
    for title, number_of_it in categories.items():
        owner, _, part = title.partition(":")
        if source == "paco":
            listed.append({"id": number_of_it, "name": title, "supercategory": "PART" if part else "OBJECT"})
        else:
            listed.append({"id": number_of_it, "name": f"{owner} {part}".title(), "supercategory": owner.title()})
    (folder / f"{source}-{split}.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": listed})
    )
    return drawn


@dataclass
class Photos:
    """A folder of pictures and annotation files; drawn: what each picture shows."""

    folder: Path
    drawn: dict[str, AnnotatedImage]

    @property
    def files(self) -> list[SourceFile]:
        return [parse_source(f"{p.stem.replace('-', ':')}={p}") for p in sorted(self.folder.glob("*.json"))]

    @property
    def images(self) -> dict[str, Path]:
        return dict.fromkeys(("paco", "partimagenet"), self.folder / "photos")


SETTINGS = BuildSettings(num_samples={"train": 240, "val": 0, "test": 60})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("part-data")
    (folder / "photos").mkdir()
    drawn = write_source(folder, "paco", "train", 30, 0, KINDS)
    drawn |= write_source(folder, "paco", "test", 15, 100, KINDS)
    drawn |= write_source(folder, "partimagenet", "train", 12, 200, ("bird", "car"))
    drawn |= write_source(folder, "partimagenet", "test", 12, 300, ("bird", "car"))
    return Photos(folder, drawn)


@pytest.fixture(scope="module")
def built(photos: Photos) -> Path:
    out = photos.folder / "index"
    assert build_index(out, photos.files, photos.images, SETTINGS)["renewed"]
    return out


def shown_parts(item: AnnotatedImage) -> set[str]:
    return {mask.part_name for mask in item.masks(0) if mask.part_name}


def test_every_sample_keeps_the_rules(built: Path, photos: Photos) -> None:
    data = MixedParts(built)
    parts_of: dict[tuple[str, str], set[str]] = {}
    for name, item in photos.drawn.items():
        source = name.rstrip("0123456789.png")
        parts_of.setdefault((source, item.object_name), set()).update(shown_parts(item))
    seen: set[tuple[object, ...]] = set()
    split_of: dict[str, str] = {}
    for i, entry in enumerate(data.entries()):
        records = data.records(i)
        files = [record.image_file for record in records]
        drawn = [photos.drawn[name] for name in files]
        assert len(set(files)) == len(files), "an image twice in a group"
        assert {record.source for record in records} == {entry.source}, "sources are mixed"
        assert all(split_of.setdefault(name, entry.split) == entry.split for name in files), "an image in two splits"
        key = (entry.sub_task, *sorted(files))
        assert key not in seen, "a question twice"
        seen.add(key)
        names = [item.object_name for item in drawn]
        counts = Counter(part for item in drawn for part in shown_parts(item))
        answer = {
            COMMON_OBJECT: max(Counter(names).values()) > 1,
            COMMON_PARTS: max(counts.values()) > 1,
            UNIQUE_PARTS: min(counts.values()) == 1,
        }[entry.sub_task]
        assert answer != entry.says_none
        if entry.sub_task is COMMON_OBJECT:
            assert all((item.part_map > 0).mean() >= 0.02 for item in drawn)
        elif not entry.says_none:
            others = [[parts_of[entry.source, b] for b in names if b != a] for a in names]
            for name, beside in zip(names, others, strict=True):
                same = names.count(name) > 1
                assert same or any(parts_of[entry.source, name] & parts for parts in beside), "not comparable"


def test_test_is_balanced_and_none_has_its_share(built: Path) -> None:
    ranges = MixedParts(built).manifest["ranges"]
    test = [row["stop"] - row["first"] for row in ranges if row["split"] == "test"]
    assert len(test) == 6
    assert len(set(test)) == 1
    train = [row for row in ranges if row["split"] == "train" and row["source"] == "paco"]
    for row in train:
        assert 0.1 <= row["num_none"] / (row["stop"] - row["first"]) <= 0.3, row
    sizes = Counter(len(entry.objects) for entry in MixedParts(built, "train").entries())
    assert set(sizes) == {2, 3, 4}
    assert {len(entry.objects) for entry in MixedParts(built, "test").entries()} == {2}


def test_masks_and_pictures_are_those_of_the_source(built: Path, photos: Photos) -> None:
    data = MixedParts(built)
    for i in range(0, len(data), 29):
        sample = data[i]
        items = [photos.drawn[name] for name in sample.group.names]
        assert all(np.array_equal(a, b.image) for a, b in zip(sample.group.images, items, strict=True))
        expected = truth_of(items).restricted_to(data.entry(i).sub_task).by_key
        assert sample.target.by_key.keys() == expected.keys()
        assert all(np.array_equal(region.mask, expected[key].mask) for key, region in sample.target.by_key.items())
        assert [item.part_map.tolist() for item in data.annotated(i)[0]]
        assert truth_of(data.annotated(i)[0]).restricted_to(data.entry(i).sub_task).by_key.keys() == expected.keys()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_build_repeats_to_the_byte_and_is_quick_the_second_time(built: Path, photos: Photos, tmp_path: Path) -> None:
    build_index(tmp_path / "other", photos.files[::-1], photos.images, SETTINGS)
    assert contents(tmp_path / "other") == contents(built)
    assert not build_index(built, photos.files, photos.images, SETTINGS)["renewed"]
    # Other samples of the same objects: nothing is read again.
    stages: list[str] = []
    seeded = replace(SETTINGS, seed=1)
    again = build_index(tmp_path / "other", photos.files, photos.images, seeded, None, lambda *s: stages.append(s[0]))
    assert again["renewed"]
    assert not any(stage.startswith("objects") for stage in stages)
    assert contents(tmp_path / "other")["masks.bin"] == contents(built)["masks.bin"]
    assert contents(tmp_path / "other")["samples.npy"] != contents(built)["samples.npy"]


def test_a_killed_build_goes_on_with_the_objects_it_read(built: Path, photos: Photos, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int | None) -> None:
        if stage.startswith("groups"):
            raise Killed

    with pytest.raises(Killed):
        build_index(tmp_path / "index", photos.files, photos.images, SETTINGS, None, kill)
    assert not (tmp_path / "index").exists()
    stages: list[str] = []
    build_index(tmp_path / "index", photos.files, photos.images, SETTINGS, None, lambda *s: stages.append(s[0]))
    assert not any(stage.startswith("objects") for stage in stages)
    assert contents(tmp_path / "index") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_missing_and_other_pictures_are_counted_and_left_out(photos: Photos, tmp_path: Path) -> None:
    fewer = tmp_path / "photos"
    shutil.copytree(photos.folder / "photos", fewer)
    (fewer / "paco3.png").unlink()
    (fewer / "paco4.png").write_bytes(b"no picture")
    Image.new("RGB", (50, 64)).save(fewer / "paco5.png")
    files = [file for file in photos.files if file.title == "paco:train"]
    manifest = build_index(tmp_path / "index", files, {"paco": fewer}, SETTINGS)
    (reading,) = manifest["reading"]
    assert reading["skipped"]["missing_image"] == 1
    assert reading["skipped"]["unreadable_image"] == 1
    assert reading["skipped"]["other_image_size"] == 1
    assert "paco3.png" in reading["examples"]["missing_image"][0]
    data = MixedParts(tmp_path / "index")
    assert data.num_objects == 27
    assert not {data.record(k).image_file for k in range(27)} & {"paco3.png", "paco4.png", "paco5.png"}


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png", "deep/" * 900 + "a.png"])
def test_a_name_that_can_be_no_file_costs_its_image(photos: Photos, tmp_path: Path, name: str) -> None:
    document = json.loads((photos.folder / "paco-train.json").read_text())
    document["images"][0]["file_name"] = name
    path, report = tmp_path / "long.json", tmp_path / "report.json"
    path.write_text(json.dumps(document))
    images = ["--images", str(photos.folder / "photos"), "--train", "20", "--val", "0", "--test", "0"]
    out = ["--out", str(tmp_path / "index"), "--json", str(report)]
    assert mixedparts.main(["build", f"--source=paco:train={path}", *images, *out]) == 0
    (reading,) = json.loads(report.read_text())["reading"]
    assert reading["objects"] == 29
    assert sum(reading["skipped"].get(code, 0) for code in ("missing_image", "bad_file_name")) == 1


def test_an_image_of_two_files_stays_in_the_held_out_one(photos: Photos, tmp_path: Path) -> None:
    path = photos.folder / "paco-test.json"
    files = [parse_source(f"paco:{split}={path}") for split in ("train", "val", "test")]
    manifest = build_index(tmp_path / "index", files, {}, SETTINGS)
    assert {row["split"] for row in manifest["ranges"]} == {"test"}
    skipped = {found["source"]: found["skipped"].get("image_in_two_splits", 0) for found in manifest["reading"]}
    assert skipped == {"paco:test": 0, "paco:val": 15, "paco:train": 15}


def test_without_a_split_the_name_decides_and_growth_moves_nothing(photos: Photos, tmp_path: Path) -> None:
    path = photos.folder / "paco-train.json"
    document = json.loads(path.read_text())
    (tmp_path / "half.json").write_text(json.dumps(document | {"images": document["images"][:15]}))
    splits = []
    for name, file in (("all", path), ("half", tmp_path / "half.json")):
        build_index(tmp_path / name, [parse_source(f"paco={file}")], {}, SETTINGS)
        data = MixedParts(tmp_path / name)
        records = [data.record(k) for k in range(data.num_objects)]
        splits.append({record.image_file: record.split for record in records})
    assert len(splits[0]) == 30
    assert set(splits[0].values()) == {"train", "val", "test"}
    assert splits[1].items() <= splits[0].items()


def test_overrides_reach_the_groups(photos: Photos, tmp_path: Path) -> None:
    files = [file for file in photos.files if file.title == "paco:train"]
    only = {"paco": Overrides(only=frozenset({("chair", "stool")}))}
    build_index(tmp_path / "index", files, {}, SETTINGS, only)
    data = MixedParts(tmp_path / "index", sub_task=COMMON_PARTS)
    answered = [i for i, entry in enumerate(data.entries()) if not entry.says_none]
    mixed = {frozenset(record.object_name for record in data.records(i)) for i in answered}
    assert {names for names in mixed if len(names) > 1} == {frozenset({"chair", "stool"})}
    with pytest.raises(InputError, match="no source ade20k"):
        build_index(tmp_path / "index", files, {}, SETTINGS, {"ade20k": Overrides()})


def member(row: int, name: str, parts: str, image: int | None = None, share: float = 0.5) -> Member:
    return Member(row, row if image is None else image, name, frozenset(parts.split()), share)


def test_a_class_in_the_background_forbids_no_common_object() -> None:
    pool = Pool()
    # Image 0 shows a chair and a table, image 1 a table: whoever says "no common object" of them is wrong.
    for item in (member(0, "chair", "leg"), member(1, "table", "leg", image=0), member(2, "table", "leg")):
        pool.add(item)
    found = choose_samples(pool, COMMON_OBJECT, 10, [], GroupRules(sizes=(2,)), Random(0))
    assert found.objects.tolist() == [[1, 2]] or found.objects.tolist() == [[2, 1]]
    assert not found.says_none.any()


def test_small_objects_are_not_asked_for_the_common_object() -> None:
    pool = Pool()
    for row in range(4):
        pool.add(member(row, "chair", "leg", share=0.01 if row < 2 else 0.02))
    found = choose_samples(pool, COMMON_OBJECT, 10, [], GroupRules(sizes=(2,)), Random(0))
    assert {tuple(sorted(group)) for group in found.objects.tolist()} == {(2, 3)}
    parts = choose_samples(pool, COMMON_PARTS, 10, [], GroupRules(sizes=(2,)), Random(0))
    assert len(parts.objects) == 6, "all pairs of four, each once"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paco", "expected NAME=FILE"),
        ("pako:train=x", "one of paco, partimagenet, ade20k"),
        ("paco:dev={0}", "the split is one of"),
        ("paco:val=nowhere.json", "nowhere.json is not there"),
        ("paco={0},maps=x", "paco takes no further files"),
        ("ade20k={0}", "maps=DIR"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    with pytest.raises(InputError, match=message):
        parse_source(text.format(tmp_path / "a.json"))


def test_a_folder_of_something_else_is_not_written_over(photos: Photos, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match="not empty"):
        build_index(tmp_path, photos.files, {}, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_released_pairs_are_taken_as_they_are(photos: Photos, tmp_path: Path) -> None:
    document = json.loads((photos.folder / "paco-train.json").read_text())
    names = {row["id"]: row["name"] for row in document["categories"]}
    ids = {(row["image_id"], names[row["category_id"]]): row["id"] for row in document["annotations"]}
    assert {(0, "chair"), (5, "chair"), (1, "stool")} <= ids.keys()
    chairs = {"cat": "chair", "ann_ids": [[ids[0, "chair"]], [ids[5, "chair"]]], "visibility": [1, 1]}
    leg = [[ids[0, "chair:leg"]], [ids[1, "stool:leg"]]]
    back = [[ids[0, "chair:back"]]]
    pair = {
        "cats": ["chair", "stool"],
        "ann_ids": [[ids[0, "chair"]], [ids[1, "stool"]]],
        "visibility": [1, 1],
        "common": [{"part_cat": "leg", "part_ann_ids": leg, "part_visibility": [1, 1]}],
        "unique": {"part_cats": [["back"], []], "part_ann_ids": [back, []]},
    }
    lost = pair | {"common": [{"part_cat": "leg", "part_ann_ids": [leg[0], [424_242]]}], "unique": None}
    common = {"dataset_name": "paco_lvis"}
    records = [
        {**common, "is_object": True, "img_ids": [0, 5], "common": [chairs]},
        {**common, "is_object": False, "img_ids": [0, 1], "pairs": [pair, lost]},
    ]
    (tmp_path / "mixed_parts_train.json").write_text(json.dumps(records))
    command = ["build", "--source", f"paco:train={photos.folder / 'paco-train.json'}", "--out", str(tmp_path / "index")]
    command += ["--released", f"train={tmp_path / 'mixed_parts_train.json'}", "--images", str(photos.folder / "photos")]
    assert mixedparts.main([*command, "--json", str(tmp_path / "report.json")]) == 0
    (reading,) = json.loads((tmp_path / "report.json").read_text())["reading"]
    assert reading["skipped"] == {"unknown_annotation": 1, "no_part": 1, "incomplete_pair": 1}
    data = MixedParts(tmp_path / "index", "train")
    found = {entry.sub_task: data[i] for i, entry in enumerate(data.entries())}
    assert len(found) == len(data) == 3
    assert [sample.group.names for sample in found.values()] == [
        ("paco0.png", "paco5.png"), ("paco0.png", "paco1.png"), ("paco0.png", "paco1.png")
    ]  # fmt: skip
    parts = {task: {r.name for r in sample.target.regions if r.kind == "part"} for task, sample in found.items()}
    assert parts == {COMMON_OBJECT: set(), COMMON_PARTS: {"leg"}, UNIQUE_PARTS: {"back"}}
    for region in found[COMMON_PARTS].target.regions:
        item = photos.drawn[f"paco{region.image}.png"]
        truth = {mask.part_name: mask.mask for mask in item.masks(0)}
        assert np.array_equal(region.mask, truth[region.part_name])


# Statistics


def test_statistics_equal_a_count_by_hand(built: Path, photos: Photos) -> None:
    data = MixedParts(built)
    report = statistics(data)
    rows = {(row["source"], row["split"]): row for row in report["rows"]}
    assert len(rows) == 6
    records = [data.record(k) for k in range(data.num_objects)]
    entries = list(data.entries())
    for (source, split), row in rows.items():
        here = [r for r in records if r.source == source and split in (r.split, "all")]
        asked = [e for e in entries if e.source == source and split in (e.split, "all")]
        assert row["images"] == len({r.image_file for r in here})
        assert row["objects"] == len(here)
        assert row["classes"] == len({r.object_name for r in here})
        assert row["part_names"] == len({part.name for r in here for part in r.parts})
        assert row["parts"] == sum(len(r.parts) for r in here)
        assert row["pairs"] == sum(len(e.objects) == 2 for e in asked)
        assert row["larger"] == sum(len(e.objects) > 2 for e in asked)
        for sub_task in SubTask:
            none = [e.says_none for e in asked if e.sub_task is sub_task]
            assert row["samples"][sub_task] == len(none)
            assert row["none_shares"][sub_task] == pytest.approx(sum(none) / len(none))
    assert all(len(cells) == len(COLUMNS) for cells in table_rows(report))


def test_the_page_needs_nothing_else_and_shows_the_samples(small: tuple[Path, list[ObjectRecord]]) -> None:
    data = MixedParts(small[0] / "index", images=small[0] / "photos")
    text = statistics_page(data, statistics(data), 1)
    assert "Segment the unique parts." in text
    assert "[SEG] (IMAGE2)" in text
    assert text.count("data:image/jpeg;base64,") >= 6
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_the_page_says_why_a_sample_could_not_be_drawn(small: tuple[Path, list[ObjectRecord]], tmp_path: Path) -> None:
    data = MixedParts(small[0] / "index", images=tmp_path)
    assert "paco-0.png: no such file" in statistics_page(data, statistics(data), 1)


def test_the_commands_build_count_and_list(photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [f"--source=paco:{split}={photos.folder}/paco-{split}.json" for split in ("train", "test")]
    out = ["--out", str(tmp_path / "index"), "--train", "30", "--test", "30", "--json", str(tmp_path / "report.json")]
    assert mixedparts.main(["build", *sources, "--images", f"paco={photos.folder}/photos", *out]) == 0
    said = capsys.readouterr().out
    assert "paco:train: 30 objects" in said
    assert f"60 samples in {tmp_path / 'index'}" in said
    assert json.loads((tmp_path / "report.json").read_text())["renewed"]
    assert (
        mixedparts.main(["stats", str(tmp_path / "index"), "--html", str(tmp_path / "s.html"), "--samples", "0"]) == 0
    )
    assert "none, unique parts" in capsys.readouterr().out
    assert "<table>" in (tmp_path / "s.html").read_text()
    assert mixedparts.main(["classes", str(photos.folder / "paco-train.json")]) == 0
    assert "chair - stool: leg, seat" in capsys.readouterr().out
    assert mixedparts.main(["build", *sources, "--images", "pac=photos", "--out", str(tmp_path / "x")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_samples_read(tmp_path: Path) -> None:
    report = benchmark_data(tmp_path / "index", num_samples=20_000, num_images=300, num_reads=4000)
    assert report["records_per_second"] > 0
    assert report["num_pictured"] == 40
    if report["growth_bytes"] is None:
        pytest.skip("the system does not tell a process's memory")
    # 3,600 reads after the first 400; a kilobyte kept of each would be twice this.
    assert report["growth_bytes"] < 1_800_000


# Training


def batches_of(data: MixedParts, tokenizer: CalicoTokenizer, settings: BatchSettings) -> Batches:
    return Batches(IndexSamples(data), tokenizer, settings, ModelInputs.from_config(CONFIG, 64), seed=3)


CONFIG = micro()
SMALL = BatchSettings(num_images=6, num_groups=4, num_points=3, num_boxes=3, listed_share=1.0)


def test_a_batch_of_an_index_asks_what_its_samples_ask(built: Path) -> None:
    data = MixedParts(built, "train")
    batches = batches_of(data, TOKENIZER, SMALL)
    rows, plans = IndexSamples(data).plans(np.random.default_rng(0), SMALL)
    known = {(frozenset(entry.objects), entry.sub_task) for entry in data.entries()}
    assert {(frozenset(rows[k] for k in plan.indices), plan.sub_task) for plan in plans} <= known
    assert len(rows) <= 6
    first, again, other = batches.batch(0), batches.batch(0), batches.batch(1)
    assert torch.equal(first.prompts.token_ids, again.prompts.token_ids)
    assert torch.equal(first.part_maps, again.part_maps)
    assert not torch.equal(first.pixels.global_view, other.pixels.global_view)


def test_pictures_without_a_part_give_a_batch_too(small: tuple[Path, list[ObjectRecord]]) -> None:
    folder, records = small
    bare = [replace(item, parts=(), object_rle=record(0, "x", []).object_rle) for item in records[:2]]
    if not (folder / "bare").exists():
        write_index(folder / "bare", bare, {Bucket("train", "paco", COMMON_OBJECT): [[0, 1]]})
    batch = batches_of(MixedParts(folder / "bare", images=folder / "photos"), TOKENIZER, SMALL).batch(0)
    assert set(batch.points.value.tolist()) == {1}
    assert torch.isfinite(batch.boxes.boxes).all()


def test_calico_train_takes_an_index(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calico.model.config.calico_tiny", lambda vocab_size: micro())
    command = ["--out", str(tmp_path / "run"), "--steps", "1", "--num-images", "3", "--data", str(built)]
    assert train.main([*command, "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["step"] == 1
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["data_version"].startswith("mixedparts-")
    capsys.readouterr()
    assert train.main(["--out", str(tmp_path / "no"), "--steps", "1", "--images", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err


def test_ade20k_goes_through_the_build_with_its_maps(tmp_path: Path) -> None:
    """Part maps are 16-bit PNGs of one global numbering, 65535 where there is no part."""
    (tmp_path / "photos" / "validation").mkdir(parents=True)
    (tmp_path / "maps" / "validation").mkdir(parents=True)
    names: list[str] = []
    images, rows = [], []
    drawn: dict[str, AnnotatedImage] = {}
    kinds = ("chair", "table")
    for k in range(12):
        item = draw(900 + k, size_hw=(64, 64), object_name=kinds[k % 2], difficulty="clean")
        stem = f"ADE_val_{k:08d}"
        drawn[f"validation/{stem}.png"] = item
        Image.fromarray(item.image).save(tmp_path / "photos" / "validation" / f"{stem}.png")
        part_map = np.full((64, 64), 65535, np.uint16)
        for place, part in enumerate(item.part_names):
            name = f"{item.object_name}'s {part}"
            if name not in names:
                names.append(name)
            part_map[item.part_map == place + 2] = names.index(name)
        Image.fromarray(part_map).save(tmp_path / "maps" / "validation" / f"{stem}.png")
        images.append({"id": k, "file_name": f"validation/{stem}.png", "height": 64, "width": 64})
        row = {"id": k, "image_id": k, "category_id": k % 2, "iscrowd": 0}
        rows.append(row | {"segmentation": encode_rle(item.part_map > 0)})
    listed = [{"id": number, "name": name} for number, name in enumerate(kinds)]
    (tmp_path / "val.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": listed}))
    (tmp_path / "names.json").write_text(json.dumps(names))
    source = f"ade20k:test={tmp_path / 'val.json'},maps={tmp_path / 'maps'},names={tmp_path / 'names.json'}"
    out = tmp_path / "index"
    arguments = ["build", "--out", str(out), "--images", f"ade20k={tmp_path / 'photos'}", "--source", source]
    assert mixedparts.main([*arguments, "--test", "18"]) == 0
    data = MixedParts(out, "test", source="ade20k")
    assert len(data)
    for number in range(len(data)):
        records = data.records(number)
        for shown, record in zip(data.annotated(number)[0], records, strict=True):
            truth = drawn[record.image_file]
            assert np.array_equal(shown.image, truth.image)
            assert set(shown.part_names) == set(truth.part_names)
            for name in truth.part_names:
                place, here = truth.part_names.index(name) + 2, shown.part_names.index(name) + 2
                assert np.array_equal(shown.part_map == here, truth.part_map == place)
