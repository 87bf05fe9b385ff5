"""What is asked of a group: one canonical question per sub-task for inference, many wordings for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico.errors import InputError
from calico.language import IMAGE, IMAGE_END, IMAGE_START, image_tag, spoken_name
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, Question, SubTask

# Vicuna v1's opening, for language models that were trained with it; the small model does without.
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)

_CANONICAL = {
    SubTask.COMMON_OBJECT: "Segment the common object.",
    SubTask.COMMON_PARTS: "Segment the common parts.",
    SubTask.UNIQUE_PARTS: "Segment the unique parts.",
}

# Every request goes with every wording of its sub-task's target: some hundred questions each.
REQUESTS = (
    "Segment {what}.",
    "Find and segment {what}.",
    "Please segment {what}.",
    "Name and segment {what}.",
    "Show {what}.",
    "Mark {what} with masks.",
    "Outline {what}.",
    "Locate {what}.",
    "Identify {what} and give the masks.",
    "Can you segment {what}?",
    "Could you find {what}?",
    "Compare {images} and segment {what}.",
    "Look at {images}. Segment {what}.",
    "Name the objects in {images}, then segment {what}.",
)
TARGETS: dict[SubTask, tuple[str, ...]] = {
    SubTask.COMMON_OBJECT: (
        "the common object",
        "the common objects",
        "the object in common",
        "the shared object",
        "the object that {images} share",
        "the objects that {images} share",
        "the object that {images} have in common",
        "the object found in more than one image",
        "the same kind of object across {images}",
    ),
    SubTask.COMMON_PARTS: (
        "the common parts",
        "the common part",
        "the parts in common",
        "the shared parts",
        "the shared part",
        "the parts that {images} share",
        "the part that {images} share",
        "the object parts that {images} have in common",
        "the parts of the objects found in more than one image",
    ),
    SubTask.UNIQUE_PARTS: (
        "the unique parts",
        "the unique part",
        "the parts that differ",
        "the distinct parts",
        "the parts unique to one image",
        "the part unique to one image",
        "the parts that {images} do not share",
        "the part that only one of {images} shows",
        "the parts of the objects found in only one image",
    ),
}


def _images(num_images: int) -> tuple[str, ...]:
    if num_images == 2:
        return ("the images", "these images", "the two images", "both images", "the pair of images")
    return ("the images", "these images", f"the {num_images} images", f"these {num_images} images")


def _question(sub_task: SubTask, text: str, candidates: Sequence[str]) -> Question:
    names = tuple(dict.fromkeys(spoken_name(name) for name in candidates))
    if names:
        text += f" Choose names from: {', '.join(names)}."
    return Question(sub_task, text, names)


def _check_num_images(num_images: int) -> None:
    if not MIN_GROUP_SIZE <= num_images <= MAX_GROUP_SIZE:
        raise InputError(f"a question is about {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {num_images}")


def canonical_question(sub_task: SubTask, num_images: int, candidates: Sequence[str] = ()) -> Question:
    """The question that inference asks. candidates: names to choose from, listed in the text; empty for free naming."""
    _check_num_images(num_images)
    return _question(sub_task, _CANONICAL[sub_task], candidates)


def varied_question(
    sub_task: SubTask, num_images: int, rng: np.random.Generator, candidates: Sequence[str] = ()
) -> Question:
    """One of many wordings of the same question, the canonical one among them."""
    _check_num_images(num_images)
    request, what = rng.choice(REQUESTS), rng.choice(TARGETS[sub_task])
    text = str(request).replace("{what}", str(what)).replace("{images}", str(rng.choice(_images(num_images))))
    return _question(sub_task, text, candidates)


def render_prompt(question: str, num_images: int, *, system: str = "") -> str:
    """The first user turn: the pictures in order, the question, and the call to answer (Vicuna v1).

    One `<image>` stands for each picture; `CalicoTokenizer.encode_prompt` widens it to that picture's tokens.
    system: `VICUNA_SYSTEM` for a language model that knows it.
    """
    _check_num_images(num_images)
    pictures = ", ".join(f"{IMAGE_START}{IMAGE}{IMAGE_END} {image_tag(i)}" for i in range(num_images))
    return f"{system}USER: {pictures}. {question} ASSISTANT:"
