"""Train a model on drawn objects or on an index of part data: progress, log, curves, checkpoints, exact resume.

    calico train --out runs/tiny --minutes 75
    calico train --out runs/parts --steps 5000 --data INDEX --from CHECKPOINT

The same command resumes a run that was stopped or killed; at most the last `--checkpoint-minutes` are done again.
Several GPUs: `accelerate launch -m scripts.train ...`. The result is OUT/checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="length of the whole run in minutes of training")
    length.add_argument("--steps", type=int, help="length of the whole run in steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, metavar="INDEX", help="what `calico mixedparts build` made; else drawings")
    parser.add_argument(
        "--images", action="append", metavar="[NAME=]DIR", help="pictures of the index (of one source), if they moved"
    )
    parser.add_argument(
        "--from", dest="start", type=Path, help="checkpoint folder to start from instead of fresh weights"
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
    parser.add_argument("--mode", choices=["all", "paper"], default="all", help="which weights train")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--precision", choices=["auto", "no", "bf16"], default="auto", help="(auto: bf16 where that is faster)"
    )
    parser.add_argument("--num-images", type=int, help="images per step at full size")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.drawings import VERSION
    from calico.language.tokenizer import CalicoTokenizer
    from calico.mixedparts.index import MixedParts
    from calico.mixedparts.sources import image_folders
    from calico.model.config import calico_tiny
    from calico.training.depth_fit import fit_folder
    from calico.training.loop import Phase, Trainer, TrainingSettings

    if (args.minutes or args.steps or 0) <= 0:
        raise InputError("--minutes and --steps are above 0")
    if args.learning_rate is not None and args.learning_rate <= 0:
        raise InputError(f"--learning-rate is above 0, got {args.learning_rate}")
    if args.grow and not args.start:
        raise InputError("--grow is for the weights that --from names; give it too")
    if args.without and args.start:
        raise InputError("--without is for fresh weights; those that --from names keep their own modules")
    if args.images and not args.data:
        raise InputError("--images is for the index that --data names; give it too")
    data = MixedParts(args.data, "train") if args.data else None
    if data is not None and args.images:
        data = MixedParts(args.data, "train", images=image_folders(args.images, data.sources))
    if data is not None and (lacking := set(data.sources) - data.roots.keys()):
        raise InputError(f"{args.data}: was built without pictures of {', '.join(sorted(lacking))}; give --images DIR")
    settings = TrainingSettings(
        minutes=args.minutes,
        steps=args.steps,
        seed=args.seed,
        mode=args.mode,
        precision=args.precision,
        checkpoint_minutes=args.checkpoint_minutes,
    )
    if args.start:  # low resolution is for weights that see nothing yet
        settings = dataclasses.replace(settings, phases=(Phase(1.0, calico_tiny().grounding_encoder.image_size),))
    if args.learning_rate:
        settings = dataclasses.replace(settings, learning_rate=args.learning_rate)
    if args.num_images:
        settings = dataclasses.replace(settings, batch=dataclasses.replace(settings.batch, num_images=args.num_images))
    tokenizer = CalicoTokenizer.train()
    version = VERSION if data is None else data.version
    config = dataclasses.replace(
        calico_tiny(len(tokenizer)), data_version=version, without=tuple(sorted(set(args.without)))
    )
    trainer = Trainer(args.out, settings, config, tokenizer, args.start, args.grow, data)
    with _cli.progress() as bar:
        task = bar.add_task("training", total=1000)

        def show(state: Any, terms: dict[str, float], progress: float) -> None:
            per_second = state.images / max(1e-9, state.seconds)
            note = (
                f"step {state.step}  loss {terms['loss']:.2f}  text {terms['text']:.2f}  "
                f"IoU {terms['seg_iou']:.2f}/{terms['point_iou']:.2f}/{terms['box_iou']:.2f}  {per_second:.0f} images/s"
            )
            bar.update(task, completed=int(1000 * progress), note=note)

        state = trainer.run(show)
    report = {"command": args.command, "out": str(args.out), **dataclasses.asdict(state)}
    if not trainer.accelerator.is_main_process:
        return report
    if trainer.config.data_version == VERSION:
        fit_folder(args.out / "checkpoint")
    print(f"trained {state.step} steps on {state.images} images in {state.seconds / 60:.1f} minutes")
    print(f"checkpoint in {args.out / 'checkpoint'}, curves in {args.out / 'curves.png'}")
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
