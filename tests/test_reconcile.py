"""Three answers become one co-segmentation: right answers give the truth back, each contradiction is reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.correspondence import co_segmentation
from calico.inference.reconcile import UNKNOWN_OBJECT, AnsweredMasks, reconcile
from calico.language.answers import parse_answer, render_answer
from calico.values import CoSegmentation, NamedMask, Occurrence, RegionKey, SubTask

SIZES = [(4, 6), (5, 3), (4, 4)]


def mask(image: int, seed: int = 0) -> np.ndarray:
    found = np.zeros(SIZES[image], bool)
    found[seed % SIZES[image][0]] = True
    return found


def answered(
    text: str, sub_task: SubTask, *, scores: Sequence[float] | None = None, seeds: Sequence[int] = ()
) -> AnsweredMasks:
    """An answer whose masks are one row each: row 0 unless seeds say otherwise; a negative seed is an empty mask."""
    parsed = parse_answer(text, sub_task, 2)
    image_of = {mention.seg_index: mention.image for mention in parsed.mentions}
    masks = []
    for number in range(parsed.num_segs):
        seed = seeds[number] if number < len(seeds) else 0
        masks.append(mask(image_of.get(number, 0), seed) & (seed >= 0))
    return AnsweredMasks(text, parsed, masks, [0.5] * len(masks) if scores is None else scores)


def together(common_object: str = "", common_parts: str = "", unique_parts: str = "") -> CoSegmentation:
    texts = dict(zip(SubTask, (common_object, common_parts, unique_parts), strict=True))
    return reconcile(SIZES[:2], {task: answered(text, task) for task, text in texts.items() if text})


def codes(result: CoSegmentation) -> list[str]:
    return [problem.code for problem in result.problems]


def phrase(name: str, *images: int) -> str:
    return f"<p> the {name} </p> " + " ".join(f"[SEG] (IMAGE{image})" for image in images)


BOTH_DOGS = f"The images show {phrase('dog', 1, 2)}."
DOG_AND_CAT = f"The images show {phrase('dog', 1)}, {phrase('cat', 2)}."
COMMON_DOG = f"The images share {phrase('dog', 1, 2)}."
NO_OBJECT = "The images share no object."

groups = st.lists(
    st.tuples(st.sampled_from(["dog", "cat"]), st.sets(st.sampled_from(["head", "tail", "leg", "dog"]))),
    min_size=2,
    max_size=3,
)


@given(groups)
@settings(max_examples=60, deadline=None)
def test_right_answers_give_the_truth_back(group: list[tuple[str, set[str]]]) -> None:
    masks = [NamedMask(i, name, None, np.ones(SIZES[i], bool)) for i, (name, _) in enumerate(group)]
    masks += [NamedMask(i, name, p, mask(i, k)) for i, (name, parts) in enumerate(group) for k, p in enumerate(parts)]
    truth = co_segmentation(SIZES[: len(group)], masks)
    answers = {}
    for sub_task in SubTask:
        rendered = render_answer(truth, sub_task)
        parsed = parse_answer(rendered.text, sub_task, len(group))
        answers[sub_task] = AnsweredMasks(
            rendered.text, parsed, [truth.by_key[key].mask for key in rendered.segs], [0.9] * len(rendered.segs)
        )
    result = reconcile(truth.sizes_hw, answers)
    assert not result.problems
    assert set(result.answers) == set(SubTask)
    assert set(result.by_key) == set(truth.by_key)
    for key, region in result.by_key.items():
        expected = truth.by_key[key]
        assert np.array_equal(region.mask, expected.mask)
        assert (region.object_name, region.score) == (expected.object_name, 0.9)
        assert (region.occurrence, region.correspondence) == (expected.occurrence, expected.correspondence)
        assert region.correspondence_id == expected.correspondence_id


def test_answers_own_problems_are_kept_and_say_whose_they_are() -> None:
    result = together(common_object=f"The images share {phrase('dog', 1, 2, 3)}.")
    assert codes(result) == ["unknown_image"]
    assert result.problems[0].message.startswith("common_object: ")


def test_the_object_with_the_highest_sum_wins() -> None:
    sure = answered(COMMON_DOG, SubTask.COMMON_OBJECT, scores=[0.5, 0.6])
    others = [answered(f"{DOG_AND_CAT} They share no part.", task, scores=[0.5, 0.4]) for task in list(SubTask)[1:]]
    result = reconcile(SIZES[:2], dict(zip(SubTask, [sure, *others], strict=True)))
    assert codes(result) == ["object_disagreement", "occurrence_disagreement"]
    assert result.problems[0].image == 1
    assert [(region.image, region.name) for region in result.regions] == [(0, "dog"), (1, "cat")]


def test_a_part_in_both_answers_gets_its_occurrence_from_the_names() -> None:
    result = together(
        common_parts=f"{BOTH_DOGS} They share {phrase('head', 1, 2)}.",
        unique_parts=f"{BOTH_DOGS} They differ in {phrase('head', 1)}.",
    )
    assert codes(result) == ["occurrence_disagreement"]
    assert "unique_parts calls part 'head' unique" in result.problems[0].message
    assert {region.occurrence for region in result.regions if region.kind == "part"} == {Occurrence.COMMON}


def test_a_common_part_on_one_image_is_unique() -> None:
    result = together(common_parts=f"{BOTH_DOGS} They share {phrase('head', 1)}.")
    assert codes(result) == ["occurrence_disagreement"]
    assert result.by_key[RegionKey(0, "part", "head")].occurrence is Occurrence.UNIQUE


def test_none_against_regions() -> None:
    result = together(common_object=NO_OBJECT, common_parts=f"{BOTH_DOGS} They share no part.")
    assert codes(result) == ["none_disagreement"]
    assert codes(together(NO_OBJECT, f"{DOG_AND_CAT} They share no part.")) == []


@pytest.mark.parametrize(("seed", "expected"), [(0, []), (2, ["mask_disagreement"])])
def test_of_two_masks_the_better_stays(seed: int, expected: list[str]) -> None:
    worse = answered(f"{BOTH_DOGS} They share no part.", SubTask.COMMON_PARTS, scores=[0.3, 0.3], seeds=[seed, 0])
    better = answered(COMMON_DOG, SubTask.COMMON_OBJECT, scores=[0.8, 0.2])
    result = reconcile(SIZES[:2], {SubTask.COMMON_PARTS: worse, SubTask.COMMON_OBJECT: better})
    assert codes(result) == expected
    assert [region.score for region in result.regions] == [0.8, 0.3]
    assert np.array_equal(result.regions[0].mask, mask(0))


def test_an_empty_mask_is_left_out_and_its_name_still_names_the_parts() -> None:
    text = f"{BOTH_DOGS} They share {phrase('head', 1, 2)}."
    result = reconcile(SIZES[:2], {SubTask.COMMON_PARTS: answered(text, SubTask.COMMON_PARTS, seeds=[-1, 0, 0, 0])})
    assert codes(result) == ["empty_mask"]
    assert RegionKey(0, "object", "dog") not in result.by_key
    assert result.by_key[RegionKey(0, "part", "head")].object_name == "dog"


def test_the_object_of_a_part_comes_from_another_answer_or_is_unknown() -> None:
    orphan = f"The images show {phrase('dog', 1)}. They share {phrase('head', 1, 2)}."
    known = together(common_object=COMMON_DOG, common_parts=orphan)
    assert codes(known) == ["missing_object"]
    assert known.by_key[RegionKey(1, "part", "head")].object_name == "dog"
    unknown = together(common_parts=orphan)
    assert codes(unknown) == ["missing_object", "part_without_object"]
    assert unknown.by_key[RegionKey(1, "part", "head")].object_name == UNKNOWN_OBJECT


def test_a_seg_without_a_mask_is_reported() -> None:
    answer = answered(COMMON_DOG, SubTask.COMMON_OBJECT)
    result = reconcile(
        SIZES[:2], {SubTask.COMMON_OBJECT: AnsweredMasks(answer.text, answer.parsed, answer.masks[:1], [0.5])}
    )
    assert codes(result) == ["empty_mask", "occurrence_disagreement"]


pieces = st.sampled_from(
    ["<p> the dog </p>", "<p> a cat </p>", "<p>", "</p>", "[SEG]", "[SEG] (IMAGE1)", "[SEG] (IMAGE2)", "(IMAGE3)"]
    + [". ", "They share no part.", "<p> the head </p>", "<p> dog </p>", "[SEG] (IMAGE7)"]
)
texts = st.lists(pieces, max_size=12).map(" ".join)


@given(texts, texts, texts, st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_any_three_answers_give_a_valid_result_and_lose_nothing_silently(a: str, b: str, c: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = {}
    for sub_task, text in zip(SubTask, (a, b, c), strict=True):
        num_segs = text.count("[SEG]")
        seeds = [int(row) for row in rng.integers(-1, 3, num_segs)]
        answers[sub_task] = answered(text, sub_task, scores=list(rng.random(num_segs)), seeds=seeds)
    result = reconcile(SIZES[:2], answers)
    mentioned = {mention.key for answer in answers.values() for mention in answer.parsed.mentions}
    assert set(result.by_key) <= mentioned
    lost = {key.image for key in mentioned - set(result.by_key)}
    reported = {p.image for p in result.problems if p.code in {"empty_mask", "object_disagreement"}}
    assert lost <= reported
