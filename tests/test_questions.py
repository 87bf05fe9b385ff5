"""Questions: canonical for inference, varied for training, and the prompt around them."""

from __future__ import annotations

import numpy as np
import pytest

from calico.errors import InputError
from calico.language.questions import VICUNA_SYSTEM, canonical_question, render_prompt, varied_question
from calico.values import SubTask


@pytest.mark.parametrize("num_images", [2, 3, 8])
def test_varied_questions_are_many_complete_and_never_shared_between_sub_tasks(num_images: int) -> None:
    texts = {}
    for sub_task in SubTask:
        rng = np.random.default_rng(1)
        questions = [varied_question(sub_task, num_images, rng) for _ in range(400)]
        assert all(question.sub_task is sub_task for question in questions)
        texts[sub_task] = {question.text for question in questions}
        assert len(texts[sub_task]) >= 60
        assert not any("{" in text or "  " in text for text in texts[sub_task])
        assert any("parts" in text for text in texts[sub_task]) or sub_task is SubTask.COMMON_OBJECT
    common_object, common_parts, unique_parts = texts.values()
    assert not common_object & common_parts
    assert not common_object & unique_parts
    assert not common_parts & unique_parts


def test_equal_seeds_ask_equal_questions() -> None:
    first, second = (varied_question(SubTask.COMMON_PARTS, 2, np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_a_pair_is_never_called_by_a_number_that_it_is_not() -> None:
    rng = np.random.default_rng(0)
    assert not any("both" in varied_question(SubTask.UNIQUE_PARTS, 3, rng).text for _ in range(200))


def test_candidates_are_normalised_distinct_and_listed() -> None:
    question = canonical_question(SubTask.COMMON_PARTS, 2, ["The Leg", "seat", "leg"])
    assert question.candidates == ("leg", "seat")
    assert question.text.endswith("Choose names from: leg, seat.")
    assert "Choose" not in canonical_question(SubTask.COMMON_PARTS, 2).text


@pytest.mark.parametrize("name", ["a <p> b", "[SEG]", "(image2)", ""])
def test_a_candidate_that_would_break_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name"):
        canonical_question(SubTask.COMMON_PARTS, 2, [name])


@pytest.mark.parametrize("num_images", [1, 9])
def test_group_sizes(num_images: int) -> None:
    with pytest.raises(InputError, match="2 to 8 images"):
        canonical_question(SubTask.COMMON_OBJECT, num_images)


def test_prompt_lists_the_pictures_in_order() -> None:
    assert render_prompt("Segment the common object.", 2) == (
        "USER: <im_start><image><im_end> (IMAGE1), <im_start><image><im_end> (IMAGE2). "
        "Segment the common object. ASSISTANT:"
    )
    assert render_prompt("Q?", 3, system=VICUNA_SYSTEM).startswith("A chat between")
    assert render_prompt("Q?", 3).count("<image>") == 3
