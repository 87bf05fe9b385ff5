"""Train a model on drawn objects or on an index of part data: progress, log, curves, checkpoints, exact resume.

    calico train --out runs/tiny --minutes 75
    calico train --out runs/parts --steps 5000 --data INDEX --from CHECKPOINT
    calico train --out runs/small --minutes 240 --trunk efficientnet-lite0 --from TINY \
        --data drawings INDEX --shares 0.2 0.8

The same command resumes a run that was stopped or killed; at most the last `--checkpoint-minutes` are done again.
Several GPUs: `accelerate launch -m scripts.train ...`. The result is OUT/checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.errors import InputError
from scripts import _cli

if TYPE_CHECKING:
    from calico.mixedparts.index import MixedParts
    from calico.training.mixture import Mixture
    from calico.training.trainer import Phase

DRAWINGS = "drawings"


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the whole run in minutes of training")
    length.add_argument("--steps", type=int, help="length of the whole run in steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="SOURCE",
        help="`drawings` (the default), or an index that `calico mixedparts build` made; several are mixed",
    )
    parser.add_argument("--shares", type=float, nargs="+", metavar="X", help="of the mixed sources, in their order")
    parser.add_argument(
        "--images", action="append", metavar="[NAME=]DIR", help="pictures of the index (of one source), if they moved"
    )
    parser.add_argument(
        "--from", dest="start", type=Path, help="checkpoint folder to start from instead of fresh weights"
    )
    parser.add_argument(
        "--trunk",
        metavar="NAME",
        help="put a pretrained trunk beside the encoders of --from, a checkpoint without one: efficientnet-lite0, or a "
        "backbone of transformers, as a folder or by its name on the hub",
    )
    parser.add_argument(
        "--encoders-first",
        type=float,
        metavar="SHARE",
        help="of a run on mixed data: the encoders alone learn what images show (0.15 with --trunk)",
    )
    parser.add_argument(
        "--grow",
        action="store_true",
        help="give --from's weights the sizes of this version's preset; what is new starts as identity",
    )
    parser.add_argument(
        "--without",
        action="append",
        choices=["cem", "cam", "auxiliary"],
        default=[],
        help="ablation: leave a module or the auxiliary losses out of fresh weights; repeatable",
    )
    parser.add_argument("--mode", choices=["all", "paper"], help="which weights train (at full size paper, else all)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--mask-term", choices=["bce", "focal"], default="bce", help="of the loss, beside Dice (bce)")
    parser.add_argument(
        "--precision", choices=["auto", "no", "bf16"], default="auto", help="(auto: bf16 where that is faster)"
    )
    parser.add_argument("--num-images", type=int, help="images per step at full size")
    parser.add_argument("--num-groups", type=int, help="questions per step at full size")
    parser.add_argument(
        "--watch",
        type=Path,
        metavar="INDEX",
        help="pictures never trained on (its test split): their clicks and boxes are measured at every checkpoint",
    )
    parser.add_argument("--workers", type=int, help="processes that make the data; 0: this one (1, at full size 4)")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.checkpoints.files import TOKENIZER, read_config
    from calico.checkpoints.fingerprint import EMBEDDED
    from calico.drawings import VERSION
    from calico.language.growth import grown
    from calico.language.tokenizer import CalicoTokenizer
    from calico.mixedparts.index import MixedParts
    from calico.model.config import calico_small, calico_tiny
    from calico.training.batches import MIXED_BATCH
    from calico.training.mixture import Mixture
    from calico.training.new_trunk import TrunkStart, small_on
    from calico.training.recipe import training_settings
    from calico.training.trainer import Trainer

    _check(args)
    data = _data(args)
    if isinstance(data, Mixture):
        tokens_before = CalicoTokenizer.from_file((args.start or EMBEDDED) / TOKENIZER)
        tokenizer = grown(tokens_before, (*data.classes, *data.parts), calico_small().llm["vocab_size"])
        config = small_on(len(tokenizer), args.trunk or calico_small().trunk)
    else:
        tokenizer = CalicoTokenizer.train()
        config = calico_tiny(len(tokenizer))
    begun = read_config(args.start) if args.start and not (args.grow or args.trunk) else config
    is_begun = args.start or args.trunk
    settings = training_settings(
        begun,
        minutes=args.minutes,
        steps=args.steps,
        seed=args.seed,
        mode=args.mode,
        precision=args.precision,
        save_seconds=60 * args.checkpoint_minutes,
        num_workers=args.workers,
        learning_rate=args.learning_rate,
        # low resolution is for weights that see nothing yet
        phases=_phases(args, begun.grounding_encoder.image_size) if is_begun else None,
        batch=MIXED_BATCH if isinstance(data, Mixture) and not begun.is_full_size else None,
    )
    counts = {"num_images": args.num_images, "num_groups": args.num_groups}
    batch = dataclasses.replace(settings.batch, **{name: count for name, count in counts.items() if count})
    weights = dataclasses.replace(settings.weights, mask_term=args.mask_term)
    version = VERSION if data is None else data.version
    with _cli.progress() as bar:
        task = bar.add_task("training", total=1000)

        def show(state: Any, terms: dict[str, float], progress: float) -> None:
            per_second = state.images / max(1e-9, state.seconds)
            note = (
                f"step {state.step}  loss {terms['loss']:.2f}  text {terms['text']:.2f}  "
                f"IoU {terms['seg_iou']:.2f}/{terms['point_iou']:.2f}/{terms['box_iou']:.2f}  {per_second:.0f} images/s"
            )
            bar.update(task, completed=int(1000 * progress), note=note)

        trainer = Trainer(
            args.out,
            dataclasses.replace(settings, batch=batch, weights=weights),
            dataclasses.replace(config, data_version=version, without=tuple(sorted(set(args.without)))),
            tokenizer,
            None if args.trunk else args.start,
            args.grow,
            data,
            TrunkStart(args.start, args.trunk) if args.trunk else None,
            None if args.watch is None else MixedParts(args.watch, "test"),
        )
        state = trainer.run(show)
    report = {"command": args.command, "out": str(args.out), **dataclasses.asdict(state)}
    if not trainer.processes.is_main:
        return report
    print(f"trained {state.step} steps on {state.images} images in {state.seconds / 60:.1f} minutes")
    curves = args.out / "curves.png"
    print(f"checkpoint in {args.out / 'checkpoint'}" + (f", curves in {curves}" if curves.is_file() else ""))
    return report


def _phases(args: argparse.Namespace, size: int) -> tuple[Phase, ...]:
    """Of weights that see already: the encoders alone first, where that is asked for or they are new."""
    from calico.training.trainer import Phase

    first = args.encoders_first if args.encoders_first is not None else 0.15 if args.trunk else 0.0
    phases = (Phase(first, size, 2.0, asks=False), Phase(1.0 - first, size))
    return tuple(phase for phase in phases if phase.share)


def _check(args: argparse.Namespace) -> None:
    """Raises `InputError` for options that do not go together."""
    if (args.minutes or args.steps or 0) <= 0 and not (args.steps == 0 and args.trunk):
        raise InputError("--minutes and --steps are above 0; --steps 0 is for --trunk, to keep what it starts from")
    if args.learning_rate is not None and args.learning_rate <= 0:
        raise InputError(f"--learning-rate is above 0, got {args.learning_rate}")
    if args.grow and not args.start:
        raise InputError("--grow is for the weights that --from names; give it too")
    if args.without and args.start:
        raise InputError("--without is for fresh weights; those that --from names keep their own modules")
    sources = args.data or []
    if args.images and not set(sources) - {DRAWINGS}:
        raise InputError("--images is for the index that --data names; give it too")
    if args.trunk and args.grow:
        raise InputError("--grow is for the same encoders, --trunk for others; give one of them")
    if args.trunk and not args.start:
        raise InputError("--trunk is put beside the encoders of a checkpoint; give it with --from")
    if args.trunk and not args.shares:
        raise InputError("--trunk wants mixed data: --data drawings INDEX --shares 0.3 0.7")
    if (args.shares is not None or len(sources) > 1) and (
        len(args.shares or ()) != len(sources) or min(args.shares or (0,)) <= 0
    ):
        raise InputError(f"--shares: expected a number above 0 for each of {len(sources)} sources of --data")
    if args.encoders_first is not None and not (args.shares and 0 <= args.encoders_first < 1):
        raise InputError("--encoders-first is a share from 0 to below 1 of a run with --shares")
    if len(set(sources)) < len(sources):
        raise InputError(f"--data: {' '.join(sources)} names a source twice")


def _data(args: argparse.Namespace) -> MixedParts | Mixture | None:
    """None: drawings alone, as `calico-tiny` is made; a mixture where --shares is given."""
    from calico.model.config import calico_small
    from calico.training.mixture import Mixture
    from calico.training.pools import DrawnPool, ImagePool, IndexPool

    if not args.shares:
        return None if args.data in (None, [DRAWINGS]) else _index(Path(args.data[0]), args.images)
    pools: list[ImagePool] = []
    for name in args.data:
        if name == DRAWINGS:
            pools.append(DrawnPool(calico_small().grounding_encoder.image_size))
        else:
            pools.append(IndexPool(_index(Path(name), args.images)))
    return Mixture(tuple(pools), tuple(share / sum(args.shares) for share in args.shares))


def _index(folder: Path, images: list[str] | None) -> MixedParts:
    from calico.mixedparts.index import MixedParts
    from calico.mixedparts.sources import image_folders

    data = MixedParts(folder, "train")
    if images:
        data = MixedParts(folder, "train", images=image_folders(images, data.sources))
    if lacking := set(data.sources) - data.roots.keys():
        raise InputError(f"{folder}: was built without pictures of {', '.join(sorted(lacking))}; give --images DIR")
    return data


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
