"""Say what a preset is made of: weights per block, and the share that a mode trains.

    calico model --preset calico-7b --mode paper
    calico model --preset calico-7b --mode paper --memory --bits 4

Built without memory, so the full size takes a few seconds anywhere. `--memory` estimates what serving and finetuning an
adapter take, for one group of two and its three questions at a time, and says whether a backend and its training job
fit on one card.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument(
        "--preset", choices=["calico-7b", "calico-1b", "calico-tiny", "calico-small"], default="calico-7b"
    )
    parser.add_argument("--mode", choices=["paper", "all"], default="paper")
    parser.add_argument("--memory", action="store_true", help="estimate the memory of serving and finetuning")
    parser.add_argument(
        "--bits", type=int, choices=[4, 8, 16], default=16, help="of the language model's linears, for --memory (16)"
    )
    parser.add_argument("--card", type=float, default=24.0, metavar="GIB", help="for --memory: a GPU's memory (24)")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from calico.model.builder import build
    from calico.model.config import PRESETS
    from calico.model.modes import add_lora, set_mode, trained_share

    if args.memory:
        return _memory(args)
    config = PRESETS[args.preset]()
    with torch.device("meta"):
        model = build(config)
        if args.mode == "paper":
            add_lora(model, config.lora, new_tokens=config.new_tokens)
    set_mode(model, args.mode, config.fresh)
    blocks = {name: trained_share(block) for name, block in model.named_children() if block is not None}
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


def _memory(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from calico.checkpoints.adapter import attach, choose_spec
    from calico.model.builder import build
    from calico.model.config import PRESETS
    from calico.model.memory import Workload, finetuning_memory, serving_memory, table
    from calico.training.card import GIB, plan_card
    from calico.training.recipe import finetune_settings

    if args.mode != "paper":
        raise InputError("--memory is of serving and of finetuning an adapter: use --mode paper")
    config, work, dtype = PRESETS[args.preset](), Workload(), torch.bfloat16
    bits = None if args.bits == 16 else args.bits
    with torch.device("meta"):
        model = build(config)
        serving = serving_memory(model.requires_grad_(False), config, dtype, bits, work)
        attach(model, choose_spec(model, config))
    estimates = {
        "serving": serving,
        "finetuning": finetuning_memory(model, config, dtype, bits, work),
        "checkpointed": finetuning_memory(model, config, dtype, bits, work, checkpointing=True),
    }
    print("\n".join(table(estimates.items())))
    print(f"estimated: bfloat16, language model in {args.bits} bits; {_told(work)}")
    plan = plan_card(config, finetune_settings(config, bits=bits), bits, dtype)
    line, fits = plan.verdict(int(args.card * GIB), bits)
    print(f"a backend and its training job on one {line}")
    return {
        "preset": args.preset,
        "bits": args.bits,
        "workload": dataclasses.asdict(work),
        "one_card": {**dataclasses.asdict(plan), "card": int(args.card * GIB), "fits": fits},
        "bytes": {name: {**dataclasses.asdict(e), "total": e.total} for name, e in estimates.items()},
        "command": args.command,
    }


def _told(work: Any) -> str:
    return f"{work.num_images} images, {work.num_rows} rows of {work.row_tokens} tokens, {work.num_masks} masks at once"


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
