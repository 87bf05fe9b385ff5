"""What our pages share: one style, and one file that needs nothing else, no script, no font, no network.

Functions that take HTML say so; everything else is text and is escaped.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from calico.files import write_text

NOTHING = '<span class="soft">&ndash;</span>'  # a cell without a value

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#dfe3e8, #343a42); --soft: light-dark(#68717d, #9aa4b0);
  --paper: light-dark(#ffffff, #1d2126); --ground: light-dark(#f5f6f8, #14171b); --ink: light-dark(#1b1f24, #e8ebef); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1400px; padding: 2rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0; overflow-wrap: anywhere; }
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
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; }
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """A whole document. body: HTML, the heading included. style: more CSS."""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
{body}
</html>
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """head: text. rows: cells as HTML, one per column."""
    columns = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def picture(data: bytes, mime_type: str, alt: str) -> str:
    """An image within the page."""
    return f'<img src="data:{mime_type};base64,{b64encode(data).decode("ascii")}" alt="{escape(alt)}">'


def save_page(path: str | Path, text: str) -> None:
    """At once: a reader sees the old page or the whole new one."""
    write_text(Path(path), text)
