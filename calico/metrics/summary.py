"""All metrics of an evaluation, gathered group by group, as one report in which every figure has its number of samples.

Figures are shares from 0 to 1 except SS, which is 100 times a cosine, as the paper's relatives print it. Nothing of an
image is kept but run lengths, so that thousands of groups fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from calico.errors import InputError
from calico.metrics import paper
from calico.metrics.bootstrap import standard_error
from calico.metrics.calibration import calibration_table, spearman
from calico.metrics.figures import Figures
from calico.metrics.strict import (
    Answered,
    KeyMatch,
    ScoredMask,
    asked_kind,
    compare,
    keyed,
    name_counts,
    occurrence_counts,
    strict_miou,
)
from calico.metrics.text_similarity import NO_ENCODER, SentenceEncoder
from calico.values import CoSegmentation, SubTask

CLICK_KINDS = ("point", "point3", "box")
STRICT = {"strict_miou": None, "strict_miou_parts": "part", "strict_miou_objects": "object"}

#: Figures of single answers that are pooled over the sub-tasks, not averaged.
POOLED = ("name_precision", "name_recall", "malformed_rate", "none_precision", "none_recall")


class _Answer(NamedTuple):
    """One question of one group, compared."""

    matches: list[KeyMatch]
    pictures: list[paper.Picture]
    says_none: bool
    is_none: bool
    malformed: bool


class _ImageTag(NamedTuple):
    object_name: str | None
    difficulty: str | None


@dataclass(frozen=True, eq=False)
class _Group:
    images: tuple[_ImageTag, ...]
    answers: Mapping[SubTask, _Answer]
    merged: list[KeyMatch]
    occurrences: tuple[int, int]


class _Click(NamedTuple):
    kind: str
    iou: float
    object_name: str | None
    part_name: str | None


class Evaluation:
    """`add` every group once and `add_click` every prompted mask, then `report`.

    encoder: sentence embeddings for SS and for Recall's text similarity; None: SS is null and Recall uses word overlap.
    """

    def __init__(self, encoder: SentenceEncoder | None = None) -> None:
        self._encoder = encoder
        self._groups: dict[str, _Group] = {}
        self._clicks: list[_Click] = []

    def add(
        self,
        group_id: str,
        truth: CoSegmentation,
        answers: Mapping[SubTask, Answered],
        merged: CoSegmentation,
        *,
        difficulties: Sequence[str] = (),
    ) -> None:
        """One group. truth: all three sub-tasks' (`truth_of`). answers: each question's own. merged: reconciled.

        difficulties: one per image, or none. Raises InputError for a group that was added before or other sizes.
        """
        if group_id in self._groups:
            raise InputError(f"group {group_id!r} was added before; give every group an id of its own")
        if merged.sizes_hw != truth.sizes_hw:
            raise InputError(f"group {group_id!r}: expected images of {truth.sizes_hw}, got {merged.sizes_hw}")
        if difficulties and len(difficulties) != len(truth.sizes_hw):
            raise InputError(f"group {group_id!r}: {len(difficulties)} difficulties for {len(truth.sizes_hw)} images")
        objects = {region.image: region.object_name for region in truth.regions}
        self._groups[group_id] = _Group(
            tuple(
                _ImageTag(objects.get(image), difficulties[image] if difficulties else None)
                for image in range(len(truth.sizes_hw))
            ),
            {task: _compare_answer(group_id, truth, task, answer) for task, answer in answers.items()},
            compare(keyed(truth.regions), keyed(merged.regions), boundaries=True),
            occurrence_counts(truth, merged),
        )

    def add_click(self, kind: str, iou: float, *, object_name: str | None = None, part_name: str | None = None) -> None:
        """The IoU of one prompted mask. kind: `point` (one click), `point3` (three) or `box` (the tight box)."""
        if kind not in CLICK_KINDS:
            raise InputError(f"unknown kind of click {kind!r}; expected one of {', '.join(CLICK_KINDS)}")
        self._clicks.append(_Click(kind, float(iou), object_name, part_name))

    def report(self) -> dict[str, Any]:
        """JSON-ready. A figure without any sample is null with n 0.

        overall and by_group_size: means of the three sub-tasks' own answers (name figures, malformed_rate and none
        figures pooled); occurrence_accuracy and score_spearman on the reconciled result. reconciled, by_object, by_part
        and by_difficulty: the reconciled result against the whole truth. `stderr`: by resampling groups.
        """
        groups = [self._groups[group_id] for group_id in sorted(self._groups)]
        sizes = sorted({len(group.images) for group in groups})
        overall = self._overall(groups)
        _put_clicks(overall, self._clicks)
        scores = [(m.score, m.iou) for g in groups for m in g.merged if m.key.kind == "part" and m.score is not None]
        overall.put("score_spearman", spearman([s for s, _ in scores], [iou for _, iou in scores]), len(scores))
        return {
            "n_groups": len(groups),
            "overall": {
                **overall.as_dict(),
                "stderr": _standard_errors(groups),
                "recall_text": f"cosine, {self._encoder.name}" if self._encoder else "word overlap",
                **({} if self._encoder else {"SS_reason": NO_ENCODER}),
            },
            "reconciled": _reconciled(groups).as_dict(),
            "by_subtask": {
                task.value: self._of_sub_task([g.answers[task] for g in groups if task in g.answers]).as_dict()
                for task in SubTask
            },
            "by_group_size": {
                str(size): self._overall([g for g in groups if len(g.images) == size]).as_dict() for size in sizes
            },
            "by_object": self._by_image(groups, lambda tag: tag.object_name, clicks=True),
            "by_part": self._by_part(groups),
            "by_difficulty": self._by_image(groups, lambda tag: tag.difficulty),
            "calibration": calibration_table([s for s, _ in scores], [iou for _, iou in scores]),
        }

    def _overall(self, groups: Sequence[_Group]) -> Figures:
        tasks = [self._of_sub_task([g.answers[task] for g in groups if task in g.answers]) for task in SubTask]
        figures = Figures()
        for name in tasks[0].values:
            if name in POOLED or name == "rightly_none":
                continue
            found = [task.values[name] for task in tasks if task.values[name] is not None]
            figures.put(name, sum(found) / len(found) if found else None, sum(task.n[name] for task in tasks))
        _put_pooled(figures, [answer for group in groups for answer in group.answers.values()])
        figures.share("occurrence_accuracy", *_summed(group.occurrences for group in groups))
        return figures

    def _of_sub_task(self, answers: Sequence[_Answer]) -> Figures:
        figures = Figures()
        for name, kind in STRICT.items():
            figures.mean(name, (strict_miou(answer.matches, kind) for answer in answers))
        pictures = [picture for answer in answers for picture in answer.pictures]
        num_true = sum(len(picture.true_names) for picture in pictures)
        figures.put("AP50", paper.ap50(pictures), num_true)
        figures.put("AP50_own_scores", paper.ap50(pictures, own_scores=True), num_true)
        figures.put("mIoU", *paper.mean_iou(pictures))
        figures.put("recall", *paper.recall(pictures, self._encoder))
        best, matched, _ = paper.name_similarity(pictures)
        figures.put("S_IoU", best, num_true)
        figures.put("S_IoU_matched", matched, num_true)
        best = matched = None
        if self._encoder:
            best, matched, _ = paper.name_similarity(pictures, self._encoder)
        figures.put("SS", None if best is None else 100 * best, num_true if self._encoder else 0)
        figures.put("SS_matched", None if matched is None else 100 * matched, num_true if self._encoder else 0)
        _put_pooled(figures, answers)
        rightly_none = sum(answer.is_none and answer.says_none for answer in answers)
        figures.put("rightly_none", rightly_none, len(answers))
        return figures

    def _by_image(
        self, groups: Sequence[_Group], label_of: Callable[[_ImageTag], str | None], *, clicks: bool = False
    ) -> dict[str, Any]:
        """Reconciled figures of the images under each label; a key belongs to its image's label."""
        by_label: dict[str, list[KeyMatch]] = {}
        num_images: dict[str, int] = {}
        for group in groups:
            for tag in group.images:
                if (label := label_of(tag)) is not None:
                    num_images[label] = num_images.get(label, 0) + 1
                    by_label.setdefault(label, [])
            for match in group.merged:
                if (label := label_of(group.images[match.key.image])) is not None:
                    by_label[label].append(match)
        result = {}
        for label in sorted(by_label):
            figures = Figures()
            for name, kind in (("iou", None), ("iou_object", "object"), ("iou_parts", "part")):
                matches = [match for match in by_label[label] if kind in (None, match.key.kind)]
                figures.mean(name, (match.iou for match in matches))
            figures.mean("boundary_f_parts", (m.boundary_f for m in by_label[label] if m.key.kind == "part"))
            _put_names(figures, by_label[label])
            if clicks:
                _put_clicks(figures, [click for click in self._clicks if click.object_name == label])
            figures.n["images"] = num_images[label]
            result[label] = figures.as_dict()
        return result

    def _by_part(self, groups: Sequence[_Group]) -> dict[str, Any]:
        """Per part name: IoU and boundary F over keys of either side, precision and recall of the name."""
        by_name: dict[str, list[KeyMatch]] = {}
        for group in groups:
            for match in group.merged:
                if match.key.kind == "part":
                    by_name.setdefault(match.key.name, []).append(match)
        result = {}
        for name in sorted(by_name):
            figures = Figures()
            figures.mean("iou", (match.iou for match in by_name[name]))
            figures.mean("boundary_f", (match.boundary_f for match in by_name[name]))
            counts = name_counts(by_name[name])
            figures.put("precision", counts.precision, counts.num_predicted)
            figures.put("recall", counts.recall, counts.num_true)
            _put_clicks(figures, [click for click in self._clicks if click.part_name == name])
            result[name] = figures.as_dict()
        return result


