"""The training log as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from calico.files import written_whole

PANELS = {
    "losses": ("loss", "validation", "text", "mask", "dice", "dense", "dense_semantic", "local", "pooled", "queried"),
    "token accuracy": ("token_acc",),
    "mask IoU": ("seg_iou", "point_iou", "box_iou", "watch_point_iou", "watch_box_iou"),
    "learning rate": ("rate",),
}


def plot_curves(log: Path, picture: Path) -> None:
    """log: one JSON object a line, each with `seconds`. Nothing is drawn before the first line."""
    if not log.exists() or not (rows := [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]):
        return
    from matplotlib.figure import Figure  # late: half a second of imports, and no display is needed

    figure = Figure(figsize=(14, 8), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        for name in names:
            points = [(row["seconds"] / 60, row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axes.set(title=title, xlabel="minutes of training", yscale="log" if title == "losses" else "linear")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    with written_whole(picture, is_durable=False) as temporary:
        figure.savefig(temporary, dpi=90)
