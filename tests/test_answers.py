"""Answers: rendered then parsed they are the same regions; of any other text, parsing reports what it cannot use."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.language import SPECIAL_TOKENS
from calico.language.answers import ParsedAnswer, parse_answer, render_answer
from calico.language.wordings import LEADS, OBJECTS_LEADS
from calico.values import CoSegmentation, NamedMask, SubTask, normalize_name

MASK = np.ones((2, 2), bool)
PART_TASKS = [SubTask.COMMON_PARTS, SubTask.UNIQUE_PARTS]


def group(*images: tuple[str, list[str]]) -> CoSegmentation:
    """A truth from (object name, part names) per image."""
    masks = [NamedMask(i, name, None, MASK) for i, (name, _) in enumerate(images)]
    masks += [NamedMask(i, name, part, MASK) for i, (name, parts) in enumerate(images) for part in parts]
    return co_segmentation([MASK.shape] * len(images), masks)


CHAIR_AND_STOOL = group(("chair", ["seat", "leg", "back"]), ("stool", ["leg", "seat", "drawer"]))


def codes(parsed: ParsedAnswer) -> list[str]:
    return [problem.code for problem in parsed.problems]


@pytest.mark.parametrize(
    ("sub_task", "text"),
    [
        (SubTask.COMMON_OBJECT, "The images share no object."),
        (
            SubTask.COMMON_PARTS,
            "The images show <p> the chair </p> [SEG] (IMAGE1), <p> the stool </p> [SEG] (IMAGE2). They share "
            "<p> the leg </p> [SEG] (IMAGE1) [SEG] (IMAGE2), <p> the seat </p> [SEG] (IMAGE1) [SEG] (IMAGE2).",
        ),
        (
            SubTask.UNIQUE_PARTS,
            "The images show <p> the chair </p> [SEG] (IMAGE1), <p> the stool </p> [SEG] (IMAGE2). They differ in "
            "<p> the back </p> [SEG] (IMAGE1), <p> the drawer </p> [SEG] (IMAGE2).",
        ),
    ],
)
def test_canonical_wording(sub_task: SubTask, text: str) -> None:
    assert render_answer(CHAIR_AND_STOOL, sub_task).text == text


def test_one_class_on_some_images_of_a_larger_group() -> None:
    rendered = render_answer(group(("dog", []), ("cat", []), ("dog", [])), SubTask.COMMON_OBJECT)
    assert rendered.text == "The images share <p> the dog </p> [SEG] (IMAGE1) [SEG] (IMAGE3)."
    assert [key.image for key in rendered.segs] == [0, 2]


def test_parts_without_an_object_cannot_be_rendered() -> None:
    orphan = co_segmentation(
        [(2, 2)] * 2, [NamedMask(0, "mug", None, MASK), *(NamedMask(i, "mug", "lid", MASK) for i in (0, 1))]
    )
    with pytest.raises(InputError, match="image 2 has parts but no object"):
        render_answer(orphan, SubTask.COMMON_PARTS)


def test_a_name_with_a_special_token_cannot_be_rendered() -> None:
    with pytest.raises(InputError, match=r"\[seg\]"):
        render_answer(group(("mug [seg]", []), ("mug [seg]", [])), SubTask.COMMON_OBJECT)


names = st.one_of(
    st.sampled_from(["leg", "seat", "no", "none", "head of hair", "dog", "the", "a<b", "3.5 mm jack. end"]),
    st.text(min_size=1, max_size=12),
).map(normalize_name)
names = names.filter(lambda n: n and n == normalize_name(n) and not any(t.lower() in n for t in SPECIAL_TOKENS))
groups = st.lists(st.tuples(names, st.lists(names, max_size=4)), min_size=2, max_size=8).map(lambda g: group(*g))


@given(groups, st.sampled_from(list(SubTask)), st.one_of(st.none(), st.integers(0, 2**32 - 1)))
@settings(max_examples=150, deadline=None)
def test_render_then_parse_is_the_identity(target: CoSegmentation, sub_task: SubTask, seed: int | None) -> None:
    rendered = render_answer(target, sub_task, rng=None if seed is None else np.random.default_rng(seed))
    parsed = parse_answer(rendered.text, sub_task, len(target.sizes_hw))
    assert tuple(mention.key for mention in parsed.mentions) == rendered.segs
    assert [mention.seg_index for mention in parsed.mentions] == list(range(parsed.num_segs))
    assert set(rendered.segs) == set(target.restricted_to(sub_task).by_key)
    kind = "object" if sub_task is SubTask.COMMON_OBJECT else "part"
    assert parsed.says_none == (kind not in {key.kind for key in rendered.segs})
    assert not parsed.problems


pieces = st.one_of(
    st.sampled_from([*SPECIAL_TOKENS, "(IMAGE9)", "(IMAGE0)", "(IMAGE" + "9" * 5000 + ")", "(IMAGE²)", "(IMAGE 1)"]),
    st.sampled_from([" ", "the", " dog", ". ", "no", "They share", "\n", ","]),
    st.text(max_size=6),
)


@given(st.lists(pieces, max_size=30).map("".join), st.sampled_from(list(SubTask)), st.integers(2, 8))
@settings(max_examples=250, deadline=None)
def test_no_text_raises_and_every_seg_is_accounted_for(text: str, sub_task: SubTask, num_images: int) -> None:
    parsed = parse_answer(text, sub_task, num_images)
    assert parsed.num_segs == text.count("[SEG]")
    assert len({mention.key for mention in parsed.mentions}) == len(parsed.mentions)
    assert len({mention.seg_index for mention in parsed.mentions}) == len(parsed.mentions)
    for mention in parsed.mentions:
        assert 0 <= mention.image < num_images
        assert 0 <= mention.seg_index < parsed.num_segs
        assert mention.name
        assert mention.name == normalize_name(mention.name)
    assert parsed.problems or len(parsed.mentions) == parsed.num_segs
    assert parsed.problems or parsed.mentions or parsed.says_none


DOG, CAT = "<p> the dog </p> [SEG] (IMAGE1)", "<p> a cat </p> [SEG] (IMAGE2)"


@pytest.mark.parametrize(
    ("sub_task", "text", "expected", "kept"),
    [
        (SubTask.COMMON_OBJECT, "", ["empty_answer"], []),
        (SubTask.COMMON_OBJECT, "Hello.", ["empty_answer"], []),
        (SubTask.COMMON_OBJECT, f"They share {DOG} [SEG] (IMAGE2", ["seg_without_image", "cut_off"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"They share {DOG} [SEG] (IMAGE3).", ["unknown_image"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"They share {DOG} (IMAGE2).", ["image_without_seg"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"[SEG] (IMAGE1) {DOG}.", ["seg_without_phrase"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"<p> the cow </p>, {DOG}.", ["phrase_without_seg"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"<p> </p> [SEG] (IMAGE2), {DOG}.", ["empty_name"], ["dog"]),
        (SubTask.COMMON_OBJECT, "<p> the dog [SEG] (IMAGE1).", ["unclosed_phrase"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"{DOG}, {DOG}.", ["repeated_name"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"{DOG} </p>.", ["stray_token"], ["dog"]),
        (SubTask.COMMON_OBJECT, f"There is no common object but {DOG}.", ["none_with_regions"], ["dog"]),
        (SubTask.COMMON_PARTS, f"I see {DOG}. They share no part.", ["missing_object"], ["dog"]),
        (SubTask.COMMON_PARTS, f"I see {DOG}, {CAT}.", ["empty_answer"], ["dog", "cat"]),
        (SubTask.UNIQUE_PARTS, f"I see {DOG}, {DOG}, {CAT}. No part.", ["repeated_name"], ["dog", "cat"]),
    ],
)
def test_malformed_answers(sub_task: SubTask, text: str, expected: list[str], kept: list[str]) -> None:
    parsed = parse_answer(text, sub_task, 2)
    assert codes(parsed) == expected
    assert [mention.name for mention in parsed.mentions] == kept


def test_finished_overrides_the_look_of_the_text() -> None:
    assert codes(parse_answer(f"They share {DOG}", SubTask.COMMON_OBJECT, 2, finished=True)) == []
    assert codes(parse_answer(f"They share {DOG}.", SubTask.COMMON_OBJECT, 2, finished=False)) == ["cut_off"]


def test_first_phrase_on_a_covered_image_ends_the_objects() -> None:
    text = f"{DOG}, <p> the tail </p> [SEG] (IMAGE1), {CAT}."
    parsed = parse_answer(text, SubTask.UNIQUE_PARTS, 2)
    assert [(m.kind, m.name) for m in parsed.mentions] == [("object", "dog"), ("part", "tail"), ("part", "cat")]
    assert codes(parsed) == ["missing_object"]


def test_training_wordings_vary_but_keep_regions_and_order() -> None:
    for sub_task in SubTask:
        rendered = [render_answer(CHAIR_AND_STOOL, sub_task, rng=np.random.default_rng(seed)) for seed in range(40)]
        assert len({answer.text for answer in rendered}) >= 4
        assert {answer.segs for answer in rendered} == {render_answer(CHAIR_AND_STOOL, sub_task).segs}


def test_no_lead_is_read_as_none() -> None:
    for sub_task in PART_TASKS:
        for lead in [one for pair in OBJECTS_LEADS + LEADS[sub_task] for one in pair]:
            assert not parse_answer(f"{lead} x.", sub_task, 2).says_none
