"""Choose which unlabelled groups of a project to label next, and say so where the host can sort by it.

    calico next_groups --project ID --strategy mix --count 50 [--dry-run]

The chosen tasks get `next_place` (0001, 0002, ...) and `next_reason` in their data, and the data manager a tab "Label
next" that shows them in this order. With `--write score` the place becomes the score of the task's prediction instead,
for the host's own "uncertainty sampling", and the model's score of that prediction is lost. Annotations are never
touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from scripts import _cli

NEED_FEATURES = ("diversity", "mix")


def build_parser() -> argparse.ArgumentParser:
    parser = _cli.parser(__doc__)
    parser.add_argument("--project", type=int, metavar="ID", required=True)
    parser.add_argument(
        "--strategy", default="mix", metavar="NAME", help="random, least_confidence, new_parts, diversity or mix (mix)"
    )
    parser.add_argument("--count", type=int, default=50, metavar="N", help="groups to choose (50)")
    parser.add_argument("--seed", type=int, default=0, help="for what goes by chance (0)")
    parser.add_argument(
        "--model-version", metavar="V", help="judge by predictions of this version (each task's latest)"
    )
    parser.add_argument(
        "--write", choices=("field", "score"), default="field", help="where the place is written (field)"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="whose features diversity compares by")
    parser.add_argument("--dry-run", action="store_true", help="only print the table")
    parser.add_argument("--restart", action="store_true", help="look at every task anew, not only at the rest")
    return parser


def handle(args: argparse.Namespace) -> dict[str, Any]:
    from backend.demo.state import verb_settings
    from backend.host.client import client_of
    from backend.project.next_groups import TAB, NextGroups, Options, Summary
    from backend.project.summary_text import summary_text

    options = Options(args.strategy, args.count, args.seed, args.model_version, args.write, args.dry_run)
    settings = verb_settings()
    if args.checkpoint is not None:
        settings = settings.with_checkpoint(args.checkpoint)
    with client_of(settings) as client:
        host = hashlib.sha256(client.url.encode()).hexdigest()[:8]
        resume_file = settings.data_dir.expanduser() / "next_groups" / f"{host}-{args.project}.jsonl"
        if args.restart and not args.dry_run:
            resume_file.unlink(missing_ok=True)
        features, version = None, None
        if args.strategy in NEED_FEATURES:
            features, version = feature_source(settings, client)
        chooser = NextGroups(
            client, args.project, options, features=features, model_version=version, resume_file=resume_file
        )
        with _cli.progress() as bar:
            line = bar.add_task("tasks", total=client.num_tasks(args.project))

            def show(summary: Summary) -> None:
                bar.update(line, completed=summary.seen, note=f"{summary.written} written")

            summary = chooser.run(show)
    for place, choice in enumerate(summary.choices, start=1):
        print(f"{place:>4}  task {choice.id:<8} {choice.reason}")
    counts = [
        (summary.open, "unlabelled"),
        (summary.labelled, "labelled"),
        (summary.skipped, "left out: skipped by annotators"),
        (summary.without_prediction, "unlabelled without a prediction"),
        (summary.without_features, "unlabelled whose images could not be read"),
        (summary.written, "places written"),
        (summary.current, "places were there"),
        (summary.cleared, "places of an earlier run removed"),
        (summary.annotated_meanwhile, "annotated meanwhile"),
    ]
    print(summary_text(summary.seen, counts))
    if not options.dry_run and options.write == "field":
        print(f"tab {TAB!r} of the data manager: {settings.label_studio_url}/projects/{args.project}/data")
    choices = [choice._asdict() for choice in summary.choices]
    return {"command": args.command, **dataclasses.asdict(summary), "choices": choices}


def feature_source(settings: Any, client: Any) -> tuple[Any, str]:
    """Mean of a group's image features, by the backend's own model and way to images; and the model's version."""
    import numpy as np

    from backend.media.media import Media
    from backend.services import champion_of
    from backend.telemetry.prometheus import Metrics
    from calico.inference.features import image_features

    media = Media(settings, Metrics(), client)
    segmenter: Any = champion_of(settings).load()

    def features(addresses: Any, task: int) -> Any:
        images = (media.load(address, task=task) for address in addresses)
        rows = image_features(segmenter.model, segmenter.config, images)
        return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).mean(axis=0)

    return features, segmenter.version


def main(argv: list[str] | None = None) -> int:
    return _cli.run(build_parser(), handle, argv)


if __name__ == "__main__":
    raise SystemExit(main())
