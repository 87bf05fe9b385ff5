"""A group's result as one page to look at: its overlays side by side, what corresponds to what, answers, problems."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from calico.overlay import Colour, colours_of, draw_overlay
from calico.values import CoSegmentation, ImageGroup, Occurrence, PartRegion

OVERLAY = "overlay_{}.png"  # images count from 0, as in regions.json
PAGE = "index.html"

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#dfe3e8, #343a42); --soft: light-dark(#68717d, #9aa4b0);
  --paper: light-dark(#ffffff, #1d2126); --ground: light-dark(#f5f6f8, #14171b); --ink: light-dark(#1b1f24, #e8ebef); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1400px; padding: 2rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
.soft { color: var(--soft); }
.images { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr));
  margin: 1.5rem 0; align-items: start; }
figure { margin: 0; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; }
figcaption { padding: .5rem .8rem; font-size: .85rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .8rem; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .8rem; }
.mark { display: inline-block; width: .85em; height: .85em; border: .18em solid var(--c); border-radius: 50%;
  vertical-align: -.08em; margin-right: .5em; }
.mark.common { background: var(--c); }
.mark.object { border-radius: 2px; }
meter { width: 5rem; height: .7rem; vertical-align: middle; margin-left: .5em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; }
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
    page = folder / PAGE
    page.write_text(_page(group.names, cosegmentation, title), encoding="utf-8")
    return page


def _page(names: Sequence[str], cosegmentation: CoSegmentation, title: str) -> str:
    figures = "\n".join(
        f'<figure><img src="{OVERLAY.format(i)}" alt="{escape(name)} with its regions">'
        f'<figcaption>Image {i + 1} <span class="soft">{escape(name)} &middot; {width} &times; {height}</span>'
        "</figcaption></figure>"
        for i, (name, (height, width)) in enumerate(zip(names, cosegmentation.sizes_hw, strict=True))
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(" · ".join(filter(None, (_heading(cosegmentation), title))))}</title>
<style>{_STYLE}</style>
<h1>{escape(_heading(cosegmentation))}</h1>
<div class="soft">{escape(_summary(cosegmentation, title))}</div>
<div class="images">
{figures}
</div>
{_table(cosegmentation)}
{_answers(cosegmentation)}
{_problems(cosegmentation)}
</html>
"""


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
    head = "".join(f"<th>Image {i + 1}</th>" for i in range(num_images))
    body = "\n".join(_row(regions, colours[regions[0].correspondence_id], num_images) for regions in ordered)
    return (
        f'<h2>Regions</h2>\n<div class="table"><table>\n<thead><tr><th>Name</th><th>Kind</th><th>Occurrence</th>{head}'
        f'</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n<p class="soft">A cell is the score of the region on '
        "that image, the estimate of its IoU with the truth. On the images a common part is filled, a unique one "
        "hatched with a dashed outline; a whole object is an outline only.</p>"
    )


def _row(regions: list[PartRegion], colour: Colour, num_images: int) -> str:
    first = regions[0]
    on_image = {region.image: region for region in regions}
    cells = "".join(
        f'<td>{on_image[i].score:.2f}<meter value="{on_image[i].score:.3f}"></meter></td>'
        if i in on_image
        else '<td class="soft">&ndash;</td>'
        for i in range(num_images)
    )
    name = " / ".join(dict.fromkeys(region.name for region in regions))
    mark = f'<span class="mark {first.kind} {first.occurrence}" style="--c: rgb{colour}"></span>'
    return f"<tr><td>{mark}{escape(name)}</td><td>{first.kind}</td><td>{first.occurrence}</td>{cells}</tr>"


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
