"""Measure a checkpoint on held-out drawings: strict mIoU, the paper's metrics, names, clicks, calibration.

    calico evaluate --drawings 300 --seed 7 --group-size 2 --json metrics.json

Answers are generated without grammar constraints. Training and evaluation seeds never meet. A figure without samples is
null; `n` beside every block counts what each figure is a mean of.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli

SHOWN = (
    "strict_miou", "strict_miou_parts", "strict_miou_objects", "AP50", "mIoU", "recall", "S_IoU", "SS",
    "name_precision", "name_recall", "occurrence_accuracy", "malformed_rate", "none_precision", "none_recall",
    "point_iou", "point3_iou", "box_iou", "score_spearman",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--drawings", type=int, required=True, metavar="N", help="groups of each size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group-size", type=int, nargs="+", default=[2], metavar="K", help="images per group, 2 to 8")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    parser.add_argument("--device", help="default: a GPU where there is one")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.evaluation import evaluate_drawings
    from calico.metrics.text_similarity import MiniLMEncoder
    from calico.segmenter import CoSegmenter
    from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

    if args.drawings < 1:
        raise InputError(f"--drawings is at least 1, got {args.drawings}")
    for size in args.group_size:
        if not MIN_GROUP_SIZE <= size <= MAX_GROUP_SIZE:
            raise InputError(f"--group-size is {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}, got {size}")
    segmenter = CoSegmenter.from_checkpoint(args.checkpoint, args.device)
    steps = evaluate_drawings(segmenter, args.drawings, args.seed, args.group_size, MiniLMEncoder.installed())
    report: dict[str, Any] = {}
    for _, last in _cli.track(steps, "groups", args.drawings * len(args.group_size)):
        report = last or report
    report |= {"checkpoint": segmenter.version, "seed": args.seed, "command": args.command}
    overall, n = report["overall"], report["overall"]["n"]
    print(f"{segmenter.version}: {report['n_groups']} groups of {args.group_size}, seed {args.seed}")
    for name in SHOWN:
        value = overall.get(name)
        print(f"  {name:<22}{'-' if value is None else f'{value:.3f}':>8}   n = {n.get(name, 0)}")
    print(f"  {'seconds per group':<22}{report['seconds_per_group']:>8.3f}   median")
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
