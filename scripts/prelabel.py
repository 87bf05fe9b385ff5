"""Predict a whole project through the host's API: resumes where it stopped, never stores a prediction twice.

    calico prelabel --project ID [--backend URL | --checkpoint DIR] [--only-unlabeled] [--replace-stale] [--holdout 0.1]

The host is LABEL_STUDIO_URL, its token LABEL_STUDIO_API_KEY. Without --backend and --checkpoint the model is the one of
CALICO_CHECKPOINT or the embedded one, loaded here, or with --workers in Ray's workers (docs/cluster.md). A task that
has a prediction of this version is left alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli

logger = logging.getLogger(__name__)


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--project", type=int, metavar="ID", required=True)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--backend", metavar="URL", help="ask a running backend, as http://HOST:PORT or .../k/SECRET")
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="load this checkpoint here")
    parser.add_argument(
        "--workers", metavar="WHERE", help="local:N, ray://HOST:PORT or auto; default CALICO_WORKERS, else this process"
    )
    parser.add_argument("--only-unlabeled", action="store_true", help="leave out tasks that have an annotation")
    parser.add_argument(
        "--replace-stale",
        action="store_true",
        help="afterwards remove our predictions of other versions, except those that an annotation started from",
    )
    parser.add_argument(
        "--holdout", type=float, default=0.0, metavar="SHARE", help="share of groups that get none, e.g. 0.1"
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="tasks asked about at once (8)")
    parser.add_argument("--delete-version", metavar="V", help="only remove all predictions of version V")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--restart", action="store_true", help="start at the first task, not where the last stopped")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from backend.cluster.address import WorkersAddress
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.project.prelabel import Options, Prelabeler, Summary, delete_version

    options = Options(args.only_unlabeled, args.replace_stale, args.holdout, args.dry_run, args.batch_size)
    settings = verb_settings()
    if args.checkpoint is not None:
        settings = settings.with_checkpoint(args.checkpoint)
    if args.workers and args.backend:
        raise InputError("--workers with --backend: the backend has workers of its own (CALICO_WORKERS); leave one out")
    if args.workers:
        try:
            settings = dataclasses.replace(settings, workers=WorkersAddress.parse(args.workers))
        except ValueError as error:
            raise InputError(f"--workers: {error}") from None
    with client_of(settings) as client:
        if args.delete_version:
            num_removed = delete_version(client, args.project, args.delete_version, dry_run=args.dry_run)
            print(f"{num_removed} predictions of {args.delete_version} {'would be ' if args.dry_run else ''}removed")
            return {"command": args.command, "removed": num_removed}

        host = hashlib.sha256(client.url.encode()).hexdigest()[:8]
        resume_file = settings.data_dir.expanduser() / "prelabel" / f"{host}-{args.project}.json"
        if args.restart and not args.dry_run:
            resume_file.unlink(missing_ok=True)
        source = open_source(args.backend, settings, client)
        prelabeler = Prelabeler(client, args.project, source, options, resume_file=resume_file)
        with _cli.progress() as bar:
            task = bar.add_task(source.version, total=None)

            def show(summary: Summary) -> None:
                note = f"{summary.stored} stored, {summary.failed} failed"
                bar.update(task, completed=summary.seen, total=max(summary.seen, summary.num_tasks), note=note)

            summary = prelabeler.run(show)
    print(summary.text(dry_run=args.dry_run))
    report = {"command": args.command, "version": source.version, **dataclasses.asdict(summary)}
    if summary.failed:
        raise _cli.Failed(f"{summary.failed} of {summary.seen} tasks failed; the log names them", report)
    return report


def open_source(backend_url: str | None, settings: Any, client: Any) -> Any:
    from backend.project.backend_client import BackendClient
    from backend.project.prediction_sources import LocalSource, RemoteSource

    if backend_url is None:
        logger.info("loading the model")
        return LocalSource(settings, client)
    return RemoteSource(BackendClient(backend_url, auth=settings.basic_auth))


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
