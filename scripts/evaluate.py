"""Measure a checkpoint: strict mIoU, the paper's metrics, names, clicks, calibration; as JSON and as a page.

    calico evaluate --drawings 300 --seed 7 --group-size 2 --json metrics.json --html metrics.html
    calico evaluate --drawings 300 --seed 7 --unseen icons --json icons.json
    calico evaluate --data INDEX --split test --json metrics.json --html metrics.html
    calico evaluate --data INDEX --split test --limit 300 --all-questions
    calico evaluate --snapshot feedback/ --checkpoint registry/versions/ID

The third is the paper's table on an index of part data (`calico mixedparts`), the fourth what an annotator sees of its
groups. Answers are generated without grammar constraints. Training and evaluation seeds never meet. A figure without
samples is null; `n`, `stderr` and `interval` (95 %, groups drawn again) beside every block say how much it stands on.
Stopped with ctrl-C, it reports on the groups that were done.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from calico.data.unseen import DOMAINS
from calico.errors import InputError
from calico.snapshots.splits import VALIDATION
from scripts import _cli

if TYPE_CHECKING:
    from calico.evaluation import Case
    from calico.evaluation.baseline import FrequentParts

MODULES = ("cem", "cam", "base-memory")  # as `calico.evaluation.switched_off` knows them
SHOWN = (
    "strict_miou", "strict_miou_parts", "strict_miou_objects", "AP50", "mIoU", "recall", "S_IoU", "SS",
    "name_precision", "name_recall", "occurrence_accuracy", "malformed_rate", "none_precision", "none_recall",
    "point_iou", "point3_iou", "box_iou", "score_spearman", "score_spearman_within_parts", "score_calibration_error",
)  # fmt: skip


WHOLE = (
    "strict_miou_parts", "strict_miou_objects", "object_precision", "name_precision", "name_recall", "mean_score",
    "mean_iou", "images_shown",
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--drawings", type=int, metavar="N", help="held-out drawings: groups of each size")
    data.add_argument(
        "--data", type=Path, metavar="INDEX", help="an index of part data: its samples, one question each"
    )
    data.add_argument("--snapshot", type=Path, metavar="DIR", help="corrected groups, as `calico feedback` made them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group-size", type=int, nargs="+", metavar="K", help="images per group of drawings, 2 to 8")
    parser.add_argument(
        "--unseen",
        choices=DOMAINS,
        help="drawings that no checkpoint was trained on instead: the known classes in chalk (`style`) or by another "
        "hand (`icons`), or other classes",
    )
    parser.add_argument("--split", choices=("train", "val", "test", "all"), help="of the index or snapshot (test)")
    parser.add_argument(
        "--images", action="append", metavar="[NAME=]DIR", help="pictures of the index (of one source), if they moved"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="samples of the index, drawn with the seed (all)")
    parser.add_argument("--all-questions", action="store_true", help="of each sample of the index, not its one")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--html", type=Path, metavar="FILE", help="tables, curves, best and worst groups as a page")
    parser.add_argument(
        "--encoder",
        default="auto",
        metavar="NAME",
        help="of names, for SS and Recall: `lexical` (letters), `minilm` (the extra `sentence`), `hub`, a folder or "
        "`none`; `auto`: minilm where it is installed, else lexical for part data and none for drawings",
    )
    parser.add_argument(
        "--without",
        action="append",
        choices=MODULES,
        default=[],
        help="put a module of the trained model out of action (no model trained without it: that is `calico ablate`)",
    )
    parser.add_argument("--baseline", action="store_true", help="with drawings too: what one scores without looking")
    return parser


class _Data(NamedTuple):
    """total: of cases. about: for the report, once the cases have run out."""

    cases: Iterable[Case | None]
    total: int
    baseline: FrequentParts | None
    about: Callable[[], dict[str, Any]]


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.evaluation import EvaluationRun
    from calico.evaluation.gallery import Gallery
    from calico.evaluation.page import write_page
    from calico.evaluation.switched_off import switch_off
    from calico.inference.segmenter import CoSegmenter
    from calico.metrics.text_similarity import sentence_encoder

    if args.html is not None and args.html.is_dir():
        raise InputError(f"--html {args.html}: expected a file, got a folder")
    if args.snapshot is not None:
        data = _snapshot(args)
    else:
        data = _drawings(args) if args.data is None else _part_data(args)
    encoder = sentence_encoder(args.encoder, otherwise="none" if args.data is None else "lexical")
    segmenter = CoSegmenter.from_checkpoint(args.checkpoint, args.device)
    switch_off(segmenter, args.without)
    gallery = Gallery() if args.html else None
    run = EvaluationRun(segmenter, args.seed, encoder, gallery=gallery, baseline=data.baseline)
    stopped = False
    try:
        for case in _cli.track(data.cases, "groups", data.total):
            if case is not None:
                run.add(case)
    except KeyboardInterrupt:
        if not run.num_groups:
            raise
        stopped = True
    about = data.about() | {"checkpoint": segmenter.version, "seed": args.seed, "command": args.command}
    about |= {"without": sorted(set(args.without))} if args.without else {}
    if not run.num_groups:
        raise InputError(f"none of {data.total} samples could be read: {'; '.join(about['skipped'])}")
    report = run.report() | about | {"stopped": stopped}
    _print(report)
    if gallery is not None:
        write_page(args.html, report, gallery)
        print(f"page: {args.html}")
    if stopped:
        raise _cli.Failed(f"stopped after {run.num_groups} of {data.total} groups; the report is over those", report)
    return report


def _drawings(args: argparse.Namespace) -> _Data:
    from calico.evaluation import drawing_cases
    from calico.evaluation.baseline import FrequentParts
    from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

    for name in ("split", "images", "limit"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} goes with --data")
    sizes = args.group_size or [2]
    if args.drawings < 1:
        raise InputError(f"--drawings is at least 1, got {args.drawings}")
    for size in sizes:
        if not MIN_GROUP_SIZE <= size <= MAX_GROUP_SIZE:
            raise InputError(f"--group-size is {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}, got {size}")
    which = "held-out drawings" if args.unseen is None else f"unseen drawings ({args.unseen})"
    what = f"{' and '.join(map(str, sizes))} {which}, seed {args.seed}"
    return _Data(
        drawing_cases(args.drawings, args.seed, sizes, args.unseen),
        args.drawings * len(sizes),
        FrequentParts.of_drawings() if args.baseline else None,
        lambda: {"data": what},
    )


def _snapshot(args: argparse.Namespace) -> _Data:
    from calico.evaluation.cases import snapshot_cases
    from calico.snapshots.store import Snapshot
    from calico.training.starting_model import seen_groups

    for name in ("images", "limit", "group_size", "unseen"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} does not go with --snapshot")
    split_name = args.split or "test"
    split = {"val": VALIDATION, "all": None}.get(split_name, split_name)
    snapshot = Snapshot(args.snapshot)
    ids = [
        record["id"]
        for record in snapshot.records()
        if split in (None, record["split"]) and not record["provenance"]["accepted_as_is"]
    ]
    if not ids:
        raise InputError(f"{args.snapshot}: its split {split_name} has no group that people changed; try --split all")
    seen = len(seen_groups(args.checkpoint) & set(ids))
    if seen:
        print(f"this version was trained on {seen} of these {len(ids)} groups: not a fair test of it")
    what = f"{args.snapshot} ({split_name})"
    return _Data(snapshot_cases(snapshot, split), len(ids), None, lambda: {"data": what, "num_trained_on": seen})


def _part_data(args: argparse.Namespace) -> _Data:
    from calico.evaluation import PartDataCases
    from calico.evaluation.baseline import FrequentParts
    from calico.mixedparts.index import MixedParts

    if args.group_size is not None:
        raise InputError("--group-size goes with --drawings; the samples of an index have their sizes")
    if args.unseen is not None:
        raise InputError("--unseen goes with --drawings")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is at least 1, got {args.limit}")
    split = args.split or "test"
    data = MixedParts(args.data, split, images=_image_folders(args.images or []))
    cases = PartDataCases(data, args.limit, args.seed, args.all_questions)
    questions_note = ", all questions" if args.all_questions else ""
    what = f"{args.data} ({split}, {len(cases)} of {len(data)} samples{questions_note})"
    return _Data(
        cases,
        len(cases),
        FrequentParts.of_part_data(data),
        lambda: {"data": what, "num_skipped": cases.num_skipped, "skipped": cases.reasons},
    )


def _image_folders(given: Sequence[str]) -> Path | dict[str, Path] | None:
    """`DIR` for all sources, or `NAME=DIR` for some."""
    if not given:
        return None
    pairs = [text.partition("=") for text in given]
    if len(pairs) == 1 and not pairs[0][1]:
        return Path(given[0])
    if bad := [text for text, (_, sign, _) in zip(given, pairs, strict=True) if not sign]:
        raise InputError(f"--images {bad[0]}: with several, expected NAME=DIR, NAME one of the index' sources")
    return {name: Path(folder) for name, _, folder in pairs}


def _print(report: Mapping[str, Any]) -> None:
    from calico.evaluation.paper_table import printed_table

    print(f"{report['checkpoint']}: {report['n_groups']} groups of {report['data']}")
    _print_block(report["overall"], SHOWN)
    print("the answers made one, base memory and all")
    _print_block(report["reconciled"], WHOLE)
    print("of it, what is shown")
    _print_block(report["shown"], WHOLE)
    print(f"  {'seconds per group':<28}{report['seconds_per_group']:>8.3f}            median")
    if "baseline" in report:
        print(printed_table(report))
    if report.get("num_skipped"):
        print(f"{report['num_skipped']} samples skipped: {'; '.join(report['skipped'])}")


def _print_block(block: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in block:
            continue
        value, error = block[name], block["stderr"].get(name)
        figure = "-" if value is None else f"{value:.3f}"
        print(f"  {name:<28}{figure:>8} {'' if error is None else f'± {error:.3f}':<8}   n = {block['n'].get(name, 0)}")


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
