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
    """Of the three answers made one, as the product shows it."""
    figures = GroupFigures(bootstrap)
    for name, kind in STRICT.items():
        figures.mean(name, ((group.number, strict_miou(group.merged, kind)) for group in groups))
    matches = [(group.number, match) for group in groups for match in group.merged]
    figures.mean("boundary_f_parts", ((n, match.boundary_f) for n, match in matches if match.key.kind == "part"))
    put_names(figures, matches)
    figures.ratio("occurrence_accuracy", ((group.number, *group.occurrences) for group in groups))
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
