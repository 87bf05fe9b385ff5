"""Build an index of part data (PACO, PartImageNet, ADE20K-Part) for training and evaluation, and say what is in it.

    calico mixedparts build --source paco:train=FILE ... --images DIR --out DIR [--overrides FILE] [--seed N]
    calico mixedparts stats DIR [--html FILE]
    calico mixedparts classes FILE [--source NAME] [--overrides FILE]

Pictures and annotations are your own download; docs/mixedparts.md says from where, under which licences, and what the
rules are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    actions = parser.add_subparsers(required=True, metavar="build|stats|classes")

    def action(name: str, handle: Any, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text, parents=[_cli.shared_options()])
        added.set_defaults(handle=handle)
        return added

    build = action("build", build_data, "Read annotation files and write an index of samples.")
    build.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="NAME[:SPLIT]=FILE",
        help="paco, partimagenet[,objects=FILE] or ade20k,maps=DIR,names=FILE; once for every file",
    )
    build.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="the folder of pictures, of all sources or of one; without it none is looked for",
    )
    build.add_argument("--out", type=Path, metavar="DIR", required=True, help="the index")
    build.add_argument(
        "--released",
        action="append",
        default=[],
        metavar="SPLIT=FILE",
        help="mixed_parts_SPLIT.json: take the authors' pairs instead of choosing groups",
    )
    build.add_argument("--overrides", type=Path, metavar="FILE", help="which classes may be compared (TOML or JSON)")
    build.add_argument("--seed", type=int, default=0)
    for split, number in (("train", 60_000), ("val", 1_000), ("test", 1_000)):
        build.add_argument(f"--{split}", type=int, default=number, metavar="N", help=f"samples ({number})")
    build.add_argument("--group-size", type=int, nargs="+", default=[2, 3, 4], metavar="K", help="in train (2 3 4)")
    build.add_argument("--held-out-size", type=int, nargs="+", default=[2], metavar="K", help="in val and test (2)")
    build.add_argument("--none-share", type=float, default=0.2, help="of the samples that have no answer (0.2)")

    stats = action("stats", show_statistics, "Count what is in an index.")
    stats.add_argument("index", type=Path, metavar="DIR")
    stats.add_argument("--html", type=Path, metavar="FILE", help="the same as a page, with samples drawn")
    stats.add_argument("--samples", type=int, default=2, metavar="N", help="drawn of each source and question (2)")
    stats.add_argument("--images", action="append", default=[], metavar="[NAME=]DIR", help="where the pictures are now")
    stats.add_argument("--seed", type=int, default=0)

    classes = action("classes", show_classes, "List which classes of a category list share part names.")
    classes.add_argument("categories", type=Path, metavar="FILE", help="a COCO file or a category list")
    classes.add_argument("--source", default="paco", metavar="NAME", help="whose overrides apply (paco)")
    classes.add_argument("--overrides", type=Path, metavar="FILE")
    return parser


def released_files(given: list[str]) -> dict[str, Path]:
    """`--released SPLIT=FILE` -> split -> file."""
    from calico.mixedparts.index import SPLITS

    files = {}
    for text in given:
        split, _, path = text.partition("=")
        if split not in SPLITS or not Path(path).is_file():
            raise InputError(f"--released {text}: expected SPLIT=FILE, SPLIT one of {', '.join(SPLITS)}, FILE there")
        files[split] = Path(path)
    return files


def build_data(args: argparse.Namespace) -> dict[str, Any]:
    from calico.mixedparts.builder import BuildSettings, build_index
    from calico.mixedparts.classes import read_overrides
    from calico.mixedparts.groups import GroupRules
    from calico.mixedparts.sources import image_folders, parse_source
    from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

    for size in (*args.group_size, *args.held_out_size):
        if not MIN_GROUP_SIZE <= size <= MAX_GROUP_SIZE:
            raise InputError(f"groups have {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, got {size}")
    if not 0 <= args.none_share < 1:
        raise InputError(f"--none-share is from 0 to below 1, got {args.none_share}")
    files = [parse_source(text) for text in args.source]
    titles = [file.title for file in files]
    if twice := {title for title in titles if titles.count(title) > 1}:
        raise InputError(f"--source: {', '.join(sorted(twice))} is given twice; one file for each source and split")
    settings = BuildSettings(
        seed=args.seed,
        num_samples={"train": args.train, "val": args.val, "test": args.test},
        rules=GroupRules(sizes=tuple(sorted(set(args.group_size))), none_share=args.none_share),
        held_out_sizes=tuple(sorted(set(args.held_out_size))),
    )
    images = image_folders(args.images, [file.name for file in files])
    overrides = read_overrides(args.overrides) if args.overrides else {}
    released = released_files(args.released)
    with _cli.progress() as bar:
        lines: dict[str, Any] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in lines:
                lines[stage] = bar.add_task(stage, total=total)
            bar.update(lines[stage], completed=done, total=total)

        manifest = build_index(args.out, files, images, settings, overrides, show, released)
    for source in manifest["reading"]:
        print(f"{source['source']}: {source['objects']:,} objects with {source['parts']:,} parts read")
        for kind in ("repaired", "skipped"):
            for code, count in sorted(source[kind].items()):
                print(f"{count:>9,} {kind} {code}: {source['examples'].get(code, [''])[0]}")
    for row in manifest["shortfalls"]:
        kind = f"{row['split']} {row['source']} {row['sub_task']}"
        print(f"{kind}: {row['kept']:,} of {row['wanted']:,} samples (the data hold {row['possible']:,})")
    num_samples = sum(row["stop"] - row["first"] for row in manifest["ranges"])
    print(f"{num_samples:,} samples in {args.out}" + ("" if manifest["renewed"] else ", as it was: nothing changed"))
    if not num_samples:
        raise _cli.Failed(f"{args.out}: no sample could be made; the counts above say why", manifest)
    return manifest | {"command": args.command}


def show_statistics(args: argparse.Namespace) -> dict[str, Any]:
    from calico.mixedparts.index import MixedParts, read_manifest
    from calico.mixedparts.page import statistics_page
    from calico.mixedparts.sources import image_folders
    from calico.mixedparts.statistics import COLUMNS, statistics, table_rows
    from calico.pictures.pages import save_page

    images = image_folders(args.images, read_manifest(args.index)["sources"]) if args.images else None
    data = MixedParts(args.index, images=images)
    report = statistics(data)
    rows = [list(COLUMNS), *table_rows(report)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
    if args.html:
        save_page(args.html, statistics_page(data, report, args.samples, args.seed))
    return report | {"command": args.command}


def show_classes(args: argparse.Namespace) -> dict[str, Any]:
    from calico.mixedparts.classes import comparable_pairs, read_class_list, read_overrides

    parts_of = read_class_list(args.categories)
    overrides = read_overrides(args.overrides).get(args.source) if args.overrides else None
    pairs = comparable_pairs(parts_of, overrides)
    for pair in pairs:
        print(f"{pair.first} - {pair.second}: {', '.join(sorted(pair.shared))}")
    num_pairs = len(parts_of) * (len(parts_of) - 1) // 2
    print(f"{len(pairs):,} of {num_pairs:,} pairs of {len(parts_of)} classes share a part name")
    listed = [{"first": p.first, "second": p.second, "shared": sorted(p.shared)} for p in pairs]
    return {"command": args.command, "num_classes": len(parts_of), "pairs": listed}


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), lambda args: args.handle(args), argv)


if __name__ == "__main__":
    raise SystemExit(main())
