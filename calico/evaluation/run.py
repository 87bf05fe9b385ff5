"""Ask, click, compare: everything that is measured of one segmenter, group by group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from calico.evaluation.baseline import FrequentParts
from calico.evaluation.cases import Case, drawing_cases
from calico.evaluation.gallery import Gallery
from calico.inference.belief import worth_showing
from calico.inference.segmenter import CoSegmenter
from calico.masks import iou, next_click, tight_box_xyxy
from calico.metrics.strict import Answered
from calico.metrics.summary import Evaluation
from calico.metrics.text_similarity import SentenceEncoder

MIN_CLICK_SHARE = 0.002  # of the image's area: smaller parts are not clicked on
NUM_CLICKS = 3


def evaluate_drawings(
    segmenter: CoSegmenter,
    num_groups: int,
    seed: int,
    group_sizes: Sequence[int] = (2,),
    encoder: SentenceEncoder | None = None,
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Held-out drawings, `num_groups` of each size. Yields the number of groups done; the report with the last."""
    run = EvaluationRun(segmenter, seed, encoder)
    total = num_groups * len(group_sizes)
    for done, case in enumerate(drawing_cases(num_groups, seed, group_sizes), start=1):
        run.add(case)
        yield done, run.report() if done == total else None


class EvaluationRun:
    """Feed it groups; answers are decoded without grammar constraints, so that malformed ones are seen.

    gallery: keeps the best and the worst groups to look at. baseline: is measured on the same groups.
    """

    def __init__(
        self,
        segmenter: CoSegmenter,
        seed: int = 0,
        encoder: SentenceEncoder | None = None,
        *,
        gallery: Gallery | None = None,
        baseline: FrequentParts | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.gallery = gallery
        self.num_groups = 0
        self._seconds: list[float] = []
        self._evaluation = Evaluation(encoder)
        self._baseline = baseline
        self._baseline_evaluation = Evaluation(encoder)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))

    def add(self, case: Case) -> None:
        started = time.perf_counter()
        answers = self.segmenter.answer(case.group, case.sub_tasks, constrained=False)
        merged = self.segmenter.reconciled(case.group, answers)
        self._seconds.append(time.perf_counter() - started)
        answered = {task: Answered.from_parsed(a.parsed, a.masks, a.scores) for task, a in answers.items()}
        origin: dict[str, Any] = {"difficulties": case.difficulties, "source": case.source}
        product = worth_showing(merged)
        score = self._evaluation.add(case.group_id, case.truth, answered, merged, shown=product, **origin)
        if self._baseline is not None:
            guessed, whole = self._baseline.answers(case.truth, case.sub_tasks)
            self._baseline_evaluation.add(case.group_id, case.truth, guessed, whole, **origin)
        if self.gallery is not None and score is not None:
            self.gallery.offer(score, case, merged)
        self._click(case, int(self._rng.integers(len(case.group))))
        self.num_groups += 1

    def _click(self, case: Case, index: int) -> None:
        """One part drawn uniformly among the visible ones: one click, two more where it is most wrong, its box."""
        image = case.group.images[index]
        large = [
            region
            for region in case.truth.regions
            if region.image == index and region.kind == "part" and region.mask.mean() >= MIN_CLICK_SHARE
        ]
        if not large:
            return
        region = large[int(self._rng.integers(len(large)))]
        truth = region.mask
        origin: dict[str, Any] = {
            "group_id": case.group_id,
            "object_name": region.object_name,
            "part_name": region.part_name,
            "area_share": float(truth.mean()),
        }
        y, x = divmod(int(self._rng.choice(np.flatnonzero(truth))), truth.shape[1])
        points, labels = [(float(x), float(y))], [True]
        mask = self.segmenter.segment_prompts(image, points, labels).mask
        self._evaluation.add_click("point", iou(mask, truth), **origin)
        while len(points) < NUM_CLICKS and (click := next_click(mask, truth)) is not None:
            points.append((float(click.x), float(click.y)))
            labels.append(click.positive)
            mask = self.segmenter.segment_prompts(image, points, labels).mask
        self._evaluation.add_click("point3", iou(mask, truth), **origin)
        if (box := tight_box_xyxy(truth)) is not None:
            mask = self.segmenter.segment_prompts(image, box_xyxy=box).mask
            self._evaluation.add_click("box", iou(mask, truth), **origin)

    def report(self) -> dict[str, Any]:
        """`Evaluation.report` of what was added so far, and the baseline's figures where it was asked for."""
        report = self._evaluation.report()
        if self._baseline is not None:
            baseline = self._baseline_evaluation.report()
            report["baseline"] = {
                "what": self._baseline.what,
                **{name: baseline[name] for name in ("overall", "by_subtask", "by_source")},
            }
        return {**report, "seconds_per_group": float(np.median(self._seconds)) if self._seconds else None}
