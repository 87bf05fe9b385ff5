"""Pictures with vocabularies of growing length: the same parts, as good, in the same time and memory?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import processor
from benchmarks.process import resident_bytes, timed
from calico.values import CoSegmentation, ImageGroup

FIRST_PAIR = 700  # of the held-out drawings


class Pair(NamedTuple):
    """names: of what the pictures show, which every vocabulary begins with."""

    group: ImageGroup
    truth: CoSegmentation
    names: tuple[str, ...]


def vocabulary_of(size: int, shown: Sequence[str] = ()) -> tuple[str, ...]:
    """`size` names: those shown, of other drawings and their parts, then others of part data, then invented ones."""
    from calico.language.words import DRAWN_OBJECTS, DRAWN_PARTS, OTHER_NAMES, pseudo_word

    names = dict.fromkeys([*shown, *DRAWN_PARTS, *DRAWN_OBJECTS, *OTHER_NAMES])
    rng = np.random.default_rng(0)
    while len(names) < size:
        names[f"{pseudo_word(rng)} {pseudo_word(rng)}"] = None
    return tuple(names)[:size]


def pair_of(number: int, size: int | None = None) -> Pair:
    """Two held-out drawings. size: their longest side in pixels, else 160 to 256."""
    from calico.correspondence import truth_of
    from calico.data.groups import draw_group

    items = draw_group(number, group_size=2, size=size)
    objects = [item.object_name for item in items if item.object_name]
    names = tuple(dict.fromkeys([*objects, *(part for item in items for part in item.part_names)]))
    return Pair(ImageGroup(tuple(item.image for item in items)), truth_of(items), names)


def likeness(first: CoSegmentation, second: CoSegmentation) -> float:
    """Of the objects and parts found, by image and name: how many are in both, among those in either (Jaccard)."""
    ours, theirs = ({(r.image, r.kind, r.name) for r in one.regions} for one in (first, second))
    return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0


def benchmark_vocabulary(
    checkpoint: Path | None, device: str | None, sizes: Sequence[int], num_repeats: int, num_pairs: int
) -> dict[str, Any]:
    """Per size over `num_pairs` pairs of drawings, of which every vocabulary holds the names: strict mIoU of parts, and
    how like the objects and parts found are to those with the first size's names (means). Of the first pair: seconds
    with its encodings cached (medians, sizes by turns) and resident memory beside those of the first size."""
    from calico.inference.segmenter import CoSegmenter
    from calico.training.scoring import group_score

    segmenter = CoSegmenter.from_checkpoint(checkpoint, device)
    pairs = [pair_of(FIRST_PAIR + k) for k in range(num_pairs)]
    results: dict[int, list[CoSegmentation]] = {}
    memory: dict[int, int | None] = {}
    for size in sizes:
        segmenter.segment(pairs[0].group, candidates=vocabulary_of(size, pairs[0].names))
        memory[size] = resident_bytes()
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(num_repeats):
        for size in sizes:
            names = vocabulary_of(size, pairs[0].names)
            seconds[size].append(timed(partial(segmenter.segment, pairs[0].group, candidates=names)))
    for size in sizes:
        results[size] = [segmenter.segment(pair.group, candidates=vocabulary_of(size, pair.names)) for pair in pairs]
    first = sizes[0]
    base = statistics.median(seconds[first])
    rows = []
    for size in sizes:
        middle, now, before = statistics.median(seconds[size]), memory[size], memory[first]
        scores = [group_score(pair.truth, own) for pair, own in zip(pairs, results[size], strict=True)]
        rows.append(
            {
                "names": size,
                "seconds": middle,
                "times_the_first": middle / base,
                "memory_times_the_first": None if now is None or before is None else now / before,
                "strict_miou_parts": statistics.fmean(scores),
                "likeness_to_the_first": statistics.fmean(map(likeness, results[size], results[first])),
            }
        )
    return {
        "checkpoint": segmenter.version,
        "processor": processor(),
        "num_repeats": num_repeats,
        "num_pairs": num_pairs,
        "sizes": rows,
    }
