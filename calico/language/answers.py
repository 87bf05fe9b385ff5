"""Answers of the three sub-tasks, written from the truth and read from what a model wrote (paper, section 3).

Every named thing is `<p> the name </p>` followed by one `[SEG] (IMAGEi)` per image that shows it. A common-object answer
is one list of objects. A part answer first lists the objects of all images, ends the sentence, then lists the parts:

    The images show <p> the chair </p> [SEG] (IMAGE1), <p> the stool </p> [SEG] (IMAGE2). They share <p> the leg </p> ...

Order: objects by their first image, common parts alphabetically, unique parts by image and then alphabetically.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from calico.errors import InputError
from calico.language import PHRASE_CLOSE, PHRASE_OPEN, SEG, image_tag, spoken_name
from calico.values import CoSegmentation, RegionKey, SubTask

# Canonical leads do not depend on the number of names, so that a model need not count before it names.
OBJECTS_LEAD = "The images show"
LEAD = {
    SubTask.COMMON_OBJECT: "The images share",
    SubTask.COMMON_PARTS: "They share",
    SubTask.UNIQUE_PARTS: "They differ in",
}
NONE = {
    SubTask.COMMON_OBJECT: "The images share no object.",
    SubTask.COMMON_PARTS: "They share no part.",
    SubTask.UNIQUE_PARTS: "They differ in no part.",
}
# Wordings of training: (one name, several names). Only a "none" may contain a word that `parse_answer` takes for none.
OBJECTS_LEADS = (
    (OBJECTS_LEAD, OBJECTS_LEAD),
    ("The object is", "The objects are"),
    ("There is", "There are"),
    ("The images contain", "The images contain"),
    ("I can see", "I can see"),
)
LEADS = {
    SubTask.COMMON_OBJECT: (
        ("The images share", "The images share"),
        ("The common object is", "The common objects are"),
        ("The shared object is", "The shared objects are"),
        ("The images have in common", "The images have in common"),
    ),
    SubTask.COMMON_PARTS: (
        ("They share", "They share"),
        ("The common part is", "The common parts are"),
        ("The shared part is", "The shared parts are"),
        ("They have in common", "They have in common"),
    ),
    SubTask.UNIQUE_PARTS: (
        ("They differ in", "They differ in"),
        ("The unique part is", "The unique parts are"),
        ("The part found in only one image is", "The parts found in only one image are"),
        ("Only one image shows", "Only one image shows"),
    ),
}
NONES = {
    SubTask.COMMON_OBJECT: (
        "The images share no object.",
        "There is no common object.",
        "The images have no object in common.",
        "There are no common objects.",
    ),
    SubTask.COMMON_PARTS: (
        "They share no part.",
        "There are no common parts.",
        "There is no common part.",
        "They have no parts in common.",
    ),
    SubTask.UNIQUE_PARTS: (
        "They differ in no part.",
        "There are no unique parts.",
        "There is no unique part.",
        "No part is found in only one image.",
    ),
}


class RenderedAnswer(NamedTuple):
    """segs: the region that each [SEG] of the text means, in order."""

    text: str
    segs: tuple[RegionKey, ...]


def _phrases(keys: Iterable[RegionKey]) -> list[list[RegionKey]]:
    """Keys of one name and kind together, in order of first appearance; images ascending within each."""
    groups: dict[tuple[str, str], list[RegionKey]] = {}
    for key in keys:
        groups.setdefault((key.kind, key.name), []).append(key)
    return [sorted(group) for group in groups.values()]


def _article(name: str, rng: np.random.Generator | None) -> str:
    if rng is None or rng.random() < 0.5:
        return "the"
    return "an" if name[0] in "aeiou" else "a"


def _listed(phrases: list[list[RegionKey]], rng: np.random.Generator | None) -> str:
    texts = []
    for phrase in phrases:
        name = spoken_name(phrase[0].name)
        segs = " ".join(f"{SEG} {image_tag(key.image)}" for key in phrase)
        texts.append(f"{PHRASE_OPEN} {_article(name, rng)} {name} {PHRASE_CLOSE} {segs}")
    if len(texts) > 1 and rng is not None and rng.random() < 0.5:
        return f"{', '.join(texts[:-1])} and {texts[-1]}."
    return f"{', '.join(texts)}."


def render_answer(
    target: CoSegmentation, sub_task: SubTask, *, rng: np.random.Generator | None = None
) -> RenderedAnswer:
    """The right answer to one question about a group whose full truth is `target`.

    rng: None for the canonical wording, else one of the training wordings (same structure, same order of names).
    Raises InputError where an image has parts but no object region: a part answer could not say whose parts they are.
    """
    wanted = target.restricted_to(sub_task).regions
    objects = sorted((r.key for r in wanted if r.kind == "object"), key=lambda key: (key.image, key.name))
    parts = [r.key for r in wanted if r.kind == "part"]
    if orphans := {key.image for key in parts} - {key.image for key in objects}:
        image = min(orphans) + 1
        raise InputError(f"image {image} has parts but no object region; add the object's mask, for instance their union")

    def pick(choices: tuple) -> int:
        return 0 if rng is None else int(rng.integers(len(choices)))

    sentences: list[str] = []
    object_phrases = _phrases(objects)
    if sub_task is SubTask.COMMON_OBJECT:
        asked = object_phrases
    else:
        if object_phrases:
            lead = OBJECTS_LEADS[pick(OBJECTS_LEADS)][len(object_phrases) > 1]
            sentences.append(f"{lead} {_listed(object_phrases, rng)}")
        if sub_task is SubTask.COMMON_PARTS:
            asked = _phrases(sorted(parts, key=lambda key: (key.name, key.image)))
        else:
            asked = [[key] for key in sorted(parts, key=lambda key: (key.image, key.name))]
    if asked:
        leads = LEADS[sub_task]
        sentences.append(f"{leads[pick(leads)][len(asked) > 1]} {_listed(asked, rng)}")
    else:
        sentences.append(NONES[sub_task][pick(NONES[sub_task])])
    segs = asked if sub_task is SubTask.COMMON_OBJECT else object_phrases + asked
    return RenderedAnswer(" ".join(sentences), tuple(key for phrase in segs for key in phrase))
