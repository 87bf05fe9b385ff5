"""All metrics of an evaluation, gathered group by group, as one report in which every figure has its number of samples.

Figures are shares from 0 to 1 except SS, which is 100 times a cosine, as the paper's relatives print it. Nothing of an
image is kept but how its masks overlap, so that thousands of groups fit in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calico.errors import InputError
from calico.metrics import breakdown, paper
from calico.metrics.blocks import question_blocks, reconciled_block, shown_block
from calico.metrics.bootstrap import Bootstrap
from calico.metrics.calibration import calibration_error, calibration_table, spearman, spearman_within
from calico.metrics.compared import CLICK_KINDS, Click, ComparedAnswer, ComparedGroup, ImageTag
from calico.metrics.figures import GroupFigures
from calico.metrics.strict import (
    Answered,
    ScoredMask,
    asked_kind,
    compare,
    keyed,
    occurrence_counts,
    strict_miou,
)
from calico.metrics.text_similarity import NO_ENCODER, SentenceEncoder
from calico.values import CoSegmentation, SubTask


class Evaluation:
    """`add` every group once and `add_click` every prompted mask, then `report`.

    encoder: sentence embeddings for SS and for Recall's text similarity; None: SS is null and Recall uses word overlap.
    """

    def __init__(self, encoder: SentenceEncoder | None = None) -> None:
        self._encoder = encoder
        self._groups: dict[str, ComparedGroup] = {}
        self._clicks: list[Click] = []

    def add(
        self,
        group_id: str,
        truth: CoSegmentation,
        answers: Mapping[SubTask, Answered],
        merged: CoSegmentation,
        *,
        difficulties: Sequence[str] = (),
        source: str = "",
        shown: CoSegmentation | None = None,
    ) -> float | None:
        """One group; its strict mIoU after reconciliation, None where there is nothing to name.

        Args:
            group_id: of its own.
            truth: all three sub-tasks' (`truth_of`).
            answers: each question's own, of those that were asked.
            merged: reconciled, held against the truth of what was asked.
            difficulties: one per image, or none.
            source: where the group comes from.
            shown: of `merged`, what people see; None: all.

        Raises InputError for a group that was added before or other sizes.
        """
        if group_id in self._groups:
            raise InputError(f"group {group_id!r} was added before; give every group an id of its own")
        if merged.sizes_hw != truth.sizes_hw:
            raise InputError(f"group {group_id!r}: expected images of {truth.sizes_hw}, got {merged.sizes_hw}")
        if difficulties and len(difficulties) != len(truth.sizes_hw):
            raise InputError(f"group {group_id!r}: {len(difficulties)} difficulties for {len(truth.sizes_hw)} images")
        objects = {region.image: region.object_name for region in truth.regions}
        keys = {region.key for task in answers or SubTask for region in truth.restricted_to(task).regions}
        true = keyed(r for r in truth.regions if r.key in keys)
        matches = compare(true, keyed(merged.regions), boundaries=True)
        self._groups[group_id] = ComparedGroup(
            tuple(
                ImageTag(objects.get(image), difficulties[image] if difficulties else None)
                for image in range(len(truth.sizes_hw))
            ),
            {task: _compare_answer(group_id, truth, task, answer) for task, answer in answers.items()},
            matches,
            matches if shown is None else compare(true, keyed(shown.regions)),
            occurrence_counts(truth, merged),
            source,
        )
        return strict_miou(matches)

    def add_click(
        self,
        kind: str,
        iou: float,
        *,
        group_id: str,
        object_name: str | None = None,
        part_name: str | None = None,
        area_share: float = 0.0,
    ) -> None:
        """The IoU of one prompted mask. kind: `point` (one click), `point3` (three) or `box` (the tight box)."""
        if kind not in CLICK_KINDS:
            raise InputError(f"unknown kind of click {kind!r}; expected one of {', '.join(CLICK_KINDS)}")
        if group_id not in self._groups:
            raise InputError(f"a click in group {group_id!r}, which was not added")
        self._clicks.append(Click(group_id, kind, float(iou), object_name, part_name, area_share))

    def report(self) -> dict[str, Any]:
        """JSON-ready. A figure without any sample is null with n 0.

        overall and by_group_size: means of the three sub-tasks' own answers (name figures, malformed_rate and none
        figures pooled); occurrence_accuracy and the score_ figures on the reconciled result. reconciled, by_object,
        by_part, by_region_size and by_difficulty: the reconciled result against the truth of all that was asked. shown:
        of that, what people see. Every block has `n`, `stderr` and `interval` (95 %) beside its figures, the latter two
        by drawing groups again.
        """
        ids = sorted(self._groups)
        groups = [self._groups[group_id]._replace(number=number) for number, group_id in enumerate(ids)]
        number_of = {group_id: number for number, group_id in enumerate(ids)}
        clicks = [click._replace(group=number_of[click.group_id]) for click in self._clicks]
        bootstrap = Bootstrap(len(groups))
        overall, by_subtask = question_blocks(groups, bootstrap, self._encoder)
        breakdown.put_clicks(overall, clicks)
        calibration = _put_scores(overall, groups)
        return {
            "n_groups": len(groups),
            "overall": {
                **overall.as_dict(),
                "recall_text": f"cosine, {self._encoder.name}" if self._encoder else "word overlap",
                **({} if self._encoder else {"SS_reason": NO_ENCODER}),
            },
            "reconciled": reconciled_block(groups, bootstrap).as_dict(),
            "shown": shown_block(groups, bootstrap).as_dict(),
            "by_subtask": {name: block.as_dict() for name, block in by_subtask.items()},
            "by_source": {
                source: self._of_source([group for group in groups if group.source == source], bootstrap)
                for source in sorted({group.source for group in groups} - {""})
            },
            "by_group_size": {
                str(size): question_blocks(
                    [group for group in groups if len(group.images) == size], bootstrap, self._encoder
                ).overall.as_dict()
                for size in sorted({len(group.images) for group in groups})
            },
            "by_object": breakdown.by_object(groups, clicks, bootstrap),
            "by_part": breakdown.by_part(groups, clicks, bootstrap),
            "by_region_size": breakdown.by_region_size(groups, clicks, bootstrap),
            "by_difficulty": breakdown.by_difficulty(groups, bootstrap),
            "calibration": calibration,
            "curves": breakdown.curves(groups, clicks),
        }

    def _of_source(self, groups: Sequence[ComparedGroup], bootstrap: Bootstrap) -> dict[str, Any]:
        overall, by_subtask = question_blocks(groups, bootstrap, self._encoder)
        return {
            "n_groups": len(groups),
            "overall": overall.as_dict(),
            "by_subtask": {name: block.as_dict() for name, block in by_subtask.items()},
        }


def _compare_answer(group_id: str, truth: CoSegmentation, task: SubTask, answer: Answered) -> ComparedAnswer:
    regions = {}
    for key, (mask, score) in answer.regions.items():
        size_hw = truth.sizes_hw[key.image] if key.image < len(truth.sizes_hw) else None
        if size_hw is None or (mask.size and mask.shape != size_hw):
            raise InputError(f"group {group_id!r}: {key} has a mask of {mask.shape}, images are {truth.sizes_hw}")
        regions[key] = ScoredMask(mask if mask.size else np.zeros(size_hw, bool), score)
    true = keyed(truth.restricted_to(task).regions)
    kind = asked_kind(task)
    return ComparedAnswer(
        compare(true, regions),
        [
            paper.Picture.of(f"{group_id} {task.value} {image:03d}", true, regions, image)
            for image in range(len(truth.sizes_hw))
        ],
        answer.says_none and all(key.kind != kind for key in regions),
        all(key.kind != kind for key in true),
        answer.malformed,
    )


def _put_scores(figures: GroupFigures, groups: Sequence[ComparedGroup]) -> list[dict[str, Any]]:
    """How scores of parts rank and mean their true IoU; returns the calibration table."""
    rows = [(group.number, match) for group in groups for match in group.merged if match.key.kind == "part"]
    rows = [(number, match) for number, match in rows if match.score is not None]
    numbers = np.array([number for number, _ in rows], dtype=int)
    names = np.array([match.key.name for _, match in rows], dtype=str)
    scores, ious = (np.array([getattr(match, name) for _, match in rows], float) for name in ("score", "iou"))
    spread = {"num_groups": len(np.unique(numbers))}

    value, n = spearman(scores, ious), len(rows)
    resampled = figures.bootstrap.statistic(numbers, lambda drawn: spearman(scores[drawn], ious[drawn]))
    figures.put("score_spearman", value, n, resampled=resampled, **spread)
    value, n = spearman_within(names, scores, ious)
    resampled = figures.bootstrap.statistic(
        numbers, lambda drawn: spearman_within(names[drawn], scores[drawn], ious[drawn])[0]
    )
    figures.put("score_spearman_within_parts", value, n, resampled=resampled, **spread)
    table = calibration_table(scores, ious)
    resampled = figures.bootstrap.statistic(
        numbers, lambda drawn: calibration_error(calibration_table(scores[drawn], ious[drawn]))
    )
    figures.put("score_calibration_error", calibration_error(table), len(rows), resampled=resampled, **spread)
    return table
