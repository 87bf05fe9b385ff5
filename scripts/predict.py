"""Predict a corpus of tasks from a file into files, ready for import: no host, no server, resumes where it stopped.

    calico predict --tasks tasks.jsonl --config labeling_config.xml --out DIR [--checkpoint DIR] [--shard-size 256]

Tasks: .jsonl (one a line), .json (an export), or the folder of an index that `calico mixedparts build` made. DIR gets
predictions/ (a JSON-lines file per shard, each task with its prediction) and failures/ (line, id and reason). A shard
is there whole or not at all, so the same command goes on after a kill. Images are fetched as the backend fetches them,
by the same settings: CALICO_MEDIA_ROOTS, CALICO_LOCAL_FILES_ROOT, LABEL_STUDIO_URL and the others of docs/running.md.
"""

from __future__ import annotations

import argparse
import dataclasses
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
    parser.add_argument("--plan-only", action="store_true", help="only read the tasks and say what would be done")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from backend.codecs.config import read_config
    from backend.corpus.output import Output
    from backend.corpus.plan import as_lines, plan_of
    from backend.corpus.run import Summary, ThisProcess, note_of, run_corpus
    from backend.corpus.stages import Stages
    from backend.http.prometheus import Metrics
    from backend.media.media import Media
    from backend.project.client import LabelStudioClient
    from backend.services import champion_of
    from backend.settings import Settings
    from calico.files import locked

    for name in ("shard_size", "batch_size", "fetch_threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(args, name)}")
    try:
        config_xml = args.config.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{args.config}: cannot be read ({error}); give a labeling config as XML") from None
    config = read_config(config_xml)
    settings = Settings.from_environment()
    if args.checkpoint is not None:
        settings = settings.with_checkpoint(args.checkpoint)
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
        champion = champion_of(settings)
        segmenter = champion.load()
        output = Output(args.out)
        output.open(note_of(plan, config_xml, segmenter.version, args.shard_size))
        output.drop_unfinished()
        token = settings.label_studio_api_key
        client = LabelStudioClient(settings.label_studio_url, token) if settings.label_studio_url and token else None
        media = Media(settings, Metrics(), client)
        stages = Stages(segmenter, media, config, batch_size=args.batch_size, threads=args.fetch_threads)
        task = bar.add_task(segmenter.version, total=plan.num_tasks)

        def show(summary: Summary) -> None:
            done = summary.resumed + summary.predicted + summary.failed
            bar.update(task, completed=done, note=f"{summary.failed} failed")

        summary = run_corpus(plan, output, ThisProcess(stages), show)
    print(summary.text())
    report |= {"version": segmenter.version, **dataclasses.asdict(summary)}
    if summary.failed:
        where = args.out / "failures"
        raise _cli.Failed(f"{summary.failed} of {summary.num_tasks} tasks failed; {where} names them", report)
    return report


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
