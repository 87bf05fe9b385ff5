"""Export groups as COCO part masks, exact: from a project, or from a Label Studio JSON export.

    calico export_coco OUT.json (--project ID | --tasks FILE --config XML) [--images DIR] [--write-images DIR]

The host is LABEL_STUDIO_URL, its token LABEL_STUDIO_API_KEY. Image files are looked at for their orientation and size:
those in --images, else where the backend would fetch them; --no-images does without. A run that was cut off goes on
where it stopped; docs/coco.md describes the file.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.json")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--project", type=int, metavar="ID", help="read the host's project, a page at a time")
    source.add_argument("--tasks", type=Path, metavar="FILE", help="read an export of type JSON; needs --config")
    parser.add_argument("--config", type=Path, metavar="XML", help="the project's labeling config, with --tasks")
    parser.add_argument("--predictions", action="store_true", help="export predictions with their scores")
    parser.add_argument("--model-version", metavar="V", help="with --predictions: of this version, else the newest")
    parser.add_argument("--names", default="object:part", metavar="SCHEME", help="object:part, 'object part' or part")
    parser.add_argument("--categories", type=Path, metavar="COCO", help="keep the category ids of this earlier export")
    parser.add_argument("--pieces", action="store_true", help="an annotation for each connected piece of a mask")
    parser.add_argument("--polygons", type=float, metavar="PX", help="polygons simplified by at most PX; 0 is exact")
    look = parser.add_mutually_exclusive_group()
    look.add_argument("--images", type=Path, metavar="DIR", help="the folder that holds the image files")
    look.add_argument("--no-images", action="store_true", help="look at no image file; sizes are the annotations'")
    parser.add_argument("--write-images", type=Path, metavar="DIR", help="write upright copies, named in the file")
    parser.add_argument("--restart", action="store_true", help="start at the first task, not where the last stopped")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    import shutil

    from backend.coco.export import CocoExporter, Coverage, ExportOptions
    from backend.coco.images import FolderImages, HostImages, ImageFiles
    from backend.coco.task_files import Task, read_tasks
    from backend.codecs.config import read_config
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.telemetry.prometheus import Metrics
    from calico.coco.encode import CocoOptions
    from calico.coco.writer import CocoWriter, read_category_ids

    if (args.config is None) != (args.tasks is None):
        raise InputError("--tasks and --config go together: an export does not hold the project's labeling config")
    settings = verb_settings()
    coco = CocoOptions(args.names, args.pieces, args.polygons)
    kind: Literal["annotations", "predictions"] = "predictions" if args.predictions else "annotations"
    options = ExportOptions(coco, kind, args.model_version, args.write_images)
    with ExitStack() as stack:
        has_host = settings.label_studio_url and settings.label_studio_api_key
        client = stack.enter_context(client_of(settings)) if has_host or args.tasks is None else None
        tasks_after: Callable[[int, int], Iterable[Task]]
        if args.tasks is not None:
            config, total = read_config(_text(args.config)), None
            stat = _stat(args.tasks)
            origin = [str(args.tasks.resolve()), stat.st_size, stat.st_mtime_ns, _text(args.config)]
            tasks_after = lambda after, done: islice(read_tasks(args.tasks), done, None)  # noqa: E731
        else:
            assert client is not None  # or `client_of` would have raised
            project = client.project(args.project)
            config, total = read_config(project["label_config"]), int(project["task_number"])
            origin = [client.url, args.project, project["label_config"]]
            tasks_after = lambda after, done: client.tasks(args.project, page_size=20, full=True, after=after)  # noqa: E731
        images: ImageFiles | None = None
        if args.images is not None:
            images = FolderImages(args.images)
        elif not args.no_images:
            images = HostImages(settings, Metrics(), client)
        if args.write_images is not None:
            args.write_images.mkdir(parents=True, exist_ok=True)
        if args.restart:
            shutil.rmtree(args.out.with_name(args.out.name + ".part"), ignore_errors=True)
        chosen = {**dataclasses.asdict(options), "write_images": str(args.write_images)}
        run = {"origin": origin, "images": str(args.images or not args.no_images), "options": chosen}
        given = read_category_ids(args.categories) if args.categories else None
        info = {} if args.polygons is None else {"polygon_tolerance_px": args.polygons}
        writer = stack.enter_context(CocoWriter(args.out, scheme=args.names, run=run, category_ids=given, info=info))
        bar = stack.enter_context(_cli.progress())
        line = bar.add_task("tasks", total=total)

        def show(coverage: Coverage) -> None:
            bar.update(line, completed=coverage.tasks, note=f"{coverage.annotations} annotations")

        coverage = CocoExporter(writer, config, options, images).run(tasks_after, show)
    print(coverage.text())
    report = {"command": args.command, "out": str(args.out), **dataclasses.asdict(coverage)}
    if not coverage.tasks_exported:
        raise _cli.Failed(f"none of {coverage.tasks} tasks could be exported; the report says why", report)
    return report


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give the project's labeling config as XML") from None


def _stat(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a Label Studio JSON export")
    return path.stat()


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
