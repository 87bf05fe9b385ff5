"""The paper's table: AP50, mIoU, Recall, SS and S-IoU by source and question, the baseline below each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

#: The paper's figures, the variants that punish extra names or rank by our own scores, and ours.
COLUMNS = {
    "AP50": "AP50",
    "mIoU": "mIoU",
    "recall": "Recall",
    "SS": "SS",
    "S_IoU": "S-IoU",
    "AP50_own_scores": "AP50, own scores",
    "SS_matched": "SS, by mask",
    "S_IoU_matched": "S-IoU, by mask",
    "strict_miou": "strict mIoU",
}
MEAN = "mean"
BASELINE = "baseline"


class PaperRow(NamedTuple):
    """block: figures with their n, stderr and interval."""

    source: str
    sub_task: str
    block: Mapping[str, Any]


def paper_rows(report: Mapping[str, Any]) -> Iterator[PaperRow]:
    """Of every source, and of all together where there are several: each question, their mean, and the baseline's.

    The baseline is told the objects, so its common object is given and not shown, nor is a mean with it.
    """
    sources = dict(report["by_source"])
    if len(sources) != 1:
        sources["all"] = {"overall": report["overall"], "by_subtask": report["by_subtask"]}
    for source, figures in sources.items():
        for name, block in figures["by_subtask"].items():
            yield PaperRow(source, name.replace("_", " "), block)
        yield PaperRow(source, MEAN, figures["overall"])
        if "baseline" in report:
            baseline = report["baseline"]["by_source"].get(source, report["baseline"])
            for name, block in baseline["by_subtask"].items():
                if name != "common_object":
                    yield PaperRow(source, f"{BASELINE}, {name.replace('_', ' ')}", block)


def digits(name: str) -> int:
    """Decimals: SS is out of 100."""
    return 1 if name.startswith("SS") else 3


def printed_table(report: Mapping[str, Any]) -> str:
    """Lines of text: every figure with its 95 % interval, n below."""
    lines = [f"{'':<48}" + "".join(f"{title:<28}" for title in COLUMNS.values())]
    for row in paper_rows(report):
        cells = "".join(f"{_cell(row.block, name):<28}" for name in COLUMNS)
        lines.append(f"{row.source:<14} {row.sub_task:<32} {cells}".rstrip())
    lines.append(f"Text similarity of Recall and SS: {report['overall']['recall_text']}. [95 % interval] (n)")
    lines.append(f"Baseline: {report['baseline']['what']}.")
    return "\n".join(lines)


def _cell(block: Mapping[str, Any], name: str) -> str:
    value, low_high, places = block[name], block["interval"][name], digits(name)
    if value is None:
        return "-"
    spread = f" [{low_high[0]:.{places}f}, {low_high[1]:.{places}f}]" if low_high else ""
    return f"{value:.{places}f}{spread} ({block['n'][name]})"
