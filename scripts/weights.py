"""Make a full-size checkpoint from published weights, or say what is in a file of weights.

    calico weights assemble --out DIR --instructblip SOURCE --glamm SOURCE --dinov2 SOURCE
    calico weights assemble --out DIR --preset calico-1b --instructblip SOURCE --llama SOURCE --sam SOURCE --dinov2 ...
    calico weights convert SOURCE --out DIR
    calico weights inspect SOURCE
    calico weights doctor DIR

SOURCE is a folder, a file, or a model of the Hugging Face hub pinned to a commit: owner/name@COMMIT. What `assemble`
makes is a starting point for training, not a usable model: its parts were never trained together. A run that was
stopped goes on when started again. `doctor` is the first thing to run where it will train or serve: it loads the
checkpoint there, answers one group, takes one training step and says what of it is wrong. docs/full_size.md tells the
whole way.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.errors import InputError
from calico.model.config import FULL_SIZE
from scripts import _cli

if TYPE_CHECKING:
    from calico.conversion.coverage import Coverage
    from calico.model.config import CalicoConfig

SHOWN = 12


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    verbs = parser.add_subparsers(dest="what", required=True, metavar="{assemble,convert,inspect,doctor}")
    shared = [_cli.shared_options()]

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text, parents=shared)
        sub.add_argument("--offline", action="store_true", help="take the hub's files from its cache alone")
        sub.add_argument("--preset", choices=FULL_SIZE, default=FULL_SIZE[0], help=f"its sizes ({FULL_SIZE[0]})")
        sub.add_argument("--config", type=Path, metavar="FILE", help="sizes of the model (config.json), not a preset's")
        sub.add_argument("--map", type=Path, metavar="FILE", help='more rules: JSON of {"our name": "its key"}')
        return sub

    def add_output(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="the checkpoint's folder")
        sub.add_argument("--allow-partial", action="store_true", help="write it though keys or places are left over")
        sub.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
        sub.add_argument("--shard-gb", type=float, default=4.0, metavar="GIB", help="largest file (4)")
        sub.add_argument("--seed", type=int, default=0, metavar="N", help="of what starts anew")
        sub.add_argument("--tokenizer", type=Path, metavar="FILE", help="a Llama tokenizer.json, if SOURCE has none")

    assemble = add("assemble", "join published bases: a starting point for training, not a usable model")
    assemble.add_argument(
        "--instructblip", required=True, metavar="SOURCE", help="EVA-CLIP, Q-Former, projection; BLIP-2's do too"
    )
    llm = assemble.add_mutually_exclusive_group(required=True)
    llm.add_argument("--glamm", metavar="SOURCE", help="language model, [SEG] projection, SAM")
    llm.add_argument("--llama", metavar="SOURCE", help="a plain Llama, whose [SEG] projection starts anew; wants --sam")
    assemble.add_argument("--dinov2", required=True, metavar="SOURCE", help="semantic encoder")
    assemble.add_argument("--eva-clip", metavar="SOURCE", help="EVA-CLIP from here (LAVIS keeps it in its own file)")
    assemble.add_argument("--sam", metavar="SOURCE", help="SAM from here, not from GLaMM")
    add_output(assemble)
    convert = add("convert", "rename the keys of a released CALICO")
    convert.add_argument("source", metavar="SOURCE")
    add_output(convert)
    inspect = add("inspect", "what a file of weights holds, and which places of CALICO it would fill")
    inspect.add_argument("source", metavar="SOURCE")
    text = "whether a checkpoint serves and trains on the device that is here: a table"
    doctor = verbs.add_parser("doctor", help=text, description=text, parents=shared)
    doctor.add_argument("checkpoint", type=Path, metavar="DIR", help="a checkpoint's folder, or a version's")
    doctor.add_argument("--base", type=Path, metavar="DIR", help="the checkpoint under a version, if it is elsewhere")
    doctor.add_argument("--device", help="default: a GPU where there is one")
    doctor.add_argument("--bits", type=int, choices=(8, 4), help="of the language model's linears")
    doctor.add_argument("--no-training", action="store_true", help="look at serving alone")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    if args.what == "doctor":
        return examined(args)
    import torch

    from calico.conversion.assemble import (
        CAM_QUERIES_RULE,
        FROM_DINOV2,
        FROM_EVA_CLIP,
        FROM_GLAMM,
        FROM_GLAMM_ALONE,
        FROM_INSTRUCTBLIP,
        FROM_SAM,
        STARTING_POINT,
        fitted_config,
        plan_assembly,
        plan_conversion,
        write_checkpoint,
    )
    from calico.conversion.coverage import BaseRequest
    from calico.conversion.sources import open_source
    from calico.conversion.vocabulary import read_vocabulary
    from calico.model.config import PRESETS, CalicoConfig

    config = PRESETS[args.preset]() if args.config is None else CalicoConfig.from_file(args.config)
    rules = _rules(args.map)
    if args.what == "inspect":
        return inspect(args, config, rules)
    if args.what == "assemble":
        if args.llama and not args.sam:
            raise InputError("--llama: a plain Llama has no SAM beside it; give --sam SOURCE")
        fresh = FROM_GLAMM_ALONE if args.llama else ()
        bases = args.instructblip, args.llama or args.glamm, args.dinov2
        blip, llama, dinov2 = (open_source(where, offline=args.offline) for where in bases)
        own_blocks = {name.partition(".")[0] for name in (*config.fresh, *fresh)}
        from_blip = set(FROM_INSTRUCTBLIP) - own_blocks
        from_llama = set(FROM_GLAMM) - own_blocks - set(FROM_SAM if args.sam else ())
        requests = [
            BaseRequest(blip, from_blip, (*rules, CAM_QUERIES_RULE, ("cam_queries", "model.query_tokens"))),
            BaseRequest(llama, from_llama, rules),
            BaseRequest(dinov2, FROM_DINOV2, rules),
        ]
        if args.eva_clip:
            requests.append(BaseRequest(open_source(args.eva_clip, offline=args.offline), FROM_EVA_CLIP, rules))
        if args.sam:
            requests.append(BaseRequest(open_source(args.sam, offline=args.offline), FROM_SAM, rules))
        vocabulary = read_vocabulary(llama, args.tokenizer or (None if args.llama else blip.locate("tokenizer.json")))
        config = fitted_config(config, requests, vocabulary, fresh)
        coverage, status = plan_assembly(config, requests, vocabulary), STARTING_POINT
    else:
        source = open_source(args.source, offline=args.offline)
        vocabulary = read_vocabulary(source, args.tokenizer)
        request = BaseRequest(source, _blocks(config), rules)
        config = fitted_config(config, [request], vocabulary)
        coverage, status = plan_conversion(config, request, vocabulary), f"converted from {source.name}"
    show(coverage)
    with _cli.progress() as bar:
        line = bar.add_task("shards", total=None)

        def on_shard(name: str, num_shards: int, was_there: bool) -> None:
            bar.update(line, total=num_shards, advance=1, note=f"{name}{' (was there)' if was_there else ''}")

        report = write_checkpoint(
            args.out,
            config,
            vocabulary,
            coverage,
            status=status,
            allow_partial=args.allow_partial,
            dtype=getattr(torch, args.dtype),
            seed=args.seed,
            shard_bytes=int(args.shard_gb * 2**30),
            on_shard=on_shard,
        )
    print(f"{args.out}: {report['num_weights']:,} weights, {report['num_bytes'] / 2**30:.2f} GiB")
    print(f"This is {report['status']}.")
    if config.new_tokens or config.fresh:
        lacking = [f"{len(config.new_tokens)} new tokens"] if config.new_tokens else []
        lacking += [name.rstrip(".") for name in config.fresh]
        print(f"No base has trained {', '.join(lacking)}: a finetune does.")
    return {"command": args.command, "out": args.out, **report}


def inspect(args: argparse.Namespace, config: CalicoConfig, rules: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    from collections import Counter

    from calico.conversion.assemble import places_of
    from calico.conversion.coverage import BaseRequest, cover, grouped
    from calico.conversion.sources import open_source

    source = open_source(args.source, offline=args.offline)
    places = places_of(config)
    coverage = cover(places, [BaseRequest(source, _blocks(config), rules)], {})
    specs = {key: source.spec(key) for key in sorted(source.keys)}
    dtypes = Counter(spec.dtype_name for spec in specs.values())
    print(f"{source.name}: {len(specs)} tensors, {', '.join(f'{n} {name}' for name, n in sorted(dtypes.items()))}")
    for line in grouped(list(specs)):
        print(f"  {line}")
    show(coverage)
    return {
        "command": args.command,
        "tensors": {key: {"shape": list(spec.shape), "dtype": spec.dtype_name} for key, spec in specs.items()},
        "coverage": coverage.report(),
    }


def examined(args: argparse.Namespace) -> dict[str, Any]:
    from calico.training.weights_doctor import examine

    checks = []
    for check in examine(args.checkpoint, args.device, args.bits, args.base, trains=not args.no_training):
        print(check.line, flush=True)
        checks.append(check)
    report = {"command": args.command, "checkpoint": args.checkpoint, "checks": [check.as_json() for check in checks]}
    if wrong := [check.name for check in checks if check.ok is False]:
        raise _cli.Failed(f"{args.checkpoint}: {', '.join(wrong)}: the lines above say what is wrong", report)
    return report


def show(coverage: Coverage) -> None:
    """What was recognised, and everything that found no partner; in full in the report."""
    from calico.conversion.coverage import grouped

    report = coverage.report()
    for source, families in coverage.families.items():
        for family, prefix in families.items():
            print(f"{source}: {family}" + (f", under {prefix}" if prefix else ""))
        for family, prefixes in coverage.ambiguous[source].items():
            print(f"{source}: {family} is there under {', '.join(prefixes)}: not guessed at, --map says which")
        for why, count in report["left_out"][source].items():
            print(f"{source}: {count} keys left out: {why}")
    for block, counts in report["blocks"].items():
        print(f"{block:<20}" + ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    for title, names in (
        ("place without a key", coverage.unfilled),
        ("does not fit", [f"{place} {why}" for place, why in coverage.unfit.items()]),
        *(("key without a place", keys) for keys in coverage.unmatched.values()),
    ):
        lines = grouped(names)
        for line in lines[:SHOWN]:
            print(f"{title}: {line}")
        if len(lines) > SHOWN:
            print(f"{title}: and {len(lines) - SHOWN} more kinds; --json FILE writes all")


def _blocks(config: CalicoConfig) -> set[str]:
    from calico.conversion.assemble import places_of

    return {name.partition(".")[0] for name in places_of(config)}


def _rules(path: Path | None) -> tuple[tuple[str, ...], ...]:
    if path is None:
        return ()
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"))
        return tuple((str(ours), str(theirs)) for ours, theirs in pairs.items())
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f'--map {path}: expected JSON of {{"our name": "its key"}} ({error})') from None


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
