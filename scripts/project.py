"""Prepare and check a Label Studio project: its config, its grouped tasks, its connections.

    calico project config --images K [--labels FILE] [--names group|text] [--layout A|B]
    calico project groups FOLDER --by folder|pattern|similarity|column --out tasks.json [--group-size K]
    calico project upgrade --project ID [--dry-run]
    calico project doctor --project ID [--backend URL]

`calico project config --help` and so on say more. The host is LABEL_STUDIO_URL, its token LABEL_STUDIO_API_KEY.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from calico.errors import InputError
from calico.files import write_text
from scripts import _cli

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__, shared=False)
    actions = parser.add_subparsers(required=True, metavar="config|groups|upgrade|doctor")

    def action(name: str, handle: Any, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text, parents=[_cli.shared_options()])
        added.set_defaults(handle=handle)
        return added

    config = action("config", write_labeling_config, "Print a labeling config for groups of images.")
    config.add_argument("--images", type=int, metavar="K", help="images of a group, 2 to 8 (layout A)")
    config.add_argument("--labels", type=Path, metavar="FILE", help="a name per line: a fixed vocabulary")
    config.add_argument("--layout", choices=["A", "B"], default="A", help="A: side by side; B: any size, a page each")
    config.add_argument(
        "--names",
        choices=["group", "text"],
        default="group",
        help="labels are the group's part names, or a text for each region",
    )
    config.add_argument(
        "--smart", action=argparse.BooleanOptionalAction, default=True, help="tools that ask the backend"
    )
    config.add_argument("--arrows", action="store_true", help="relations between parts that correspond")
    config.add_argument(
        "--geometry",
        choices=["brush", "bitmask", "polygon"],
        default="brush",
        help="polygons cannot hold holes; bitmasks are smaller",
    )
    config.add_argument("--out", type=Path, metavar="FILE", help="write to FILE instead of printing")

    groups = action("groups", write_tasks, "Make grouped tasks from a folder of images, or a CSV or JSON list of them.")
    groups.add_argument("source", type=Path, metavar="FOLDER", help="a folder, or a .csv, .json or .jsonl list")
    groups.add_argument("--by", choices=["folder", "pattern", "similarity", "column"], default="folder")
    groups.add_argument("--group-size", type=int, metavar="K", help="images of a group; without it, whole folders")
    groups.add_argument("--pattern", metavar="REGEX", help=r"e.g. '([^/]+)_\d+\.jpg$': equal ( ) is one group")
    groups.add_argument("--image-column", default="image", metavar="NAME", help="of a list (image)")
    groups.add_argument("--group-column", default="group", metavar="NAME", help="of a list, for --by column (group)")
    groups.add_argument("--layout", choices=["A", "B"], default="A", help="of the project's labeling config")
    groups.add_argument("--prefix", metavar="URL", help="address of FOLDER, where a web server or a bucket has it")
    groups.add_argument(
        "--document-root",
        type=Path,
        metavar="DIR",
        help="the host's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT (the folder above FOLDER)",
    )
    groups.add_argument("--checkpoint", type=Path, metavar="DIR", help="for --by similarity (the embedded one)")
    groups.add_argument(
        "--min-similarity", type=float, metavar="S", help="for --by similarity: of any two of a group, -1 to 1"
    )
    groups.add_argument("--max-side", type=int, metavar="PX", help="show reduced copies of larger images, e.g. 2048")
    groups.add_argument("--copies", type=Path, metavar="DIR", help="of --max-side (FOLDER-PX beside FOLDER)")
    groups.add_argument("--sheet", type=Path, metavar="FILE", help="also write the groups as a page to look at")
    groups.add_argument("--out", type=Path, metavar="FILE", required=True, help="the tasks, to be imported as JSON")

    upgrade = action("upgrade", move_to_new_layout, "Move a project to labels that are its groups' own part names.")
    upgrade.add_argument("--project", type=int, metavar="ID", required=True)
    upgrade.add_argument("--arrows", action="store_true", help="keep relations between parts that correspond")
    upgrade.add_argument("--dry-run", action="store_true", help="say what would be done, and whether it can be")

    doctor = action("doctor", examine, "Check that host, backend, project and media really work together.")
    doctor.add_argument("--project", type=int, metavar="ID", required=True)
    doctor.add_argument("--backend", metavar="URL", help="as this machine reaches it (the project's address)")
    return parser


def write_labeling_config(args: argparse.Namespace) -> dict[str, Any]:
    from backend.codecs.config import write_config

    if args.layout == "A" and args.images is None:
        raise InputError("layout A shows a fixed number of images: give --images K, or --layout B for any number")
    labels = None
    if args.labels is not None:
        try:
            labels = args.labels.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--labels {args.labels}: not readable ({error}); expected a name per line") from None
    xml = write_config(
        args.images,
        layout=args.layout,
        labels=labels,
        naming=args.names,
        smart=args.smart,
        geometry=args.geometry,
        arrows=args.arrows,
    )
    if args.out is None:
        print(xml, end="")
    else:
        write_text(args.out, xml)
    return {"command": args.command, "config": xml}


def write_tasks(args: argparse.Namespace) -> dict[str, Any]:
    from backend.coco.display_copies import DisplayCopies
    from backend.codecs.task_data import Original, task_address, task_of
    from calico.data.image_files import is_address, is_file
    from calico.data.loose_images import by_folder, by_key, by_pattern, by_similarity, find_images, read_list
    from calico.values import Problem

    if args.min_similarity is not None and args.by != "similarity":
        raise InputError("--min-similarity needs --by similarity: the others compare no pictures")
    if args.copies is not None and args.max_side is None:
        raise InputError("--copies needs --max-side PX: without it images are shown as they are")
    left_out: list[Any] = []
    if args.source.is_dir():
        if args.by == "column":
            raise InputError("--by column needs a CSV or JSON list, not a folder")
        folder, keyed = args.source, [(source, "") for source in find_images(args.source, left_out)]
    else:
        folder = args.source.parent
        keyed = read_list(args.source, args.image_column, args.group_column if args.by == "column" else None)
        if args.prefix is None:
            # Label Studio would serve them from here: what is not here would be a task without a picture.
            missing = [source for source, _ in keyed if not is_address(source) and not is_file(Path(source))]
            left_out += [Problem("missing_file", f"{source}: no such file; left out") for source in missing]
            keyed = [item for item in keyed if item[0] not in set(missing)]
    sources = [source for source, _ in keyed]

    if args.by == "folder":
        grouping = by_folder(sources, args.group_size, root=folder.as_posix())
    elif args.by == "column":
        grouping = by_key(keyed, args.group_size)
    elif args.by == "pattern":
        if args.pattern is None:
            raise InputError("--by pattern needs --pattern REGEX")
        grouping = by_pattern(sources, args.pattern, args.group_size)
    else:
        least = -1.0 if args.min_similarity is None else args.min_similarity
        features = features_of(sources, args.checkpoint)
        grouping = by_similarity(sources, features, args.group_size or 2, min_similarity=least)

    if args.layout == "A" and len(sizes := {len(group.sources) for group in grouping.groups}) > 1:
        raise InputError(f"groups of {sorted(sizes)} images: layout A has one size; give --group-size or --layout B")

    grouped = [source for group in grouping.groups for source in group.sources]
    copies: dict[str, Any] = {}
    if args.max_side is not None:
        reduce = DisplayCopies.beside(folder, args.copies, args.max_side)
        copies = {source: reduce.copy(source) for source in _cli.track(grouped, "reduced copies")}
        folder = reduce.out

    def task(group: Any) -> dict[str, Any]:
        display_copies = [copies[source] for source in group.sources] if copies else []
        addresses = [str(copy.path) for copy in display_copies] or group.sources
        places = [task_address(s, folder, prefix=args.prefix, document_root=args.document_root) for s in addresses]
        originals = [Original(copy.original, copy.size_hw) for copy in display_copies]
        return task_of(places, args.layout, name=group.name, originals=originals)

    tasks = [task(group) for group in grouping.groups]
    if not tasks:
        problems = [*left_out, *grouping.problems]
        reason = f"; {problems[0].message}" if problems else ""
        raise InputError(f"{args.source}: {len(sources)} images make no group{reason}")
    _cli.write_json(args.out, tasks)
    for problem in (*left_out, *grouping.problems):
        logger.warning("%s", problem.message)
    if args.sheet is not None:
        write_sheet(args.sheet, grouping, {source: str(copy.path) for source, copy in copies.items()})
    num_left = len(grouping.left_over)
    print(f"{len(tasks)} groups of {len(sources) - num_left} images, {num_left} left over")
    if copies:
        print(f"images of up to {args.max_side} pixels in {folder}: add that folder as the project's storage")
    for problem in left_out:
        print(f"{problem.code}: {problem.message}")
    return {
        "command": args.command,
        "num_groups": len(tasks),
        "num_images": len(sources),
        "left_over": grouping.left_over,
        "problems": [{"code": problem.code, "message": problem.message} for problem in (*left_out, *grouping.problems)],
    }


def write_sheet(path: Path, grouping: Any, copies: dict[str, str]) -> None:
    from calico.data.image_files import is_address
    from calico.images import load_image
    from calico.pictures.contact_sheet import num_shown, write_contact_sheet

    def load(source: str) -> Any:
        if is_address(source):
            raise InputError(source[:120])  # shown in the picture's place
        return load_image(copies.get(source, source))

    with _cli.progress() as bar:
        line = bar.add_task("contact sheet", total=num_shown(grouping))
        write_contact_sheet(path, grouping, load, on_image=lambda: bar.advance(line))
    print(f"look at {path}")


def features_of(sources: list[str], checkpoint: Path | None) -> Any:
    from calico.data.image_files import is_address
    from calico.images import load_image
    from calico.inference.features import image_features
    from calico.inference.segmenter import CoSegmenter

    if remote := next(filter(is_address, sources), None):
        raise InputError(f"--by similarity reads the images themselves: {remote} is not a file; group copies of them")
    model = CoSegmenter.from_checkpoint(checkpoint)
    images = (load_image(source) for source in _cli.track(sources, "reading images"))
    return image_features(model.model, model.config, images)


def move_to_new_layout(args: argparse.Namespace) -> dict[str, Any]:
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.project.upgrade import upgrade_project

    settings = verb_settings()
    with client_of(settings) as client, _cli.progress() as bar:
        line = bar.add_task("tasks", total=client.num_tasks(args.project))
        done = upgrade_project(
            client, args.project, arrows=args.arrows, dry_run=args.dry_run, on_task=lambda: bar.advance(line)
        )
    print(done.text(dry_run=args.dry_run))
    return {"command": args.command, **done.as_json()}


def examine(args: argparse.Namespace) -> dict[str, Any]:
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.project.backend_client import BackendClient
    from backend.project.doctor import examine_project

    settings = verb_settings()
    backend = BackendClient(args.backend, auth=settings.basic_auth) if args.backend else None
    checks = []
    with client_of(settings) as client:
        for check in examine_project(client, args.project, settings, backend=backend):
            print(check.line, flush=True)
            checks.append(check)
    report = {"command": args.command, "checks": [check.as_json() for check in checks]}
    if num_failed := sum(not check.ok for check in checks):
        raise _cli.Failed(f"{num_failed} of {len(checks)} checks failed", report)
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), lambda args: args.handle(args), argv)


if __name__ == "__main__":
    raise SystemExit(main())
