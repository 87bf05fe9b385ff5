"""A group's result as one page to look at: its overlays side by side, what corresponds to what, answers, problems."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from calico.inference.belief import warnings_of
from calico.pictures.overlay import Colour, colours_of, draw_overlay
from calico.pictures.pages import NOTHING, page, save_page, table
from calico.values import CoSegmentation, ImageGroup, Occurrence, PartRegion

OVERLAY = "overlay_{}.png"  # images count from 0, as in regions.json
PAGE = "index.html"

_STYLE = """
.mark { display: inline-block; width: .85em; height: .85em; border: .18em solid var(--c); border-radius: 50%;
  vertical-align: -.08em; margin-right: .5em; }
.mark.common { background: var(--c); }
.mark.object { border-radius: 2px; }
.warning { margin: 0 0 1.2rem; padding: .7rem 1rem; border-radius: 10px; border: 1px solid #d9822b;
  background: light-dark(#fff3e0, #3a2a14); overflow-wrap: anywhere; }
meter { width: 5rem; height: .7rem; vertical-align: middle; margin-left: .5em; }
"""


def write_group_page(
    out_dir: str | Path, group: ImageGroup, cosegmentation: CoSegmentation, *, title: str = ""
) -> Path:
    """Writes overlay_{i}.png for every image and index.html beside them; returns the page's path.

    title: said below the heading and in the window's, for instance the model's version. The page needs nothing else,
    no script, no font, no network, and all text in it is escaped.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(group.images):
        Image.fromarray(draw_overlay(image, cosegmentation, index)).save(folder / OVERLAY.format(index))
    path = folder / PAGE
    save_page(path, _page(group.names, cosegmentation, title))
    return path


def _page(names: Sequence[str], cosegmentation: CoSegmentation, title: str) -> str:
    figures = "\n".join(
        f'<figure><img src="{OVERLAY.format(i)}" alt="{escape(name)} with its regions">'
        f'<figcaption>Image {i + 1} <span class="soft">{escape(name)} &middot; {width} &times; {height}</span>'
        "</figcaption></figure>"
        for i, (name, (height, width)) in enumerate(zip(names, cosegmentation.sizes_hw, strict=True))
    )
    body = f"""{_warning(cosegmentation)}<h1>{escape(_heading(cosegmentation))}</h1>
<div class="soft">{escape(_summary(cosegmentation, title))}</div>
<div class="images">
{figures}
</div>
{_table(cosegmentation)}
{_answers(cosegmentation)}
{_problems(cosegmentation)}"""
    return page(" · ".join(filter(None, (_heading(cosegmentation), title))), body, style=_STYLE)


def _warning(cosegmentation: CoSegmentation) -> str:
    """At the very top: what is on a page is believed before its small print is read."""
    lines = "<br>".join(map(escape, warnings_of(cosegmentation)))
    return f'<div class="warning" role="alert"><strong>Likely wrong.</strong> {lines}</div>\n' if lines else ""


def _heading(cosegmentation: CoSegmentation) -> str:
    names = dict.fromkeys(r.object_name for r in sorted(cosegmentation.regions, key=lambda region: region.image))
    return ", ".join(names) or "No regions"


def _summary(cosegmentation: CoSegmentation, title: str) -> str:
    parts = {r.correspondence_id: r.occurrence for r in cosegmentation.regions if r.kind == "part"}
    num_common = sum(occurrence is Occurrence.COMMON for occurrence in parts.values())
    text = f"{num_common} common and {len(parts) - num_common} unique parts on {len(cosegmentation.sizes_hw)} images"
    return f"{text} · {title}" if title else text


def _table(cosegmentation: CoSegmentation) -> str:
    """One row per correspondence, one column per image: objects, then common parts, then unique ones."""
    if not cosegmentation.regions:
        return '<p class="soft">The model named nothing on these images.</p>'
    rows: dict[str, list[PartRegion]] = {}
    for region in cosegmentation.regions:
        rows.setdefault(region.correspondence_id, []).append(region)
    colours = colours_of(cosegmentation)
    num_images = len(cosegmentation.sizes_hw)

    def order(regions: list[PartRegion]) -> tuple[bool, bool, tuple[int, ...], str]:
        first = regions[0]
        return first.kind == "part", first.occurrence is Occurrence.UNIQUE, first.correspondence, first.name

    ordered = sorted(rows.values(), key=order)
    head = ["Name", "Kind", "Occurrence", *(f"Image {i + 1}" for i in range(num_images))]
    body = [_row(regions, colours[regions[0].correspondence_id], num_images) for regions in ordered]
    return (
        f'<h2>Regions</h2>\n{table(head, body)}\n<p class="soft">A cell is the score of the region on '
        "that image, the estimate of its IoU with the truth. On the images a common part is filled, a unique one "
        "hatched with a dashed outline; a whole object is an outline only.</p>"
    )


def _row(regions: list[PartRegion], colour: Colour, num_images: int) -> list[str]:
    first = regions[0]
    on_image = {region.image: region for region in regions}
    scores = [
        f'{on_image[i].score:.2f}<meter value="{on_image[i].score:.3f}"></meter>' if i in on_image else NOTHING
        for i in range(num_images)
    ]
    name = " / ".join(dict.fromkeys(region.name for region in regions))
    mark = f'<span class="mark {first.kind} {first.occurrence}" style="--c: rgb{colour}"></span>'
    return [f"{mark}{escape(name)}", first.kind, str(first.occurrence), *scores]


def _answers(cosegmentation: CoSegmentation) -> str:
    if not cosegmentation.answers:
        return ""
    rows = "\n".join(
        f"<dt>{escape(task.replace('_', ' '))}</dt><dd><code>{escape(text)}</code></dd>"
        for task, text in cosegmentation.answers.items()
    )
    return f"<h2>Answers</h2>\n<dl>\n{rows}\n</dl>"


def _problems(cosegmentation: CoSegmentation) -> str:
    if not cosegmentation.problems:
        return ""
    rows = "\n".join(
        f"<dt><code>{escape(problem.code)}</code></dt><dd>{escape(problem.message)}"
        + ("" if problem.image is None else f' <span class="soft">image {problem.image + 1}</span>')
        + "</dd>"
        for problem in cosegmentation.problems
    )
    return f"<h2>Problems</h2>\n<dl>\n{rows}\n</dl>"
