"""Vocabularies of thousands of names: bounded prompts, the same answers, linear look-ups."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from benchmarks.vocabulary import vocabulary_of
from calico.inference.likely_names import LIST_TOKENS
from calico.inference.segmenter import CoSegmenter
from calico.language.constraint import AnswerConstraint
from calico.language.names import SpelledNames, spelled_names
from calico.language.tokenizer import CalicoTokenizer
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


def test_the_same_parts_with_any_number_of_labels(segmenter: CoSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    from calico.drawings import draw

    pictures = [draw(seed, size_hw=(96, 96), object_name=name).image for seed, name in ((1, "chair"), (2, "stool"))]
    group = ImageGroup(tuple(pictures))
    lengths = []
    real = segmenter._prompt

    def noted(sub_task, num_images, candidates):
        prompt = real(sub_task, num_images, candidates)
        lengths.append(len(prompt.ids))
        return prompt

    monkeypatch.setattr(segmenter, "_prompt", noted)
    found = [
        {(r.image, r.kind, r.name) for r in segmenter.segment(group, candidates=vocabulary_of(size)).regions}
        for size in (60, 1230)
    ]
    assert found[0]
    assert all(a == b for a, b in pairwise(found))
    assert max(lengths) - min(lengths) <= LIST_TOKENS
    assert max(lengths) < 400
