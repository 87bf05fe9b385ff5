"""Simulate the whole loop on an unseen style or class: choose, correct with noise, finetune, ask the gate, measure.

    calico simulate_loop --out runs/style --scenario style --groups 40 --minutes 8

Several rounds and strategies: `--strategies random new_parts --rounds 3 --groups 15 --seconds 60 --unseen-share 0.5`.
The same command goes on after the last finished step, and may add seeds and strategies. OUT gets results.json,
summary.json and curves.png; nobody's data is touched.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the simulation")
    unseen = parser.add_mutually_exclusive_group(required=True)
    unseen.add_argument("--scenario", choices=("style", "class"), help="drawings that the model has not seen")
    unseen.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="photographs: annotations.json (COCO) and images/"
    )
    parser.add_argument(
        "--memory-only",
        type=int,
        nargs="*",
        metavar="N",
        help="with --photos: what the part memory alone learns from so many groups (5 15 30 60); no finetune",
    )
    parser.add_argument("--object", default="umbrella", metavar="NAME", help="the unseen class (umbrella) or guitar")
    parser.add_argument("--strategies", nargs="+", default=["random"], metavar="NAME", help="who chooses (random)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(0 1 2)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="(1)")
    parser.add_argument("--groups", type=int, default=40, metavar="N", help="corrected in each round (40)")
    parser.add_argument("--pool-factor", type=int, default=3, metavar="N", help="groups to choose from, by chosen (3)")
    parser.add_argument(
        "--unseen-share", type=float, default=1.0, metavar="SHARE", help="of the pool, the rest being known (1)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=8.0, help="of training in each round (8)")
    length.add_argument("--seconds", type=float, help="of training in each round")
    length.add_argument("--steps", type=int, help="of training in each round")
    length.add_argument("--cpu-minutes", type=float, metavar="MINUTES", help="of training in each round, in CPU time")
    parser.add_argument("--no-memory", action="store_true", help="the finetune alone, without a part memory")
    parser.add_argument(
        "--replay", type=Path, metavar="INDEX", help="base data beside drawings, as `calico finetune --replay`"
    )
    parser.add_argument("--replay-share", type=float, metavar="SHARE", help="of each batch, what is base data (0.75)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--gate", choices=("ask", "skip"), default="ask", help="ask it, or publish every version by force (ask)"
    )
    parser.add_argument("--held-out", type=int, default=60, metavar="N", help="groups of it to measure on (60)")
    parser.add_argument("--base-groups", type=int, default=60, metavar="N", help="to look for forgetting (60)")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="to start from (the embedded one)")
    habits = parser.add_argument_group("the annotator")
    habits.add_argument("--jitter-px", type=float, metavar="PX", help="how much a redrawn edge shakes (1.5)")
    habits.add_argument("--keep-iou", type=float, metavar="IOU", help="a prediction as good as this is kept (0.9)")
    habits.add_argument("--miss", type=float, metavar="SHARE", help="of small parts overlooked (0.1)")
    habits.add_argument("--wrong-name", type=float, metavar="SHARE", help="of redrawn parts misnamed (0.01)")
    habits.add_argument("--skip", type=float, metavar="SHARE", help="of groups skipped (0.05)")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.simulation import report
    from calico.simulation.annotator import Habits
    from calico.simulation.loop import Simulation, simulate
    from calico.training.finetune import FinetuneSettings

    if args.memory_only is not None:
        return memory_only(args)
    minutes = args.minutes if args.seconds is None else args.seconds / 60
    if minutes <= 0 or (args.steps or 0) < 0:
        raise InputError("--minutes and --seconds are above 0, --steps is 0 (the part memory alone) or more")
    tuned = FinetuneSettings(
        minutes=minutes, steps=args.steps, cpu_minutes=args.cpu_minutes, part_memory=not args.no_memory
    )
    changed = {name: getattr(args, name) for name in ("learning_rate", "replay_share")}
    tuned = replace(tuned, **{name: value for name, value in changed.items() if value is not None})
    given = {f.name: getattr(args, f.name, None) for f in fields(Habits)}
    settings = Simulation(
        domain="" if args.photos else "style" if args.scenario == "style" else args.object,
        photos=None if args.photos is None else str(args.photos.resolve()),
        replay=None if args.replay is None else str(args.replay.resolve()),
        strategies=tuple(args.strategies),
        seeds=tuple(args.seeds),
        num_rounds=args.rounds,
        groups_per_round=args.groups,
        pool_factor=args.pool_factor,
        unseen_share=args.unseen_share,
        gate=args.gate,
        num_held_out=args.held_out,
        num_base=args.base_groups,
        habits=Habits(**{name: value for name, value in given.items() if value is not None}),
        finetune=tuned,
    )
    with _cli.progress() as bar:
        show = shown_on(bar)
        results = simulate(settings, args.out, checkpoint=args.checkpoint, command=args.command, on_progress=show)
    results["command"] = args.command
    summarised = report.save(results, args.out)
    print(report.text(summarised))
    print(f"curves in {args.out / 'curves.png'}, everything in {args.out / 'results.json'}")
    return {"command": args.command, "start": results["start"], "settings": results["settings"], **summarised}


def memory_only(args: argparse.Namespace) -> dict[str, Any]:
    from calico.files import write_text
    from calico.simulation.annotator import Habits
    from calico.simulation.memory_curve import memory_curve, table

    if args.photos is None:
        raise InputError("--memory-only goes with --photos FOLDER")
    given = {f.name: getattr(args, f.name, None) for f in fields(Habits)}
    args.out.mkdir(parents=True, exist_ok=True)
    with _cli.progress() as bar, (args.out / "memory.jsonl").open("w", encoding="utf-8") as lines:

        def on_row(row: dict[str, Any]) -> None:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines.flush()

        results = memory_curve(
            args.photos,
            args.memory_only or [5, 15, 30, 60],
            checkpoint=args.checkpoint,
            seeds=args.seeds,
            num_held_out=args.held_out,
            num_base=args.base_groups,
            habits=Habits(**{name: value for name, value in given.items() if value is not None}),
            on_row=on_row,
            on_progress=shown_on(bar),
        )
    results = {"command": args.command, **results}
    write_text(args.out / "memory.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table(results))
    print(
        f"n = {results['n_held_out']} held-out groups, {len(args.seeds)} seeds; "
        f"everything in {args.out / 'memory.json'}"
    )
    return results


def shown_on(bar: Any) -> Any:
    """Progress of several things by name, a line each."""
    lines: dict[str, Any] = {}

    def show(what: str, share: float, note: str) -> None:
        if what not in lines:
            lines[what] = bar.add_task(what, total=100)
        bar.update(lines[what], completed=int(100 * share), note=note)

    return show


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
