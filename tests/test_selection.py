"""Which groups are labelled next: what each strategy prefers and says, determinism, what is not known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from calico.data.selection import STRATEGIES, Choice, GroupFacts, Labelled, PredictedPart, choose
from calico.errors import InputError


def facts(name: str, *parts: tuple[str, float], at: float | None = None) -> GroupFacts:
    """at: the angle of its features, in degrees."""
    features = None if at is None else np.array([np.cos(np.deg2rad(at)), np.sin(np.deg2rad(at))])
    confidence = float(np.mean([score for _, score in parts])) if parts else None
    return GroupFacts(name, tuple(PredictedPart(*part) for part in parts), confidence, features)


def ids(choices: list[Choice]) -> list[str]:
    return [choice.id for choice in choices]


MANY = [facts(f"g{k}", ("leg", k / 40), (f"part {k % 7}", 0.5), at=9.0 * k) for k in range(40)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_group_comes_once_the_same_way_each_time_whatever_the_order(strategy: str) -> None:
    labelled = Labelled({"leg": 4}, np.array([[1.0, 0.0]]))
    whole = choose(strategy, MANY, 99, labelled=labelled, seed=3)
    assert sorted(ids(whole)) == sorted(group.id for group in MANY)
    assert all(choice.reason for choice in whole)
    other_order = random.Random(0).sample(MANY, len(MANY))
    assert choose(strategy, other_order, 12, labelled=labelled, seed=3) == whole[:12]


def test_chance_depends_on_the_seed_alone() -> None:
    assert ids(choose("random", MANY, 10)) != ids(choose("random", MANY, 10, seed=1))
    equals = [facts(f"g{k}", ("leg", 0.5)) for k in range(20)]
    assert ids(choose("least_confidence", equals, 5)) != ids(choose("least_confidence", equals, 5, seed=1))


def test_least_confidence_asks_where_the_scores_are_low_and_first_where_nothing_was_found() -> None:
    groups = [
        facts("sure", ("leg", 0.9)),
        facts("unsure", ("leg", 0.4), ("seat", 0.2)),
        facts("empty"),
        GroupFacts("?"),
    ]
    found = choose("least_confidence", groups, 4)
    assert ids(found) == ["empty", "unsure", "sure", "?"]
    assert found[1].reason == "mean score 0.30; least sure of seat 0.20, leg 0.40"
    assert "no prediction" in found[3].reason


def test_new_parts_prefers_rare_names_and_does_not_choose_the_same_twice() -> None:
    labelled = Labelled({"leg": 30, "seat": 20})
    groups = [
        facts("old", ("leg", 0.9), ("seat", 0.9)),
        facts("canopy", ("canopy", 0.9)),
        facts("canopy too", ("canopy", 0.8)),
        facts("neck", ("neck", 0.5)),
    ]
    found = choose("new_parts", groups, 4, labelled=labelled)
    assert ids(found) == ["canopy", "neck", "canopy too", "old"]
    assert "canopy in 0 groups" in found[0].reason
    assert found[0].value == pytest.approx(0.9, abs=0.05)


def test_doubtful_regions_promise_more_new_parts_than_sure_ones() -> None:
    labelled = Labelled({"leg": 10, "seat": 1})
    groups = [
        facts("sure", ("leg", 0.95), ("seat", 0.95)),
        facts("doubtful", ("leg", 0.1), ("seat", 0.9), ("leg", 0.1)),
    ]
    assert ids(choose("new_parts", groups, 1, labelled=labelled)) == ["doubtful"]


def test_diversity_goes_where_nothing_is_labelled_yet() -> None:
    groups = [
        facts("near", at=8),
        facts("far", at=90),
        facts("beside far", at=85),
        facts("between", at=45),
        GroupFacts("?"),
    ]
    found = choose("diversity", groups, 5, labelled=Labelled(features=np.array([[2.0, 0.0]])))
    assert ids(found) == ["far", "between", "near", "beside far", "?"]
    assert found[0].value == pytest.approx(1.0)
    alone = choose("diversity", groups[:4], 4)
    assert ids(alone)[0] == "between"  # the most typical
    assert alone[0].reason == "the most typical group"


def test_the_mix_takes_from_all_in_turn_and_says_from_which() -> None:
    found = choose("mix", MANY, 8, labelled=Labelled({"leg": 4}, np.array([[1.0, 0.0]])))
    turns = ["least_confidence", "new_parts", "diversity", "random"]
    assert [choice.strategy for choice in found] == turns * 2
    assert all(choice.reason.startswith(f"{choice.strategy}: ") for choice in found)


@pytest.mark.parametrize(
    ("strategy", "groups", "count", "told"),
    [
        ("best", [], 1, "strategy: expected one of random"),
        ("random", [], -1, "count: expected"),
        ("random", [GroupFacts("a"), GroupFacts("a")], 1, "an id of its own"),
    ],
)
def test_wrong_input_is_named(strategy: str, groups: list[GroupFacts], count: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        choose(strategy, groups, count)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_to_choose_from_is_no_choice(strategy: str) -> None:
    assert choose(strategy, [], 3) == []
    assert choose(strategy, MANY, 0) == []
