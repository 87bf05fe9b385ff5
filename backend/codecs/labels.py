"""Which of a project's labels a region's names mean: exact, case-insensitive, `predicted_values`, then similar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from typing import NamedTuple

from backend.codecs.controls import Label, role
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
    """0 to 1 by shared letters: plurals and spellings are near, `handle` and `candle` are not (other first letter)."""
    if a[:1] != b[:1]:
        return 0.0
    return SequenceMatcher(None, a, b).ratio()


def match_label(
    names: Sequence[str],
    labels: Iterable[Label],
    *,
    similarity: Similarity = lexical_similarity,
    threshold: float = THRESHOLD,
) -> LabelMatch | None:
    """The label that means one of `names` (normalised, best first), None where none does."""
    labels = list(labels)
    for name in names:
        for label in labels:
            if label.value == name:
                return LabelMatch(label.value, MatchKind.EXACT)
    for name in names:
        for label in labels:
            if _folded(label.value) == _folded(name):
                return LabelMatch(label.value, MatchKind.CASE_INSENSITIVE)
    for name in names:
        for label in labels:
            if _folded(name) in map(_folded, label.synonyms):
                return LabelMatch(label.value, MatchKind.PREDICTED_VALUES)
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
    """Open vocabulary: the label of the region's role. Fixed: of its names, the more specific first."""
    roles = ("object",) if region.part_name is None else (region.occurrence.value, "part")
    by_role = {role(label.value): LabelMatch(label.value, MatchKind.EXACT) for label in reversed(labels)}
    if vocabulary == "open":
        return next((by_role[r] for r in roles if r in by_role), None)
    if region.part_name is None:
        names = [region.object_name]
    else:
        names = [
            f"{region.object_name}:{region.part_name}",
            f"{region.object_name} {region.part_name}",
            region.part_name,
        ]
    named = [label for label in labels if role(label.value) is None]
    found = match_label(names, named, similarity=similarity, threshold=threshold)
    return by_role.get("object") if found is None and region.part_name is None else found


def _folded(name: str) -> str:
    return ":".join(piece.strip() for piece in normalize_name(name.replace("_", " ")).split(":"))
