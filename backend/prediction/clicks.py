"""What a click of a smart tool means: which clicks belong together, which region they are about, and what it is called.

Pure: the model is called by others. The editor keeps no click after its answer was accepted; so those of the last
answer about an image and label are kept here for a while, and a click "not this" has something to take away from.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from backend.codecs.controls import LabelingConfig, Labels, names_of_label
from backend.codecs.labels import find_label
from backend.codecs.prediction import region_id
from backend.prediction.interactive import Prompts
from backend.prediction.packed import PackedMask
from calico.errors import InputError
from calico.masks import iou
from calico.values import CoSegmentation, PartRegion

KEPT_S = 900.0
MAX_KEPT = 1000
MAX_KEPT_BYTES = 32 * 2**20  # of their masks, packed
MIN_SCORE = 0.2  # of a click's mask: below it the model answers nothing
SAME_MASK_IOU = 0.5  # of a click's mask with a region that was predicted, for the click to be about it


@dataclass(frozen=True, eq=False)
class Answered:
    """The clicks of an answer and its mask; id: of the region that it was given as."""

    points_percent: tuple[tuple[float, float], ...]
    labels: tuple[bool, ...]
    mask: PackedMask
    id: str
    at: float


class ClickMemory:
    """The last answer for each task, image and label. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept: OrderedDict[tuple[object, ...], Answered] = OrderedDict()
        self._num_bytes = 0
        self._clock = clock
        self._lock = threading.Lock()

    def together(self, task: int | None, prompts: Prompts) -> tuple[Prompts, str | None]:
        """The prompts with the earlier clicks that they refine, and the id of the region that they are about.

        A click "not this" refines the last answer; so does a click on its mask. Raises InputError for a "not this" that
        refines nothing.
        """
        last = self._last(task, prompts)
        is_positive = prompts.box_percent is not None or any(prompts.labels)
        if last is None or prompts.box_percent is not None:
            if not is_positive:
                raise InputError("interactive request: expected at least one positive click or a box")
            return prompts, None
        if set(zip(last.points_percent, last.labels, strict=True)) <= set(
            zip(prompts.points_percent, prompts.labels, strict=True)
        ):
            return prompts, last.id  # the editor still has the earlier ones
        if is_positive and not _lie_on(last.mask.unpacked(), prompts.points_percent):
            return prompts, None
        points = (*last.points_percent, *prompts.points_percent)
        return replace(prompts, points_percent=points, labels=(*last.labels, *prompts.labels)), last.id

    def _last(self, task: int | None, prompts: Prompts) -> Answered | None:
        with self._lock:
            last = self._kept.get(_key(task, prompts))
        return last if last is not None and self._clock() - last.at < KEPT_S else None

    def remember(self, task: int | None, prompts: Prompts, mask: np.ndarray, region: str) -> None:
        if task is None or not prompts.points_percent:
            return
        key = _key(task, prompts)
        answered = Answered(prompts.points_percent, prompts.labels, PackedMask.of(mask), region, self._clock())
        with self._lock:
            before = self._kept.pop(key, None)
            self._num_bytes += len(answered.mask.bits) - (0 if before is None else len(before.mask.bits))
            self._kept[key] = answered
            while len(self._kept) > MAX_KEPT or self._num_bytes > MAX_KEPT_BYTES:
                self._num_bytes -= len(self._kept.popitem(last=False)[1].mask.bits)


def _key(task: int | None, prompts: Prompts) -> tuple[object, ...]:
    return task, prompts.image, prompts.label


def _lies_on(mask: np.ndarray, point_percent: tuple[float, float]) -> bool:
    height, width = mask.shape
    x, y = (min(max(int(p * n / 100), 0), n - 1) for p, n in zip(point_percent, (width, height), strict=True))
    return bool(mask[y, x])


def _lie_on(mask: np.ndarray, points_percent: Iterable[tuple[float, float]]) -> bool:
    return all(_lies_on(mask, point) for point in points_percent)


def clicked_mask(mask: np.ndarray, prompts: Prompts) -> np.ndarray:
    """HxW bool: the mask, or none of it where no positive click lies on it: then it answers another question, mostly
    for a click on background. Pieces that were not clicked stay: four legs are one part."""
    clicks = zip(prompts.points_percent, prompts.labels, strict=True)
    is_hit = prompts.box_percent is not None or any(_lies_on(mask, point) for point, positive in clicks if positive)
    return mask if is_hit else np.zeros_like(mask)


def region_under(found: CoSegmentation | None, prompts: Prompts, mask: np.ndarray) -> PartRegion | None:
    """The predicted part that a click is about: the smallest taught one under its first point; else the one that is
    its mask, else the smallest one under the point.

    found: what was predicted for the group, None where nothing was yet.
    """
    if found is None:
        return None
    parts = [region for region in found.regions if region.image == prompts.image and region.part_name is not None]
    first = next(
        (p for p, is_positive in zip(prompts.points_percent, prompts.labels, strict=True) if is_positive), None
    )
    under = [region for region in parts if first is not None and _lies_on(region.mask, first)]
    if taught := [region for region in under if region.is_taught]:
        return min(taught, key=lambda region: int(region.mask.sum()))
    if mask.any() and parts:
        best = max(parts, key=lambda region: iou(region.mask, mask))
        if iou(best.mask, mask) >= SAME_MASK_IOU:
            return best
    return min(under, key=lambda region: int(region.mask.sum()), default=None)


def shown_mask(
    mask: np.ndarray, score: float, prompts: Prompts, under: PartRegion | None, name: str | None
) -> tuple[np.ndarray, float]:
    """The mask that answers a click, and its score. mask: HxW bool, the model's, as `clicked_mask` left it.

    under, name: as `region_under` and `name_of` tell. A taught part that agrees with every click stands as it is: a
    team's memory masks its parts better than the mask decoder, which has not seen such pictures (docs/measurements.md).
    """
    if under is not None and under.is_taught and under.part_name == name and _agrees(under.mask, prompts):
        return under.mask, under.score
    if not mask.any() and under is not None:
        mask, score = under.mask, under.score
    return (mask, score) if is_answered(score, prompts) else (np.zeros_like(mask), score)


def is_answered(score: float, prompts: Prompts) -> bool:
    """Whether the model's mask is sure enough to be shown. A box always is: nobody draws one around nothing."""
    return score >= MIN_SCORE or prompts.box_percent is not None


def _agrees(mask: np.ndarray, prompts: Prompts) -> bool:
    clicks = zip(prompts.points_percent, prompts.labels, strict=True)
    return prompts.box_percent is None and all(_lies_on(mask, point) == positive for point, positive in clicks)


def name_of(
    prompts: Prompts, under: PartRegion | None, config: LabelingConfig, task_data: Mapping[str, object]
) -> str | None:
    """The part's name: what the chosen label says, else what the region under the click is called; None for neither,
    and for a label that says an object."""
    if prompts.label is not None:
        labels = Labels.of(config.known_labels(prompts.image, task_data))
        label = find_label(prompts.label, labels)
        if label is not None and label.role is None:
            return names_of_label(label, labels)[1]
        if label is not None and label.role == "object":
            return None
    return None if under is None else under.part_name


def id_of(task: int | None, prompts: Prompts, under: PartRegion | None, name: str | None) -> str:
    """Of the region that a click makes: that of the predicted one of this name under it, which the editor replaces;
    else one of its own, the same again for the clicks that refine it."""
    if under is not None and name == under.part_name:
        return region_id(task, under)
    key = json.dumps([task, prompts.image, prompts.label, prompts.points_percent[:1], prompts.box_percent])
    return hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()[:16]
