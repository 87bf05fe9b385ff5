"""Constrained decoding: whatever a model prefers, the answer is well formed; the right answer is always possible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import TOKENIZER

from calico.correspondence import co_segmentation
from calico.language.answers import parse_answer, render_answer
from calico.language.constraint import AnswerConstraint
from calico.language.tokenizer import CalicoTokenizer
from calico.values import NamedMask, SubTask

MASK = np.ones((2, 2), bool)
OBJECTS = ["chair", "stool", "zorbel", "dog"]
PARTS = ["leg", "leg rest", "seat", "back", "blorfin", "chair"]


@pytest.fixture(scope="module")
def tokenizer() -> CalicoTokenizer:
    return TOKENIZER


def decode(constraint: AnswerConstraint, tokenizer: CalicoTokenizer, rng: np.random.Generator, limit: int) -> list[int]:
    """A model that prefers tokens at random, with a taste for the structure so that answers end."""
    structure = list(tokenizer.special_ids)
    ids: list[int] = []
    while len(ids) < limit:
        preference = rng.random(len(tokenizer))
        preference[structure] += 0.8 * rng.random()
        token = max(constraint.allowed(ids), key=preference.__getitem__)
        if token == tokenizer.eos_id:
            return ids
        ids.append(token)
    raise AssertionError(f"no end after {limit} tokens: {tokenizer.text(ids)}")


@given(st.sampled_from(list(SubTask)), st.integers(2, 8), st.integers(0, 2**32 - 1), st.integers(1, 10))
@settings(max_examples=80, deadline=None)
def test_with_a_vocabulary_every_answer_parses_without_a_problem(
    tokenizer: CalicoTokenizer, sub_task: SubTask, num_images: int, seed: int, num_names: int
) -> None:
    names = [*PARTS, *OBJECTS][:num_names]
    constraint = AnswerConstraint(tokenizer, sub_task, num_images, names)
    text = tokenizer.text(decode(constraint, tokenizer, np.random.default_rng(seed), 512))
    parsed = parse_answer(text, sub_task, num_images)
    assert not parsed.problems, (text, parsed.problems)
    assert {mention.name for mention in parsed.mentions} <= set(names)
    counts: dict[str, int] = {}
    for mention in parsed.mentions:
        if mention.kind == "part" or sub_task is SubTask.COMMON_OBJECT:
            counts[mention.name] = counts.get(mention.name, 0) + 1
    wanted = {1} if sub_task is SubTask.UNIQUE_PARTS else set(range(2, num_images + 1))
    assert set(counts.values()) <= wanted


@given(st.sampled_from(list(SubTask)), st.integers(2, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_free_names_are_closed_and_answers_well_formed(
    tokenizer: CalicoTokenizer, sub_task: SubTask, num_images: int, seed: int
) -> None:
    constraint = AnswerConstraint(tokenizer, sub_task, num_images)
    text = tokenizer.text(decode(constraint, tokenizer, np.random.default_rng(seed), 2000))
    assert {problem.code for problem in parse_answer(text, sub_task, num_images).problems} <= {"repeated_name"}


groups = st.lists(
    st.tuples(st.sampled_from(OBJECTS), st.lists(st.sampled_from(PARTS), max_size=4)), min_size=2, max_size=8
)


@given(groups, st.sampled_from(list(SubTask)), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_canonical_answer_is_always_allowed(
    tokenizer: CalicoTokenizer, group: list[tuple[str, list[str]]], sub_task: SubTask, free: bool
) -> None:
    masks = [NamedMask(i, name, None, MASK) for i, (name, _) in enumerate(group)]
    masks += [NamedMask(i, name, part, MASK) for i, (name, parts) in enumerate(group) for part in parts]
    target = co_segmentation([(2, 2)] * len(group), masks)
    ids = tokenizer.ids(render_answer(target, sub_task).text)
    constraint = AnswerConstraint(tokenizer, sub_task, len(group), None if free else [*OBJECTS, *PARTS])
    for step, token in enumerate(ids):
        assert token in constraint.allowed(ids[:step]), tokenizer.text(ids[: step + 1])
    assert constraint.allowed(ids) == {tokenizer.eos_id}


def test_a_name_outside_the_vocabulary_is_never_allowed(tokenizer: CalicoTokenizer) -> None:
    constraint = AnswerConstraint(tokenizer, SubTask.COMMON_OBJECT, 2, ["dog"])
    ids = tokenizer.ids("The images share <p> the")
    allowed = constraint.allowed(ids)
    assert tokenizer.ids(" dog")[0] in allowed
    assert all(" dog".startswith(tokenizer.piece(token)) for token in allowed)
    with pytest.raises(ValueError, match="not allowed"):
        constraint.allowed([*ids, tokenizer.ids(" leg")[0]])


@given(st.sampled_from(["leg", "leg rest", "blorfin", "chair"]), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_name_may_be_spelled_in_any_pieces(tokenizer: CalicoTokenizer, name: str, seed: int) -> None:
    """As a model writes it whose tokenizer has grown since: with the pieces that it learnt."""
    rest = f"<p> the {name} </p> [SEG] (IMAGE1) [SEG] (IMAGE2)."
    ids = [*tokenizer.ids("The images share"), *tokenizer.ids(rest, dropout=0.5, rng=np.random.default_rng(seed))]
    constraint = AnswerConstraint(tokenizer, SubTask.COMMON_OBJECT, 2, [*OBJECTS, *PARTS])
    for step, token in enumerate(ids):
        assert token in constraint.allowed(ids[:step]), tokenizer.text(ids[: step + 1])
    assert constraint.allowed(ids) == {tokenizer.eos_id}


@pytest.mark.parametrize("sub_task", SubTask)
def test_with_an_empty_vocabulary_nothing_is_named(tokenizer: CalicoTokenizer, sub_task: SubTask) -> None:
    ids = decode(AnswerConstraint(tokenizer, sub_task, 2, []), tokenizer, np.random.default_rng(0), 32)
    assert parse_answer(tokenizer.text(ids), sub_task, 2).says_none


def test_asking_again_or_for_another_beginning_gives_the_same(tokenizer: CalicoTokenizer) -> None:
    ids = tokenizer.ids("The images show <p> the dog </p> [SEG] (IMAGE1)")
    constraint = AnswerConstraint(tokenizer, SubTask.UNIQUE_PARTS, 2, ["dog", "tail"])
    forward = [constraint.allowed(ids[:n]) for n in range(len(ids) + 1)]
    assert constraint.allowed(ids) == forward[-1]
    assert [constraint.allowed(ids[:n]) for n in (3, 0, len(ids))] == [forward[3], forward[0], forward[-1]]
