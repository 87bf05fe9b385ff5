"""Three answers about one group become one co-segmentation; what they disagree on is settled by rule and reported.

The paper asks each question by itself. The product asks all three of every group, so they may contradict each other:

1. *Object*: an image has one object. The name with the highest score, summed over the answers, wins (the earlier
   question on a tie); each other name is an `object_disagreement`.
2. *Mask*: of one region in several answers the mask with the best score stays; where two overlap less than
   `SAME_MASK_IOU` it is a `mask_disagreement`. An empty mask is left out: `empty_mask`.
3. *Occurrence*: common or unique follows from the names that remain; where an answer said otherwise it is an
   `occurrence_disagreement`. An answer that said none where the others show some is a `none_disagreement`.
4. *Part without an object*: its image's object name comes from the other answers; where none knows it, it is called
   `UNKNOWN_OBJECT`: `part_without_object`.

Problems of the answers themselves come first, in the codes of `ParsedAnswer`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calico.correspondence import co_segmentation
from calico.language.answers import Mention, ParsedAnswer
from calico.masks import iou
from calico.values import CoSegmentation, NamedMask, Occurrence, Problem, RegionKey, SubTask

SAME_MASK_IOU = 0.5
UNKNOWN_OBJECT = "object"

_SAYS = {
    (SubTask.COMMON_OBJECT, "object"): Occurrence.COMMON,
    (SubTask.COMMON_PARTS, "part"): Occurrence.COMMON,
    (SubTask.UNIQUE_PARTS, "part"): Occurrence.UNIQUE,
}


@dataclass(frozen=True, eq=False)
class AnsweredMasks:
    """One answer with the masks of its [SEG] tokens.

    masks: for each [SEG] of the text in order, HxW bool at the size of the image that it names (any size where no
    mention of `parsed` means it). scores: the estimate of each mask's IoU with the truth, 0 to 1.
    """

    text: str
    parsed: ParsedAnswer
    masks: Sequence[np.ndarray]
    scores: Sequence[float]


@dataclass(frozen=True, eq=False)
class _Shown:
    """A mention with its mask, all False where there is none."""

    sub_task: SubTask
    mention: Mention
    mask: np.ndarray
    score: float


def reconcile(sizes_hw: Sequence[tuple[int, int]], answers: Mapping[SubTask, AnsweredMasks]) -> CoSegmentation:
    """One co-segmentation from the answers to up to three questions, by the rule above.

    sizes_hw: (height, width) of each image. Its problems are the answers' own and the disagreements; its answers are
    their texts. Regions: objects by image, then parts by name.
    """
    answers = {sub_task: answers[sub_task] for sub_task in SubTask if sub_task in answers}
    problems = [
        Problem(problem.code, f"{sub_task}: {problem.message}", problem.image)
        for sub_task, answer in answers.items()
        for problem in answer.parsed.problems
    ]
    items = list(_shown(sizes_hw, answers))
    for item in items:
        if not item.mask.any():
            what = f"{item.mention.kind} {item.mention.name!r} of image {item.mention.image + 1}"
            problems.append(Problem("empty_mask", f"{item.sub_task}: the mask of {what} is empty", item.mention.image))

    object_names = _settle_objects(items, problems)
    best = _settle_masks([item for item in items if _fits(item.mention, object_names)], problems)
    masks = [
        NamedMask(
            key.image,
            object_names.get(key.image, UNKNOWN_OBJECT),
            key.name if key.kind == "part" else None,
            best[key].mask,
            best[key].score,
        )
        for key in sorted(best, key=lambda key: (key.kind, key.name if key.kind == "part" else "", key.image))
    ]
    for image in sorted({item.image for item in masks} - set(object_names)):
        message = f"no answer names the object of image {image + 1}; its parts are those of {UNKNOWN_OBJECT!r}"
        problems.append(Problem("part_without_object", message, image))

    result = co_segmentation(sizes_hw, masks)
    problems += _occurrence_problems(result, items, answers)
    return CoSegmentation(
        result.sizes_hw, result.regions, {task: answer.text for task, answer in answers.items()}, tuple(problems)
    )


def _shown(sizes_hw: Sequence[tuple[int, int]], answers: Mapping[SubTask, AnsweredMasks]) -> Iterator[_Shown]:
    for sub_task, answer in answers.items():
        for mention in answer.parsed.mentions:
            if mention.seg_index < len(answer.masks):
                mask, score = answer.masks[mention.seg_index], float(answer.scores[mention.seg_index])
            else:  # a [SEG] that the model spelled in letters has no state to make a mask from
                mask, score = np.zeros(sizes_hw[mention.image], bool), 0.0
            yield _Shown(sub_task, mention, mask, score if mask.any() else 0.0)


def _settle_objects(items: Sequence[_Shown], problems: list[Problem]) -> dict[int, str]:
    """The one object name of each image that has any; appends a problem for each name that loses."""
    totals: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for item in items:
        if item.mention.kind == "object":
            totals[item.mention.image][item.mention.name] += item.score
    chosen: dict[int, str] = {}
    for image, scores in sorted(totals.items()):
        chosen[image] = max(scores, key=scores.__getitem__)
        for name in scores:
            if name != chosen[image]:
                message = (
                    f"image {image + 1} is called {chosen[image]!r} (score {scores[chosen[image]]:.2f}) "
                    f"and {name!r} ({scores[name]:.2f}); kept the first"
                )
                problems.append(Problem("object_disagreement", message, image))
    return chosen


def _fits(mention: Mention, object_names: Mapping[int, str]) -> bool:
    return mention.kind == "part" or mention.name == object_names[mention.image]


def _settle_masks(mentioned: Sequence[_Shown], problems: list[Problem]) -> dict[RegionKey, _Shown]:
    """The best mask of each region; appends a problem for each other one that shows something else."""
    several: dict[RegionKey, list[_Shown]] = defaultdict(list)
    for item in mentioned:
        if item.mask.any():
            several[item.mention.key].append(item)
    best = {key: max(items, key=lambda item: item.score) for key, items in several.items()}
    for key, items in several.items():
        for item in items:
            if item is not best[key] and (overlap := iou(item.mask, best[key].mask)) < SAME_MASK_IOU:
                message = (
                    f"{key.kind} {key.name!r} of image {key.image + 1}: the masks of {best[key].sub_task} (kept) "
                    f"and {item.sub_task} overlap with IoU {overlap:.2f}"
                )
                problems.append(Problem("mask_disagreement", message, key.image))
    return best


def _occurrence_problems(
    result: CoSegmentation, items: Sequence[_Shown], answers: Mapping[SubTask, AnsweredMasks]
) -> Iterator[Problem]:
    """Where an answer's common or unique is not what the names of all answers together make it."""
    occurrences = {(region.kind, region.name): region.occurrence for region in result.regions}
    claims = {
        (item.mention.kind, item.mention.name, item.sub_task): _SAYS[item.sub_task, item.mention.kind]
        for item in items
        if (item.sub_task, item.mention.kind) in _SAYS
    }
    for (kind, name, sub_task), occurrence in claims.items():
        now = occurrences.get((kind, name), occurrence)
        if now is not occurrence:
            message = f"{sub_task} calls {kind} {name!r} {occurrence}; by the names of all answers it is {now}"
            yield Problem("occurrence_disagreement", message)
    for (sub_task, kind), occurrence in _SAYS.items():
        names = sorted(name for (of_kind, name), is_ in occurrences.items() if of_kind == kind and is_ is occurrence)
        if names and sub_task in answers and answers[sub_task].parsed.says_none:
            message = f"{sub_task} says none; by the names of all answers these are {occurrence}: {', '.join(names)}"
            yield Problem("none_disagreement", message)
