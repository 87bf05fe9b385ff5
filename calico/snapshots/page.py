"""The feedback report as one page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from calico.pictures.pages import NOTHING, page, picture, save_page, table
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
TITLE = "What the predictions were worth"

_STYLE = """.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
.pair { margin: .8rem 0; }
.pair div { display: inline-block; width: 50%; padding: .4rem; vertical-align: top; }
"""


def write_page(
    path: Path,
    report: Mapping[str, Any],
    pictures: Mapping[str, tuple[bytes, bytes]] | None = None,
    *,
    host_url: str | None = None,
) -> None:
    """report: what `feedback_report` gives. pictures: of its best and worst groups, as `before_and_after` draws them.
    host_url: Label Studio's address, for links to the tasks. All text in the page is escaped."""
    save_page(path, _page(report, pictures or {}, host_url))


def _page(report: Mapping[str, Any], pictures: Mapping[str, tuple[bytes, bytes]], host_url: str | None) -> str:
    keys = "".join(f'<span class="key" style="background:{_COLOURS[c]}"></span>{c}' for c in CHANGES)
    tables = "".join(_table(title, report[name]) for name, title in _TITLES.items())
    body = f"""<h1>{TITLE}</h1>
{_headline(report["regions"], report["num_accepted_as_is"])}
<p class="soft">{report["num_groups"]} groups, {report["num_groups_with_prediction"]} of them from a prediction,
{report["num_accepted_as_is"]} submitted as they were predicted. Bars count regions:{keys}</p>
{_table("All", {"all": report["overall"]})}
{tables}
{_lead_time(report["lead_time"])}
{_groups("Groups with the worst predictions", report["worst_groups"], pictures, host_url)}
{_groups("Groups with the best predictions", report["best_groups"], pictures, host_url)}"""
    return page(TITLE, body, style=_STYLE)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    most = max((sum(row[change] for change in CHANGES) for row in rows.values()), default=0)
    head = ["", "regions", *_MEANS.values()]
    body = [[escape(name), _bar(row, most), *(_cell(row, key) for key in _MEANS)] for name, row in rows.items()]
    return f"<h2>{title}</h2>\n{table(head, body)}\n"


def _bar(row: Mapping[str, Any], most: int) -> str:
    x = 0.0
    pieces = []
    for change in CHANGES:
        width = _BAR_WIDTH * row[change] / most if most else 0.0
        if width:
            tooltip = f"<title>{row[change]} {change}</title>"
            pieces.append(
                f'<rect x="{x:.1f}" width="{width:.1f}" height="14" fill="{_COLOURS[change]}">{tooltip}</rect>'
            )
        x += width
    total = sum(row[change] for change in CHANGES)
    return f'<svg width="{_BAR_WIDTH}" height="14" role="img">{"".join(pieces)}</svg> {total}'


def _cell(row: Mapping[str, Any], key: str) -> str:
    return NOTHING if row[key] is None else f'{row[key]:.3f} <span class="soft">n {row["n"][key]}</span>'


def _lead_time(arms: Mapping[str, Any] | None) -> str:
    if arms is None:
        return '<h2>Lead time</h2><p class="soft">Not compared: no groups were held out at random.</p>'
    rows = [
        [name.replace("_", " "), str(arm["n"])]
        + [NOTHING if arm[key] is None else f"{arm[key]:.1f} s" for key in ("median_s", "mean_s")]
        for name, arm in arms.items()
    ]
    return f"<h2>Lead time</h2>\n{table(['', 'n', 'median', 'mean'], rows)}"


def _headline(regions: Mapping[str, int], num_untouched_groups: int) -> str:
    """Untouched and corrected told apart: what nobody touched, nobody may have looked at."""
    there = regions["of_untouched_groups"]
    return (
        f"<p><strong>{regions['corrected']} regions corrected, {regions['added']} added, {regions['untouched']} left "
        f"untouched.</strong> Of the untouched, {there} are of the {num_untouched_groups} groups that were submitted "
        f"as predicted, and {regions['untouched'] - there} of groups in which something else was corrected.</p>"
    )


def _groups(
    title: str,
    groups: list[Mapping[str, Any]],
    pictures: Mapping[str, tuple[bytes, bytes]],
    host_url: str | None,
) -> str:
    rows = [[_task(group["group"], host_url), f"{group['score']:.3f}"] for group in groups]
    drawn = [group for group in groups if group["group"] in pictures]
    figures = "\n".join(_figure(group, pictures[group["group"]], host_url) for group in drawn)
    return f"<h2>{title}</h2>\n{table(['project/task', 'mean IoU'], rows)}\n{figures}"


def _task(group: str, host_url: str | None) -> str:
    """HTML: the group's id, a link to its task where the host is known."""
    project, _, task = group.partition("/")
    if host_url is None or not (project.isdigit() and task.isdigit()):
        return escape(group)
    return f'<a href="{escape(host_url)}/projects/{project}/data?task={task}">{escape(group)}</a>'


def _figure(group: Mapping[str, Any], pictures: tuple[bytes, bytes], host_url: str | None) -> str:
    before, after = (picture(data, "image/jpeg", alt) for data, alt in zip(pictures, ("before", "after"), strict=True))
    caption = f"{_task(group['group'], host_url)} &middot; mean IoU {group['score']:.3f}"
    return (
        f'<figure class="pair"><div>{before}<span class="soft">predicted</span></div>'
        f'<div>{after}<span class="soft">as submitted</span></div><figcaption>{caption}</figcaption></figure>'
    )
