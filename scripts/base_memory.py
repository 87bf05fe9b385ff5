"""Fit a checkpoint's own memory on an index of part data, and lay it beside the weights.

    calico base_memory --checkpoint runs/small/checkpoint --data INDEX

The training split is learnt from, the test split makes its estimates. The language model and all other weights stay.
A quarter of an hour on one core for 4,000 objects; the trunk's features of all of them are held in memory (3 GB).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="with a trunk; gets the memory")
    parser.add_argument("--data", type=Path, required=True, metavar="INDEX", help="of `calico mixedparts build`")
    parser.add_argument("--images", action="append", metavar="[NAME=]DIR", help="pictures of the index, if they moved")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--hidden", type=int, default=160, help="units of the head (160)")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.files import load_checkpoint
    from calico.mixedparts.index import MixedParts
    from calico.mixedparts.sources import image_folders
    from calico.part_memory.memory import save_memory
    from calico.training.base_memory import BaseMemorySettings, calibrated, fit_base_memory
    from calico.values import AnnotatedImage

    if args.steps < 1 or args.hidden < 1:
        raise InputError("--steps and --hidden are above 0")
    model, config, _ = load_checkpoint(args.checkpoint)
    model.eval()

    data = MixedParts(args.data, "train")
    if args.images:
        data = MixedParts(args.data, "train", images=image_folders(args.images, data.sources))

    def items(split: str) -> Iterator[AnnotatedImage]:
        for row in range(data.num_objects):
            record = data.record(row)
            if record.split == split:
                yield data.drawn([record])[0]

    settings = BaseMemorySettings(hidden=args.hidden, steps=args.steps, seed=args.seed)
    with _cli.progress() as bar:
        lines = {
            what: bar.add_task(what, total=None if what == "reading" else args.steps) for what in ("reading", "fitting")
        }

        def show(what: str, done: int) -> None:
            bar.update(lines[what], completed=done + 1, note=f"{done + 1}")

        memory = fit_base_memory(model, config, items("train"), settings, show)
    memory, figures = calibrated(memory, model, config, items("test"))
    save_memory(args.checkpoint, memory)
    print(f"{args.checkpoint}: {len(memory.card.names)} names from {memory.card.num_images} looks")
    print(
        "  ".join(
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items()
        )
    )
    return {"command": args.command, "checkpoint": str(args.checkpoint), **figures}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
