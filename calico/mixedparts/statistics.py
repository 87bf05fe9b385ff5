"""What is in an index: counts per source and split, as JSON-ready values and as the rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from calico.mixedparts.index import NO_OBJECT, SPLITS, SUB_TASKS, TABLES, MixedParts
from calico.mixedparts.tables import Table

COLUMNS = (
    "source", "split", "images", "objects", "classes", "part names", "parts", "pairs", "larger",
    *(task.replace("_", " ") for task in SUB_TASKS),
    *(f"none, {task.replace('_', ' ')}" for task in SUB_TASKS),
)  # fmt: skip


def statistics(data: MixedParts) -> dict[str, Any]:
    """Of a whole index; `rows` has one entry per source and split and one, with split `all`, per source.

    images, objects, classes, part_names, parts: what the tables hold. pairs, larger: samples of two images and of more.
    samples, none_shares: per sub-task; a share is null where there are no samples. Samples are read a block at a time.
    """
    tables = {name: Table(data.folder / name, dtype) for name, dtype in TABLES.items()}
    images, objects, parts = (tables[name][:] for name in ("images.npy", "objects.npy", "parts.npy"))
    sizes: dict[tuple[str, str], np.ndarray] = {}
    for block in tables["samples.npy"].blocks():
        for source, split in np.unique(np.stack([block["source"], block["split"]]), axis=1).T.tolist():
            chosen = block["objects"][(block["source"] == source) & (block["split"] == split)]
            counts = np.bincount((chosen != NO_OBJECT).sum(1), minlength=chosen.shape[1] + 1)
            key = data.sources[source], SPLITS[split]
            sizes[key] = sizes.get(key, 0) + counts
    rows = []
    for number, source in enumerate(data.sources):
        for split in (*SPLITS, "all"):
            is_of_source = images["source"] == number
            if split != "all":
                is_of_source &= images["split"] == SPLITS.index(split)
            of_them = objects[is_of_source[objects["image"]]]
            part_rows = _rows_of(of_them["first_part"], of_them["num_parts"])
            counts_by_size = [count for (s, where), count in sizes.items() if s == source and split in (where, "all")]
            by_size = np.sum(counts_by_size, axis=0) if counts_by_size else np.zeros(3, int)
            ranges = [r for r in data.manifest["ranges"] if r["source"] == source and split in (r["split"], "all")]
            if is_of_source.any() or ranges:
                rows.append(
                    {
                        "source": source,
                        "split": split,
                        "images": int(is_of_source.sum()),
                        "objects": len(of_them),
                        "classes": len(np.unique(of_them["class_id"])),
                        "part_names": len(np.unique(parts["name_id"][part_rows])),
                        "parts": len(part_rows),
                        "pairs": int(by_size[2]),
                        "larger": int(by_size[3:].sum()),
                        **_samples(ranges),
                    }
                )
    return {
        "rows": rows,
        "num_samples": len(tables["samples.npy"]),
        "num_images": len(images),
        "num_objects": len(objects),
        "reading": data.manifest.get("reading", []),
        "shortfalls": data.manifest.get("shortfalls", []),
    }


def _rows_of(first: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The rows of `parts.npy` that belong to these objects."""
    starts = np.repeat(
        first.astype(np.int64) - np.concatenate([[0], np.cumsum(number[:-1], dtype=np.int64)])[: len(number)], number
    )
    return starts + np.arange(int(number.sum(dtype=np.int64)))


def _samples(ranges: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    samples, none = dict.fromkeys(SUB_TASKS, 0), dict.fromkeys(SUB_TASKS, 0)
    for row in ranges:
        samples[row["sub_task"]] += row["stop"] - row["first"]
        none[row["sub_task"]] += row["num_none"]
    shares = {task.value: none[task] / samples[task] if samples[task] else None for task in SUB_TASKS}
    return {"samples": {task.value: count for task, count in samples.items()}, "none_shares": shares}


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Cells as text, below `COLUMNS`."""
    cells = []
    for row in report["rows"]:
        numbers = [row[key] for key in ("images", "objects", "classes", "part_names", "parts", "pairs", "larger")]
        shares = [row["none_shares"][task] for task in SUB_TASKS]
        cells.append(
            [row["source"], row["split"]]
            + [f"{number:,}" for number in (*numbers, *(row["samples"][task] for task in SUB_TASKS))]
            + ["-" if share is None else f"{share:.1%}" for share in shares]
        )
    return cells
