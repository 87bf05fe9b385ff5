"""Region against region by key (image, kind, name): a wrong, missing or extra name costs its whole IoU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calico.language.answers import ParsedAnswer
from calico.masks import boundary_f, iou
from calico.values import CoSegmentation, PartRegion, RegionKey, SubTask


class ScoredMask(NamedTuple):
    """mask: HxW bool at the image's own size. score: the model's estimate of its IoU, 0 to 1."""

    mask: np.ndarray
    score: float = 1.0


@dataclass(frozen=True, eq=False)
class Answered:
    """One question's own answer, before reconciliation: its regions, each with the key that it names.

    A name without a mask (0 x 0) is a region that overlaps nothing.
    says_none: it states that there is nothing of the asked kind. malformed: parsing met at least one problem.
    """

    regions: Mapping[RegionKey, ScoredMask]
    says_none: bool = False
    malformed: bool = False

    @classmethod
    def from_parsed(cls, parsed: ParsedAnswer, masks: Sequence[np.ndarray], scores: Sequence[float]) -> Answered:
        """masks, scores: one for every [SEG] of the answer, in order; a [SEG] beyond them has no mask."""
        nothing = ScoredMask(np.zeros((0, 0), bool), 0.0)
        scored_masks = [ScoredMask(mask, score) for mask, score in zip(masks, scores, strict=True)]
        regions = {
            m.key: scored_masks[m.seg_index] if m.seg_index < len(scored_masks) else nothing for m in parsed.mentions
        }
        return cls(regions, parsed.says_none, bool(parsed.problems))


class KeyMatch(NamedTuple):
    """One key of truth or prediction or both.

    Attributes:
        key: what names the region.
        in_truth: whether the truth has it.
        in_prediction: whether the prediction has it.
        iou: 0 where one side lacks the key.
        boundary_f: likewise; None where it was not asked for.
        score: None where nothing was predicted.
        area_share: of the image, 0 to 1; of the true region, or of the predicted one where there is none.
    """

    key: RegionKey
    in_truth: bool
    in_prediction: bool
    iou: float
    boundary_f: float | None
    score: float | None
    area_share: float = 0.0


class NameCounts(NamedTuple):
    """How many part keys are in both, in the prediction and in the truth."""

    num_right: int
    num_predicted: int
    num_true: int

    @property
    def precision(self) -> float | None:
        return self.num_right / self.num_predicted if self.num_predicted else None

    @property
    def recall(self) -> float | None:
        return self.num_right / self.num_true if self.num_true else None


def asked_kind(sub_task: SubTask) -> str:
    """The kind of region that a question is about; "there are none" means none of this kind."""
    return "object" if sub_task is SubTask.COMMON_OBJECT else "part"


def keyed(regions: Iterable[PartRegion]) -> dict[RegionKey, ScoredMask]:
    return {region.key: ScoredMask(region.mask, region.score) for region in regions}


def compare(
    truth: Mapping[RegionKey, ScoredMask], prediction: Mapping[RegionKey, ScoredMask], *, boundaries: bool = False
) -> list[KeyMatch]:
    """Every key of either side, sorted, with its IoU and, where asked for, its boundary F."""
    matches = []
    for key in sorted(truth.keys() | prediction.keys()):
        true, predicted = truth.get(key), prediction.get(key)
        overlap, boundary = 0.0, 0.0 if boundaries else None
        if true is not None and predicted is not None:
            overlap = iou(true.mask, predicted.mask)
            boundary = boundary_f(true.mask, predicted.mask) if boundaries else None
        score = None if predicted is None else predicted.score
        region = true or predicted
        area = float(region.mask.mean()) if region and region.mask.size else 0.0
        matches.append(KeyMatch(key, true is not None, predicted is not None, overlap, boundary, score, area))
    return matches


def strict_miou(matches: Iterable[KeyMatch], kind: str | None = None) -> float | None:
    """Mean IoU over the keys (of one kind) that the truth or the prediction has; None where neither has any."""
    values = [match.iou for match in matches if kind in (None, match.key.kind)]
    return sum(values) / len(values) if values else None


def name_counts(matches: Iterable[KeyMatch]) -> NameCounts:
    """Of part keys only; masks do not matter."""
    parts = [match for match in matches if match.key.kind == "part"]
    return NameCounts(
        sum(match.in_truth and match.in_prediction for match in parts),
        sum(match.in_prediction for match in parts),
        sum(match.in_truth for match in parts),
    )


def occurrence_counts(truth: CoSegmentation, prediction: CoSegmentation) -> tuple[int, int]:
    """(with the right common or unique, all) of the part keys that both sides have."""
    true = {key: region.occurrence for key, region in truth.by_key.items() if key.kind == "part"}
    right = [true[region.key] is region.occurrence for region in prediction.regions if region.key in true]
    return sum(right), len(right)
