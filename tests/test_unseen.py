"""The unseen style and classes: determinism, declared names, streams that never meet, and that they are unseen."""

from __future__ import annotations

import numpy as np
import pytest

from calico import drawings
from calico.data import unseen
from calico.errors import InputError
from calico.values import AnnotatedImage


def same(one: AnnotatedImage, two: AnnotatedImage) -> bool:
    return np.array_equal(one.image, two.image) and np.array_equal(one.part_map, two.part_map)


@pytest.mark.parametrize("domain", unseen.DOMAINS)
def test_one_seed_is_one_drawing_with_the_declared_parts(domain: str) -> None:
    item = unseen.draw(3, domain=domain, size_hw=(48, 64))
    assert item.image.shape == (48, 64, 3)
    assert item.part_map.shape == (48, 64)
    assert same(item, unseen.draw(3, domain=domain, size_hw=(48, 64)))
    assert not same(item, unseen.draw(4, domain=domain, size_hw=(48, 64)))
    known = {**drawings.PARTS_OF, **unseen.PARTS_OF}
    for seed in range(6):
        item = unseen.draw(seed, domain=domain, size_hw=(64, 64))
        assert item.part_names
        assert set(item.part_names) <= set(known[item.object_name])
        assert set(np.unique(item.part_map)) - {0, 1} == set(range(2, len(item.part_names) + 2))


@pytest.mark.parametrize("name", unseen.CLASSES)
def test_a_class_has_new_part_names_beside_a_known_one_and_parts_that_come_and_go(name: str) -> None:
    assert name not in drawings.CLASSES
    parts = set(unseen.PARTS_OF[name])
    assert len(parts - set(drawings.PART_NAMES)) >= 2
    assert parts & set(drawings.PART_NAMES)
    shown = [unseen.draw(seed, domain=name, size_hw=(48, 48)).part_names for seed in range(30)]
    assert {part for names in shown for part in names} == parts
    assert len(set(shown)) >= 2  # so that unique parts arise


def test_every_known_class_is_drawn_in_the_style_on_a_dark_board_without_fills() -> None:
    for name in drawings.CLASSES:
        item = unseen.draw(1, domain="style", size_hw=(96, 96), object_name=name)
        assert item.object_name == name
        light = item.image.mean(2)
        inside, outside = light[item.part_map > 0], light[item.part_map == 0]
        assert np.median(outside) < 110
        # Strokes and the board between them, inside the object.
        assert np.percentile(inside, 95) > np.percentile(inside, 5) + 60


def test_every_known_class_is_an_icon_in_every_look_with_all_of_its_parts() -> None:
    for name in drawings.CLASSES:
        items = [unseen.draw(seed, domain="icons", size_hw=(96, 96), object_name=name) for seed in range(24)]
        assert {item.difficulty for item in items} == {"flat", "lines", "gradient"}
        assert {part for item in items for part in item.part_names} == set(drawings.PARTS_OF[name])
        for item in items:
            assert not (item.part_map == 1).any()  # nothing of an icon is without a part
            if item.difficulty != "flat":
                continue
            for code in range(2, len(item.part_names) + 2):  # one colour, but for the edges' mixed pixels
                counts = np.unique(item.image[item.part_map == code], axis=0, return_counts=True)[1]
                assert counts.max() > 0.3 * counts.sum(), (name, item.part_names[code - 2])


@pytest.mark.parametrize("domain", unseen.DOMAINS)
def test_streams_never_meet_and_grow_at_their_end(domain: str) -> None:
    def sources(stream: str, num: int) -> list[str]:
        groups = unseen.draw_groups(0, num, domain=domain, stream=stream, size=24)
        return [item.source for group in groups for item in group]

    train, held_out = sources("train", 4), sources("eval", 4)
    assert len(set(train)) == len(train) == 8
    assert not set(train) & set(held_out)
    assert sources("train", 2) == train[:4]


def test_groups_of_a_class_are_of_it_alone_and_groups_of_a_style_vary() -> None:
    for name in unseen.CLASSES:
        for group in unseen.draw_groups(1, 3, domain=name, stream="train", size=24, group_size=3):
            assert [item.object_name for item in group] == [name] * 3
    for style in unseen.STYLES:
        groups = unseen.draw_groups(0, 8, domain=style, stream="eval", size=24)
        assert {len({item.object_name for item in group}) for group in groups} == {1, 2}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"domain": "photographs"}, "domain: expected one of style, icons"),
        ({"seed": -1}, "seed: expected"),
        ({"object_name": "umbrella"}, "object_name: expected one of chair"),
        ({"domain": "umbrella", "object_name": "mug"}, "object_name: expected one of umbrella"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(bad: dict, told: str) -> None:
    arguments = {"seed": 0, "domain": "style", **bad}
    with pytest.raises(InputError, match=told):
        unseen.draw(arguments.pop("seed"), **arguments)


FROZEN = (
    ("style", 1, "bicycle", "chalk", ("wheel", "frame", "seat", "handlebar"), 0.114, 62.1),
    ("style", 2, "table", "chalk", ("top", "leg"), 0.093, 62.3),
    ("umbrella", 1, "umbrella", "clutter", ("canopy", "shaft", "handle"), 0.127, 101.7),
    ("guitar", 1, "guitar", "clean", ("body", "neck", "headstock"), 0.138, 172.4),
    ("guitar", 2, "guitar", "occluded", ("body", "neck", "headstock"), 0.094, 22.7),
)


@pytest.mark.parametrize(("domain", "seed", "name", "difficulty", "parts", "area", "light"), FROZEN)
def test_version_1_is_frozen(
    domain: str, seed: int, name: str, difficulty: str, parts: tuple[str, ...], area: float, light: float
) -> None:
    """Figures name the data they were measured on: whoever changes a drawing also raises `VERSION`."""
    assert unseen.VERSION == "unseen-v1"
    item = unseen.draw(seed, domain=domain)
    assert (item.object_name, item.difficulty, item.part_names) == (name, difficulty, parts)
    assert (item.part_map > 0).mean() == pytest.approx(area, abs=0.002)
    assert item.image.mean() == pytest.approx(light, abs=0.5)
