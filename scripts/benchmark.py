"""Measure speed on this machine, as ratios within one run wherever two ways are compared.

    calico benchmark segment

`segment`: loading, a group of two with three questions (median after warm-up), the same group again, resident memory.
`model`: the batched, cached path against the plain one, by stage, and against what the device can do at most.
`train`: steps a second and memory. `scale`: the cost of a group after 1 to 10,000 others.
`serve`: where the time of a backend's request goes. `codec`: our brush RLE against label-studio-sdk's. `coco`: our COCO
export beside label-studio-sdk's own, on the same annotations. `data`: an index of part data as large as MixedParts.
`vocabulary`: pairs of drawings with 30 to 3,000 labels: parts found, quality, time and memory beside each other.
`import`: a COCO file of a million annotations through `calico import_coco`, its memory on the way.
`cluster`: workers behind the queue, with a stand-in for a model that only waits.
`soak`: the backend as it is started under mixed clients for minutes, alone or beside training.
`feedback`: thousands of annotated groups through `calico feedback`, resident memory on the way. `clicks`: what smart
tools do on held-out drawings, on the clicked image and on the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calico.errors import InputError
from scripts import _cli

if TYPE_CHECKING:
    from calico.inference.options import ServingOptions

ROOT = Path(__file__).resolve().parent.parent
PRESET_NAMES = ("calico-tiny", "calico-1b", "calico-7b", "micro")
SDK_PYTHON = ROOT / ".demo" / "label-studio-venv" / "bin" / "python"


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    what = parser.add_subparsers(dest="what", required=True)
    segment = what.add_parser("segment", help="a group from images to regions", parents=[_cli.shared_options()])
    segment.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    segment.add_argument("--device", help="default: a GPU where there is one")
    segment.add_argument("--group-size", type=int, default=2)
    segment.add_argument("--repeats", type=int, default=20)
    segment.set_defaults(measure=measure_segment)
    model = what.add_parser(
        "model", help="batched against plain, by stage, against limits", parents=[_cli.shared_options()]
    )
    model.add_argument("--groups", type=int, default=64)
    model.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    add_served(model)
    model.set_defaults(measure=measure_model)
    train = what.add_parser("train", help="training steps a second, memory", parents=[_cli.shared_options()])
    train.add_argument("--preset", choices=PRESET_NAMES, default="calico-tiny", help="random weights")
    train.add_argument(
        "--mode",
        choices=("paper", "all", "adapter"),
        default="all",
        help="as `calico train`; adapter: `calico finetune`",
    )
    train.add_argument("--bits", type=int, choices=(8, 4), help="with --mode adapter: of the language model's linears")
    train.add_argument("--images", type=int, default=2, metavar="N", help="with --mode adapter: images a step (2)")
    train.add_argument("--steps", type=int, default=10)
    train.add_argument("--precision", choices=("no", "bf16"), default="no")
    train.add_argument("--gradient-checkpointing", action="store_true")
    train.set_defaults(measure=measure_train)
    scale = what.add_parser("scale", help="cost of a group after many others", parents=[_cli.shared_options()])
    scale.add_argument("--after", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000], help="groups before")
    scale.add_argument("--sample", type=int, default=16, help="groups measured at each count")
    add_served(scale)
    scale.set_defaults(measure=measure_scale)
    serve = what.add_parser("serve", help="a backend's request, by span", parents=[_cli.shared_options()])
    serve.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    serve.add_argument("--requests", type=int, default=20)
    serve.set_defaults(measure=measure_serve)
    soak = what.add_parser("soak", help="a backend under mixed clients for minutes", parents=[_cli.shared_options()])
    soak.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    soak.add_argument("--minutes", type=float, default=10.0)
    soak.add_argument("--clients", type=int, default=8, metavar="N")
    soak.add_argument(
        "--pause", type=float, default=0.0, metavar="SECONDS", help="of each client after every answer, on average (0)"
    )
    soak.add_argument("--beside-finetune", action="store_true", help="with training steps in a process beside it")
    soak.set_defaults(measure=measure_soak)
    cluster = what.add_parser("cluster", help="workers behind the queue", parents=[_cli.shared_options()])
    cluster.add_argument("--workers", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="(1 8 32)")
    cluster.add_argument("--seconds", type=float, default=20.0, help="of each (20)")
    cluster.add_argument("--real", action="store_true", help="the embedded checkpoint, on drawings, throughput alone")
    cluster.add_argument("--side", type=int, default=1000, metavar="PX", help="images are as high and wide (1000)")
    cluster.set_defaults(measure=measure_cluster)
    codec = what.add_parser("codec", help="brush RLE against label-studio-sdk", parents=[_cli.shared_options()])
    codec.add_argument("--sdk-python", type=Path, default=SDK_PYTHON, help="a Python that has label-studio-sdk")
    codec.set_defaults(measure=measure_codec)
    data = what.add_parser("data", help="an index of MixedParts' size", parents=[_cli.shared_options()])
    data.add_argument("--samples", type=int, default=2_400_000, metavar="N")
    data.add_argument("--images", type=int, default=44_000, metavar="N")
    data.add_argument("--reads", type=int, default=100_000, metavar="N", help="samples read in random order")
    data.set_defaults(measure=measure_data)
    feedback = what.add_parser("feedback", help="thousands of annotated groups", parents=[_cli.shared_options()])
    feedback.add_argument("--groups", type=int, default=10_000, metavar="N", help="groups of two drawings (10000)")
    feedback.add_argument("--source", choices=("export", "project"), default="export", help="a file, or a host's API")
    feedback.set_defaults(measure=measure_feedback)
    vocabulary = what.add_parser("vocabulary", help="from tens to thousands of labels", parents=[_cli.shared_options()])
    vocabulary.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    vocabulary.add_argument("--device", help="default: a GPU where there is one")
    vocabulary.add_argument("--sizes", type=int, nargs="+", default=[30, 300, 1230, 3000], metavar="N")
    vocabulary.add_argument("--repeats", type=int, default=5)
    vocabulary.add_argument("--pairs", type=int, default=24, help="of drawings, for quality and what is found")
    vocabulary.set_defaults(measure=measure_vocabulary)
    importing = what.add_parser("import", help="a large COCO file to tasks", parents=[_cli.shared_options()])
    importing.add_argument("--annotations", type=int, default=1_000_000, metavar="N")
    importing.set_defaults(measure=measure_import)
    clicks = what.add_parser("clicks", help="smart tools on held-out drawings", parents=[_cli.shared_options()])
    clicks.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    clicks.add_argument("--clicks", type=int, default=300, metavar="N", help="on parts (300)")
    clicks.add_argument("--seed", type=int, default=303)
    which = clicks.add_mutually_exclusive_group()
    which.add_argument(
        "--absent", action="store_true", help="only on parts that another image of the same class does not show"
    )
    which.add_argument(
        "--photos", type=Path, metavar="FOLDER", help="annotations.json and images/ instead of drawings: masks alone"
    )
    clicks.set_defaults(measure=measure_clicks)
    coco = what.add_parser("coco", help="COCO export beside label-studio-sdk's", parents=[_cli.shared_options()])
    coco.add_argument("--sdk-python", type=Path, default=SDK_PYTHON, help="a Python that has label-studio-sdk")
    coco.add_argument("--groups", type=int, default=50, help="groups of two drawings (default: 50)")
    coco.set_defaults(measure=measure_coco)
    return parser


def add_served(parser: argparse.ArgumentParser) -> None:
    """Which model, on what, in which numbers."""
    parser.add_argument("--preset", choices=PRESET_NAMES, help="random weights of this size")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, if stored so")
    parser.add_argument("--llm-bits", type=int, choices=(8, 4), help="of the language model's linears")
    parser.add_argument("--compiled", action="store_true", help="decode steps through torch.compile")


def options_of(args: argparse.Namespace) -> ServingOptions:
    from calico.inference.options import ServingOptions

    return ServingOptions(dtype=args.dtype, llm_bits=args.llm_bits, compiled=args.compiled)


def measure_model(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.model import benchmark_model

    served = args.preset, args.checkpoint, args.device
    return benchmark_model(*served, args.groups, options_of(args), batch_sizes=args.batch_sizes)


def measure_train(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.training import benchmark_adapter, benchmark_training

    if args.steps < 1:
        raise InputError(f"--steps is at least 1, got {args.steps}")
    if args.mode == "adapter":
        if args.images < 2:
            raise InputError(f"--images is at least 2, got {args.images}")
        return benchmark_adapter(args.preset, args.steps, args.bits, args.gradient_checkpointing, args.images)
    if args.bits is not None:
        raise InputError("--bits goes with --mode adapter")
    return benchmark_training(args.preset, args.mode, args.steps, args.precision, args.gradient_checkpointing)


def measure_scale(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.scale import benchmark_scale

    served = args.preset, args.checkpoint, args.device
    return benchmark_scale(*served, args.after, args.sample, options_of(args))


def measure_segment(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.segment import benchmark_segment

    return benchmark_segment(args.checkpoint, args.device, args.group_size, args.repeats)


def measure_vocabulary(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.vocabulary import benchmark_vocabulary

    return benchmark_vocabulary(args.checkpoint, args.device, args.sizes, args.repeats, args.pairs)


def measure_import(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.coco_import import benchmark_import

    return benchmark_import([sys.executable, "-m", "scripts", "import_coco"], args.annotations)


def measure_serve(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.serve import benchmark_serve

    return benchmark_serve(args.checkpoint, args.requests)


def measure_soak(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.soak import TRAINING, benchmark_soak

    if args.minutes <= 0 or args.clients < 1 or args.pause < 0:
        raise InputError("--minutes is above 0, --clients at least 1, --pause 0 or more")
    beside = TRAINING if args.beside_finetune else ()
    return benchmark_soak(args.minutes, args.clients, args.checkpoint, beside, args.pause)


def measure_cluster(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.cluster import benchmark_cluster, benchmark_real

    if min(args.workers) < 1 or args.seconds <= 0 or args.side < 8:
        raise InputError("at least 1 of --workers, --seconds above 0, --side of 8 or more")
    if args.real:
        return benchmark_real(args.workers, args.seconds)
    return benchmark_cluster(args.workers, args.seconds, args.side)


def measure_codec(args: argparse.Namespace) -> dict[str, Any]:
    """In the sdk's own Python: both codecs in one process, on the same masks."""
    if not args.sdk_python.is_file():
        raise InputError(f"--sdk-python {args.sdk_python}: no such file; `calico demo --install` makes the default one")
    command = [str(args.sdk_python), "-m", "benchmarks.codec"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{args.sdk_python} could not compare: {last}; it needs label-studio-sdk")
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def measure_data(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.part_data import benchmark_data

    if args.samples < 9 or args.images < 6 or args.reads < 1:
        raise InputError("at least 9 --samples, 6 --images and 1 of --reads")
    with tempfile.TemporaryDirectory() as folder:
        return benchmark_data(Path(folder) / "index", args.samples, args.images, args.reads)


def measure_feedback(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.feedback import benchmark_feedback

    if args.groups < 1:
        raise InputError(f"--groups: expected 1 or more, got {args.groups}")
    with tempfile.TemporaryDirectory() as folder:
        return benchmark_feedback(Path(folder), args.groups, args.source)


def measure_clicks(args: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.clicks import benchmark_clicks

    if args.clicks < 1:
        raise InputError(f"--clicks: expected 1 or more, got {args.clicks}")
    if args.photos is not None:
        from benchmarks.photo_clicks import benchmark_photo_clicks

        return benchmark_photo_clicks(args.checkpoint, args.photos, args.clicks, args.seed)
    return benchmark_clicks(args.checkpoint, args.clicks, args.seed, absent=args.absent)


def measure_coco(args: argparse.Namespace) -> dict[str, Any]:
    """The sdk's converter runs in its own Python, our export in this one."""
    from benchmarks.coco import compare

    if not args.sdk_python.is_file():
        raise InputError(f"--sdk-python {args.sdk_python}: no such file; `calico demo --install` makes the default one")
    return compare(args.sdk_python, args.groups)


def handle(args: argparse.Namespace) -> dict[str, Any]:
    report = args.measure(args) | {"command": args.command}
    show(report)
    return report


def show(report: dict[str, Any], indent: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{indent}{name}")
            for row in value:
                show(row, indent + "  ")
        else:
            print(f"{indent + name:<34}{f'{value:.4f}' if isinstance(value, float) else value}")


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