def _compare_answer(group_id: str, truth: CoSegmentation, task: SubTask, answer: Answered) -> _Answer:
    regions = {}
    for key, (mask, score) in answer.regions.items():
        size_hw = truth.sizes_hw[key.image] if key.image < len(truth.sizes_hw) else None
        if size_hw is None or (mask.size and mask.shape != size_hw):
            raise InputError(f"group {group_id!r}: {key} has a mask of {mask.shape}, images are {truth.sizes_hw}")
        regions[key] = ScoredMask(mask if mask.size else np.zeros(size_hw, bool), score)
    true = keyed(truth.restricted_to(task).regions)
    kind = asked_kind(task)
    return _Answer(
        compare(true, regions),
        [
            paper.Picture.of(f"{group_id} {task.value} {image:03d}", true, regions, image)
            for image in range(len(truth.sizes_hw))
        ],
        answer.says_none and all(key.kind != kind for key in regions),
        all(key.kind != kind for key in true),
        answer.malformed,
    )


def _put_names(figures: Figures, matches: Iterable[KeyMatch]) -> None:
    counts = name_counts(matches)
    figures.put("name_precision", counts.precision, counts.num_predicted)
    figures.put("name_recall", counts.recall, counts.num_true)


def _put_pooled(figures: Figures, answers: Sequence[_Answer]) -> None:
    _put_names(figures, [match for answer in answers for match in answer.matches])
    figures.share("malformed_rate", sum(answer.malformed for answer in answers), len(answers))
    right = sum(answer.says_none and answer.is_none for answer in answers)
    figures.share("none_precision", right, sum(answer.says_none for answer in answers))
    figures.share("none_recall", right, sum(answer.is_none for answer in answers))


def _put_clicks(figures: Figures, clicks: Sequence[_Click]) -> None:
    for kind in CLICK_KINDS:
        figures.mean(f"{kind}_iou", (click.iou for click in clicks if click.kind == kind))


def _reconciled(groups: Sequence[_Group]) -> Figures:
    figures = Figures()
    for name, kind in STRICT.items():
        figures.mean(name, (strict_miou(group.merged, kind) for group in groups))
    figures.mean("boundary_f_parts", (m.boundary_f for group in groups for m in group.merged if m.key.kind == "part"))
    _put_names(figures, [match for group in groups for match in group.merged])
    figures.share("occurrence_accuracy", *_summed(group.occurrences for group in groups))
    return figures


def _summed(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    found = list(pairs)
    return sum(first for first, _ in found), sum(second for _, second in found)


def _standard_errors(groups: Sequence[_Group]) -> dict[str, float | None]:
    errors = {}
    for name, kind in STRICT.items():
        values = [
            [strict_miou(group.answers[task].matches, kind) if task in group.answers else None for task in SubTask]
            for group in groups
        ]
        errors[name] = standard_error(np.array(values, dtype=float).reshape(len(groups), len(SubTask)))
    return errors
