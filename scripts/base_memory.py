"""Fit a checkpoint's own memory on an index of part data, and lay it beside the weights.

    calico base_memory --checkpoint runs/small/checkpoint --data INDEX

The training split is learnt from: names, and what belongs to a click. Half of the test split's classes make the
estimates, on the others it is measured. The language model and all other weights stay. Three quarters of an hour on
one core for 4,000 objects, half an hour of it for clicks; the trunk's features of all are held in memory (3 GB).
`--only` makes a part of it anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.errors import InputError
from scripts import _cli

if TYPE_CHECKING:
    from calico.mixedparts.index import MixedParts
    from calico.values import AnnotatedImage


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="with a trunk; gets the memory")
    parser.add_argument("--data", type=Path, required=True, metavar="INDEX", help="of `calico mixedparts build`")
    parser.add_argument("--images", action="append", metavar="[NAME=]DIR", help="pictures of the index, if they moved")
    parser.add_argument("--only", choices=("estimates", "clicks"), help="of the memory that lies there; the rest stays")
    parser.add_argument("--groups", type=int, default=150, help="of the test split, that make the estimates (150)")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--hidden", type=int, default=160, help="units of the head (160)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.files import load_checkpoint
    from calico.inference.segmenter import CoSegmenter
    from calico.mixedparts.index import MixedParts
    from calico.mixedparts.sources import image_folders
    from calico.part_memory.base import BaseMemory
    from calico.part_memory.memory import load_memory, save_memory
    from calico.training.affinity import AffinitySettings, fit_affinity
    from calico.training.affinity import measured as measured_clicks
    from calico.training.base_memory import (
        LIKENESS_STEP,
        BaseMemorySettings,
        calibrated,
        fit_base_memory,
        fit_likeness,
        measured,
    )

    if args.steps < 1 or args.hidden < 1 or args.groups < 1:
        raise InputError("--steps, --hidden and --groups are above 0")
    model, config, tokenizer = load_checkpoint(args.checkpoint)
    data = MixedParts(args.data)
    folders = image_folders(args.images, data.sources) if args.images else None
    data, test = (MixedParts(args.data, split, images=folders) for split in (None, "test"))
    train_rows, test_rows = (_rows(data, split) for split in ("train", "test"))
    kept = load_memory(args.checkpoint) if args.only else None
    if args.only and not isinstance(kept, BaseMemory):
        raise InputError(f"{args.checkpoint}: no memory of its own there; run it without --only")

    with _cli.progress() as bar:
        clicking = AffinitySettings(seed=args.seed)
        totals = {"reading": len(train_rows), "clicks": len(train_rows), "groups": None}
        totals |= {"fitting": args.steps, "fitting clicks": clicking.steps}
        lines: dict[str, Any] = {}

        def show(what: str, done: int) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=totals[what])
            bar.update(lines[what], completed=done + 1, note=f"{done + 1}")

        if isinstance(kept, BaseMemory):
            memory = kept
        else:
            settings = BaseMemorySettings(hidden=args.hidden, steps=args.steps, seed=args.seed)
            memory = fit_base_memory(model, config, _items(data, train_rows), settings, show)
        likeness, affinity = memory.likeness, memory.affinity
        figures: dict[str, Any] = {}
        if args.only == "estimates":
            likeness = fit_likeness(model, config, [item.image for item in _items(data, train_rows[::LIKENESS_STEP])])
        else:
            affinity = fit_affinity(
                model, config, lambda k: data.drawn([data.record(train_rows[k])])[0], len(train_rows), clicking, show
            )
        memory = BaseMemory(memory.heads, memory.card, likeness, affinity)
        classes = sorted({data.record(row).object_name for row in test_rows})
        half, other = ({*classes[k::2]} & {*memory.card.object_names} for k in (0, 1))
        mine, others = ([row for row in test_rows if data.record(row).object_name in own] for own in (half, other))
        if affinity is not None and args.only != "estimates":
            overlap, expected, count = measured_clicks(affinity, model, config, _items(data, mine))
            if count:
                affinity.reliability.fill_(overlap / max(expected, 1e-6))
            overlap, expected, count = measured_clicks(affinity, model, config, _items(data, others))
            figures |= {"click_iou": overlap, "click_expected": expected, "n_clicks": count}
        if args.only != "clicks":
            groups = [i for i in range(len(test)) if {record.object_name for record in test.records(i)} <= half]
            groups = groups[:: max(1, len(groups) // args.groups)][: args.groups]

            def images_of(groups: Sequence[int]) -> Iterator[Sequence[AnnotatedImage]]:
                for done, i in enumerate(groups):
                    yield test.annotated(i)[0]
                    show("groups", done)

            memory = calibrated(memory, CoSegmenter(model, config, tokenizer), images_of(groups))
            figures |= measured(memory, model, config, _items(data, others))
            figures["groups"] = len(groups)
    save_memory(args.checkpoint, memory)
    print(f"{args.checkpoint}: {len(memory.card.names)} names from {memory.card.num_images} looks")
    print(f"what is believed: {memory.card.belief}")
    shown = (
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
    )
    print("  ".join(shown))
    return {"command": args.command, "checkpoint": str(args.checkpoint), **figures}


def _rows(data: MixedParts, split: str) -> list[int]:
    return [row for row in range(data.num_objects) if data.record(row).split == split]


def _items(data: MixedParts, rows: Iterable[int]) -> Iterator[AnnotatedImage]:
    return (data.drawn([data.record(row)])[0] for row in rows)


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
