"""Fit a checkpoint's own memory on an index of part data, and lay it beside the weights.

    calico base_memory --checkpoint runs/small/checkpoint --data INDEX

The training split is learnt from. Half of the test split's classes make its estimates, on the others it is measured.
The language model and all other weights stay. A quarter of an hour on one core for 4,000 objects; the trunk's features
of all of them are held in memory (3 GB). With `--keep-head` the head that lies there stays, the rest is made anew.
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
    parser.add_argument("--keep-head", action="store_true", help="of the memory that lies there: estimates alone")
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
    segmenter = CoSegmenter(model, config, tokenizer)
    data = MixedParts(args.data)
    folders = image_folders(args.images, data.sources) if args.images else None
    data, test = (MixedParts(args.data, split, images=folders) for split in (None, "test"))

    with _cli.progress() as bar:
        lines = {
            what: bar.add_task(what, total=total)
            for what, total in (("reading", None), ("fitting", args.steps), ("groups", args.groups))
        }

        def show(what: str, done: int) -> None:
            bar.update(lines[what], completed=done + 1, note=f"{done + 1}")

        rows = _rows(data, "train")
        if args.keep_head:
            memory = load_memory(args.checkpoint)
            if not isinstance(memory, BaseMemory):
                raise InputError(f"{args.checkpoint}: no memory of its own there; run it without --keep-head")
            images = [data.load_image(data.record(row)) for row in rows[::LIKENESS_STEP]]
            memory = BaseMemory(memory.heads, memory.card, fit_likeness(model, config, images))
        else:
            settings = BaseMemorySettings(hidden=args.hidden, steps=args.steps, seed=args.seed)
            memory = fit_base_memory(model, config, _items(data, rows), settings, show)
        rows = _rows(data, "test")
        classes = sorted({data.record(row).object_name for row in rows})
        half, other = ({*classes[k::2]} & {*memory.card.object_names} for k in (0, 1))
        groups = [i for i in range(len(test)) if {record.object_name for record in test.records(i)} <= half]
        groups = groups[:: max(1, len(groups) // args.groups)][: args.groups]

        def images_of(groups: Sequence[int]) -> Iterator[Sequence[AnnotatedImage]]:
            for done, i in enumerate(groups):
                yield test.annotated(i)[0]
                show("groups", done)

        memory = calibrated(memory, segmenter, images_of(groups))
    figures = measured(memory, model, config, _items(data, [r for r in rows if data.record(r).object_name in other]))
    save_memory(args.checkpoint, memory)
    print(f"{args.checkpoint}: {len(memory.card.names)} names from {memory.card.num_images} looks")
    print(f"estimates from {len(groups)} groups: {memory.card.belief}")
    print(
        "  ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
    )
    return {"command": args.command, "checkpoint": str(args.checkpoint), "groups": len(groups), **figures}


def _rows(data: MixedParts, split: str) -> list[int]:
    return [row for row in range(data.num_objects) if data.record(row).split == split]


def _items(data: MixedParts, rows: Iterable[int]) -> Iterator[AnnotatedImage]:
    return (data.drawn([data.record(row)])[0] for row in rows)


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
