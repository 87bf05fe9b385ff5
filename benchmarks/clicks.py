"""What smart tools do for an annotator of held-out drawings: a part clicked on one image, or asked for by its name, and
looked for on the others."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from backend.prediction.clicks import MIN_SCORE, clicked_mask, region_under
from backend.prediction.interactive import Prompts
from backend.prediction.proposals import ask_all, missing_images, objects_of, proposals
from calico.drawings import PART_NAMES
from calico.evaluation.cases import Case, drawing_cases
from calico.inference.segmenter import CoSegmenter
from calico.masks import dilate, iou, next_click
from calico.values import CoSegmentation, RegionKey

FOUND_IOU = 0.5
DRAWN_PER_ABSENT = 40  # groups, of which one at least has a part that another image of the same class does not show
MARGIN = 4  # pixels around the object that are no background


class _Tally:
    """Numbers by name, and their means with n."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, value: float) -> None:
        self.values[name].append(float(value))

    def report(self) -> dict[str, Any]:
        return {name: {"mean": float(np.mean(v)), "n": len(v)} for name, v in sorted(self.values.items())}


def benchmark_clicks(checkpoint: Path | None, num_clicks: int, seed: int, *, absent: bool = False) -> dict[str, Any]:
    """Clicks on parts of held-out pairs and triples, three of each group, one on the background of each image.

    absent: only on parts that another image of the same class does not show, which are few else.
    """
    segmenter, rng = CoSegmenter.from_checkpoint(checkpoint), np.random.default_rng(seed)
    tally, seconds, done = _Tally(), [], 0
    num_groups = num_clicks * (DRAWN_PER_ABSENT if absent else 1)
    size, cases = 2, {size: drawing_cases(num_groups, seed, (size,)) for size in (2, 3)}
    while done < num_clicks:
        case = next(cases[size])
        size = 5 - size
        keys = [region.key for region in case.truth.regions if region.part_name is not None]
        if absent:
            keys = [key for key in keys if _is_missed_by_its_class(case, key)]
            if not keys:
                continue
        coseg = segmenter.segment(case.group)
        for k in rng.permutation(len(keys))[:3]:
            seconds.append(_click(segmenter, case, coseg, keys[k], rng, tally))
            _asked(segmenter, case, coseg, keys[k].name, tally)
            done += 1
        _background(segmenter, case, coseg, rng, tally)
        _absent_name(segmenter, case, coseg, rng, tally)
    report = {"checkpoint": segmenter.version, "seed": seed, "num_clicks": done, "absent": absent, **tally.report()}
    return report | {"median_seconds_of_a_warm_click": float(np.median(seconds))}


def _is_missed_by_its_class(case: Case, key: RegionKey) -> bool:
    """Whether an image with an object of the same class does not show this part."""
    truth, objects = case.truth.by_key, objects_of(case.truth)
    same = [image for image, name in objects.items() if name == truth[key].object_name]
    return any(RegionKey(image, "part", key.name) not in truth for image in same)


def _asked(segmenter: CoSegmenter, case: Case, coseg: CoSegmentation, name: str, tally: _Tally) -> None:
    """The part's name, typed, as if nothing of that name were predicted."""
    nothing = _without(coseg, name)
    objects = objects_of(coseg)
    named = ask_all(lambda shown: segmenter.segment_named(case.group, name, objects, shown=shown), nothing, [])
    made = {p.mask.image: p.mask.mask for p in proposals(nothing, name, named, task=0)}
    for image in range(len(case.group)):
        region = case.truth.by_key.get(RegionKey(image, "part", name))
        if region is None:
            tally.add("asked by name: wrongly there", image in made)
        else:
            tally.add("asked by name: found", image in made and iou(made[image], region.mask) >= FOUND_IOU)


def _without(coseg: CoSegmentation, name: str) -> CoSegmentation:
    return CoSegmentation(coseg.sizes_hw, tuple(r for r in coseg.regions if r.part_name != name))


def _prompts(image: int, points: list[tuple[float, float]], labels: list[bool], size_hw: tuple[int, int]) -> Prompts:
    height, width = size_hw
    percent = tuple(((x + 0.5) / width * 100, (y + 0.5) / height * 100) for x, y in points)
    return Prompts(image, "", None, percent, tuple(labels), None, None, None, "")


