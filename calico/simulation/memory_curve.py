"""What the part memory alone learns from more and more corrected groups: no language model, no finetune, minutes.

The yardstick beside every finetune, fitted as a finetune fits it; what is refitted while people label takes fewer
pixels and steps. The simulated annotator corrects what the memory of the groups before predicted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calico.checkpoints.adapter import load_adapted
from calico.checkpoints.files import load_checkpoint
from calico.checkpoints.fingerprint import EMBEDDED, checkpoint_version, is_adapter
from calico.errors import InputError
from calico.metrics.strict import compare, keyed, name_counts, strict_miou
from calico.part_memory.evidence import remembered
from calico.part_memory.fitting import MemorySettings, fit_memory, look_size
from calico.part_memory.kept import KeptLooks
from calico.part_memory.lessons import Lesson
from calico.part_memory.memory import PartMemory, reader_of
from calico.part_memory.pyramid import PyramidReader
from calico.simulation.annotator import Habits, correct
from calico.simulation.photos import PhotoPool
from calico.training.base_data import base_items
from calico.training.corrected_groups import annotated
from calico.training.corrections import drawings
from calico.training.memory_fit import THOROUGH, negatives_of, strangers_of
from calico.values import CoSegmentation, ImageGroup

OnProgress = Callable[[str, float, str], None]


def memory_curve(
    folder: Path,
    sizes: Sequence[int],
    *,
    checkpoint: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    num_held_out: int = 60,
    num_base: int = 60,
    settings: MemorySettings | None = None,
    habits: Habits | None = None,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    on_progress: OnProgress = lambda what, share, note: None,
) -> dict[str, Any]:
    """JSON-ready: a row for each seed and number of groups, with strict_miou_parts, names, objects' IoU, each with n,
    the memory's own estimate, and seconds to fit. sizes: numbers of corrected groups, ascending.

    on_row: is given each row at once. false_objects: share of base images (drawings) on which a taught object is seen.
    Raises `InputError`.
    """
    settings, habits = settings or THOROUGH, habits or Habits()
    if not sizes or sorted(set(sizes)) != list(sizes) or sizes[0] < 1:
        raise InputError(f"groups: expected ascending numbers above 0, got {list(sizes)}")
    pool = PhotoPool(folder)
    load = load_adapted if checkpoint is not None and is_adapter(checkpoint) else load_checkpoint
    model, config, _ = load(EMBEDDED if checkpoint is None else checkpoint)
    size = settings.size or look_size(config)
    reader = PyramidReader(model, config, size)  # until there is a memory that says what it reads
    looks = KeptLooks(reader)
    test_groups = list(pool.held_out(num_held_out))
    rows = []
    for seed in seeds:
        groups = pool.labelled(seed, sizes[-1])
        if len(groups) < sizes[-1]:
            raise InputError(
                f"{folder}: {len(groups)} groups can be labelled, {sizes[-1]} were asked for; ask for fewer"
            )
        lessons: list[Lesson] = []
        memory: PartMemory | None = None
        done = 0
        for count in sizes:
            while done < count:
                group = groups[done]
                done += 1
                image_group = group.group
                predicted = predict(memory, reader, image_group)
                correction = correct(
                    group.truth, predicted, pool.part_names, replace(habits, skip=0.0), seed * 1_000_003 + group.order
                )
                assert correction.target is not None
                for image, picture in enumerate(image_group.images):
                    regions = [region for region in correction.target.regions if region.image == image]
                    lessons.append(Lesson(annotated(picture, regions, group.id), done))
            name = f"seed {seed}, {count} groups"
            started = time.process_time()
            memory = fit_memory(
                model,
                config,
                lessons,
                replace(settings, seed=seed),
                negatives=negatives_of(lessons, size, drawings),
                strangers=strangers_of(lessons, size, drawings),
                looks=looks,
                on_progress=partial(_fitting, on_progress, name),
            )
            cpu = time.process_time() - started
            reader = reader_of(memory, model, config)
            row = {"seed": seed, "groups": count, **_measured(memory, reader, test_groups)}
            false = [
                memory.sight(reader(i), i.shape[:2]) is not None for _, g, _ in base_items(num_base) for i in g.images
            ]
            row |= {
                "estimate": memory.card.strict_miou_parts,
                "false_objects": float(np.mean(false)),
                "n_base_images": len(false),
                "fit_seconds": memory.card.seconds,
                "fit_cpu_seconds": round(cpu, 1),
                "names": [str(regions) for regions in memory.card.names],
            }
            rows.append(row)
            on_row(row)
            on_progress(name, 1.0, f"parts {row['strict_miou_parts']:.3f}")
    return {
        "start": checkpoint_version(checkpoint),
        "folder": str(folder),
        "n_held_out": len(test_groups),
        "rows": rows,
    }


def _fitting(on_progress: OnProgress, name: str, share: float) -> None:
    on_progress(name, 0.5 * share, "fitting")


def predict(memory: PartMemory | None, reader: Callable[[np.ndarray], Any], group: ImageGroup) -> CoSegmentation:
    """What the memory alone says of a group; nothing without one."""
    nothing = CoSegmentation(group.sizes_hw)
    if memory is None:
        return nothing
    sights = [memory.sight(reader(i), size_hw) for i, size_hw in zip(group.images, group.sizes_hw, strict=True)]
    return remembered(nothing, sights, memory.card.object_names)


def _measured(memory: PartMemory, reader: Callable[[np.ndarray], Any], test_groups: Sequence[Any]) -> dict[str, Any]:
    """Means over the held-out groups. parts: pixel IoU of each part, over all images together."""
    scores, objects, right, predicted, true = [], [], 0, 0, 0
    pixels: dict[str, np.ndarray] = {}
    for _, group, truth in test_groups:
        coseg = predict(memory, reader, group)
        matches = compare(keyed(truth.regions), keyed(coseg.regions))
        value = strict_miou(matches, "part")
        scores += [] if value is None else [value]
        objects += [match.iou for match in matches if match.key.kind == "object" and match.in_truth]
        counts = name_counts(matches)
        right, predicted, true = (
            right + counts.num_right, predicted + counts.num_predicted, true + counts.num_true,
        )  # fmt: skip
        ours, theirs = coseg.by_key, truth.by_key
        for key in ours.keys() | theirs.keys():
            if key.kind == "part":
                nothing = np.zeros(group.sizes_hw[key.image], bool)
                a, b = (side[key].mask if key in side else nothing for side in (ours, theirs))
                pixels[key.name] = pixels.get(key.name, np.zeros(2)) + np.array([(a & b).sum(), (a | b).sum()])
    return {
        "strict_miou_parts": float(np.mean(scores)),
        "n": len(scores),
        "object_iou": float(np.mean(objects)),
        "name_precision": right / predicted if predicted else None,
        "name_recall": right / true if true else None,
        "pixel_iou": {name: float(pair[0] / pair[1]) for name, pair in sorted(pixels.items())},
    }


def table(results: dict[str, Any]) -> str:
    """The rows' means over seeds, a line for each number of groups."""
    lines = [
        f"{'groups':>6} {'parts':>6} {'sd':>5} {'object':>7} {'names p/r':>11} {'estimate':>8} {'fit s':>6}  by part"
    ]
    for count in sorted({row["groups"] for row in results["rows"]}):
        rows = [row for row in results["rows"] if row["groups"] == count]

        def mean(name: str, rows: Sequence[Any] = rows) -> float:
            values = [row[name] for row in rows if row[name] is not None]
            return float(np.mean(values)) if values else float("nan")

        spread = float(np.std([row["strict_miou_parts"] for row in rows], ddof=1)) if len(rows) > 1 else float("nan")
        parts = {name for row in rows for name in row["pixel_iou"]}
        by_part = "  ".join(
            f"{name} {np.mean([row['pixel_iou'].get(name, 0.0) for row in rows]):.2f}" for name in sorted(parts)
        )
        lines.append(
            f"{count:>6} {mean('strict_miou_parts'):>6.3f} {spread:>5.3f} {mean('object_iou'):>7.3f} "
            f"{mean('name_precision'):>5.2f}/{mean('name_recall'):.2f} {mean('estimate'):>8.3f} "
            f"{mean('fit_seconds'):>6.1f}  {by_part}"
        )
    return "\n".join(lines)
