"""Fit or measure how a checkpoint tells photographs from the drawings that it was trained on.

    calico depth measure --photos PHOTOS --drawings 300 --seed 7

`fit` writes depth.safetensors into a checkpoint's folder; `calico train` and `calico finetune` do so themselves.
`measure` prints AUROC for each sub-folder of photographs and false alarms on drawings; a PNG beside a JPEG of its name,
and NAME_mask.png, are taken for masks.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    what = parser.add_subparsers(dest="what", required=True)
    fit = what.add_parser("fit", help="write a checkpoint's reference", parents=[_cli.shared_options()])
    fit.add_argument("folder", type=Path, metavar="DIR", help="a checkpoint trained on drawings")
    fit.add_argument("--seed", type=int, default=0)
    fit.set_defaults(run=run_fit)
    measure = what.add_parser("measure", help="AUROC and false alarms", parents=[_cli.shared_options()])
    measure.add_argument("--photos", type=Path, required=True, metavar="DIR", help="photographs, sub-folders apart")
    measure.add_argument("--drawings", type=int, default=300, metavar="N", help="of each kind")
    measure.add_argument("--seed", type=int, default=0)
    measure.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    measure.set_defaults(run=run_measure)
    return parser


def run_fit(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.fingerprint import DEPTH, checkpoint_version
    from calico.training.depth_fit import fit_folder

    fit_folder(args.folder, args.seed)
    version = checkpoint_version(args.folder)
    print(f"{args.folder / DEPTH}: written; the checkpoint is {version} now")
    return {"checkpoint": version, "seed": args.seed}


def run_measure(args: argparse.Namespace) -> dict[str, Any]:
    from calico.evaluation.depth import find_photos, measure
    from calico.inference.segmenter import CoSegmenter

    if args.drawings < 1:
        raise InputError(f"--drawings is at least 1, got {args.drawings}")
    photos = find_photos(args.photos)
    segmenter = CoSegmenter.from_checkpoint(args.checkpoint)
    if segmenter.reference is None:
        raise InputError(f"{segmenter.version} has no depth reference; fit it: calico depth fit DIR")
    with _cli.progress() as bar:
        totals = {"drawings": args.drawings, "photographs": sum(map(len, photos.values()))}
        tasks = {name: bar.add_task(name, total=total) for name, total in totals.items()}
        report = measure(segmenter, photos, args.drawings, args.seed, lambda name: bar.advance(tasks[name]))
    print(f"{segmenter.version}, seed {args.seed}")
    print(f"{'photographs':<24}{'AUROC':>8}{'found':>8}{'n':>6}")
    for name, row in report["photographs"].items():
        print(f"{name:<24}{row['auroc']:>8.3f}{row['share_found']:>8.3f}{row['n']:>6}")
    print(f"{'drawings':<24}{'false alarms':>16}{'n':>6}")
    for name, row in report["false_alarms"].items():
        print(f"{name:<24}{row['share']:>16.3f}{row['n']:>6}")
    return {"checkpoint": segmenter.version, **report}


def handle(args: argparse.Namespace) -> dict[str, Any]:
    return {"command": args.command, **args.run(args)}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
