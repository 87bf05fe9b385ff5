"""Is the challenger better than the champion? A pure function of scores of the same groups by both.

Scores are per group, 0 to 1, by any group id: strict mIoU of parts; 1 where a group rightly shows nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from calico.errors import InputError

CONFIDENCE = 0.90
MAX_BASE_DROP = 0.02
MIN_TEST_GROUPS = 20
#: With fewer groups all of them better is no rare chance: 2^-4 = 6 % by the sign test, above the interval's 5 % a side.
MIN_GROUPS = 5
NUM_FOLDS = 5
_NUM_RESAMPLES = 10_000
_MAX_NEEDED = 100_000


SCORES = "scores.json"  # beside a version's files: what its finetune measured
TEST_SCORES = "test-"  # what the names of scores of held-out groups begin with, in a run's folder


class Verdict(StrEnum):
    """CROSS_VALIDATE: too few test groups to say; score all groups out of fold (`folds`) and decide again."""

    PUBLISH = "publish"
    REFUSE = "refuse"
    CROSS_VALIDATE = "cross-validate"
    NOT_ENOUGH_EVIDENCE = "not enough evidence"


@dataclass(frozen=True)
class Scores:
    """Scores by group of one comparison. test: groups of the corrections that neither model was trained on.

    base: groups of the base test set. is_cross_validated: `test` holds the other groups too, each of them scored by a
    challenger that was trained without its fold.
    """

    champion: str
    test_champion: Mapping[str, float]
    test_challenger: Mapping[str, float]
    base_champion: Mapping[str, float]
    base_challenger: Mapping[str, float]
    is_cross_validated: bool = False

    @classmethod
    def from_json(cls, row: Any) -> Scores:
        """`InputError` where it is not what `dataclasses.asdict` gives."""
        try:
            return cls(**row)
        except TypeError as error:
            names = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"scores: expected an object with {names} ({error})") from None


@dataclass(frozen=True)
class Decision:
    """difference: mean of (challenger - champion) over the test groups, with its interval. base_drop: mean loss."""

    verdict: Verdict
    reason: str
    champion: str
    num_groups: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    base_drop: float | None = None
    num_base_groups: int = 0
    num_needed: int | None = None
    is_cross_validated: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def decide(scores: Scores, max_base_drop: float = MAX_BASE_DROP) -> Decision:
    """Publish where the paired interval lies above 0 and the base test drops by `max_base_drop` at most: 1 for a team
    that needs nothing of what the base knows.

    `InputError` where the two sides hold other groups, or a score that is no number from 0 to 1.
    """
    if not 0 <= max_base_drop <= 1:
        raise InputError(f"base drop: expected a limit from 0 to 1, got {max_base_drop}")
    differences = _paired("test", scores.test_champion, scores.test_challenger)
    losses = -_paired("base", scores.base_champion, scores.base_challenger)
    if not losses.size:
        raise InputError("scores: no base test groups; without them forgetting would go unseen")
    n, drop = int(differences.size), float(losses.mean())

    def decision(verdict: Verdict, reason: str, *, needed: int | None = None) -> Decision:
        mean = float(differences.mean()) if n else None
        interval = paired_interval(differences) if n > 1 else None
        return Decision(
            verdict,
            reason,
            scores.champion,
            n,
            mean,
            interval,
            drop,
            int(losses.size),
            needed,
            scores.is_cross_validated,
        )

    if drop > max_base_drop:
        reason = f"forgets: the base test drops by {drop:.3f} over {losses.size} groups, {max_base_drop} is the limit"
        return decision(Verdict.REFUSE, reason)
    if n < MIN_TEST_GROUPS and not scores.is_cross_validated:
        reason = f"{n} test groups, {MIN_TEST_GROUPS} are needed: cross-validate over all groups ({NUM_FOLDS} folds)"
        return decision(Verdict.CROSS_VALIDATE, reason)
    if n < MIN_GROUPS:
        needed = max(MIN_GROUPS, num_needed(differences) or MIN_GROUPS)
        reason = f"not enough evidence: {n} groups, about {needed} needed"
        return decision(Verdict.NOT_ENOUGH_EVIDENCE, reason, needed=needed)
    low, high = paired_interval(differences)
    figures = f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}] over {n} groups"
    if low > 0:
        return decision(Verdict.PUBLISH, f"better: {figures}; base test {-drop:+.3f}")
    if high < 0:
        return decision(Verdict.REFUSE, f"worse: {figures}")
    more = num_needed(differences)
    if more is None:
        return decision(Verdict.REFUSE, f"not better: {figures}")
    needed = max(more, n + 1)
    return decision(
        Verdict.NOT_ENOUGH_EVIDENCE, f"not enough evidence: {n} groups, about {needed} needed; {figures}", needed=needed
    )


def paired_interval(differences: np.ndarray, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bootstrap interval of the mean of K float64 differences; K >= 2; the same for the same input, in any order.

    Percentiles, expanded for small K as a t interval is against a normal one (Hesterberg 2015, "What teachers should
    know about the bootstrap", section 5.3); without that, 90 % of ten groups would be about 85 %.
    """
    values = np.sort(np.asarray(differences, np.float64))
    n = len(values)
    rng = np.random.default_rng(0)
    means = np.concatenate([values[rng.integers(0, n, (1000, n))].mean(axis=1) for _ in range(_NUM_RESAMPLES // 1000)])
    tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * _t_quantile((1 + confidence) / 2, n - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def num_needed(differences: np.ndarray) -> int | None:
    """About how many groups like these would put the interval above 0; None where their mean does not lie above it."""
    mean = float(np.mean(differences)) if len(differences) else 0.0
    if mean <= 0:
        return None
    if len(differences) < 2:
        return MIN_GROUPS
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    needed = math.ceil((z * float(np.std(differences, ddof=1)) / mean) ** 2)
    return min(max(needed, MIN_GROUPS), _MAX_NEEDED)


def folds(components: Iterable[str], num_folds: int = NUM_FOLDS) -> dict[str, int]:
    """Fold of each component (groups that share an image count as one), by its hash, as even as can be."""
    ranked = sorted(set(components), key=lambda name: hashlib.sha256(name.encode()).digest())
    return {name: rank % num_folds for rank, name in enumerate(ranked)}


def _paired(what: str, champion: Mapping[str, float], challenger: Mapping[str, float]) -> np.ndarray:
    """K float64, challenger - champion, by group id."""
    if odd := sorted(champion.keys() ^ challenger.keys()):
        raise InputError(f"{what} scores: group {odd[0]!r} is on one side only; score both models on the same groups")
    groups = sorted(champion)
    for side in (champion, challenger):
        for group in groups:
            score = side[group]
            if not isinstance(score, (int, float)) or isinstance(score, bool) or not 0 <= score <= 1:
                raise InputError(f"{what} scores: group {group!r} has {score!r}, expected a number from 0 to 1")
    return np.array([challenger[group] - champion[group] for group in groups], np.float64)


def _t_quantile(p: float, df: int) -> float:
    """Of Student's t, by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5); within 1 % from 4 degrees on."""
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, start=1))


def decision_by(path: Path, max_base_drop: float = MAX_BASE_DROP) -> Decision | None:
    """What the gate says to the scores in that file; None where it is not there. Raises InputError."""
    try:
        scores = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as scores ({error})") from None
    return decide(Scores.from_json(scores), max_base_drop)
