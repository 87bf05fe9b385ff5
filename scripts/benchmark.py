"""Measure speed on this machine, as ratios within one run wherever two ways are compared.

    calico benchmark segment

`segment`: loading, a group of two with three questions (median after warm-up), the same group again, resident memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    what = parser.add_subparsers(dest="what", required=True)
    segment = what.add_parser("segment", help="a group from images to regions", parents=[_cli.shared_options()])
    segment.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    segment.add_argument("--device", help="default: a GPU where there is one")
    segment.add_argument("--group-size", type=int, default=2)
    segment.add_argument("--repeats", type=int, default=20)
    segment.set_defaults(measure=measure_segment)
    return parser


def measure_segment(args: argparse.Namespace) -> dict[str, Any]:
    from calico.benchmarks import benchmark_segment

    return benchmark_segment(args.checkpoint, args.device, args.group_size, args.repeats)


def handle(args: argparse.Namespace) -> dict[str, Any]:
    report = args.measure(args) | {"command": args.command}
    for name, value in report.items():
        print(f"{name:<32}{value:.3f}" if isinstance(value, float) else f"{name:<32}{value}")
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
