"""Average checkpoints that one recipe made of the same weights with different seeds.

    calico average runs/a/checkpoint runs/b/checkpoint --out runs/mean

Their mean is often better than each (a "model soup", arXiv:2203.05482). Between a checkpoint and what was trained from
it, `--shares` says how much of the training is kept. Weights of runs that did not start from the same checkpoint have
no useful mean; nothing tells that, so measure the result: `calico evaluate --checkpoint OUT`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="DIR", help="two or more, of the same sizes")
    parser.add_argument(
        "--shares", type=float, nargs="+", metavar="X", help="how much each counts, in their order (all alike)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the mean's folder")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.averaging import average_checkpoints
    from calico.checkpoints.fingerprint import checkpoint_version

    average_checkpoints(args.checkpoints, args.out, args.shares)
    version = checkpoint_version(args.out)
    print(f"{args.out}: {version}, the mean of {len(args.checkpoints)} checkpoints; measure it before you use it")
    return {"command": args.command, "checkpoint": version, "members": [str(folder) for folder in args.checkpoints]}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
