"""Groups of images as one page to look at before anybody labels them; what found no group comes last."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from calico.data.loose_images import Grouping, SourceGroup
from calico.errors import InputError
from calico.images import load_image
from calico.pictures.pages import page, picture, save_page

HEIGHT_PX, MAX_GROUPS, MAX_LEFT_OVER = 150, 500, 200
_STYLE = """
.sheet { display: grid; gap: .8rem 1rem; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr));
  margin-top: .8rem; }
.group { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .6rem .8rem;
  overflow-wrap: anywhere; }
.thumbnails { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .4rem; align-items: flex-start; }
.thumbnails figure { width: min-content; min-width: 5rem; border-radius: 6px; }
.thumbnails img { width: auto; height: 150px; }
.thumbnails figcaption { padding: .1rem .4rem; font-size: .75rem; color: var(--soft); white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; contain: inline-size; }
"""


def write_contact_sheet(
    path: Path, grouping: Grouping, load: Callable[[str], np.ndarray] = load_image, *, on_image: Callable[[], None]
) -> None:
    """load: the picture of a source, HxWx3 uint8. on_image: called for each one that is drawn, `num_shown` times.

    One file that needs nothing else; the first `MAX_GROUPS` groups, and so many images left over.
    """

    def thumbnail(source: str) -> str:
        name = escape(Path(source).name)
        on_image()
        try:
            small = Image.fromarray(load(source))
        except InputError as error:
            return f'<span class="soft">{escape(str(error))}</span>'
        small.thumbnail((4 * HEIGHT_PX, HEIGHT_PX), Image.Resampling.BILINEAR, reducing_gap=2.0)
        data = io.BytesIO()
        small.save(data, "JPEG", quality=75)
        shown = picture(data.getvalue(), "image/jpeg", name)
        return f'<figure title="{name}">{shown}<figcaption>{name}</figcaption></figure>'

    def thumbnails(sources: Sequence[str]) -> str:
        return f'<div class="thumbnails">{"".join(map(thumbnail, sources))}</div>'

    def row(number: int, group: SourceGroup) -> str:
        alike = "" if group.similarity is None else f" &middot; similarity {group.similarity:.2f}"
        size = f'<span class="soft">{len(group.sources)} images{alike}</span>'
        head = f"<strong>{number}</strong> {escape(group.name)} {size}"
        return f'<div class="group">{head}{thumbnails(group.sources)}</div>'

    groups, left = grouping.groups[:MAX_GROUPS], grouping.left_over[:MAX_LEFT_OVER]
    num_images = sum(len(group.sources) for group in grouping.groups)
    title = f"{len(grouping.groups)} groups of {num_images} images, {len(grouping.left_over)} left over"
    parts = [f"<h1>{title}</h1>", _cut(len(groups), len(grouping.groups), "groups")]
    parts += ['<div class="sheet">', *(row(number, group) for number, group in enumerate(groups, start=1)), "</div>"]
    if left:
        parts += ["<h2>Left over</h2>", _cut(len(left), len(grouping.left_over), "images")]
        parts.append(f'<div class="group">{thumbnails(left)}</div>')
    save_page(path, page(title, "\n".join(parts), style=_STYLE))


def num_shown(grouping: Grouping) -> int:
    """Images on the sheet."""
    return sum(len(g.sources) for g in grouping.groups[:MAX_GROUPS]) + len(grouping.left_over[:MAX_LEFT_OVER])


def _cut(num: int, of: int, what: str) -> str:
    return f'<p class="soft">The first {num} of {of} {what}.</p>' if num < of else ""
