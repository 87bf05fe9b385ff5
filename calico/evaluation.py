"""A segmenter against annotated images: three answers a group, clicks and boxes, all metrics of `calico.metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from calico.masks import iou, next_click, tight_box_xyxy
from calico.metrics.strict import Answered
from calico.metrics.summary import Evaluation
from calico.metrics.text_similarity import SentenceEncoder
from calico.reconcile import reconcile
from calico.sampler import evaluation_groups
from calico.segmenter import CoSegmenter
from calico.values import AnnotatedImage, ImageGroup, truth_of

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
    done = 0
    total = num_groups * len(group_sizes)
    for size in group_sizes:
        for number, images in enumerate(evaluation_groups(seed, num_groups, size)):
            run.add(f"drawings-{seed}-{size}-{number}", images)
            done += 1
            yield done, run.report() if done == total else None


class EvaluationRun:
    """Feed it groups; answers are decoded without grammar constraints, so that malformed ones are seen."""

    def __init__(self, segmenter: CoSegmenter, seed: int = 0, encoder: SentenceEncoder | None = None) -> None:
        self.segmenter = segmenter
        self.seconds: list[float] = []
        self._evaluation = Evaluation(encoder)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))

    def add(self, group_id: str, images: Sequence[AnnotatedImage]) -> None:
        group = ImageGroup(tuple(item.image for item in images))
        truth = truth_of(images)
        started = time.perf_counter()
        answers = self.segmenter.answer(group, constrained=False)
        merged = reconcile(group.sizes_hw, answers)
        self.seconds.append(time.perf_counter() - started)
        answered = {task: Answered.from_parsed(a.parsed, a.masks, a.scores) for task, a in answers.items()}
        difficulties = [item.difficulty for item in images]
        self._evaluation.add(group_id, truth, answered, merged, difficulties=difficulties)
        self._click(images[int(self._rng.integers(len(images)))])

    def _click(self, item: AnnotatedImage) -> None:
        """One part drawn uniformly among the visible ones: one click, two more where it is most wrong, its box."""
        large = [
            (name, mask)
            for k, name in enumerate(item.part_names)
            if (mask := item.part_map == k + 2).mean() >= MIN_CLICK_SHARE
        ]
        if not large:
            return
        name, truth = large[int(self._rng.integers(len(large)))]
        named = {"object_name": item.object_name, "part_name": name}
        height_width = truth.shape
        y, x = divmod(int(self._rng.choice(np.flatnonzero(truth))), height_width[1])
        points, labels = [(float(x), float(y))], [True]
        mask = self.segmenter.segment_prompts(item.image, points, labels).mask
        self._evaluation.add_click("point", iou(mask, truth), **named)
        while len(points) < NUM_CLICKS and (click := next_click(mask, truth)) is not None:
            points.append((float(click.x), float(click.y)))
            labels.append(click.positive)
            mask = self.segmenter.segment_prompts(item.image, points, labels).mask
        self._evaluation.add_click("point3", iou(mask, truth), **named)
        if (box := tight_box_xyxy(truth)) is not None:
            mask = self.segmenter.segment_prompts(item.image, box_xyxy=box).mask
            self._evaluation.add_click("box", iou(mask, truth), **named)

    def report(self) -> dict[str, Any]:
        return {
            **self._evaluation.report(),
            "seconds_per_group": float(np.median(self.seconds)) if self.seconds else None,
        }
