"""One pair of pictures with vocabularies of growing length: the same parts, in the same time and memory?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import processor
from benchmarks.process import resident_bytes, timed

FOUND_AT = ("chair", "stool")  # what the pictures show


def vocabulary_of(size: int) -> tuple[str, ...]:
    """`size` names: those of the drawings and their parts, then others of part data, then invented ones."""
    from calico.language.words import DRAWN_OBJECTS, DRAWN_PARTS, OTHER_NAMES, pseudo_word

    first_names = ("chair", "stool", "leg", "seat", "back", "arm")
    names = list(dict.fromkeys([*first_names, *DRAWN_PARTS, *DRAWN_OBJECTS, *OTHER_NAMES]))[:size]
    rng = np.random.default_rng(0)
    while len(names) < size:
        names = list(dict.fromkeys([*names, f"{pseudo_word(rng)} {pseudo_word(rng)}"]))
    return tuple(names)


def benchmark_vocabulary(
    checkpoint: Path | None, device: str | None, sizes: Sequence[int], num_repeats: int
) -> dict[str, Any]:
    """Per size: seconds of one pair with its encodings cached (medians, sizes by turns), resident memory beyond that of
    the first size, and the regions found. sizes: the first is what the others are held against."""
    from calico.drawings import draw
    from calico.inference.segmenter import CoSegmenter
    from calico.values import ImageGroup

    segmenter = CoSegmenter.from_checkpoint(checkpoint, device)
    pictures = [draw(seed, size_hw=(256, 256), object_name=name).image for seed, name in enumerate(FOUND_AT, start=1)]
    group = ImageGroup(tuple(pictures))
    names = {size: vocabulary_of(size) for size in sizes}
    regions: dict[int, set[tuple[Any, ...]]] = {}
    memory: dict[int, int | None] = {}
    for size in sizes:
        coseg = segmenter.segment(group, candidates=names[size])
        regions[size] = {(region.image, region.kind, region.name) for region in coseg.regions}
        memory[size] = resident_bytes()
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(num_repeats):
        for size in sizes:
            seconds[size].append(timed(partial(segmenter.segment, group, candidates=names[size])))
    first = sizes[0]
    base = statistics.median(seconds[first])
    rows = []
    for size in sizes:
        middle, now, before = statistics.median(seconds[size]), memory[size], memory[first]
        rows.append(
            {
                "names": size,
                "seconds": middle,
                "times_the_first": middle / base,
                "memory_times_the_first": None if now is None or before is None else now / before,
                "regions": len(regions[size]),
                "regions_as_the_first": len(regions[size] & regions[first]),
            }
        )
    return {
        "checkpoint": segmenter.version,
        "processor": processor(),
        "num_repeats": num_repeats,
        "sizes": rows,
        "regions": sorted(map(list, regions[first])),
    }
