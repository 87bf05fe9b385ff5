"""The reconciled result by object, part, size of region and difficulty, and as curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from calico.metrics import paper
from calico.metrics.blocks import put_names
from calico.metrics.bootstrap import Bootstrap
from calico.metrics.calibration import MIN_WITHIN, spearman
from calico.metrics.compared import CLICK_KINDS, Click, ComparedGroup, ImageTag
from calico.metrics.figures import GroupFigures
from calico.metrics.strict import KeyMatch
from calico.values import SubTask

#: Upper ends of a region's share of its image. Parts of under 0.2 % are not clicked on.
REGION_SIZES = {"under 0.5 %": 0.005, "0.5 to 2 %": 0.02, "2 to 8 %": 0.08, "8 % and more": float("inf")}
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(21))

Numbered = tuple[int, KeyMatch]  # with the number of its group


def put_clicks(figures: GroupFigures, clicks: Iterable[Click]) -> None:
    all_clicks = list(clicks)
    for kind in CLICK_KINDS:
        figures.mean(f"{kind}_iou", ((click.group, click.iou) for click in all_clicks if click.kind == kind))


def by_object(groups: Sequence[ComparedGroup], clicks: Sequence[Click], bootstrap: Bootstrap) -> dict[str, Any]:
    """Images by the true name of their object."""
    blocks = _by_image(groups, lambda tag: tag.object_name, bootstrap)
    for name, figures in blocks.items():
        put_clicks(figures, [click for click in clicks if click.object_name == name])
    return _as_dicts(blocks)


def by_difficulty(groups: Sequence[ComparedGroup], bootstrap: Bootstrap) -> dict[str, Any]:
    return _as_dicts(_by_image(groups, lambda tag: tag.difficulty, bootstrap))


def by_part(groups: Sequence[ComparedGroup], clicks: Sequence[Click], bootstrap: Bootstrap) -> dict[str, Any]:
    """Keys of either side by the part's name: IoU and boundary F, the name's precision and recall, its scores."""
    by_name: dict[str, list[Numbered]] = {}
    for group in groups:
        for match in group.merged:
            if match.key.kind == "part":
                by_name.setdefault(match.key.name, []).append((group.number, match))
    blocks = {}
    for name in sorted(by_name):
        figures = blocks[name] = GroupFigures(bootstrap)
        figures.mean("iou", ((number, match.iou) for number, match in by_name[name]))
        figures.mean("boundary_f", ((number, match.boundary_f) for number, match in by_name[name]))
        put_names(figures, by_name[name], ("precision", "recall"))
        scored = [(match.score, match.iou) for _, match in by_name[name] if match.score is not None]
        enough = len(scored) >= MIN_WITHIN
        value = spearman([score for score, _ in scored], [iou for _, iou in scored]) if enough else None
        figures.put("score_spearman", value, len(scored))
        put_clicks(figures, [click for click in clicks if click.part_name == name])
    return _as_dicts(blocks)


def by_region_size(groups: Sequence[ComparedGroup], clicks: Sequence[Click], bootstrap: Bootstrap) -> dict[str, Any]:
    """Keys of either side by their share of the image: the true region's, or the predicted one's without it."""
    blocks = {}
    low = 0.0
    for label, high in REGION_SIZES.items():
        within = [(g.number, match) for g in groups for match in g.merged if low <= match.area_share < high]
        figures = blocks[label] = GroupFigures(bootstrap)
        _put_ious(figures, within)
        put_clicks(figures, [click for click in clicks if low <= click.area_share < high])
        low = high
    return _as_dicts(blocks)


def curves(groups: Sequence[ComparedGroup], clicks: Sequence[Click]) -> dict[str, Any]:
    """What a page draws: the share of true regions, and of prompted masks, found with at least each IoU, with n.

    precision_recall: by sub-task, precision at 101 recalls, IoU 0.5, ranked by our own scores.
    """
    matches = [match for group in groups for match in group.merged if match.in_truth]
    ious_by_kind: dict[str, list[float]] = {
        "parts": [match.iou for match in matches if match.key.kind == "part"],
        "objects": [match.iou for match in matches if match.key.kind == "object"],
        **{kind: [click.iou for click in clicks if click.kind == kind] for kind in CLICK_KINDS},
    }
    ranked = {}
    for task in SubTask:
        pictures = [p for group in groups if task in group.answers for p in group.answers[task].pictures]
        ranking = paper.rank(sorted(pictures, key=lambda picture: picture.id), own_scores=True)
        if ranking.ap is not None:
            precision = [max(float(value), 0.0) for value in ranking.precision]
            ranked[task.value] = {"precision": precision, "n": int(ranking.num_true.sum())}
    return {
        "thresholds": list(THRESHOLDS),
        "found": {
            name: {"share": [float(np.mean(np.array(ious) >= t)) for t in THRESHOLDS], "n": len(ious)}
            for name, ious in ious_by_kind.items()
            if ious
        },
        "precision_recall": ranked,
    }


def _by_image(
    groups: Sequence[ComparedGroup], label_of: Callable[[ImageTag], str | None], bootstrap: Bootstrap
) -> dict[str, GroupFigures]:
    """A key belongs to its image's label."""
    by_label: dict[str, list[Numbered]] = {}
    num_images: dict[str, int] = {}
    for group in groups:
        for tag in group.images:
            if (label := label_of(tag)) is not None:
                num_images[label] = num_images.get(label, 0) + 1
                by_label.setdefault(label, [])
        for match in group.merged:
            if (label := label_of(group.images[match.key.image])) is not None:
                by_label[label].append((group.number, match))
    blocks = {}
    for label in sorted(by_label):
        figures = blocks[label] = GroupFigures(bootstrap)
        _put_ious(figures, by_label[label])
        figures.n["images"] = num_images[label]
    return blocks


def _put_ious(figures: GroupFigures, matches: Sequence[Numbered]) -> None:
    for name, kind in (("iou", None), ("iou_object", "object"), ("iou_parts", "part")):
        figures.mean(name, ((number, match.iou) for number, match in matches if kind in (None, match.key.kind)))
    parts = [(number, match.boundary_f) for number, match in matches if match.key.kind == "part"]
    figures.mean("boundary_f_parts", parts)
    put_names(figures, matches)


def _as_dicts(blocks: Mapping[str, GroupFigures]) -> dict[str, Any]:
    return {label: figures.as_dict() for label, figures in blocks.items()}
