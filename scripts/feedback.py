"""Turn annotations into a snapshot: groups with their masks, provenance and splits, ready to train on.

    calico feedback (--project ID | --export FILE.json --labeling-config FILE.xml) --out DIR [--report]

The host is LABEL_STUDIO_URL, its token LABEL_STUDIO_API_KEY; pictures of an export come from there, from
CALICO_LOCAL_FILES_ROOT or from CALICO_MEDIA_ROOTS. A run that was killed goes on where it stopped. A snapshot already
at DIR is replaced; its groups keep their splits. Nothing is read from the host by --purge-annotator and --purge-task.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--project", type=int, metavar="ID", help="the annotated tasks of a project, from the host")
    source.add_argument("--export", type=Path, metavar="FILE", help="a Label Studio JSON export")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the snapshot's folder")
    parser.add_argument(
        "--labeling-config", type=Path, metavar="FILE", help="the project's config, which no export holds"
    )
    parser.add_argument("--no-images", action="store_true", help="do not fetch pictures: for reports, not for training")
    parser.add_argument("--holdout", type=float, default=0.0, metavar="SHARE", help="as given to `calico prelabel`")
    parser.add_argument("--validation-share", type=float, default=0.1, metavar="SHARE", help="of the groups (0.1)")
    parser.add_argument("--test-share", type=float, default=0.2, metavar="SHARE", help="of the groups (0.2)")
    parser.add_argument("--previous", type=Path, metavar="DIR", help="keep the splits and purges of this snapshot too")
    parser.add_argument("--report", action="store_true", help="also write DIR/report.json and DIR/report.html")
    parser.add_argument(
        "--purge-annotator", action="append", default=[], metavar="WHO", help="take out what a user (id or hash) gave"
    )
    parser.add_argument("--purge-task", action="append", default=[], metavar="ID", type=int, help="take out a task")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from calico.snapshots.store import Snapshot

    if args.purge_annotator or args.purge_task:
        return purge(args)
    if args.project is None and args.export is None:
        if not args.report:
            raise InputError("nothing to read: give --project ID or --export FILE (or --report alone)")
        snapshot, num_tasks = Snapshot(args.out), None
    else:
        snapshot, num_tasks = collect(args)
    manifest = snapshot.manifest
    splits = ", ".join(f"{count} {name}" for name, count in sorted(manifest["splits"].items()))
    print(f"{manifest['num_groups']} groups ({splits}), {manifest['accepted_as_is']} accepted as is: {snapshot.folder}")
    for code, count in sorted(manifest["skipped"].items()):
        print(f"{count:>7} left out: {code.replace('_', ' ')}")
    for code, count in sorted(manifest["problems"].items()):
        print(f"{count:>7} doubtful: {code.replace('_', ' ')}")
    report: dict[str, Any] = {"command": args.command, "num_tasks": num_tasks, "snapshot": manifest}
    if args.report:
        report["feedback"] = write_report(snapshot)
    return report


def write_report(snapshot: Any) -> dict[str, Any]:
    from backend.demo.state import verb_settings
    from calico.snapshots.before_after import before_and_after
    from calico.snapshots.page import write_page
    from calico.snapshots.report import feedback_report

    report = feedback_report(snapshot.records())
    _cli.write_json(snapshot.folder / "report.json", report)
    group_names = {group["group"] for kind in ("best_groups", "worst_groups") for group in report[kind]}
    page = snapshot.folder / "report.html"
    write_page(page, report, before_and_after(snapshot, group_names), host_url=verb_settings().label_studio_url)
    print(f"look at {page}")
    return report


def purge(args: argparse.Namespace) -> dict[str, Any]:
    from backend.learning.feedback import annotator_hash
    from calico.snapshots.writer import purge

    who = [annotator_hash(name) if name.isdigit() or "@" in name else name for name in args.purge_annotator]
    num_removed = purge(args.out, annotators=who, tasks=args.purge_task)
    print(f"{num_removed} groups taken out of {args.out}")
    report = {"command": args.command, "removed": num_removed}
    if not num_removed:
        raise _cli.Failed(
            f"{args.out}: nothing of these annotators or tasks is in it; give the id, e-mail or hash of one, as the "
            "host has it (what comes later of them is left out all the same)",
            report,
        )
    return report


def collect(args: argparse.Namespace) -> tuple[Any, int]:
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.learning import collect as collecting
    from calico.snapshots.splits import Shares

    source = collecting.Source(
        project=args.project,
        export=args.export,
        label_config=_text(args.labeling_config) if args.labeling_config else None,
        with_images=not args.no_images,
        holdout=args.holdout,
    )
    settings = verb_settings()
    total = None
    if args.project is not None:
        with client_of(settings) as client:
            total = client.project(args.project).get("num_tasks_with_annotations")
    with _cli.progress() as bar:
        line = bar.add_task("tasks", total=total)
        return collecting.collect(
            settings,
            source,
            args.out,
            shares=Shares(args.validation_share, args.test_share),
            previous=args.previous,
            on_progress=lambda num_tasks, note: bar.update(line, completed=num_tasks, note=note),
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labeling-config {path}: not readable ({error})") from None


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
