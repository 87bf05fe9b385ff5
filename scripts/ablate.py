"""Train with modules left out, with equal steps and seed, and measure each on the same held-out groups.

    calico ablate --out runs/ablation --steps 1500 --seed 0

Trains the full model, no CEM, no CAM, neither, and no auxiliary losses, from fresh weights each; or, with `--from`,
from a checkpoint's weights with CEM and CAM new, which takes far fewer steps. The same command goes on after a stop;
what is done is not done again. Leaves ablation.json, ablation.md and ablation.png in OUT.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of the result")
    parser.add_argument("--steps", type=int, required=True, help="length of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=int, default=300, metavar="N", help="held-out groups of two")
    parser.add_argument("--evaluation-seed", type=int, default=7)
    parser.add_argument(
        "--num-images", type=int, default=24, help="images per step at full size; questions and masks in proportion"
    )
    parser.add_argument(
        "--from", dest="start", type=Path, metavar="DIR", help="checkpoint that gives all weights but CEM's and CAM's"
    )
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="peak (1.2e-3)")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.ablation import VARIANTS, AblationPlan, run_ablation, table
    from calico.language.tokenizer import CalicoTokenizer
    from calico.model.config import calico_tiny
    from calico.training.trainer import TrainingSettings

    if min(args.steps, args.groups, args.num_images) < 1:
        raise InputError("--steps, --groups and --num-images are at least 1")
    if args.learning_rate is not None and args.learning_rate <= 0:
        raise InputError(f"--learning-rate is above 0, got {args.learning_rate}")
    plan = AblationPlan(
        args.steps,
        args.seed,
        args.num_images,
        args.groups,
        args.evaluation_seed,
        learning_rate=args.learning_rate or TrainingSettings.learning_rate,
    )
    tokenizer = CalicoTokenizer.train()
    with _cli.progress() as bar:
        tasks = {name: bar.add_task(name, total=1000) for name in VARIANTS}

        def show(variant: str, stage: str, done: float) -> None:
            bar.update(tasks[variant], completed=int(1000 * done), note=stage)

        report = run_ablation(
            args.out, plan, calico_tiny(len(tokenizer)), tokenizer, TrainingSettings(precision="auto"), show, args.start
        )
    print(table(report), end="")
    print(f"picture and figures in {args.out}")
    return {"command": args.command, **report}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
