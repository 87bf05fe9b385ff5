"""Figures of all answers to one question, of all three, and of the reconciled result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from calico.metrics import paper
from calico.metrics.bootstrap import Bootstrap
from calico.metrics.compared import ComparedAnswer, ComparedGroup
from calico.metrics.figures import GroupFigures
from calico.metrics.strict import KeyMatch, name_counts, strict_miou
from calico.metrics.text_similarity import SentenceEncoder
from calico.values import SubTask

STRICT = {"strict_miou": None, "strict_miou_parts": "part", "strict_miou_objects": "object"}

#: Figures of single answers that are pooled over the sub-tasks, not averaged.
POOLED = ("name_precision", "name_recall", "malformed_rate", "none_precision", "none_recall")


class Questions(NamedTuple):
    overall: GroupFigures
    by_subtask: dict[str, GroupFigures]


def sub_task_block(
    groups: Sequence[ComparedGroup], task: SubTask, bootstrap: Bootstrap, encoder: SentenceEncoder | None
) -> GroupFigures:
    """Of the groups that were asked this question."""
    answers = [(group.number, group.answers[task]) for group in groups if task in group.answers]
    figures = GroupFigures(bootstrap)
    for name, kind in STRICT.items():
        figures.mean(name, ((number, strict_miou(answer.matches, kind)) for number, answer in answers))
    pictures = [(number, picture) for number, answer in answers for picture in answer.pictures]
    _put_ap50(figures, pictures)
    added = [(number, paper.terms(picture, encoder)) for number, picture in pictures]
    for name in paper.RATIOS:
        figures.ratio(name, ((number, *terms[name]) for number, terms in added))
    _put_pooled(figures, answers)
    figures.put("rightly_none", sum(answer.is_none and answer.says_none for _, answer in answers), len(answers))
    return figures


def question_blocks(
    groups: Sequence[ComparedGroup], bootstrap: Bootstrap, encoder: SentenceEncoder | None
) -> Questions:
    """overall: the mean of the sub-tasks; name, none and malformed figures pooled. by_subtask: each."""
    tasks = {task: sub_task_block(groups, task, bootstrap, encoder) for task in SubTask}
    figures = GroupFigures(bootstrap)
    for name in tasks[SubTask.COMMON_OBJECT].values:
        if name not in POOLED and name != "rightly_none":
            figures.average(name, list(tasks.values()))
    _put_pooled(figures, [(group.number, answer) for group in groups for answer in group.answers.values()])
    figures.ratio("occurrence_accuracy", ((group.number, *group.occurrences) for group in groups))
    return Questions(figures, {task.value: block for task, block in tasks.items()})


def reconciled_block(groups: Sequence[ComparedGroup], bootstrap: Bootstrap) -> GroupFigures:
    """Of the three answers made one."""
    figures = _whole_block([(group.number, group.merged) for group in groups], bootstrap)
    matches = [(group.number, match) for group in groups for match in group.merged]
    figures.mean("boundary_f_parts", ((n, match.boundary_f) for n, match in matches if match.key.kind == "part"))
    figures.ratio("occurrence_accuracy", ((group.number, *group.occurrences) for group in groups))
    return figures


def shown_block(groups: Sequence[ComparedGroup], bootstrap: Bootstrap) -> GroupFigures:
    """Of it, what people see. images_shown: the share of images on which that is anything."""
    figures = _whole_block([(group.number, group.shown) for group in groups], bootstrap)
    figures.mean(
        "images_shown",
        (
            (group.number, float(any(match.in_prediction and match.key.image == image for match in group.shown)))
            for group in groups
            for image in range(len(group.images))
        ),
    )
    return figures


def _whole_block(whole: Sequence[tuple[int, list[KeyMatch]]], bootstrap: Bootstrap) -> GroupFigures:
    """whole: of each group its number and its regions held against the truth. object_precision: of the objects named,
    those that are called so. mean_score, mean_iou: of all that was predicted; a wrong name has IoU 0."""
    figures = GroupFigures(bootstrap)
    for name, kind in STRICT.items():
        figures.mean(name, ((number, strict_miou(matches, kind)) for number, matches in whole))
    matches = [(number, match) for number, own in whole for match in own]
    put_names(figures, matches)
    predicted = [(number, match) for number, match in matches if match.in_prediction]
    objects = ((number, float(match.in_truth)) for number, match in predicted if match.key.kind == "object")
    figures.mean("object_precision", objects)
    figures.mean("mean_score", ((number, match.score) for number, match in predicted))
    figures.mean("mean_iou", ((number, match.iou) for number, match in predicted))
    return figures


def put_names(
    figures: GroupFigures,
    matches: Iterable[tuple[int, KeyMatch]],
    names: tuple[str, str] = ("name_precision", "name_recall"),
) -> None:
    """Precision and recall of part keys. matches: with the number of their group."""
    counts = [(number, name_counts([match])) for number, match in matches]
    figures.ratio(names[0], ((number, count.num_right, count.num_predicted) for number, count in counts))
    figures.ratio(names[1], ((number, count.num_right, count.num_true) for number, count in counts))


def _put_ap50(figures: GroupFigures, pictures: Sequence[tuple[int, paper.Picture]]) -> None:
    ordered = sorted(pictures, key=lambda numbered: numbered[1].id)
    groups = np.array([number for number, _ in ordered], dtype=int)
    for name, own_scores in (("AP50", False), ("AP50_own_scores", True)):
        ranking = paper.rank([picture for _, picture in ordered], own_scores=own_scores)
        num_groups, n = len(np.unique(groups)), int(ranking.num_true.sum())
        resampled = ranking.resampled(figures.bootstrap.weights[:, groups]) if num_groups > 1 else None
        figures.put(name, ranking.ap, n, resampled=resampled, num_groups=num_groups)


def _put_pooled(figures: GroupFigures, answers: Sequence[tuple[int, ComparedAnswer]]) -> None:
    put_names(figures, [(number, match) for number, answer in answers for match in answer.matches])
    figures.ratio("malformed_rate", ((number, answer.malformed, 1) for number, answer in answers))
    none = [(number, answer.says_none and answer.is_none, answer) for number, answer in answers]
    figures.ratio("none_precision", ((number, right, answer.says_none) for number, right, answer in none))
    figures.ratio("none_recall", ((number, right, answer.is_none) for number, right, answer in none))
