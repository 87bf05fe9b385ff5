"""Vocabularies of thousands of names: bounded prompts, the same quality, linear look-ups."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.vocabulary import vocabulary_of
from calico.correspondence import truth_of
from calico.data.groups import draw_group
from calico.inference.likely_names import LIST_TOKENS
from calico.inference.segmenter import CoSegmenter
from calico.language.constraint import AnswerConstraint
from calico.language.names import SpelledNames, spelled_names
from calico.language.tokenizer import CalicoTokenizer
from calico.training.scoring import group_score
from calico.values import ImageGroup, SubTask


@pytest.fixture(scope="module")
def segmenter() -> CoSegmenter:
    return CoSegmenter.from_checkpoint(device="cpu")


@pytest.fixture(scope="module")
def tokenizer(segmenter: CoSegmenter) -> CalicoTokenizer:
    return segmenter.tokenizer


def test_a_list_holds_what_fits(tokenizer: CalicoTokenizer) -> None:
    names = SpelledNames(tokenizer, vocabulary_of(300))
    assert names.fitting(10**6) == vocabulary_of(300)
    assert names.fitting(40) is None
    scores = {name: -float(place) for place, name in enumerate(names.ids)}
    listed = names.fitting(40, scores)
    assert listed is not None
    assert listed == vocabulary_of(300)[: len(listed)], "the likeliest, in the vocabulary's order"
    assert len(tokenizer.ids(", ".join(listed))) <= 41


def test_the_tree_allows_every_name_once(tokenizer: CalicoTokenizer) -> None:
    names = ("leg", "leg rest", "left leg", "seat")
    tree = spelled_names(tokenizer, names)
    left = set(names)
    for used in (list(names[:k]) for k in range(len(names))):
        open_nodes, taken, reached = [tree.root], tree.taken(used), set()
        while open_nodes:
            node = open_nodes.pop()
            reached |= {node.name} - {None}
            open_nodes += [below for below in node.below.values() if below.count > taken.get(id(below), 0)]
        assert reached == left - set(used)


def test_steps_cost_the_same_with_any_number_of_names(tokenizer: CalicoTokenizer) -> None:
    """Ratios within one run: making the constraint aside, which happens once."""
    seconds = []
    for size in (30, 3000):
        names = vocabulary_of(size)
        spelled_names(tokenizer, names)
        start = time.perf_counter()
        for _ in range(5):
            constraint = AnswerConstraint(tokenizer, SubTask.COMMON_PARTS, 2, names)
            taken: list[int] = []
            for _ in range(60):
                allowed = constraint.allowed(taken)
                taken.append(min(allowed))
        seconds.append(time.perf_counter() - start)
    assert seconds[1] < 40 * seconds[0], "a hundred times the names"


def test_the_same_quality_with_any_number_of_labels(segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    real = segmenter._prompt

    def noted(sub_task, num_images, candidates):
        prompt = real(sub_task, num_images, candidates)
        lengths.append(len(prompt.ids))
        return prompt

    monkeypatch.setattr(segmenter, "_prompt", noted)
    scores: dict[int, list[float]] = {60: [], 1230: []}
    for number in range(700, 706):
        items = draw_group(number, group_size=2, size=128)
        group, truth = ImageGroup(tuple(item.image for item in items)), truth_of(items)
        for size, own in scores.items():
            found = segmenter.segment(group, candidates=vocabulary_of(size))
            own.append(group_score(truth, found))
    assert np.mean(scores[60]) > 0.5
    assert np.mean(scores[1230]) > np.mean(scores[60]) - 0.1
    assert max(lengths) - min(lengths) <= LIST_TOKENS
    assert max(lengths) < 400
