"""Finetune the model on a snapshot of corrections: an adapter, its scores against the champion, a version.

    calico finetune --data feedback/ --registry registry/ --out runs/finetune --minutes 8

The same command resumes a run that was stopped or killed. The version is added to the registry; with `--publish` it
becomes the current one if the gate lets it through. `--minutes` counts training, not the scoring after it, nor with
under 20 test groups the cross-validation, which takes half as long again.
Several GPUs: `accelerate launch -m scripts.finetune ...`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.errors import InputError
from scripts import _cli

if TYPE_CHECKING:
    from calico.training.challenge import Challenge


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a snapshot, as `calico feedback` made")
    parser.add_argument("--registry", type=Path, metavar="DIR", default=Path("registry"), help="its folder (registry)")
    parser.add_argument("--from", dest="start", metavar="VERSION", help="what to start from (the current version)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="length of the training in minutes (8)")
    length.add_argument(
        "--cpu-minutes",
        type=float,
        metavar="MINUTES",
        help="length in CPU minutes, which a busy machine does not shorten",
    )
    length.add_argument(
        "--steps", type=int, help="length of the training in steps (5000 at full size); 0: the part memory alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--accepted-as-is", type=float, metavar="WEIGHT", help="of predictions submitted untouched, 0 to 1 (0.25)"
    )
    parser.add_argument(
        "--bits", type=int, choices=[4, 8], help="train over a language model in so many bits; 4 needs bitsandbytes"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="INDEX",
        help="what `calico mixedparts build` made of the data that the base learnt from: its train split is replayed "
        "against forgetting, its test split tells what was forgotten; half and half with drawings where the base "
        "learnt from these too",
    )
    parser.add_argument(
        "--images", action="append", metavar="[NAME=]DIR", help="pictures of the index (of one source), if they moved"
    )
    parser.add_argument(
        "--base-groups", type=int, default=60, metavar="N", help="groups to look for forgetting on (60)"
    )
    parser.add_argument(
        "--replay-share",
        type=float,
        metavar="SHARE",
        help="of each batch, what is base data, above 0 and below 1 (0.75): with less the corrections are learnt "
        "faster, and more of what the base knows is lost",
    )
    parser.add_argument(
        "--base-drop",
        type=float,
        default=0.02,
        metavar="DROP",
        help="what the base test may lose, 0 to 1 (0.02): 1 for a team that never needs what the base knows, since "
        "nothing then keeps its other classes from being forgotten",
    )
    parser.add_argument("--no-memory", action="store_true", help="fit no part memory")
    parser.add_argument("--publish", action="store_true", help="make it the current version if the gate lets it")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.registry import Registry
    from calico.snapshots.store import Snapshot
    from calico.training.base_data import index_data
    from calico.training.challenge import asked_settings, challenge

    if args.accepted_as_is is not None and not 0 <= args.accepted_as_is <= 1:
        raise InputError(f"--accepted-as-is is from 0 to 1, got {args.accepted_as_is}")
    if args.images and not args.replay:
        raise InputError("--images is for the index that --replay names; give it too")
    registry = Registry(args.registry)
    settings = asked_settings(
        registry,
        args.start,
        minutes=args.minutes,
        steps=args.steps,
        cpu_minutes=args.cpu_minutes,
        part_memory=not args.no_memory,
        seed=args.seed,
        bits=args.bits,
        gradient_checkpointing=args.gradient_checkpointing or None,
        learning_rate=args.learning_rate,
        accepted_as_is=args.accepted_as_is,
        replay_share=args.replay_share,
    )
    with _cli.progress() as bar:
        lines: dict[str, Any] = {}

        def show(what: str, share: float, note: str) -> None:
            line = lines.setdefault(what, None)
            if line is None:
                line = lines[what] = bar.add_task(what, total=100)
            bar.update(line, completed=int(100 * share), note=note)

        outcome = challenge(
            Snapshot(args.data),
            registry,
            args.out,
            settings,
            start_id=args.start,
            base_data=index_data(args.replay, args.images or ()) if args.replay else None,
            publish=args.publish,
            num_base_groups=args.base_groups,
            max_base_drop=args.base_drop,
            command=args.command,
            on_progress=show,
        )
    if _cli.is_main_process():
        show_found(outcome)
    return {
        "command": args.command,
        "version": outcome.version,
        "challenger": outcome.challenger,
        "decision": outcome.decision.as_json(),
        "other": None if outcome.other is None else outcome.other.as_json(),
        "published": outcome.published,
        "figures": outcome.figures,
        "training": outcome.training,
    }


def show_found(outcome: Challenge) -> None:
    for what, sides in outcome.figures.items():
        for side, figures in sides.items():
            reconciled = figures.get("reconciled", {})
            values = [
                f"{name} {'-' if (value := reconciled.get(name)) is None else f'{value:.3f}'}"
                for name in ("strict_miou_parts", "name_precision", "name_recall")
            ]
            print(f"{what:<5}{side:<11}{'  '.join(values)}  n = {figures['n_groups']} groups")
    print(f"{outcome.version}: {outcome.decision.reason}{'; published' if outcome.published else ''}")


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
