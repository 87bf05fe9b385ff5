"""The nouns hold what they promise, refuse what they must in one line, and say common and unique by one rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.correspondence import co_segmentation, correspond, truth_of
from calico.errors import InputError
from calico.values import (
    AnnotatedImage,
    CoSegmentation,
    ImageGroup,
    NamedMask,
    Occurrence,
    PartRegion,
    RegionKey,
    SubTask,
    normalize_name,
)

MASK = np.ones((4, 5), dtype=bool)
SIZES = ((4, 5),) * 3


def image(height: int = 4, width: int = 5) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=np.uint8)


def part(image_index: int, name: str | None, object_name: str = "chair", **more: object) -> NamedMask:
    return NamedMask(image_index, object_name, name, MASK, **more)


def region(**changed: object) -> PartRegion:
    fields = {
        "image": 0,
        "object_name": "chair",
        "part_name": "leg",
        "mask": MASK,
        "occurrence": Occurrence.COMMON,
        "correspondence": (0, 1),
        "correspondence_id": "part:leg",
        "score": 0.5,
    }
    return PartRegion(**(fields | changed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (" The  Wheel ", "wheel"),
        ("a\tchair's back", "chair's back"),
        ("the A pillar", "pillar"),
        ("a the", "the"),
        ("an", "an"),
        ("A", "a"),
        ("theatre", "theatre"),
    ],
)
def test_names_are_normalised_at_once(name: str, expected: str) -> None:
    assert normalize_name(name) == normalize_name(normalize_name(name)) == expected


def test_a_group_of_different_sizes() -> None:
    group = ImageGroup((image(), image(7, 3)), ("a.png", "b.png"))
    assert len(group) == 2
    assert group.sizes_hw == ((4, 5), (7, 3))
    assert ImageGroup((image(), image())).names == ("image 1", "image 2")
    # A digest is of the content, its shape included.
    first, second = ImageGroup((image(4, 5), image(5, 4))).digests
    assert first != second
    assert group.digests[0] == first


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        ([], (), "2 to 8 images, got 0; add images"),
        ([image()], (), "got 1; add images"),
        ([image()] * 9, (), "got 9; split it"),
        ([image(), image()], ("a",), "one name per image, got 1 names for 2"),
        ([image(), image()[..., 0]], ("a", "b"), r"b: expected a HxWx3 uint8 RGB image, got uint8 \(4, 5\)"),
        ([image().astype(float), image()], ("a", "b"), "a: expected a HxWx3 uint8"),
        ([image(0, 5), image()], ("a", "b"), r"a: expected .*\(0, 5, 3\)"),
    ],
)
def test_groups_refuse(images: list[np.ndarray], names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ImageGroup(tuple(images), names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mask": MASK.astype(np.uint8)}, r"expected a bool HxW mask, got uint8 \(4, 5\); convert"),
        ({"mask": [[True]]}, "got list"),
        ({"mask": np.ones((4, 5, 1), bool)}, r"got bool \(4, 5, 1\)"),
        ({"image": -1}, "starts at 0, got -1"),
        ({"part_name": ""}, "needs a name; use None"),
        ({"object_name": ""}, "needs a name"),
        ({"part_name": "The Leg"}, "'The Leg' is not normalised, expected 'leg'"),
        ({"score": 1.01}, "score is from 0 to 1, got 1.01"),
        ({"score": float("nan")}, "score is from 0 to 1, got nan"),
        ({"correspondence": (1, 2)}, "its own included"),
        ({"correspondence": (1, 0)}, "ascending"),
        ({"correspondence": (0, 0)}, "ascending"),
        ({"correspondence": (0,)}, "common does not fit"),
        ({"occurrence": Occurrence.UNIQUE}, "unique does not fit"),
    ],
)
def test_regions_refuse(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        region(**changed)


def test_keys_say_what_a_region_is() -> None:
    assert region().key == RegionKey(0, "part", "leg")
    assert region(part_name=None).key == RegionKey(0, "object", "chair")
    assert (region().name, region(part_name=None).name) == ("leg", "chair")


def test_a_cosegmentation_refuses_what_contradicts_itself() -> None:
    sizes = SIZES[:2]
    with pytest.raises(InputError, match="two regions named 'leg' on image 1; unite"):
        CoSegmentation(sizes, (region(), region()))
    with pytest.raises(InputError, match=r"mask is \(4, 5\), image 1 is \(9, 9\)"):
        CoSegmentation(((9, 9), (4, 5)), (region(),))
    with pytest.raises(InputError, match="two objects, 'chair' and 'stool'"):
        CoSegmentation(sizes, (region(), region(object_name="stool", part_name="seat")))
    with pytest.raises(InputError, match="names image 3 of 2"):
        CoSegmentation(sizes, (region(correspondence=(0, 2)),))


def test_pieces_of_one_name_are_one_region() -> None:
    left, right = MASK.copy(), MASK.copy()
    left[:, 2:], right[:, :3] = False, False
    group = co_segmentation(
        SIZES, [NamedMask(0, "Chair", "the Leg", left, 0.2), NamedMask(0, "a chair", "leg", right, 0.7)]
    )
    (only,) = group.regions
    assert (only.object_name, only.part_name, only.score) == ("chair", "leg", 0.7)
    assert np.array_equal(only.mask, left | right)
    with pytest.raises(InputError, match="cannot be united"):
        co_segmentation(SIZES, [part(0, "leg"), NamedMask(0, "chair", "leg", np.ones((9, 9), bool))])


def test_common_is_two_or_more_of_three_images() -> None:
    masks = [part(i, name) for i, name in [(0, "leg"), (1, "leg"), (2, "leg"), (0, "arm"), (2, "arm"), (1, "back")]]
    found = co_segmentation(SIZES, masks).by_key
    leg, arm, back = (found[RegionKey(i, "part", name)] for i, name in [(1, "leg"), (2, "arm"), (1, "back")])
    assert (leg.occurrence, leg.correspondence) == (Occurrence.COMMON, (0, 1, 2))
    assert (arm.occurrence, arm.correspondence) == (Occurrence.COMMON, (0, 2))
    assert (back.occurrence, back.correspondence) == (Occurrence.UNIQUE, (1,))
    assert len({leg.correspondence_id, arm.correspondence_id, back.correspondence_id}) == 3


def test_an_object_never_corresponds_to_a_part_of_its_name() -> None:
    found = correspond([RegionKey(0, "object", "wheel"), RegionKey(1, "part", "wheel")])
    assert {item.occurrence for item in found.values()} == {Occurrence.UNIQUE}
    assert len({item.id for item in found.values()}) == 2


def test_a_relation_overrides_names_and_joins_all_of_them() -> None:
    keys = [RegionKey(0, "part", "handle"), RegionKey(1, "part", "grip"), RegionKey(2, "part", "grip")]
    apart = correspond(keys)
    assert apart[keys[0]].occurrence is Occurrence.UNIQUE
    joined = correspond(keys, [(keys[0], keys[1])])
    assert {item.images for item in joined.values()} == {(0, 1, 2)}
    assert len({item.id for item in joined.values()}) == 1


def test_relations_chain() -> None:
    keys = [RegionKey(i, "part", name) for i, name in enumerate(("handle", "grip", "knob", "lid"))]
    found = correspond(keys, [(keys[0], keys[1]), (keys[2], keys[1])])
    assert found[keys[2]].images == (0, 1, 2)
    assert found[keys[3]].images == (3,)


def test_relations_that_make_no_sense_are_errors() -> None:
    leg, chair = RegionKey(0, "part", "leg"), RegionKey(1, "object", "chair")
    with pytest.raises(KeyError, match="not there"):
        correspond([leg], [(leg, chair)])
    with pytest.raises(ValueError, match="joins part 'leg' with object 'chair'"):
        correspond([leg, chair], [(leg, chair)])


region_keys = st.builds(RegionKey, st.integers(0, 4), st.sampled_from(["object", "part"]), st.sampled_from("abcd"))


@settings(max_examples=100, deadline=None)
@given(st.lists(region_keys, max_size=15), st.randoms(use_true_random=False))
def test_correspondence_is_an_equivalence_whatever_the_order(keys: list[RegionKey], random) -> None:
    relations = [(a, b) for a in keys for b in keys if a.kind == b.kind and random.random() < 0.1]
    found = correspond(keys, relations)
    assert set(found) == set(keys)
    for key in keys:
        same = {other for other in keys if found[other].id == found[key].id}
        assert {(other.kind, other.name) for other in keys if other in same} >= {(key.kind, key.name)}
        assert found[key].images == tuple(sorted({other.image for other in same}))
    shuffled = random.sample(keys, len(keys))
    assert correspond(shuffled, relations[::-1]) == found


def test_what_each_question_asks_for() -> None:
    masks = [part(0, None), part(1, None, "stool"), part(2, None)]
    masks += [part(0, "leg"), part(1, "leg", "stool"), part(2, "arm")]
    group = co_segmentation(SIZES, masks)

    def names(sub_task: SubTask) -> list[tuple[int, str]]:
        return [(r.image, r.name) for r in group.restricted_to(sub_task).regions]

    assert names(SubTask.COMMON_OBJECT) == [(0, "chair"), (2, "chair")]
    objects = [(0, "chair"), (1, "stool"), (2, "chair")]
    assert names(SubTask.COMMON_PARTS) == [*objects, (0, "leg"), (1, "leg")]
    assert names(SubTask.UNIQUE_PARTS) == [*objects, (2, "arm")]


def test_annotated_images_become_the_truth() -> None:
    parts = np.zeros((4, 5), dtype=np.uint8)
    parts[0], parts[1], parts[2] = 1, 2, 3
    chair = AnnotatedImage(image(), "chair", ("seat", "leg", "arm"), parts)
    stool = AnnotatedImage(image(), "stool", ("seat",), np.minimum(parts, 2))
    truth = truth_of([chair, stool])
    assert [(r.image, r.name, r.occurrence.value) for r in truth.regions] == [
        (0, "chair", "unique"),
        (0, "seat", "common"),
        (0, "leg", "unique"),  # the arm is not visible: no region
        (1, "stool", "unique"),
        (1, "seat", "common"),
    ]
    assert truth.by_key[RegionKey(0, "object", "chair")].mask.sum() == 15
    with pytest.raises(InputError, match="names part 2 of 1"):
        AnnotatedImage(image(), "chair", ("seat",), parts + np.uint8(1))
    with pytest.raises(InputError, match="expected a uint8 part map"):
        AnnotatedImage(image(9, 9), "chair", ("seat",), parts)
