"""Render a set of pictures with exact part masks, as `calico mixedparts build --source paco:...` reads it.

    python -m rendering.render --out renders --num-images 500
    python -m rendering.render --out renders --num-images 500 --table table.jsonl --library furniture/

The same command resumes a run that was stopped; more images may be asked for. It writes OUT/images,
OUT/paco_train.json, OUT/paco_val.json (whole models that training never sees) and OUT/CREDITS.tsv.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calico.errors import InputError
from calico.files import write_text, written_whole
from rendering.catalogue import Catalogue
from rendering.developing import developed
from rendering.generators import GENERATORS
from rendering.layout import lay_out
from rendering.masks import MAX_UNNAMED, ids_of, object_rows, read_picture, write_paco
from rendering.obj_library import ObjLibrary

CLUTTER_SHARE = 0.25
SETTINGS = "settings.json"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rendering.render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the set")
    parser.add_argument("--num-images", type=int, default=100, metavar="N", help="how many there are in the end (100)")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="of a side (256)")
    parser.add_argument("--samples", type=int, default=12, help="light paths a pixel (12); more are slower and cleaner")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--objects", nargs="+", metavar="NAME", help="these classes only")
    parser.add_argument("--shapes", type=int, default=40, metavar="N", help="models of each procedural class (40)")
    parser.add_argument("--no-procedural", action="store_true", help="the library's models only")
    parser.add_argument("--table", type=Path, help="which units of the library's models are which parts (JSON lines)")
    parser.add_argument("--library", type=Path, help="folder with the libraries: folders, or LIB.sh3f archives")
    parser.add_argument("--cut-meshes", type=Path, help="folder that the table's `path` rows are below")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        report = run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        return 130
    print(f"{report['images']} images, {report['annotations']} masks, {report['left_out']} left out; {args.out}")
    return 0


def run(args: argparse.Namespace) -> dict[str, int]:
    """Renders what is missing, then writes the set's files."""
    catalogue = Catalogue(_library(args), [] if args.no_procedural else list(GENERATORS), args.shapes, args.objects)
    for name in ("size", "num_images", "samples", "threads", "shapes"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is above 0, got {getattr(args, name)}")
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out}: is a file; --out wants a folder of the set, or a name for a new one")
    missing = [k for k in range(args.num_images) if not _rows_file(args.out, k).is_file()]
    if missing:
        need_blender()
    _same_settings(args)
    for folder in ("images", "rows"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    for done, number in enumerate(missing):
        left = f", {(time.monotonic() - begun) / done * (len(missing) - done) / 60:.1f} minutes left" if done else ""
        line = f"\r{args.num_images - len(missing) + done} of {args.num_images}{left} "
        print(line, end="", file=sys.stderr, flush=True)
        render_one(args, catalogue, number)
    if missing:
        print(file=sys.stderr)
    return finish(args.out, args.num_images)


def need_blender() -> None:
    """Raises `InputError` where `bpy`, or a library that it wants, is not there."""
    try:
        import bpy  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"Blender's package bpy does not load ({error}); rendering/README.md says how to install it, in an "
            "environment of its own"
        ) from None


def render_one(args: argparse.Namespace, catalogue: Catalogue, number: int) -> None:
    """Picture and rows of one number: the same for the same settings, whatever was rendered before."""
    from rendering.scene import environments, render

    rng = np.random.default_rng([args.seed, number])
    main_model = catalogue.draw(rng)
    clutter = catalogue.draw(rng, main_model.split) if rng.random() < CLUTTER_SHARE else None
    surroundings = environments()
    shot = lay_out(main_model, clutter, rng, len(surroundings))
    found = render(shot, surroundings, args.size, args.samples, args.threads)
    things = [thing.model for thing in shot.things]
    rows, unnamed = object_rows(ids_of(found.ids), found.regions, [model.object_name for model in things])
    name = f"{number:06d}.jpg"
    is_shown = any(row["thing"] == 0 for row in rows)
    left_out = "" if is_shown and unnamed <= MAX_UNNAMED else "unnamed" if is_shown else "hidden"
    if not left_out:
        with written_whole(args.out / "images" / name, is_durable=False) as path:
            Image.fromarray(developed(found.light, rng)).save(path, quality=92)
    seen = {row["thing"] for row in rows}
    kept = {
        "file_name": name,
        "width": args.size,
        "height": args.size,
        "split": main_model.split,
        "left_out": left_out,
        "models": [
            {"object": model.object_name, "model": model.key, "credit": model.credit}
            for index, model in enumerate(things)
            if index in seen
        ],
        "rows": rows,
    }
    write_text(_rows_file(args.out, number), json.dumps(kept))


def finish(out: Path, num_images: int) -> dict[str, int]:
    """The set's files, from the rows of each image."""
    pictures = [read_picture(_rows_file(out, number)) for number in range(num_images)]
    shown = [picture for picture in pictures if not picture["left_out"]]
    counts = Counter(images=len(shown), left_out=len(pictures) - len(shown), annotations=0)
    for split in ("train", "val"):
        own = [picture for picture in shown if picture["split"] == split]
        if own:
            counts["annotations"] += write_paco(
                out / f"paco_{split}.json", own, {"description": "rendered part masks"}
            )[1]
        else:
            (out / f"paco_{split}.json").unlink(missing_ok=True)
    write_text(out / "CREDITS.tsv", credits(shown))
    return dict(counts)


def credits(pictures: Iterable[Mapping[str, Any]]) -> str:
    """One line a model: object, model, who made it and under which licence, split, images."""
    count = Counter(
        (model["object"], model["model"], model["credit"], picture["split"])
        for picture in pictures
        for model in picture["models"]
    )
    lines = ["\t".join(("object", "model", "creator, licence", "split", "images"))]
    lines += ["\t".join((*key, str(number))) for key, number in sorted(count.items())]
    lines.append("(background light)\tBlender's studio lights\tCC0 1.0\tall\tall")
    return "\n".join(lines) + "\n"


def _library(args: argparse.Namespace) -> ObjLibrary | None:
    if args.table is None and args.library is None and args.cut_meshes is None:
        if args.no_procedural:
            raise InputError("--no-procedural leaves nothing; give a --table and its --library")
        return None
    if args.table is None or args.library is None:
        raise InputError("--table names the units of the models in --library; give both")
    return ObjLibrary(args.table, args.library, args.cut_meshes, args.out / "unpacked")


def _same_settings(args: argparse.Namespace) -> None:
    """Raises `InputError` where the folder holds a set that was begun otherwise."""
    chosen = {
        name: str(value) if isinstance(value := getattr(args, name), Path) else value
        for name in ("size", "samples", "seed", "objects", "shapes", "no_procedural", "table", "library", "cut_meshes")
    }
    path = args.out / SETTINGS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else chosen
    if other := [name for name in chosen if before.get(name) != chosen[name]]:
        name = other[0]
        raise InputError(
            f"{args.out}: was begun with --{name.replace('_', '-')} {before.get(name)}, not {chosen[name]}; "
            "say the same, or give another --out"
        )
    write_text(path, json.dumps(chosen))


def _rows_file(out: Path, number: int) -> Path:
    return out / "rows" / f"{number:06d}.json"


if __name__ == "__main__":
    raise SystemExit(main())
