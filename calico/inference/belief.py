"""What of a prediction is worth showing to people, and when a part asked for by its name is believed to be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from calico.correspondence import co_segmentation
from calico.masks import iou
from calico.values import CoSegmentation, PartRegion, Problem

# Fitted on held-out drawings, see docs/measurements.md ("Smart tools").
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3
# Measured on held-out drawings and on photographs that the checkpoint does not know, see docs/measurements.md ("What is
# not shown").
MIN_IMAGE_SCORE = 0.5
REGION_SHARE = 0.8
UNSURE_IMAGE, UNSURE_REGION = "unsure_image", "unsure_region"


def is_believed(mask: np.ndarray, score: float, others: Sequence[PartRegion]) -> bool:
    """mask, score: of the forced name on one image. others: what was predicted on it, of other names.

    A model that is made to say a name points at something; where that is a part that it calls otherwise when it is
    free, the part is not there.
    """
    if score < MIN_SCORE or not mask.any():
        return False
    return all(iou(mask, other.mask) < MAX_OVERLAP for other in others if other.part_name is not None)


def unsure_images(coseg: CoSegmentation, least: float = MIN_IMAGE_SCORE) -> list[Problem]:
    """Images of whose regions half or more is likely wrong: the mean of `_belief` does not reach `least`. None on
    which a part memory sees what it was taught."""
    problems = []
    for image in range(len(coseg.sizes_hw)):
        regions = [region for region in coseg.regions if region.image == image]
        beliefs = [] if any(region.is_taught for region in regions) else [_belief(region) for region in regions]
        if beliefs and (mean := fmean(beliefs)) < least:
            doubt = f"the model is not sure of what it found ({mean:.2f}, below {least:g})"
            problems.append(Problem(UNSURE_IMAGE, f"image {image + 1}: {doubt}", image))
    return problems


def _belief(region: PartRegion) -> float:
    """The chance that it is called right, where that is known; else its score, an estimate of its IoU with the truth: a
    coarse mask of the right name is worth more to an annotator than its IoU."""
    return region.score if region.certainty is None else region.certainty


def warnings_of(coseg: CoSegmentation) -> list[str]:
    """What a reader must know before looking at a result: images of which the model is not sure. One line each."""
    return [problem.message for problem in unsure_images(coseg)]


def worth_showing(coseg: CoSegmentation, least: float = MIN_IMAGE_SCORE) -> CoSegmentation:
    """Without the regions that an annotator would only have to delete: all of an image that the model is not sure of
    (`unsure_images`), and those below `REGION_SHARE` of `least`. What a team taught stays: it is what they look for,
    and their corrections make it better. Common and unique are told of what stays; what was left out is a problem.
    least 0: everything.
    """
    if least <= 0:
        return coseg
    problems = unsure_images(coseg, least)
    unsure = {problem.image for problem in problems}
    kept: list[PartRegion] = []
    for image in range(len(coseg.sizes_hw)):
        regions = [region for region in coseg.regions if region.image == image and image not in unsure]
        low = [region for region in regions if _belief(region) < REGION_SHARE * least and not region.is_taught]
        kept += [region for region in regions if _belief(region) >= REGION_SHARE * least or region.is_taught]
        if low:
            names = ", ".join(f"{region.name!r} ({_belief(region):.2f})" for region in low)
            message = f"image {image + 1}: {names} not shown, the score is below {REGION_SHARE * least:g}"
            problems.append(Problem(UNSURE_REGION, message, image))
    if not problems:
        return coseg
    rest = co_segmentation(coseg.sizes_hw, [region.named for region in kept])
    return replace(rest, answers=coseg.answers, problems=(*coseg.problems, *problems))
