"""The feedback report as one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from calico.snapshots.report import CHANGES

_COLOURS = {
    "kept": "#2ca02c", "edited": "#1f77b4", "relabelled": "#9467bd", "deleted": "#d62728", "added": "#ff7f0e"
}  # fmt: skip
_TITLES = {"by_version": "By model version", "by_object": "By object", "by_part": "By part"}
_MEANS = {
    "iou": "IoU",
    "boundary_f": "boundary F",
    "name_accuracy": "name right",
    "occurrence_accuracy": "common/unique right",
}
_BAR_WIDTH = 360

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#dfe3e8, #343a42); --soft: light-dark(#68717d, #9aa4b0);
  --paper: light-dark(#ffffff, #1d2126); --ground: light-dark(#f5f6f8, #14171b); --ink: light-dark(#1b1f24, #e8ebef); }
body { margin: 0 auto; max-width: 1200px; padding: 2rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
.soft { color: var(--soft); }
.table { overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .8rem; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .8rem; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
"""


def write_page(path: Path, report: Mapping[str, Any]) -> None:
    """report: what `feedback_report` gives. All text in the page is escaped."""
    Path(path).write_text(_page(report), encoding="utf-8")


def _page(report: Mapping[str, Any]) -> str:
    keys = "".join(f'<span class="key" style="background:{_COLOURS[c]}"></span>{c}' for c in CHANGES)
    tables = "".join(_table(title, report[name]) for name, title in _TITLES.items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What the predictions were worth</title>
<style>{_STYLE}</style>
<h1>What the predictions were worth</h1>
<p class="soft">{report["num_groups"]} groups, {report["num_groups_with_prediction"]} of them from a prediction,
{report["num_accepted_as_is"]} submitted as they were predicted. Bars count regions:{keys}</p>
{_table("All", {"all": report["overall"]})}
{tables}
{_lead_time(report["lead_time"])}
{_groups("Groups with the best predictions", report["best_groups"])}
{_groups("Groups with the worst predictions", report["worst_groups"])}
</html>
"""


def _table(title: str, rows: Mapping[str, Any]) -> str:
    most = max((sum(row[change] for change in CHANGES) for row in rows.values()), default=0)
    head = "".join(f"<th>{shown}</th>" for shown in _MEANS.values())
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{_bar(row, most)}</td>{''.join(_cell(row, key) for key in _MEANS)}</tr>\n"
        for name, row in rows.items()
    )
    return (
        f'<h2>{title}</h2>\n<div class="table"><table><thead><tr><th></th><th>regions</th>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _bar(row: Mapping[str, Any], most: int) -> str:
    x = 0.0
    pieces = []
    for change in CHANGES:
        width = _BAR_WIDTH * row[change] / most if most else 0.0
        if width:
            told = f"<title>{row[change]} {change}</title>"
            pieces.append(f'<rect x="{x:.1f}" width="{width:.1f}" height="14" fill="{_COLOURS[change]}">{told}</rect>')
        x += width
    total = sum(row[change] for change in CHANGES)
    return f'<svg width="{_BAR_WIDTH}" height="14" role="img">{"".join(pieces)}</svg> {total}'


def _cell(row: Mapping[str, Any], key: str) -> str:
    if row[key] is None:
        return '<td class="soft">&ndash;</td>'
    return f'<td>{row[key]:.3f} <span class="soft">n {row["n"][key]}</span></td>'


def _lead_time(arms: Mapping[str, Any] | None) -> str:
    if arms is None:
        return '<h2>Lead time</h2><p class="soft">Not compared: no groups were held out at random.</p>'
    rows = "".join(
        f"<tr><td>{name.replace('_', ' ')}</td><td>{arm['n']}</td>"
        + "".join(f"<td>{'&ndash;' if arm[k] is None else f'{arm[k]:.1f} s'}</td>" for k in ("median_s", "mean_s"))
        + "</tr>"
        for name, arm in arms.items()
    )
    return (
        '<h2>Lead time</h2><div class="table"><table><thead><tr><th></th><th>n</th><th>median</th><th>mean</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _groups(title: str, groups: list[Mapping[str, Any]]) -> str:
    rows = "".join(f"<tr><td>{escape(g['group'])}</td><td>{g['score']:.3f}</td></tr>" for g in groups)
    return (
        f'<h2>{title}</h2><div class="table"><table><thead><tr><th>project/task</th><th>mean IoU</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
