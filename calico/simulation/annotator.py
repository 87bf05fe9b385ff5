"""An annotator who corrects a prediction to the truth, and errs as people do. A function of truth, prediction and seed.

What is nearly right is left as it is; the rest is redrawn, with edges that shake by a pixel or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from calico.correspondence import co_segmentation
from calico.errors import InputError
from calico.masks import iou
from calico.values import CoSegmentation, NamedMask, PartRegion


@dataclass(frozen=True)
class Habits:
    """How an annotator errs; shares are from 0 to 1.

    jitter_px: standard deviation of a redrawn edge, in pixels. keep_iou: a predicted region of the right name that
    overlaps the truth so well is left alone. miss: share of small parts that are overlooked where nothing was predicted
    for them. small: share of its image's area under which a part is small. wrong_name: share of redrawn parts that get
    another name. skip: share of groups that are not annotated at all.
    """

    jitter_px: float = 1.5
    keep_iou: float = 0.9
    miss: float = 0.1
    small: float = 0.01
    wrong_name: float = 0.01
    skip: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.jitter_px <= 20:
            raise InputError(f"jitter_px: expected 0 to 20 pixels, got {self.jitter_px}")
        for name in ("keep_iou", "miss", "small", "wrong_name", "skip"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Correction:
    """target: what was submitted, None where the group was skipped. Counts of regions: kept as predicted, redrawn,
    overlooked, misnamed. is_untouched: the prediction was submitted as it was."""

    target: CoSegmentation | None
    num_kept: int = 0
    num_redrawn: int = 0
    num_missed: int = 0
    num_misnamed: int = 0
    is_untouched: bool = False


def correct(
    truth: CoSegmentation, prediction: CoSegmentation, vocabulary: Sequence[str], habits: Habits, seed: int
) -> Correction:
    """What the annotator makes of a group. vocabulary: part names to err with."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    if rng.random() < habits.skip:
        return Correction(None)
    predicted = prediction.by_key
    masks: list[NamedMask] = []
    pairs = {(region.image, region.name) for region in truth.regions}
    num_kept = num_missed = num_misnamed = 0
    for region in truth.regions:
        candidate = predicted.get(region.key)
        if candidate is not None and candidate.object_name == region.object_name:
            if iou(candidate.mask, region.mask) >= habits.keep_iou:
                masks.append(_named(region, candidate.mask))
                num_kept += 1
                continue
        elif region.part_name is not None and region.mask.mean() < habits.small and rng.random() < habits.miss:
            num_missed += 1
            continue
        named_mask = _named(region, shaken(region.mask, habits.jitter_px, rng))
        if region.part_name is not None and rng.random() < habits.wrong_name:
            others = [name for name in vocabulary if (region.image, name) not in pairs]
            if others:
                named_mask = named_mask._replace(part_name=others[int(rng.integers(len(others)))])
                pairs.add((region.image, str(named_mask.part_name)))
                num_misnamed += 1
        masks.append(named_mask)
    target = co_segmentation(truth.sizes_hw, masks)
    is_untouched = num_kept == len(target.regions) == len(prediction.regions)
    return Correction(target, num_kept, len(masks) - num_kept, num_missed, num_misnamed, is_untouched)


def shaken(mask: np.ndarray, jitter_px: float, rng: np.random.Generator) -> np.ndarray:
    """HxW bool with its edges moved by a smooth random field of this standard deviation; never empty.

    The field changes over about a twelfth of the image's longest side, as a hand's path does.
    """
    height, width = mask.shape
    grid_hw = (max(2, round(12 * height / max(mask.shape))), max(2, round(12 * width / max(mask.shape))))
    fields = rng.normal(0.0, jitter_px, (2, *grid_hw)).astype(np.float32)
    dy, dx = (np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)) for field in fields)
    y, x = np.mgrid[:height, :width]
    from_y = np.clip(np.rint(y + dy), 0, height - 1).astype(np.intp)
    from_x = np.clip(np.rint(x + dx), 0, width - 1).astype(np.intp)
    moved = mask[from_y, from_x]
    return moved if moved.any() else mask


def _named(region: PartRegion, mask: np.ndarray) -> NamedMask:
    return NamedMask(region.image, region.object_name, region.part_name, mask)
