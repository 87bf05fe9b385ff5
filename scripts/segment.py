"""Segment the common object, the common parts and the unique parts of a group of images.

    calico segment a.jpg b.jpg --out result

Writes regions.json (masks as COCO RLE), overlay_0.png, overlay_1.png, ... and index.html to look at.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("images", nargs="+", type=Path, help="two to eight images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="choose object and part names from these only")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the embedded checkpoint")
    parser.add_argument("--device", help="default: a GPU where there is one")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.images import load_group
    from calico.inference.belief import warnings_of
    from calico.inference.segmenter import CoSegmenter
    from calico.pictures.group_page import write_group_page
    from calico.pictures.regions_json import regions_to_json

    group = load_group(args.images)
    segmenter = CoSegmenter.from_checkpoint(args.checkpoint, args.device)
    coseg = segmenter.segment(group, candidates=args.names)
    report = regions_to_json(coseg, [str(path) for path in args.images])
    _cli.write_json(args.out / "regions.json", report)
    write_group_page(args.out, group, coseg, title=f"CALICO {segmenter.version}")
    warnings = warnings_of(coseg)
    for line in warnings:
        print(f"likely wrong: {line}")
    for region in coseg.regions:
        shown_on = ", ".join(str(image + 1) for image in region.correspondence)
        what = region.object_name if region.part_name is None else f"{region.object_name}: {region.part_name}"
        print(f"image {region.image + 1}  {what:<28}{region.occurrence:<8} on {shown_on:<8} score {region.score:.2f}")
    for problem in (problem for problem in coseg.problems if problem.message not in warnings):
        print(f"problem {problem.code}: {problem.message}")
    print(f"look at {args.out / 'index.html'}")
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
