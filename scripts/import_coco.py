"""Turn COCO part annotations into grouped Label Studio tasks with predictions or annotations.

    calico import_coco COCO.json --out tasks.json [--images DIR] [--as predictions|annotations] [--group-size K]

Reads PACO, PartImageNet, ADE20K-Part, LVIS and our own exports; docs/coco.md says which names and forms. Images are
your own: with --images what is not there is counted and left out. Without --config the labeling config that fits is
written beside the tasks (tasks.xml).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from calico.errors import InputError
from calico.files import write_text
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("coco", type=Path, metavar="COCO.json")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="the tasks, to be imported as JSON")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder that holds the image files")
    parser.add_argument("--prefix", metavar="URL", help="address of that folder, where a web server or a bucket has it")
    parser.add_argument(
        "--document-root",
        type=Path,
        metavar="DIR",
        help="the host's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT (the folder above --images)",
    )
    parser.add_argument(
        "--max-side", type=int, metavar="PX", help="show reduced copies of larger images, e.g. 2048 (needs --images)"
    )
    parser.add_argument("--copies", type=Path, metavar="DIR", help="of --max-side (DIR-PX beside --images DIR)")
    parser.add_argument("--as", choices=["predictions", "annotations"], default="predictions", dest="kind")
    parser.add_argument("--group-size", type=int, default=2, metavar="K", help="images of a group, 2 to 8 (2)")
    parser.add_argument("--only-with-parts", action="store_true", help="leave out objects that have no part")
    parser.add_argument(
        "--parts-by-supercategory",
        action="store_true",
        help="a category is a part of its supercategory, where that is a category too",
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help='JSON: {"category": "object:part", "object", ":part" or ""}'
    )
    parser.add_argument("--object", metavar="NAME", help="every other category is a part of it, whatever the file says")
    parser.add_argument("--config", type=Path, metavar="XML", help="the project's labeling config")
    parser.add_argument("--model-version", default="coco", metavar="V", help="what the predictions are called (coco)")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from backend.coco.display_copies import DisplayCopies
    from backend.coco.import_tasks import CocoImporter, ImagePlaces, write_tasks
    from backend.codecs.config import read_config, write_config
    from calico.coco.dataset import NamingOptions, read_coco
    from calico.coco.names import clean_name
    from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE

    if not MIN_GROUP_SIZE <= args.group_size <= MAX_GROUP_SIZE:
        raise InputError(f"--group-size: expected {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}, got {args.group_size}")
    if args.images is not None and not args.images.is_dir():
        raise InputError(f"--images {args.images}: expected a folder of images; check the path")
    copies = None
    if args.max_side is not None:
        if args.images is None:
            raise InputError("--max-side needs --images DIR: it makes copies of the files there")
        copies = DisplayCopies.beside(args.images, args.copies, args.max_side)
    elif args.copies is not None:
        raise InputError("--copies needs --max-side PX: without it images are shown as they are")
    places = ImagePlaces(args.images, args.prefix, args.document_root, copies)
    owner = "" if args.object is None else clean_name(args.object)
    if args.object is not None and not owner:
        raise InputError(f"--object: expected the name of an object, got {args.object!r}")
    naming = NamingOptions(args.parts_by_supercategory, {} if args.names is None else _names(args.names), owner)
    with _cli.progress() as bar:
        line = bar.add_task("annotations (bytes)", total=None)
        dataset = read_coco(
            args.coco,
            size_of=None if args.images is None else places.size_of,
            naming=naming,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    importer = CocoImporter(
        dataset,
        places,
        group_size=args.group_size,
        only_with_parts=args.only_with_parts,
        kind=args.kind,
        model_version=args.model_version,
    )
    findings, counts = dataset.findings, importer.counts
    report = {
        "command": args.command,
        "num_annotations": dataset.num_annotations,
        "num_images": dataset.num_images,
        "problems": dataclasses.asdict(findings),
    }
    if importer.groups:
        sizes = importer.group_sizes
        if args.config is not None:
            try:
                xml = args.config.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{args.config}: cannot be read ({error}); give a labeling config as XML") from None
        else:
            # Arrows: parts that correspond may have different names in the file.
            size, layout = (max(sizes), "A") if len(sizes) == 1 else (None, "B")
            xml = write_config(size, layout=layout, arrows=True)
        with _cli.progress() as bar:
            line = bar.add_task("groups", total=len(importer.groups))
            write_tasks(args.out, importer.tasks(read_config(xml)), lambda: bar.advance(line))
        if args.config is None:
            write_text(args.out.with_suffix(".xml"), xml)
    report |= {**dataclasses.asdict(counts), "problems": dataclasses.asdict(findings)}
    print(f"{counts.tasks} tasks of {counts.images} images with {counts.regions} regions, as {args.kind}")
    if copies is not None:
        print(f"images of up to {args.max_side} pixels in {copies.out}: add that folder as the project's storage")
    for code, count in sorted(findings.counts.items()):
        print(f"{count:>7} {code}")
    if not counts.tasks:
        first = f": {findings.messages[0]}" if findings.messages else ""
        raise _cli.Failed(f"{args.coco}: no task could be made{first}", report)
    return report


def _names(path: Path) -> dict[str, str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"--names {path}: cannot be read ({error}); expected a JSON object of names") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f'--names {path}: expected a JSON object of texts, for instance {{"wheel": "car:wheel"}}')
    return names


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
