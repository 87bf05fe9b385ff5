"""Clicks and boxes on annotated photographs, or on any other pictures with part masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from calico.coco.dataset import Findings
from calico.evaluation.run import MIN_CLICK_SHARE, NUM_CLICKS
from calico.images import load_image
from calico.inference.segmenter import CoSegmenter
from calico.masks import components, iou, next_click, tight_box_xyxy
from calico.simulation.photos import IMAGES, PhotoPool

MIN_PIECE_PX = 60


def benchmark_photo_clicks(checkpoint: Path | None, folder: Path, num_clicks: int, seed: int) -> dict[str, Any]:
    """Of random parts, as they are annotated and one connected piece of each: mean IoU of one click, three clicks, and
    a box; and of the box itself, filled."""
    segmenter, rng = CoSegmenter.from_checkpoint(checkpoint), np.random.default_rng(seed)
    pool = PhotoPool(folder)
    parts = [(item, part) for item in pool.objects for part, _ in item.rows if part is not None]
    ious: dict[str, list[float]] = {}
    num = 0
    with tqdm(total=num_clicks, desc="clicks", disable=None) as bar:
        for k in rng.permutation(len(parts)).tolist():
            item, part = parts[k]
            mask = item.masks(Findings())[part]
            if mask.mean() < MIN_CLICK_SHARE:
                continue
            image = load_image(folder / IMAGES / item.image.file_name)
            numbers, count = components(mask)
            areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
            large = np.flatnonzero(areas >= max(MIN_PIECE_PX, areas.max() / 4)) + 1
            for what, truth in (("part", mask), ("piece", numbers == rng.choice(large) if len(large) else None)):
                if truth is not None:
                    for name, value in _tried(segmenter, image, truth, rng).items():
                        ious.setdefault(f"{what}_{name}", []).append(value)
            num += 1
            bar.update()
            if num == num_clicks:
                break
    means = {name: float(np.mean(values)) for name, values in ious.items()}
    counts = {f"n_{what}s": len(ious.get(f"{what}_point", ())) for what in ("part", "piece")}
    return {"checkpoint": segmenter.version, "photos": str(folder), **means, **counts}


def _tried(segmenter: CoSegmenter, image: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    y, x = divmod(int(rng.choice(np.flatnonzero(truth))), truth.shape[1])
    points, labels = [(float(x), float(y))], [True]
    mask = segmenter.segment_prompts(image, points, labels).mask
    ious = {"point": iou(mask, truth)}
    while len(points) < NUM_CLICKS and (click := next_click(mask, truth)) is not None:
        points.append((float(click.x), float(click.y)))
        labels.append(click.positive)
        mask = segmenter.segment_prompts(image, points, labels).mask
    ious["point3"] = iou(mask, truth)
    box = tight_box_xyxy(truth)
    assert box is not None
    ious["box"] = iou(segmenter.segment_prompts(image, box_xyxy=box).mask, truth)
    filled = np.zeros_like(truth)
    filled[box[1] : box[3], box[0] : box[2]] = True
    ious["box_filled"] = iou(filled, truth)
    return ious
