"""Which of a project's labels is meant: by a click or a row (`find_label`), or by a region's names (`match_label`).

Exact, then in any case or spelling, then `predicted_values`; names may also be similar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import NamedTuple

from backend.codecs.controls import Label, Labels, folded_name, names_of_label
from calico.values import PartRegion

THRESHOLD = 0.8


class MatchKind(StrEnum):
    EXACT = "exact"
    CASE_INSENSITIVE = "case_insensitive"
    PREDICTED_VALUES = "predicted_values"
    SIMILAR = "similar"


class LabelMatch(NamedTuple):
    """label: its value as it stands in the config."""

    label: str
    kind: MatchKind


def find_label(given: str, labels: Sequence[Label]) -> Label | None:
    """The label that a text of a click, a row or a file means: its value in results (an alias), or what the editor
    shows, exact before any case and spelling; then one of its `predicted_values`. None where it is none of them."""
    by_text, by_folded = Labels.of(labels).by_text
    return by_text.get(given) or by_text.get(given.strip()) or by_folded.get(folded_name(given))


def lexical_similarity(a: str, b: str) -> float:
    """0 to 1 by shared letters, word by word: plurals and spellings are near, another word for the same thing is not.

    The least similar pair of words counts, so that a long common word (`refrigerator door`, `refrigerator drawer`) does
    not hide a different one; words that start differently (`handle`, `candle`) share nothing.
    """
    if a[:1] != b[:1]:
        return 0.0
    words_a, words_b = re.split("[: ]", a), re.split("[: ]", b)
    if len(words_a) != len(words_b):  # only `lampshade` and `lamp shade`
        words_a, words_b = ["".join(words_a)], ["".join(words_b)]
        if abs(len(words_a[0]) - len(words_b[0])) > 2:
            return 0.0
    pairs = zip(words_a, words_b, strict=True)
    return min(SequenceMatcher(None, x, y).ratio() if x[:1] == y[:1] else 0.0 for x, y in pairs)


def match_label(names: Sequence[str], labels: Iterable[Label], *, threshold: float = THRESHOLD) -> LabelMatch | None:
    """The label that means one of `names` (normalised, the more specific first), None where none does."""
    labels = Labels.of(labels)
    by_text, by_folded = labels.by_text
    for name in names:
        label = by_text.get(name) or by_folded.get(folded_name(name))
        if label is not None:
            return LabelMatch(label.value, _kind_of_match(name, label))
    spelled = [(folded_name(label.value), label.value) for label in labels]
    scored = [(lexical_similarity(folded_name(name), text), value) for name in names for text, value in spelled]
    score, value = max(scored, default=(0.0, ""), key=lambda pair: pair[0])
    return LabelMatch(value, MatchKind.SIMILAR) if score >= threshold else None


def _kind_of_match(name: str, label: Label) -> MatchKind:
    if name in (label.value, label.caption):
        return MatchKind.EXACT
    is_spelling = folded_name(name) in (folded_name(label.value), folded_name(label.caption))
    return MatchKind.CASE_INSENSITIVE if is_spelling else MatchKind.PREDICTED_VALUES


def label_of_region(
    region: PartRegion,
    labels: Sequence[Label],
    vocabulary: str,
) -> LabelMatch | None:
    """Open vocabulary: the label of the region's role. Others: of its names, the more specific first.

    Fixed, for a whole object: labels that say an object, then the label `object`, then any that bears its name. Of a
    group's own names: the very name, else `object` or `other part`, beside which the name has a place of its own.
    """
    labels = Labels.of(labels)
    by_role = {said: LabelMatch(label.value, MatchKind.EXACT) for said, label in labels.by_role.items()}
    is_object = region.part_name is None
    if vocabulary == "open":
        roles = ("object",) if is_object else (region.occurrence.value, "part")
        return next((by_role[r] for r in roles if r in by_role), None)
    if vocabulary == "group":
        own_label = _own_label(region, labels)
        return (
            LabelMatch(own_label.value, MatchKind.EXACT)
            if own_label
            else by_role.get("object" if is_object else "other")
        )
    if not is_object:
        names = [f"{region.object_name}:{region.name}", f"{region.object_name} {region.name}", region.name]
        return match_label(names, labels.parts)
    match = match_label([region.name], labels.objects)
    return match or by_role.get("object") or match_label([region.name], labels.named, threshold=1.0)


def _own_label(region: PartRegion, labels: Labels) -> Label | None:
    """The label of a group's own names that means this region: by its object too where a long vocabulary says it."""
    if region.part_name is None:
        return next((k for k in labels.objects if names_of_label(k, labels)[0] == region.object_name), None)
    owners_and_parts = [(label, *names_of_label(label, labels)) for label in labels.parts]
    mine = [(label, owner) for label, owner, part in owners_and_parts if part == region.part_name]
    return next((label for name in (region.object_name, None) for label, owner in mine if owner == name), None)
