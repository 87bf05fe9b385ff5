"""Loose images -> groups: every image ends in exactly one group or is named as left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico.data.loose_images import (
    Grouping,
    by_folder,
    by_key,
    by_pattern,
    by_similarity,
    find_images,
    natural_order,
    read_list,
)
from calico.errors import InputError


def sources_of(grouping: Grouping) -> list[tuple[str, ...]]:
    return [group.sources for group in grouping.groups]


def test_images_are_found_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/img10.jpg", "b/img2.JPG", "a/x.png", "notes.txt", ".hidden/y.png", "b/.z.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(path).relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/x.png", "b/img2.JPG", "b/img10.jpg"]


@pytest.mark.parametrize(("make", "message"), [(False, "expected a folder"), (True, "no images in it")])
def test_a_folder_without_images_is_refused(tmp_path: Path, make: bool, message: str) -> None:
    folder = tmp_path / "photos"
    if make:
        folder.mkdir()
    with pytest.raises(InputError, match=message):
        find_images(folder)


@given(st.lists(st.text()))
def test_natural_order_compares_any_names(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural_order, reverse=True), key=natural_order) == sorted(names, key=natural_order)


def test_by_folder_takes_whole_folders_or_cuts_them() -> None:
    sources = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg"]
    whole = by_folder(sources)
    assert sources_of(whole) == [("a/1.jpg", "a/2.jpg", "a/3.jpg")]
    assert whole.left_over == ("b/1.jpg",)
    cut = by_folder(sources, 2)
    assert sources_of(cut) == [("a/1.jpg", "a/2.jpg")]
    assert cut.left_over == ("a/3.jpg", "b/1.jpg")
    assert [problem.message for problem in cut.problems] == [
        "a: 1 images left, a group has 2",
        "b: 1 images left, a group has 2",
    ]


def test_a_folder_of_nine_is_no_group_of_its_own() -> None:
    grouping = by_folder([f"a/{i}.jpg" for i in range(9)])
    assert not grouping.groups
    assert len(grouping.left_over) == 9


def test_by_pattern_joins_what_the_parentheses_match() -> None:
    sources = ["x/car_1.jpg", "x/bus_1.jpg", "y/car_2.jpg", "x/bus_2.jpg", "odd.jpg"]
    grouping = by_pattern(sources, r"([^/]+)_\d+\.jpg$", 2)
    assert sources_of(grouping) == [("x/car_1.jpg", "y/car_2.jpg"), ("x/bus_1.jpg", "x/bus_2.jpg")]
    assert [group.name for group in grouping.groups] == ["car", "bus"]
    assert grouping.left_over == ("odd.jpg",)


@pytest.mark.parametrize(("pattern", "message"), [("(", "not a regular expression"), ("car", "no parentheses")])
def test_a_useless_pattern_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        by_pattern(["a.jpg"], pattern)


@pytest.mark.parametrize("size", [0, 1, 9])
def test_group_sizes_are_two_to_eight(size: int) -> None:
    with pytest.raises(InputError, match="group size: expected 2 to 8"):
        by_key([("a", "k")], size)
    with pytest.raises(InputError, match="group size: expected 2 to 8"):
        by_similarity(["a"], np.ones((1, 2)), size)


@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("abc")), unique_by=lambda item: item[0]),
    st.none() | st.integers(2, 8),
)
def test_by_key_loses_and_invents_nothing(keyed: list[tuple[str, str]], size: int | None) -> None:
    grouping = by_key(keyed, size)
    seen = [source for group in grouping.groups for source in group.sources] + list(grouping.left_over)
    assert sorted(seen) == sorted(source for source, _ in keyed)
    key_of = dict(keyed)
    for group in grouping.groups:
        assert 2 <= len(group.sources) <= 8
        assert size in (None, len(group.sources))
        assert {key_of[source] for source in group.sources} == {group.name}


def test_similarity_finds_planted_groups_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 32))
    kind = rng.permutation(np.repeat(np.arange(20), 3))
    features = centres[kind] + 0.05 * rng.normal(size=(60, 32)) + 100.0  # what all images share
    grouping = by_similarity([str(i) for i in range(60)], features, 3)
    assert not grouping.left_over
    assert all(len({kind[int(source)] for source in group.sources}) == 1 for group in grouping.groups)


def test_similarity_names_what_is_left_over_and_takes_zero_rows() -> None:
    features = np.array([[1.0, 0], [0, 1], [1, 0.1], [0, 0], [0.1, 1]])
    grouping = by_similarity(list("abcde"), features, 2)
    assert sorted(sum(sources_of(grouping), ()) + grouping.left_over) == list("abcde")
    assert len(grouping.left_over) == 1


def test_similarity_wants_a_row_per_image() -> None:
    with pytest.raises(InputError, match="one row of features per image"):
        by_similarity(["a", "b"], np.ones((3, 2)), 2)


def test_group_names_leave_the_root_out() -> None:
    grouping = by_folder(["/data/photos/cars/1.jpg", "/data/photos/cars/2.jpg"], root="/data/photos")
    assert [group.name for group in grouping.groups] == ["cars"]


LISTS = {
    "list.csv": "image,group\ncars/1.jpg,cars\nhttps://x.org/2.jpg,cars\n",
    "list.json": '[{"image": "cars/1.jpg", "group": "cars"}, {"image": "https://x.org/2.jpg", "group": "cars"}]',
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_read_and_paths_start_at_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LISTS[name])
    first = (tmp_path / "cars/1.jpg").as_posix()
    assert read_list(tmp_path / name, "image", "group") == [(first, "cars"), ("https://x.org/2.jpg", "cars")]
    assert read_list(tmp_path / name) == [(first, ""), ("https://x.org/2.jpg", "")]


def test_a_json_list_of_addresses_will_do(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('["/data/upload/1/a.jpg", "s3://bucket/b.jpg"]')
    assert read_list(tmp_path / "list.json") == [("/data/upload/1/a.jpg", ""), ("s3://bucket/b.jpg", "")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "file,group\na.jpg,x\n", r"entry 1 has no text in 'image' \(it has: file, group\)"),
        ("list.csv", "image,group\na.jpg,x\n,y\n", "entry 2 has no text in 'image'"),
        ("list.csv", "image,group\n", "at least one image"),
        ("list.json", '{"image": "a"}', "expected a list"),
        ("list.json", "[1]", "entry 1 has no text"),
        ("list.json", "[", "not readable as a list"),
        ("list.csv", None, "no such file or folder"),
    ],
)
def test_a_bad_list_is_one_line_with_a_remedy(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / name, "image", "group")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_models_features_find_the_same_picture_again(dtype: str) -> None:
    from calico.drawings import draw
    from calico.inference.features import image_features
    from calico.inference.options import ServingOptions
    from calico.inference.segmenter import CoSegmenter

    images = [draw(seed, size_hw=(96, 96)).image for seed in range(3)]
    brighter = [np.clip(image * 1.05 + 3, 0, 255).astype(np.uint8) for image in images]
    loaded = CoSegmenter.from_checkpoint(device="cpu", options=ServingOptions(dtype=dtype))
    features = image_features(loaded.model, loaded.config, images + brighter)
    assert features.shape == (6, loaded.config.global_encoder.hidden_size)
    grouping = by_similarity(["a", "b", "c", "A", "B", "C"], features, 2)
    assert sorted(sources_of(grouping)) == [("a", "A"), ("b", "B"), ("c", "C")]
