"""Which groups to label next: pure functions of what is known of each group, each choice with its reason.

A choice may depend on the earlier ones, so that a round does not hold the same thing many times.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from calico.errors import InputError

_NOT_PREDICTED = "no prediction yet, so nothing is known of it"
_NAMES_TOLD = 3


class PredictedPart(NamedTuple):
    """score: the model's estimate, 0 to 1, that name and mask are right."""

    name: str
    score: float


@dataclass(frozen=True, eq=False)
class GroupFacts:
    """One group without an annotation.

    Attributes:
        id: of its own.
        parts: predicted part regions of all its images, None without a prediction.
        confidence: mean score of all predicted regions, whole objects among them; None where nothing was predicted.
        features: D float, e.g. the mean of its images' `calico.inference.features`; None where they were not computed.
    """

    id: str
    parts: tuple[PredictedPart, ...] | None = None
    confidence: float | None = None
    features: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Labelled:
    """What is annotated already. part_counts: groups by part name. features: N x D of those groups, or None."""

    part_counts: Mapping[str, int] = field(default_factory=dict)
    features: np.ndarray | None = None


class Choice(NamedTuple):
    """value: what the strategy ordered by, None where it has none; it compares within one strategy only."""

    id: str
    strategy: str
    value: float | None
    reason: str


def choose(
    strategy: str, groups: Sequence[GroupFacts], count: int, *, labelled: Labelled | None = None, seed: int = 0
) -> list[Choice]:
    """The next `count` groups (all, where there are fewer), first things first; the same for the same input and seed,
    whatever the order of the groups. strategy: one of `STRATEGIES`. Ties go by chance. Raises `InputError`."""
    if strategy not in STRATEGIES:
        raise InputError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if count < 0:
        raise InputError(f"count: expected 0 or more, got {count}")
    if len({group.id for group in groups}) < len(groups):
        raise InputError("groups: expected an id of its own for each")
    shuffled = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group.id}".encode()).digest())
    choices: list[Choice] = []
    for choice in STRATEGIES[strategy](shuffled, labelled or Labelled()):
        if len(choices) == count:
            break
        choices.append(choice)
    return choices


Strategy = Callable[[Sequence[GroupFacts], Labelled], Iterator[Choice]]


def _random(groups: Sequence[GroupFacts], labelled: Labelled) -> Iterator[Choice]:
    for group in groups:
        yield Choice(group.id, "random", None, "drawn by chance")


def _least_confidence(groups: Sequence[GroupFacts], labelled: Labelled) -> Iterator[Choice]:
    """The lowest mean score first. Where a model says that there is nothing, it is asked first of all."""
    predicted = [group for group in groups if group.parts is not None]
    for group in sorted(predicted, key=lambda group: group.confidence or 0.0):
        if group.confidence is None:
            yield Choice(group.id, "least_confidence", 0.0, "nothing was found in it")
            continue
        parts = ", ".join(f"{part.name} {part.score:.2f}" for part in _least_sure(group))
        reason = f"mean score {group.confidence:.2f}" + (f"; least sure of {parts}" if parts else "; no part was found")
        yield Choice(group.id, "least_confidence", group.confidence, reason)
    yield from _unknown(groups, "least_confidence")


def _least_sure(group: GroupFacts) -> list[PredictedPart]:
    return sorted(group.parts or (), key=lambda part: (part.score, part.name))[:_NAMES_TOLD]


def _new_parts(groups: Sequence[GroupFacts], labelled: Labelled) -> Iterator[Choice]:
    """The most expected new part names first, greedily: the names of a chosen group count as labelled for the rest.

    A region whose name is right (probability: its score) brings 1 / (1 + c), c: groups that have the name. A name that
    is wrong hides another one, new with the probability that Good and Turing give the unseen: names that were seen
    once, by all names seen (Good 1953), half at first.
    """
    counts: defaultdict[str, float] = defaultdict(float, labelled.part_counts)
    total, once = sum(counts.values()), sum(count == 1 for count in counts.values())
    unseen = (once + 1) / (total + 2)
    candidates = {group.id: group for group in groups if group.parts is not None}

    def gain(group: GroupFacts) -> float:
        best: dict[str, float] = {}
        for part in group.parts or ():
            best[part.name] = max(best.get(part.name, 0.0), part.score)
        gain_of_known = sum(score / (1 + counts[name]) for name, score in best.items())
        return gain_of_known + unseen * sum(1 - part.score for part in group.parts or ())

    while candidates:
        best_group = max(candidates.values(), key=gain)  # the first of equals, and equals are shuffled
        value = gain(best_group)
        names = sorted({part.name for part in best_group.parts or ()}, key=lambda name: (counts[name], name))
        rarest = ", ".join(f"{name} in {counts[name]:.3g} groups" for name in names[:_NAMES_TOLD])
        unsure = sum(1 - part.score for part in best_group.parts or ())
        reason = f"{value:.2f} new parts expected: " + (
            f"{rarest}; {unsure:.1f} doubtful regions" if rarest else "none"
        )
        yield Choice(best_group.id, "new_parts", value, reason)
        del candidates[best_group.id]
        for name in {part.name for part in best_group.parts or ()}:
            counts[name] += max(part.score for part in best_group.parts or () if part.name == name)
    yield from _unknown(groups, "new_parts")


def _diversity(groups: Sequence[GroupFacts], labelled: Labelled) -> Iterator[Choice]:
    """The farthest from everything labelled or chosen first: greedy k-centre (Sener and Savarese 2018) by cosine.

    Where nothing is labelled, the most typical group is the first.
    """
    able = [group for group in groups if group.features is not None]
    if able:
        features = _unit(np.stack([group.features for group in able if group.features is not None]))  # N x D
        nearest = np.full(len(able), np.inf)  # distance to what is labelled or chosen; -inf for what is chosen itself
        if labelled.features is not None and len(labelled.features):
            nearest = 1 - (features @ _unit(labelled.features).T).max(axis=1)
        for _ in able:
            if nearest.max() == np.inf:
                index, value = int(np.argmax(features @ features.mean(axis=0))), None
                reason = "the most typical group"
            else:
                index = int(np.argmax(nearest))
                value = float(nearest[index])
                reason = f"cosine distance {value:.3f} from the nearest that is labelled or chosen"
            yield Choice(able[index].id, "diversity", value, reason)
            nearest = np.minimum(nearest, 1 - features @ features[index])
            nearest[index] = -np.inf
    for group in groups:
        if group.features is None:
            yield Choice(group.id, "diversity", None, "no features, so nothing is known of it")


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _mix(groups: Sequence[GroupFacts], labelled: Labelled) -> Iterator[Choice]:
    """In turn from least confidence, new parts, diversity and chance."""
    turns = [strategy(groups, labelled) for strategy in (_least_confidence, _new_parts, _diversity, _random)]
    taken: set[str] = set()
    while len(taken) < len(groups):
        for turn in turns:
            choice = next((choice for choice in turn if choice.id not in taken), None)
            if choice is not None:
                taken.add(choice.id)
                yield choice._replace(reason=f"{choice.strategy}: {choice.reason}")


def _unknown(groups: Sequence[GroupFacts], strategy: str) -> Iterator[Choice]:
    for group in groups:
        if group.parts is None:
            yield Choice(group.id, strategy, None, _NOT_PREDICTED)


STRATEGIES: Mapping[str, Strategy] = {
    "random": _random,
    "least_confidence": _least_confidence,
    "new_parts": _new_parts,
    "diversity": _diversity,
    "mix": _mix,
}
