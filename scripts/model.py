"""Say what a preset is made of: weights per block, and the share that a mode trains.

    calico model --preset calico-7b --mode paper

Built without memory, so the full size takes a few seconds anywhere.
"""

from __future__ import annotations

import argparse
from typing import Any

from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--preset", choices=["calico-7b", "calico-tiny"], default="calico-7b")
    parser.add_argument("--mode", choices=["paper", "all"], default="paper")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from calico.model.builder import build
    from calico.model.config import PRESETS
    from calico.model.modes import add_lora, set_mode, trained_share

    config = PRESETS[args.preset]()
    with torch.device("meta"):
        model = build(config)
        if args.mode == "paper":
            add_lora(model, config.lora)
    set_mode(model, args.mode)
    blocks = {name: trained_share(block) for name, block in model.named_children()}
    blocks["cam_queries"] = (model.cam_queries.numel() * model.cam_queries.requires_grad, model.cam_queries.numel())
    trained, total = trained_share(model)
    print(f"{'block':<20}{'weights':>16}{'trained':>14}")
    for name, (block_trained, block_total) in blocks.items():
        print(f"{name:<20}{block_total:>16,}{block_trained:>14,}")
    print(f"{'total':<20}{total:>16,}{trained:>14,}   {100 * trained / total:.3f} %")
    return {
        "preset": args.preset,
        "mode": args.mode,
        "num_trained": trained,
        "num_weights": total,
        "trained_percent": 100 * trained / total,
        "blocks": {name: {"trained": t, "weights": n} for name, (t, n) in blocks.items()},
        "command": args.command,
    }


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
