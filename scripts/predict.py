"""Predict a corpus of tasks from a file into files, ready for import: no host, no server, resumes where it stopped.

    calico predict --tasks tasks.jsonl --config labeling_config.xml --out DIR [--checkpoint DIR] [--shard-size 256]

Tasks: .jsonl (one a line), .json (an export), or the folder of an index that `calico mixedparts build` made. DIR gets
predictions/ (a JSON-lines file per shard, each task with its prediction) and failures/ (line, id and reason). A shard
is there whole or not at all, so the same command goes on after a kill. Images are fetched as the backend fetches them,
by the same settings: CALICO_MEDIA_ROOTS, CALICO_LOCAL_FILES_ROOT, LABEL_STUDIO_URL and the others of docs/running.md.

With --workers the shards are done by Ray's workers (docs/cluster.md); they must see all paths under the same names.
"""

from __future__ import annotations

import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from calico.errors import InputError
from scripts import _cli


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--tasks", type=Path, metavar="FILE", required=True, help=".jsonl, .json, or an index's folder")
    parser.add_argument("--config", type=Path, metavar="XML", required=True, help="the project's labeling config")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="default: the one that the backend would serve")
    parser.add_argument("--shard-size", type=int, default=256, metavar="N", help="tasks of one file (256)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="groups the model takes together (4)")
    parser.add_argument("--fetch-threads", type=int, default=4, metavar="N", help="images fetched side by side (4)")
    parser.add_argument(
        "--workers", metavar="WHERE", help="local:N, ray://HOST:PORT or auto; default CALICO_WORKERS, else this process"
    )
    parser.add_argument("--gpus", type=float, default=0.0, metavar="N", help="of each worker, e.g. 0.5 (0)")
    parser.add_argument("--plan-only", action="store_true", help="only read the tasks and say what would be done")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from backend.cluster.address import WorkersAddress
    from backend.cluster.corpus import RayWorkers
    from backend.codecs.config import read_config
    from backend.corpus.output import Output
    from backend.corpus.plan import as_lines, plan_of
    from backend.corpus.run import Summary, ThisProcess, Workers, note_of, open_stages, run_corpus
    from backend.demo.state import verb_settings
    from backend.services import champion_of
    from calico.files import locked

    for name in ("shard_size", "batch_size", "fetch_threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(args, name)}")
    try:
        config_xml = args.config.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{args.config}: cannot be read ({error}); give a labeling config as XML") from None
    config = read_config(config_xml)
    settings = verb_settings()
    if args.checkpoint is not None:
        settings = settings.with_checkpoint(args.checkpoint)
    if args.gpus:
        settings = dataclasses.replace(settings, worker_gpus=args.gpus)
    try:
        address = WorkersAddress.parse(args.workers) if args.workers else settings.workers
    except ValueError as error:
        raise InputError(f"--workers: {error}") from None
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out / ".lock"), _cli.progress() as bar:
        lines, roots = as_lines(args.tasks, args.out, config)
        settings = dataclasses.replace(settings, media_roots=(*settings.media_roots, *roots))
        reading = bar.add_task("bytes planned", total=lines.stat().st_size)
        plan = plan_of(lines, args.shard_size, lambda count: bar.advance(reading, count))
        report = {"command": args.command, "num_tasks": plan.num_tasks, "num_shards": len(plan.shards)}
        if args.plan_only:
            print(f"{plan.num_tasks} tasks in {len(plan.shards)} shards")
            return report
        make_stages = partial(open_stages, settings, config_xml, batch_size=args.batch_size, threads=args.fetch_threads)
        workers: Workers
        if address is None:
            stages = make_stages()
            version, workers = stages.version, ThisProcess(stages)
        else:
            version = champion_of(settings).version_of_files()
            workers = RayWorkers(address, make_stages, version, num_gpus=settings.worker_gpus)
        output = Output(args.out)
        output.open(note_of(plan, config_xml, version, args.shard_size, settings.min_score))
        output.drop_unfinished()
        task = bar.add_task(version, total=plan.num_tasks)

        def show(summary: Summary) -> None:
            done = summary.resumed + summary.predicted + summary.failed
            bar.update(task, completed=done, note=f"{summary.failed} failed")

        summary = run_corpus(plan, output, workers, show)
    print(summary.text())
    report |= {"version": version, **dataclasses.asdict(summary)}
    if summary.failed:
        where = args.out / "failures"
        raise _cli.Failed(f"{summary.failed} of {summary.num_tasks} tasks failed; {where} names them", report)
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
