"""The statistics of an index as one page, with samples drawn: the question, and the answer over the pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from html import escape
from random import Random
from typing import Any

from PIL import Image

from calico.errors import InputError
from calico.language.answers import render_answer
from calico.mixedparts.index import MixedParts, target_of
from calico.mixedparts.statistics import COLUMNS, table_rows
from calico.pictures.overlay import draw_overlay
from calico.pictures.pages import page, picture, table
from calico.values import Sample, SubTask

_WIDTH = 480  # of a drawn picture, in pixels


def statistics_page(data: MixedParts, report: Mapping[str, Any], num_samples: int, seed: int = 0) -> str:
    """The page's HTML. report: what `statistics` gives. num_samples: drawn of each source and sub-task, by chance.

    Samples whose pictures are missing are replaced by others; where none can be drawn the page says why.
    """
    body = [
        "<h1>Part data</h1>",
        f'<p class="soft">{report["num_samples"]:,} samples of {report["num_objects"]:,} objects on '
        f"{report['num_images']:,} images. Pairs and larger groups count samples; none: the share of samples to "
        "which &ldquo;there are none&rdquo; is the answer.</p>",
        table(COLUMNS, [[escape(cell) for cell in row] for row in table_rows(report)]),
        _findings(report),
        *_samples(data, num_samples, Random(seed)),
    ]
    return page("Part data", "\n".join(body))


def _findings(report: Mapping[str, Any]) -> str:
    rows = [
        [escape(source["source"]), kind, f"<code>{escape(code)}</code>", f"{count:,}", escape("; ".join(examples[:1]))]
        for source in report["reading"]
        for kind in ("repaired", "skipped")
        for code, count in sorted(source[kind].items())
        if (examples := source["examples"].get(code, [])) is not None
    ]
    text = ""
    if rows:
        text = "<h2>Left out and repaired</h2>" + table(["file", "what", "code", "number", "for instance"], rows)
    short = [
        [row["source"], row["split"], row["sub_task"], *(f"{row[k]:,}" for k in ("wanted", "possible", "kept"))]
        for row in report["shortfalls"]
    ]
    if short:
        head = ["source", "split", "question", "wanted", "possible", "kept"]
        text += "<h2>Fewer samples than asked for</h2>" + table(head, short)
    return text


def _samples(data: MixedParts, number: int, rng: Random) -> Iterator[str]:
    for source in data.sources if number else ():
        for sub_task in SubTask:
            try:
                chosen = MixedParts(data.folder, source=source, sub_task=sub_task, images=data.roots)
            except InputError:
                continue  # there are none of these
            drawn, why = 0, ""
            for i in rng.sample(range(len(chosen)), min(len(chosen), 4 * number)):
                if drawn == number:
                    break
                try:
                    sample = chosen[i]
                except InputError as error:
                    why = str(error)
                    continue
                drawn += 1
                full = target_of(chosen.records(i))
                answer = render_answer(full, sub_task).text
                yield _sample(sample, answer)
            if why and not drawn:
                yield f'<h2>{escape(source)}</h2><p class="soft">No sample could be drawn: {escape(why)}</p>'


def _sample(sample: Sample, answer: str) -> str:
    provenance = sample.provenance
    figures = []
    for number, (image, name) in enumerate(zip(sample.group.images, sample.group.names, strict=True)):
        overlay = Image.fromarray(draw_overlay(image, sample.target, number))
        overlay.thumbnail((_WIDTH, _WIDTH), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        overlay.save(file, "JPEG", quality=85)
        image_tag = picture(file.getvalue(), "image/jpeg", f"{name} with its regions")
        figures.append(f"<figure>{image_tag}<figcaption>Image {number + 1} {escape(name)}</figcaption></figure>")
    return (
        f"<h2>{escape(provenance['source'])}, {escape(provenance['split'])}: {escape(sample.question.text)}</h2>"
        f'<p><code>{escape(answer)}</code></p><div class="images">{"".join(figures)}</div>'
    )
