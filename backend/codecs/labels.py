"""Which of a project's labels a region's names mean: exact, case-insensitive, `predicted_values`, then similar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import NamedTuple

from backend.codecs.controls import Label, names_of_label, role
from calico.values import PartRegion, normalize_name

THRESHOLD = 0.8
Similarity = Callable[[str, str], float]


class MatchKind(StrEnum):
    EXACT = "exact"
    CASE_INSENSITIVE = "case_insensitive"
    PREDICTED_VALUES = "predicted_values"
    SIMILAR = "similar"


class LabelMatch(NamedTuple):
    """label: its value as it stands in the config."""

    label: str
    kind: MatchKind


def lexical_similarity(a: str, b: str) -> float:
    """0 to 1 by shared letters, word by word: plurals and spellings are near, another word for the same thing is not.

    The least similar pair of words counts, so that a long common word (`refrigerator door`, `refrigerator drawer`) does
    not hide a different one; words that start differently (`handle`, `candle`) share nothing.
    """
    words_a, words_b = re.split("[: ]", a), re.split("[: ]", b)
    if len(words_a) != len(words_b):  # only `lampshade` and `lamp shade`
        words_a, words_b = ["".join(words_a)], ["".join(words_b)]
        if abs(len(words_a[0]) - len(words_b[0])) > 2:
            return 0.0
    pairs = zip(words_a, words_b, strict=True)
    return min(SequenceMatcher(None, x, y).ratio() if x[:1] == y[:1] else 0.0 for x, y in pairs)


def match_label(
    names: Sequence[str],
    labels: Iterable[Label],
    *,
    similarity: Similarity = lexical_similarity,
    threshold: float = THRESHOLD,
) -> LabelMatch | None:
    """The label that means one of `names` (normalised, the more specific first), None where none does."""
    labels = list(labels)
    for name in names:
        for kind, means in _TESTS:
            found = next((label.value for label in labels if means(name, label)), None)
            if found is not None:
                return LabelMatch(found, kind)
    scored = [(similarity(_folded(name), _folded(label.value)), label.value) for name in names for label in labels]
    score, value = max(scored, default=(0.0, ""), key=lambda pair: pair[0])
    return LabelMatch(value, MatchKind.SIMILAR) if score >= threshold else None


def label_of_region(
    region: PartRegion,
    labels: Sequence[Label],
    vocabulary: str,
    *,
    similarity: Similarity = lexical_similarity,
    threshold: float = THRESHOLD,
) -> LabelMatch | None:
    """Open vocabulary: the label of the region's role. Fixed: of its names, the more specific first.

    Fixed, for a whole object: labels that say an object, then the label `object`, then any that bears its name.
    """
    by_role = {role(label.value): LabelMatch(label.value, MatchKind.EXACT) for label in reversed(labels)}
    is_object = region.part_name is None
    if vocabulary == "open":
        roles = ("object",) if is_object else (region.occurrence.value, "part")
        return next((by_role[r] for r in roles if r in by_role), None)
    named = [label for label in labels if role(label.value) is None]
    of_kind = [label for label in named if (names_of_label(label, labels)[1] is None) == is_object]
    if not is_object:
        names = [f"{region.object_name}:{region.name}", f"{region.object_name} {region.name}", region.name]
        return match_label(names, of_kind, similarity=similarity, threshold=threshold)
    found = match_label([region.name], of_kind, similarity=similarity, threshold=threshold)
    return found or by_role.get("object") or match_label([region.name], named, threshold=1.0)


def _folded(name: str) -> str:
    return ":".join(piece.strip() for piece in normalize_name(name.replace("_", " ")).split(":"))


_TESTS: tuple[tuple[MatchKind, Callable[[str, Label], bool]], ...] = (
    (MatchKind.EXACT, lambda name, label: name == label.value),
    (MatchKind.CASE_INSENSITIVE, lambda name, label: _folded(name) == _folded(label.value)),
    (MatchKind.PREDICTED_VALUES, lambda name, label: _folded(name) in map(_folded, label.synonyms)),
)
