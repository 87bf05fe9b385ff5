"""Vocabularies of thousands of names: bounded prompts, the same quality, linear look-ups."""

from __future__ import annotations

import time

import numpy as np
import pytest
from foreign_weights import GLAMM_TOKENS, llama_tokenizer

from benchmarks.vocabulary import likeness, pair_of, vocabulary_of
from calico.inference.segmenter import CoSegmenter
from calico.language.constraint import AnswerConstraint
from calico.language.names import LIST_TOKENS, SpelledNames, spelled_names
from calico.language.tokenizer import CalicoTokenizer
from calico.training.scoring import group_score
from calico.values import SubTask


@pytest.fixture(scope="module")
def segmenter() -> CoSegmenter:
    return CoSegmenter.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def tokenizer(segmenter: CoSegmenter) -> CalicoTokenizer:
    return segmenter.tokenizer


def test_a_question_lists_all_names_or_none(tokenizer: CalicoTokenizer) -> None:
    assert SpelledNames(tokenizer, ["the Leg", "seat", "leg"]).listed == ("leg", "seat"), "in their own order"
    for size in range(5, 60, 5):
        listed = SpelledNames(tokenizer, vocabulary_of(size)).listed
        fits = len(tokenizer.ids("".join(f", {name}" for name in vocabulary_of(size)))) <= LIST_TOKENS
        assert listed == (vocabulary_of(size) if fits else ())


def test_every_name_is_reached_once(tokenizer: CalicoTokenizer) -> None:
    names = ("leg", "leg rest", "left leg", "seat")
    spelled = spelled_names(tokenizer, names)
    for used in (list(names[:k]) for k in range(len(names))):
        open_nodes, reached = [spelled.root], set()
        while open_nodes:
            node = open_nodes.pop()
            if node.is_end:
                reached.add(spelled.names[node.start])
            else:
                below = spelled.below(node, used)
                assert below, "no spelling ends nowhere"
                open_nodes += below.values()
        assert reached == set(names) - set(used)


@pytest.mark.parametrize("name", ["leg", "\u690b", "mirror (left)", "caf\u00e9", "\u0e02\u0e32 1"])
def test_letters_that_are_no_tokens(tokenizer: CalicoTokenizer, name: str) -> None:
    """A Llama's tokenizer spells them with bytes, or not at all."""
    for own in (tokenizer, CalicoTokenizer(llama_tokenizer(*GLAMM_TOKENS), "llama")):
        spelled = SpelledNames(own, [name, "seat"])
        ids = own.ids(f"<p> the {name} </p>")[len(own.ids("<p> the")) :]
        node = spelled.root
        for token in ids:
            node = spelled.below(node)[token]
        assert node.is_end
        assert spelled.names[node.start] == name


def test_steps_cost_the_same_with_any_number_of_names(tokenizer: CalicoTokenizer) -> None:
    """Ratios within one run: making the constraint aside, which happens once."""
    seconds = []
    for size in (30, 3000):
        names = vocabulary_of(size)
        spelled_names(tokenizer, names)
        start = time.process_time()
        for _ in range(5):
            constraint = AnswerConstraint(tokenizer, SubTask.COMMON_PARTS, 2, names)
            taken: list[int] = []
            for _ in range(60):
                allowed = constraint.allowed(taken)
                taken.append(min(allowed))
        seconds.append(time.process_time() - start)
    assert seconds[1] < 40 * seconds[0], "a hundred times the names"


def test_the_same_parts_with_any_number_of_labels(segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    real = segmenter._prompt

    def noted(sub_task, num_images, candidates):
        prompt = real(sub_task, num_images, candidates)
        lengths.append(len(prompt.ids))
        return prompt

    monkeypatch.setattr(segmenter, "_prompt", noted)
    pairs = [pair_of(number, 128) for number in range(700, 706)]
    found = {
        size: [segmenter.segment(pair.group, candidates=vocabulary_of(size, pair.names)) for pair in pairs]
        for size in (30, 3000)
    }
    few, many = (
        np.mean([group_score(pair.truth, own) for pair, own in zip(pairs, found[size], strict=True)])
        for size in (30, 3000)
    )
    assert few > 0.6
    assert abs(many - few) <= 0.02
    assert np.mean([likeness(*both) for both in zip(found[30], found[3000], strict=True)]) >= 0.98
    assert max(lengths) == min(lengths)
