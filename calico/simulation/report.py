"""What came of a simulation: means over seeds with their spread and n, as rows, as text and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from calico.files import write_text, written_whole

Json = Mapping[str, Any]

#: (row's name, where it was measured, block of the figures, figure)
FIGURES = (
    ("held_out.strict_miou_parts", "held_out", "overall", "strict_miou_parts"),
    ("held_out.strict_miou_parts_reconciled", "held_out", "reconciled", "strict_miou_parts"),
    ("held_out.name_precision", "held_out", "reconciled", "name_precision"),
    ("held_out.name_recall", "held_out", "reconciled", "name_recall"),
    ("base.strict_miou_parts", "base", "overall", "strict_miou_parts"),
    ("base.strict_miou_parts_reconciled", "base", "reconciled", "strict_miou_parts"),
)
_SHOWN = ("held-out parts", "as shown", "name precision", "name recall", "base parts", "as shown")


def figures_of(measured: Json) -> dict[str, float | None]:
    """`FIGURES` of a model's `held_out` and `base`; None where a figure has no sample."""
    return {name: measured[where]["figures"].get(block, {}).get(figure) for name, where, block, figure in FIGURES}


def summary(results: Json) -> dict[str, Any]:
    """`before`, and a row for each strategy and round: each figure's and each difference's mean, sd and n of seeds.

    sd: of the seeds, None for one. Differences are after - before.
    """
    before = figures_of(results["before"])
    rows = []
    strategies = dict.fromkeys(run["strategy"] for run in results["runs"])
    for strategy in strategies:
        for number in sorted({run["round"] for run in results["runs"]}):
            runs = [run for run in results["runs"] if (run["strategy"], run["round"]) == (strategy, number)]
            if not runs:
                continue
            after = [figures_of(run) for run in runs]
            rows.append(
                {
                    "strategy": strategy,
                    "round": number,
                    "num_corrected": spread([run["num_corrected"] for run in runs]),
                    "of_domain": spread([run["of_domain"] for run in runs]),
                    "published": sum(bool(run["published"]) for run in runs),
                    "training_seconds": spread([run["training"]["seconds"] for run in runs]),
                    **{name: spread([item[name] for item in after]) for name in before},
                    **{f"{name}.gain": spread([_gain(item[name], before[name]) for item in after]) for name in before},
                }
            )
    return {"before": before, "n_held_out": _num(results, "held_out"), "n_base": _num(results, "base"), "rows": rows}


def _num(results: Json, where: str) -> int:
    return int(results["before"][where]["figures"]["n_groups"])


def _gain(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and n of those that are there."""
    numbers = [float(value) for value in values if value is not None]
    return {
        "mean": fmean(numbers) if numbers else None,
        "sd": stdev(numbers) if len(numbers) > 1 else None,
        "n": len(numbers),
    }


def text(summarised: Json) -> str:
    """A table for the terminal, as it is, whoever wins; the first line of figures is the model before."""
    lines = [
        f"{summarised['n_held_out']} held-out groups, {summarised['n_base']} of the base test; mean ± sd over n seeds",
        f"{'':<20}{'groups':>7} {'n':>2} " + "".join(f"{name:>18}" for name in _SHOWN) + f"{'published':>11}",
        f"{'before':<20}{'':>10} " + "".join(f"{_number(value):>18}" for value in summarised["before"].values()),
    ]
    for row in summarised["rows"]:
        cells = "".join(f"{_cell(row[name]):>18}" for name in summarised["before"])
        n = row["num_corrected"]["n"]
        name = f"{row['strategy']} {row['round']}"
        lines.append(f"{name:<20}{row['num_corrected']['mean']:>7.0f} {n:>2} {cells}{row['published']:>7} of {n}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(value: Json) -> str:
    return _number(value["mean"]) + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


def plot(results: Json, summarised: Json, path: Path) -> None:
    """Parts of held-out groups and of the base test by corrected groups: each seed thin, their mean thick."""
    from matplotlib.figure import Figure  # late: half a second of imports, and no display is needed

    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = (("held_out.strict_miou_parts", "held-out groups"), ("base.strict_miou_parts", "base test"))
    for axes, (name, title) in zip(figure.subplots(1, 2), panels, strict=True):
        start = summarised["before"][name]
        for index, strategy in enumerate(dict.fromkeys(row["strategy"] for row in summarised["rows"])):
            colour = f"C{index}"
            rows = [row for row in summarised["rows"] if row["strategy"] == strategy and row[name]["n"]]
            points = [(row["num_corrected"]["mean"], row[name]["mean"], row[name]["sd"] or 0.0) for row in rows]
            if start is not None:
                points.insert(0, (0, start, 0.0))
            if not points:
                continue
            groups, means, errors = zip(*points, strict=True)
            n = max(row[name]["n"] for row in rows) if rows else 0
            axes.errorbar(groups, means, errors, color=colour, capsize=3, label=f"{strategy}, n = {n} seeds")
            for seed in dict.fromkeys(run["seed"] for run in results["runs"]):
                line = [(0, start)] + [
                    (run["num_corrected"], figures_of(run)[name])
                    for run in results["runs"]
                    if (run["strategy"], run["seed"]) == (strategy, seed)
                ]
                line_points = [(x, y) for x, y in line if y is not None]
                axes.plot(
                    [x for x, _ in line_points], [y for _, y in line_points], color=colour, alpha=0.3, linewidth=0.8
                )
        axes.set(title=title, xlabel="corrected groups", ylabel="strict mIoU of parts")
        axes.set_ylim(0, max(0.1, 1.1 * axes.get_ylim()[1]))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    with written_whole(path, is_durable=False) as temporary:
        figure.savefig(temporary, dpi=90)


def save(results: Json, folder: Path) -> dict[str, Any]:
    """results.json (everything measured), summary.json and curves.png; gives the summary."""
    summarised = summary(results)
    for name, content in (("results.json", results), ("summary.json", summarised)):
        write_text(folder / name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    plot(results, summarised, folder / "curves.png")
    return summarised
