"""Comparable classes, the index on disk, the builder's rules, statistics, and training on what was built."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calico.errors import InputError
from calico.masks import encode_rle
from calico.mixedparts.classes import comparable_pairs, read_class_list, read_overrides
from calico.mixedparts.index import MixedParts
from calico.mixedparts.records import ObjectRecord, PartMask
from calico.mixedparts.tables import Table, TableWriter
from calico.mixedparts.writer import Bucket, ObjectWriter, SampleWriter, write_manifest
from calico.values import SubTask

CATEGORIES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "categories"
COMMON_OBJECT, COMMON_PARTS, UNIQUE_PARTS = SubTask


# Comparable classes


@pytest.mark.parametrize(
    ("file", "num_classes", "num_pairs"),
    [("paco_lvis.json", 75, 900), ("partimagenet.json", 11, 55), ("ade20k_part_234.json", 44, 319)],
)
def test_comparable_pairs_equal_an_independent_count(file: str, num_classes: int, num_pairs: int) -> None:
    if not (CATEGORIES / file).exists():
        pytest.skip(f"{CATEGORIES / file} is not there")
    parts_of = read_class_list(CATEGORIES / file)
    found = comparable_pairs(parts_of)
    assert (len(parts_of), len(found)) == (num_classes, num_pairs)
    # The same from the file's own spelling, without any of our names.
    listed = json.loads((CATEGORIES / file).read_text())["objects"]
    shared = [len(set(listed[a]) & set(listed[b])) for a, b in combinations(listed, 2)]
    assert sum(map(bool, shared)) == num_pairs
    assert sum(len(pair.shared) for pair in found) == sum(shared)


def test_categories_of_a_coco_file_say_the_same_as_its_list_of_objects(tmp_path: Path) -> None:
    if not CATEGORIES.exists():
        pytest.skip(f"{CATEGORIES} is not there")
    raw = json.loads((CATEGORIES / "paco_lvis.json").read_text())["raw_categories"]
    (tmp_path / "paco.json").write_text(json.dumps({"categories": raw}))
    assert read_class_list(tmp_path / "paco.json") == read_class_list(CATEGORIES / "paco_lvis.json")


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
