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

from calico.masks import encode_rle
from calico.metrics.strict import ScoredMask
from calico.metrics.text_similarity import SentenceEncoder, cosines, word_ious
from calico.values import RegionKey

MATCH_IOU = 0.5
MATCH_TEXT = 0.5


@dataclass(frozen=True, eq=False)
class Picture:
    """What is true and what was predicted in one picture, in a fixed order; masks as COCO RLE.

    ious: T x P float64. id: sorts pictures, so that AP50 does not depend on the order of evaluation.
    """

    id: str
    true_names: tuple[str, ...]
    predicted_names: tuple[str, ...]
    true_rles: tuple[dict[str, Any], ...]
    predicted_rles: tuple[dict[str, Any], ...]
    scores: tuple[float, ...]
    ious: np.ndarray

    @classmethod
    def of(
        cls, id: str, truth: Mapping[RegionKey, ScoredMask], prediction: Mapping[RegionKey, ScoredMask], image: int
    ) -> Picture:
        """The regions of image number `image`, sorted by key."""
        true = sorted(key for key in truth if key.image == image)
        predicted = sorted(key for key in prediction if key.image == image)
        true_masks = [truth[key].mask for key in true]
        predicted_masks = [prediction[key].mask for key in predicted]
        return cls(
            id,
            tuple(key.name for key in true),
            tuple(key.name for key in predicted),
            tuple(encode_rle(mask) for mask in true_masks),
            tuple(encode_rle(mask) for mask in predicted_masks),
            tuple(float(prediction[key].score) for key in predicted),
            _iou_matrix(true_masks, predicted_masks),
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
    left = ious.copy()
    pairs = []
    while left.size and left.max() > 0:
        row, column = (int(index) for index in np.unravel_index(int(left.argmax()), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = 0, 0
    return pairs


def ap50(pictures: Iterable[Picture], *, own_scores: bool = False) -> float | None:
    """Average precision at IoU 0.5 by pycocotools; None without any true region.

    own_scores: rank by our scores. Else all scores are 1.0 as in the paper's relatives, and the ranking is the order
    of the pictures' ids and the regions' keys.
    """
    pictures = sorted(pictures, key=lambda picture: picture.id)
    truths: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        for rle in picture.true_rles:
            row = {"image_id": number, "category_id": 1, "segmentation": rle, "iscrowd": 0, "area": 1.0}
            truths.append(row | {"id": len(truths) + 1})
        for rle, score in zip(picture.predicted_rles, picture.scores, strict=True):
            row = {"image_id": number, "category_id": 1, "segmentation": rle, "iscrowd": 0, "area": 1.0}
            detections.append(row | {"id": len(detections) + 1, "score": score if own_scores else 1.0})
    if not truths:
        return None
    if not detections:
        return 0.0
    # COCO asks for a size, which run lengths do not need.
    images = [{"id": number, "height": 1, "width": 1} for number in range(1, len(pictures) + 1)]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools under numpy 2
        truth, prediction = COCO(), COCO()
        truth.dataset = {"images": images, "categories": [{"id": 1}], "annotations": truths}
        prediction.dataset = {"images": images, "categories": [{"id": 1}], "annotations": detections}
        truth.createIndex()
        prediction.createIndex()
        evaluation = COCOeval(truth, prediction, "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [max(len(picture.scores) for picture in pictures)]
        evaluation.evaluate()
        evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


def mean_iou(pictures: Iterable[Picture]) -> tuple[float | None, int]:
    """(mIoU, number of pictures): the mean over greedily matched pairs (0 if none), then over pictures.

    A picture with neither truth nor prediction is rightly empty and left out.
    """
    values = []
    for picture in pictures:
        if picture.ious.shape != (0, 0):
            pairs = greedy_pairs(picture.ious)
            values.append(float(np.mean([picture.ious[pair] for pair in pairs])) if pairs else 0.0)
    return (float(np.mean(values)) if values else None), len(values)


def recall(pictures: Iterable[Picture], encoder: SentenceEncoder | None = None) -> tuple[float | None, int]:
    """(Recall, number of true regions): the share matched greedily by IoU with IoU and text similarity >= 0.5.

    Text similarity is the cosine of sentence embeddings, or word overlap without an encoder.
    """
    num_found = num_true = 0
    for picture in pictures:
        text = _similarities(picture, encoder)
        num_true += len(picture.true_names)
        pairs = greedy_pairs(picture.ious)
        num_found += sum(bool(picture.ious[pair] >= MATCH_IOU and text[pair] >= MATCH_TEXT) for pair in pairs)
    return (num_found / num_true if num_true else None), num_true


def name_similarity(
    pictures: Iterable[Picture], encoder: SentenceEncoder | None = None
) -> tuple[float | None, float | None, int]:
    """(by best name, by matched mask, number of true regions), 0 to 1: SS with an encoder, S-IoU without.

    By best name: each true name against its best predicted name; extra predictions cost nothing. By matched mask: each
    pair of greedily matched masks, summed over matched, missed and extra regions: both mistakes cost.
    """
    best = matched = 0.0
    num_true = num_matched_or_not = 0
    for picture in pictures:
        text = _similarities(picture, encoder)
        pairs = greedy_pairs(picture.ious)
        num_true += len(picture.true_names)
        num_matched_or_not += len(picture.true_names) + len(picture.predicted_names) - len(pairs)
        best += float(text.max(axis=1).sum()) if text.size else 0.0
        matched += sum(float(text[pair]) for pair in pairs)
    return (
        best / num_true if num_true else None,
        matched / num_matched_or_not if num_matched_or_not else None,
        num_true,
    )


def _similarities(picture: Picture, encoder: SentenceEncoder | None) -> np.ndarray:
    """T x P similarity of names."""
    if encoder is None:
        return word_ious(picture.true_names, picture.predicted_names)
    return cosines(picture.true_names, picture.predicted_names, encoder)
