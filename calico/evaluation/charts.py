"""The curves of an evaluation's page, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]

SOFT = "#808a96"  # lines and text: to be read on a light and on a dark page
COLOURS = {
    "parts": "#2a9df4", "objects": "#e63946",
    "point": "#ff7a1a", "point3": "#2ec478", "box": "#ab47de",
    "common_object": "#e63946", "common_parts": "#2a9df4", "unique_parts": "#ff7a1a",
}  # fmt: skip
LABELS = {"point": "one click", "point3": "three clicks", "box": "tight box"}


def charts(report: Report) -> dict[str, bytes]:
    """SVG by title, of what the report has samples for. Files of their own: nothing in them refers to another."""
    plots: dict[str, Callable[[Axes, Report], bool]] = {
        "Score against IoU, parts": _reliability,
        "Regions found with at least this IoU": _found,
        "Precision against recall at IoU 0.5, by our own scores": _precision_recall,
        "IoU of parts by their share of the image": _by_size,
        "IoU of parts by difficulty": _by_difficulty,
        "Clicks and boxes: masks with at least this IoU": _clicks,
    }
    return {title: svg for title, draw in plots.items() if (svg := _drawn(draw, report)) is not None}


def _drawn(draw: Callable[[Axes, Report], bool], report: Report) -> bytes | None:
    import matplotlib as mpl  # late: half a second of imports
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": draw.__name__,  # the same file for the same report
        "font.size": 9,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": SOFT,
        "text.color": SOFT,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": SOFT,
        "grid.alpha": 0.25,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.grid(True)
        axes.set_axisbelow(True)
        if not draw(axes, report):
            return None
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue().decode("utf-8")
    return text[text.index("<svg") :].encode("utf-8")  # without the DOCTYPE, which names a file elsewhere


def _reliability(axes: Axes, report: Report) -> bool:
    table = report["calibration"]
    if not table:
        return False
    most = max(row["n"] for row in table)
    for row in table:
        axes.bar((row["score_from"] + row["score_to"]) / 2, row["n"] / most * 0.25, 0.09, color=SOFT, alpha=0.3)
        axes.text((row["score_from"] + row["score_to"]) / 2, 0.01, str(row["n"]), ha="center", fontsize=6.5)
    axes.plot((0, 1), (0, 1), color=SOFT, linestyle="--", linewidth=1)
    scores, ious = ([row[name] for row in table] for name in ("mean_score", "mean_iou"))
    axes.plot(scores, ious, color=COLOURS["parts"], marker="o", markersize=4)
    axes.set(xlabel="mean score of the bin", ylabel="mean IoU of the bin; bars: regions", xlim=(0, 1), ylim=(0, 1))
    return True


def _found(axes: Axes, report: Report) -> bool:
    return _shares(axes, report, ("parts", "objects"))


def _clicks(axes: Axes, report: Report) -> bool:
    return _shares(axes, report, ("point", "point3", "box"))


def _shares(axes: Axes, report: Report, names: tuple[str, ...]) -> bool:
    curves = report["curves"]
    measured = [name for name in names if name in curves["found"]]
    for name in measured:
        curve = curves["found"][name]
        label = f"{LABELS.get(name, name)}, n {curve['n']}"
        axes.plot(curves["thresholds"], curve["share"], color=COLOURS[name], label=label)
    axes.set(xlabel="IoU", ylabel="share", xlim=(0, 1), ylim=(0, 1.02))
    if measured:
        axes.legend(loc="lower left", fontsize=8)
    return bool(measured)


def _precision_recall(axes: Axes, report: Report) -> bool:
    by_name = report["curves"]["precision_recall"]
    for name, curve in by_name.items():
        recalls = [k / 100 for k in range(len(curve["precision"]))]
        label = f"{name.replace('_', ' ')}, n {curve['n']}"
        axes.plot(recalls, curve["precision"], color=COLOURS[name], label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if by_name:
        axes.legend(loc="lower left", fontsize=8)
    return bool(by_name)


def _by_size(axes: Axes, report: Report) -> bool:
    return _bars(axes, report["by_region_size"])


def _by_difficulty(axes: Axes, report: Report) -> bool:
    return _bars(axes, report["by_difficulty"])


def _bars(axes: Axes, blocks: Mapping[str, Any]) -> bool:
    """Mean IoU of parts of each block, with its standard error."""
    bars = [(label, block) for label, block in blocks.items() if block["iou_parts"] is not None]
    for place, (_, block) in enumerate(bars):
        axes.bar(place, block["iou_parts"], 0.6, color=COLOURS["parts"], alpha=0.8)
        if (error := block["stderr"]["iou_parts"]) is not None:
            axes.errorbar(place, block["iou_parts"], error, color=SOFT, capsize=4)
    labels = [f"{label}\nn {block['n']['iou_parts']}" for label, block in bars]
    axes.set_xticks(range(len(bars)), labels, fontsize=8)
    axes.set(ylabel="mean IoU", ylim=(0, 1))
    return bool(bars)