def _point(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    y, x = divmod(int(rng.choice(np.flatnonzero(mask))), mask.shape[1])
    return float(x), float(y)


def _click(
    segmenter: CoSegmenter, case: Case, coseg: CoSegmentation, key: RegionKey, rng: np.random.Generator, tally: _Tally
) -> float:
    truth, predicted = case.truth.by_key, coseg.by_key
    image, mask = case.group.images[key.image], truth[key].mask
    points, labels = [_point(mask, rng)], [True]
    started = time.perf_counter()
    raw, score = segmenter.segment_prompts(image, points, labels)
    named = segmenter.segment_named(case.group, key.name, objects_of(coseg), shown=[key.image])
    elapsed = time.perf_counter() - started
    prompts = _prompts(key.image, points, labels, mask.shape)
    answer = clicked_mask(raw, prompts)
    under = region_under(coseg, prompts, answer)
    if not answer.any() and under is not None:
        answer, score = under.mask, under.score
    tally.add("point: IoU of the model's mask", iou(raw, mask))
    tally.add("point: IoU of the answer", iou(answer, mask) if score >= MIN_SCORE else 0.0)
    tally.add("point: answered", bool(answer.any()) and score >= MIN_SCORE)
    while len(points) < 3 and (click := next_click(raw, mask)) is not None:
        points.append((float(click.x), float(click.y)))
        labels.append(click.positive)
        raw = segmenter.segment_prompts(image, points, labels).mask
    tally.add("3 points: IoU", iou(raw, mask))

    for what, before in (("click", coseg), ("forced name alone", _without(coseg, key.name))):
        made = {p.mask.image: p.mask.mask for p in proposals(before, key.name, named, task=0, clicked=key.image)}
        for other in range(len(case.group)):
            if other == key.image:
                continue
            there = RegionKey(other, "part", key.name)
            is_same = case.truth.by_key[key].object_name == objects_of(case.truth)[other]
            kind = "one class" if is_same else "across classes"
            on_screen = before.by_key[there].mask if there in before.by_key else made.get(other)
            if there not in truth:
                tally.add(f"{what}: wrongly there, {kind}", on_screen is not None)
                if what == "click":
                    tally.add(f"prediction alone: wrongly there, {kind}", there in predicted)
                    if there not in predicted:
                        tally.add(f"click: wrongly proposed where nothing was predicted, {kind}", other in made)
                continue
            overlap = 0.0 if on_screen is None else iou(on_screen, truth[there].mask)
            tally.add(f"{what}: found, {kind}", overlap >= FOUND_IOU)
            tally.add(f"{what}: IoU, {kind}", overlap)
            if what == "click":
                overlap_alone = iou(predicted[there].mask, truth[there].mask) if there in predicted else 0.0
                tally.add(f"prediction alone: found, {kind}", overlap_alone >= FOUND_IOU)
                tally.add(f"prediction alone: IoU, {kind}", overlap_alone)
    return elapsed


def _background(
    segmenter: CoSegmenter, case: Case, coseg: CoSegmentation, rng: np.random.Generator, tally: _Tally
) -> None:
    for i, image in enumerate(case.group.images):
        objects = [r.mask for r in case.truth.regions if r.image == i and r.part_name is None]
        background = ~dilate(np.any(objects, 0), MARGIN)
        if not background.any():
            continue
        point = _point(background, rng)
        mask, score = segmenter.segment_prompts(image, [point], [True])
        prompts = _prompts(i, [point], [True], mask.shape)
        answer = clicked_mask(mask, prompts)
        is_answered = (bool(answer.any()) or region_under(coseg, prompts, answer) is not None) and score >= MIN_SCORE
        tally.add("background: the model makes a mask", bool(mask.any()))
        tally.add("background: answered", is_answered)


def _absent_name(
    segmenter: CoSegmenter, case: Case, coseg: CoSegmentation, rng: np.random.Generator, tally: _Tally
) -> None:
    """A name that no image of the group shows, asked for."""
    names = [name for name in PART_NAMES if all(region.part_name != name for region in case.truth.regions)]
    name = names[int(rng.integers(len(names)))]
    objects = objects_of(coseg)
    named = ask_all(lambda shown: segmenter.segment_named(case.group, name, objects, shown=shown), coseg, [])
    made = {proposal.mask.image for proposal in proposals(coseg, name, named, task=0)}
    for image in missing_images(coseg, name):
        tally.add("asked for a name that is nowhere: proposed", image in made)
