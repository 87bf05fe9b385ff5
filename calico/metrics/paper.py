"""The metrics that CALICO reports, by the formulas of GLaMM's grounded conversation evaluation.

A *picture* is one image of one (group, question): COCO's unit of detection. All masks are one category.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from calico.metrics.bootstrap import each
from calico.metrics.strict import ScoredMask
from calico.metrics.text_similarity import SentenceEncoder, cosines, word_ious
from calico.values import RegionKey

MATCH_IOU = 0.5
MATCH_TEXT = 0.5

#: Figures that are a sum over pictures by a sum over pictures. SS is 100 times a cosine.
RATIOS = ("mIoU", "recall", "S_IoU", "S_IoU_matched", "SS", "SS_matched")


@dataclass(frozen=True, eq=False)
class Picture:
    """What is true and what was predicted in one picture, in a fixed order; of the masks only how they overlap.

    ious: T x P float64. id: sorts pictures, so that AP50 does not depend on the order of evaluation.
    """

    id: str
    true_names: tuple[str, ...]
    predicted_names: tuple[str, ...]
    scores: tuple[float, ...]
    ious: np.ndarray

    @classmethod
    def of(
        cls, id: str, truth: Mapping[RegionKey, ScoredMask], prediction: Mapping[RegionKey, ScoredMask], image: int
    ) -> Picture:
        """The regions of image number `image`, sorted by key."""
        true = sorted(key for key in truth if key.image == image)
        predicted = sorted(key for key in prediction if key.image == image)
        return cls(
            id,
            tuple(key.name for key in true),
            tuple(key.name for key in predicted),
            tuple(float(prediction[key].score) for key in predicted),
            _iou_matrix([truth[key].mask for key in true], [prediction[key].mask for key in predicted]),
        )


def _iou_matrix(true: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> np.ndarray:
    """T x P float64; 0 where both masks are empty, as nothing was found."""
    ious = np.zeros((len(true), len(predicted)))
    for row, a in enumerate(true):
        for column, b in enumerate(predicted):
            union = np.count_nonzero(a | b)
            ious[row, column] = np.count_nonzero(a & b) / union if union else 0.0
    return ious


def greedy_pairs(ious: np.ndarray) -> list[tuple[int, int]]:
    """(true, predicted) one to one, the largest IoU above 0 first, the first of equals in row order."""
    remaining = ious.copy()
    pairs = []
    while remaining.size and remaining.max() > 0:
        row, column = (int(index) for index in np.unravel_index(int(remaining.argmax()), remaining.shape))
        pairs.append((row, column))
        remaining[row], remaining[:, column] = 0, 0
    return pairs


def terms(picture: Picture, encoder: SentenceEncoder | None = None) -> dict[str, tuple[float, int]]:
    """What one picture adds above and below each of `RATIOS`; without an encoder nothing to SS.

    mIoU: the mean over greedily matched pairs (0 if none); a picture without truth and prediction is left out.
    recall: of the true regions, those matched with IoU and text similarity (cosine, or word overlap) >= 0.5.
    S_IoU, SS: each true name against its best predicted name; extra predictions cost nothing. *_matched: of greedily
    matched masks, over matched, missed and extra regions: both mistakes cost.
    """
    num_true, num_predicted = picture.ious.shape
    pairs = greedy_pairs(picture.ious)
    words = word_ious(picture.true_names, picture.predicted_names)
    text = cosines(picture.true_names, picture.predicted_names, encoder) if encoder else words
    num_right = sum(bool(picture.ious[pair] >= MATCH_IOU and text[pair] >= MATCH_TEXT) for pair in pairs)
    added: dict[str, tuple[float, int]] = {
        "mIoU": (
            float(np.mean([picture.ious[pair] for pair in pairs])) if pairs else 0.0,
            int(num_true + num_predicted > 0),
        ),
        "recall": (num_right, num_true),
    }
    for name, likeness, scale in (("S_IoU", words, 1), ("SS", text, 100)):
        has_encoder = name != "SS" or encoder is not None
        best = float(likeness.max(axis=1).sum()) if likeness.size else 0.0
        matched = sum(float(likeness[pair]) for pair in pairs)
        added[name] = (scale * best, num_true * has_encoder)
        added[f"{name}_matched"] = (scale * matched, (num_true + num_predicted - len(pairs)) * has_encoder)
    return added


@dataclass(frozen=True, eq=False)
class Ranking:
    """All predictions of some pictures, the most certain first: AP50 and what it takes to draw pictures again.

    Attributes:
        ap: None without any true region.
        precision: 101 float64 at recall 0, 0.01 .. 1.
        pictures: K int, the number of each prediction's picture.
        hits: K bool, whether it hit a true region.
        num_true: N int, of each picture.
    """

    ap: float | None
    precision: np.ndarray
    pictures: np.ndarray
    hits: np.ndarray
    num_true: np.ndarray

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """B float64 of AP50 from B x N weights of the pictures, NaN where no true region is left."""
        recalls = np.linspace(0, 1, 101)

        def value(weight: np.ndarray) -> float:
            if not (total := float(weight @ self.num_true)):
                return np.nan
            counts = weight[self.pictures]
            true_positives, predictions = np.cumsum(counts * self.hits), np.cumsum(counts)
            precision = np.maximum.accumulate((true_positives / np.maximum(predictions, 1))[::-1])[::-1]
            places = np.searchsorted(true_positives / total, recalls, side="left")
            return float(np.append(precision, 0.0)[places].mean())

        return each(weights, value)


class _KnownOverlaps(COCOeval):
    """COCOeval where the IoUs are known already: D x G by number of picture, predictions in their own order."""

    overlaps: dict[int, np.ndarray]

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list[Any]:
        ranked = np.argsort([-row["score"] for row in self._dts[imgId, catId]], kind="mergesort")
        return self.overlaps[imgId][ranked] if self.overlaps[imgId].size else []


def rank(pictures: Sequence[Picture], *, own_scores: bool = False) -> Ranking:
    """AP at IoU 0.5 by pycocotools, of pictures in the order given.

    own_scores: rank by our scores. Else all scores are 1.0 as in the paper's relatives, and the ranking is the order of
    the pictures and of the regions' keys.
    """
    num_true = np.array([len(picture.true_names) for picture in pictures], dtype=int)
    truths: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        row = {"image_id": number, "category_id": 1, "iscrowd": 0, "area": 1.0}
        truths += [row | {"id": len(truths) + k} for k in range(1, len(picture.true_names) + 1)]
        scores = picture.scores if own_scores else [1.0] * len(picture.scores)
        detections += [row | {"id": len(detections) + k, "score": score} for k, score in enumerate(scores, start=1)]
    if not truths or not detections:
        nothing = np.zeros(0, dtype=int)
        return Ranking(0.0 if truths else None, np.zeros(101), nothing, nothing.astype(bool), num_true)
    images = [{"id": number} for number in range(1, len(pictures) + 1)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools under numpy 2
        truth, prediction = COCO(), COCO()
        truth.dataset = {"images": images, "categories": [{"id": 1}], "annotations": truths}
        prediction.dataset = {"images": images, "categories": [{"id": 1}], "annotations": detections}
        truth.createIndex()
        prediction.createIndex()
        evaluation = _KnownOverlaps(truth, prediction, "bbox")  # its way of overlapping is replaced
        evaluation.overlaps = {number: picture.ious.T for number, picture in enumerate(pictures, start=1)}
        evaluation.params.iouThrs = np.array([MATCH_IOU])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [max(len(picture.scores) for picture in pictures)]
        evaluation.evaluate()
        evaluation.accumulate()
    evaluated = [row for row in evaluation.evalImgs if row is not None]
    order = np.argsort(-np.concatenate([row["dtScores"] for row in evaluated]), kind="mergesort")
    return Ranking(
        float(evaluation.eval["precision"].mean()),
        evaluation.eval["precision"].reshape(-1),
        np.concatenate([np.full(len(row["dtIds"]), row["image_id"] - 1) for row in evaluated])[order],
        np.concatenate([row["dtMatches"][0] > 0 for row in evaluated])[order],
        num_true,
    )


def pooled(pictures: Iterable[Picture], encoder: SentenceEncoder | None = None) -> dict[str, tuple[float | None, int]]:
    """(value, n) of each of `RATIOS` over pictures."""
    added = [terms(picture, encoder) for picture in pictures]
    sums = {name: (sum(one[name][0] for one in added), sum(one[name][1] for one in added)) for name in RATIOS}
    return {name: (above / below if below else None, below) for name, (above, below) in sums.items()}
