"""An evaluation's report as one page: headline figures, curves, calibration, breakdowns, best and worst groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from calico.evaluation.charts import charts
from calico.evaluation.gallery import Gallery, Shown
from calico.evaluation.paper_table import COLUMNS, digits, paper_rows
from calico.pictures.pages import NOTHING, page, picture, save_page, table

Block = Mapping[str, Any]

HEADLINE = {
    "strict_miou": "IoU of every name on either side, 0 where one side lacks it; mean of the three questions",
    "strict_miou_parts": "the same, parts only",
    "strict_miou_objects": "the same, objects only",
    "name_precision": "predicted part names that are true",
    "name_recall": "true part names that are predicted",
    "occurrence_accuracy": "parts found, with the right common or unique",
    "none_precision": "\u201cthere are none\u201d, rightly said",
    "none_recall": "groups without an answer where it is said",
    "malformed_rate": "answers that cannot be read in full, decoded freely",
    "point_iou": "a part's mask after one click",
    "point3_iou": "after three clicks",
    "box_iou": "from its tight box",
    "score_spearman": "do scores rank masks by IoU? all parts together",
    "score_spearman_within_parts": "the same among masks of one part, mean over parts",
    "score_calibration_error": "mean distance of score from IoU over ten bins of score",
}
QUESTION = {
    "strict_miou": "strict mIoU", "strict_miou_parts": "parts", "strict_miou_objects": "objects",
    "name_precision": "name precision", "name_recall": "name recall",
    "none_precision": "none precision", "none_recall": "none recall",
}  # fmt: skip
RECONCILED = {
    "strict_miou": "strict mIoU", "strict_miou_parts": "parts", "strict_miou_objects": "objects",
    "name_precision": "name precision", "name_recall": "name recall", "boundary_f_parts": "boundary F of parts",
    "occurrence_accuracy": "common/unique right",
}  # fmt: skip
SHOWN = {
    "images_shown": "images that show anything", "strict_miou_parts": "parts", "strict_miou_objects": "objects",
    "object_precision": "object precision", "name_precision": "name precision", "name_recall": "name recall",
    "mean_score": "mean score", "mean_iou": "mean IoU",
}  # fmt: skip
IMAGES = {
    "iou_parts": "IoU of parts", "iou_object": "IoU of objects", "boundary_f_parts": "boundary F of parts",
    "name_precision": "name precision", "name_recall": "name recall",
}  # fmt: skip
CLICKS = {"point_iou": "one click", "point3_iou": "three clicks", "box_iou": "tight box"}
PART = {
    "iou": "IoU", "boundary_f": "boundary F", "precision": "name precision", "recall": "name recall",
    "score_spearman": "score Spearman",
}  # fmt: skip

_STYLE = """
nav { margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
a { color: inherit; }
.n { color: var(--soft); font-size: .75rem; }
td .n { display: block; }
td { vertical-align: top; }
meter { width: 3.5rem; height: .7rem; vertical-align: middle; margin-right: .5em; }
figure.chart img { padding: .4rem .8rem .6rem; }
.group { margin: 1.2rem 0; padding: 1rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
.pairs { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(min(260px, 45%), 1fr));
  margin: .6rem 0; }
.pairs figure { border: 0; border-radius: 6px; }
.pairs figcaption { padding: .2rem 0; color: var(--soft); }
"""


def write_page(path: str | Path, report: Mapping[str, Any], gallery: Gallery) -> None:
    """report: of `EvaluationRun.report`, with `checkpoint`, `data` and `command`. All text in the page is escaped."""
    save_page(path, evaluation_page(report, gallery))


def evaluation_page(report: Mapping[str, Any], gallery: Gallery) -> str:
    title = f"Evaluation of {report['checkpoint']}"
    sections = [
        ("Headline", _headline(report["overall"])),
        ("Paper's metrics", _paper(report)),
        ("Curves", _curves(report)),
        ("Calibration", _calibration(report)),
        ("By question", _by_question(report)),
        ("By group size", _blocks(report["by_group_size"], QUESTION, "images")),
        ("By difficulty", _blocks(report["by_difficulty"], IMAGES, "difficulty")),
        ("By size of region", _blocks(report["by_region_size"], IMAGES | CLICKS, "share of the image")),
        ("By object", _blocks(report["by_object"], IMAGES | CLICKS, "object")),
        ("By part", _blocks(report["by_part"], PART | CLICKS, "part")),
        ("Best groups", _groups(gallery.best)),
        ("Worst groups", _groups(gallery.worst)),
    ]
    entries = [(name, name.lower().replace(" ", "-").replace("'", ""), html) for name, html in sections if html]
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for name, anchor, _ in entries)
    stopped = " Stopped before the end: this is over the groups that were done." if report.get("stopped") else ""
    body = f"""<h1>{escape(title)}</h1>
<p class="soft">{report["n_groups"]} groups of {escape(str(report["data"]))}.{stopped} A figure is followed by its
standard error (groups drawn again) and by n, the number of its samples. <code>{escape(report["command"])}</code></p>
<nav>{links}</nav>
""" + "\n".join(f'<h2 id="{anchor}">{escape(name)}</h2>\n{html}' for name, anchor, html in entries)
    return page(title, body, style=_STYLE)


def _cell(block: Block, name: str, *, bar: bool = False, digits: int = 3) -> str:
    value, n = block.get(name), block["n"].get(name, 0)
    if value is None:
        return f'{NOTHING}<span class="n">n {n}</span>' if n else NOTHING
    error = block.get("stderr", {}).get(name)
    spread = "" if error is None else f"&plusmn; {error:.{digits}f} &middot; "
    meter = f'<meter value="{value:.3f}"></meter>' if bar else ""
    return f'{meter}{value:.{digits}f}<span class="n">{spread}n {n}</span>'


def _headline(overall: Block) -> str:
    rows = []
    for name, meaning in HEADLINE.items():
        value, error, n = overall.get(name), overall["stderr"].get(name), overall["n"].get(name, 0)
        cells = [NOTHING if number is None else f"{number:.3f}" for number in (value, error)]
        rows.append([escape(name.replace("_", " ")), *cells, str(n), f'<span class="soft">{escape(meaning)}</span>'])
    return table(["", "value", "standard error", "n", ""], rows)


def _paper(report: Block) -> str:
    rows = [
        [escape(row.source), escape(row.sub_task), *(_cell(row.block, name, digits=digits(name)) for name in COLUMNS)]
        for row in paper_rows(report)
    ]
    notes = [f"Text similarity of Recall and SS: {report['overall']['recall_text']}."]
    if "SS_reason" in report["overall"]:
        notes.append(f"SS is not measured: {report['overall']['SS_reason']}.")
    if report.get("num_skipped"):
        notes.append(f"{report['num_skipped']} samples were skipped: {'; '.join(report['skipped'])}.")
    if "baseline" in report:
        notes.append(f"Baseline: {report['baseline']['what']}.")
    text = f'<p class="soft">{escape(" ".join(notes))}</p>'
    return table(["source", "question", *COLUMNS.values()], rows) + text


def _curves(report: Block) -> str:
    figures = "".join(
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{picture(svg, "image/svg+xml", title)}</figure>'
        for title, svg in charts(report).items()
    )
    return f'<div class="images">{figures}</div>' if figures else ""


def _calibration(report: Block) -> str:
    if not report["calibration"]:
        return ""
    rows = [
        [
            f"{row['score_from']:.1f} to {row['score_to']:.1f}",
            f"{row['mean_score']:.3f}",
            f"{row['mean_iou']:.3f}",
            f"{row['mean_iou'] - row['mean_score']:+.3f}",
            str(row["n"]),
        ]
        for row in report["calibration"]
    ]
    overall = report["overall"]
    names = ("score_spearman", "score_spearman_within_parts", "score_calibration_error")
    summary = table([name.replace("_", " ") for name in names], [[_cell(overall, name) for name in names]])
    return (
        f"{summary}<br>\n{table(['score', 'mean score', 'mean IoU', 'difference', 'regions'], rows)}\n"
        '<p class="soft">Parts after reconciliation; a wrong name has IoU 0.</p>'
    )


def _by_question(report: Block) -> str:
    rows = [
        [escape(name.replace("_", " ")), *(_cell(block, key) for key in QUESTION)]
        for name, block in report["by_subtask"].items()
    ]
    merged = [[_cell(report["reconciled"], key) for key in RECONCILED]]
    product_row = [[_cell(report["shown"], key) for key in SHOWN]]
    return (
        table(["question", *QUESTION.values()], rows)
        + '\n<p class="soft">The three answers reconciled:</p>\n'
        + table(list(RECONCILED.values()), merged)
        + '\n<p class="soft">Of these, what the product shows:</p>\n'
        + table(list(SHOWN.values()), product_row)
    )


def _blocks(blocks: Mapping[str, Block], columns: Mapping[str, str], what: str) -> str:
    """One row per block, the columns that any block has samples for."""
    present = [name for name in columns if any(block["n"].get(name) for block in blocks.values())]
    counted = any("images" in block["n"] for block in blocks.values())
    rows: Iterable[Sequence[str]] = (
        [
            escape(label),
            *([str(block["n"]["images"])] if counted else []),
            *(_cell(block, name, bar=place == 0) for place, name in enumerate(present)),
        ]
        for label, block in blocks.items()
    )
    head = [what, *(["images"] if counted else []), *(columns[name] for name in present)]
    return table(head, rows) if blocks else ""


def _groups(groups: Sequence[Shown]) -> str:
    return "\n".join(_group(entry) for entry in groups)


def _group(entry: Shown) -> str:
    figures = "".join(
        f"<figure>{picture(data, 'image/jpeg', f'image {number}, {side}')}"
        f"<figcaption>Image {number} &middot; {side}</figcaption></figure>"
        for number, pair in enumerate(entry.pictures(), start=1)
        for side, data in zip(("truth", "prediction"), pair, strict=True)
    )
    answers = "".join(
        f"<dt>{escape(task.replace('_', ' '))}</dt><dd><code>{escape(text)}</code></dd>"
        for task, text in entry.prediction.answers.items()
    )
    more = [entry.source, *([] if len(entry.questions) > 1 else entry.questions)]
    source = "".join(f" &middot; {escape(text.replace('_', ' '))}" for text in more if text)
    return (
        f'<div class="group"><b>{entry.score:.3f}</b> {escape(", ".join(entry.objects))} '
        f'<span class="soft">{escape(entry.group_id)}{source}</span>\n<div class="pairs">{figures}</div>\n'
        f'<details><summary class="soft">Answers</summary><dl>{answers}</dl></details></div>'
    )
