"""Annotated tasks -> a snapshot: from a project or an export, for `calico feedback` and for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from backend.codecs.config import read_config
from backend.host.client import client_of
from backend.learning.feedback import Collector
from backend.learning.feedback_sources import AnnotatedTask, export_tasks, project_tasks
from backend.media.media import Media
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import InputError
from calico.snapshots.splits import Shares
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter

OnProgress = Callable[[int, str], None]  # tasks seen, a note


@dataclass(frozen=True)
class Source:
    """Where tasks come from: of a project on the host, or in an export's file.

    label_config: the project's, which an export does not hold. holdout: as given to `calico prelabel`.
    """

    project: int | None = None
    export: Path | None = None
    label_config: str | None = None
    with_images: bool = True
    holdout: float = 0.0


def collect(
    settings: Settings,
    source: Source,
    out: Path,
    *,
    shares: Shares | None = None,
    previous: Path | None = None,
    run: Any = None,
    on_progress: OnProgress = lambda num_tasks, note: None,
) -> tuple[Snapshot, int]:
    """The snapshot, in place at `out`, and the number of tasks it was made of. Goes on after a kill, where `run` (what
    else tells one run from another) is the same.

    Raises InputError where the source cannot be read or has no annotated group; `out` then stays as it was.
    """
    if source.export is not None and source.label_config is None:
        raise InputError("--export: an export does not hold the project's config; give --labeling-config FILE.xml")
    if source.export is not None and source.label_config is not None:
        read_config(source.label_config)  # the same for all tasks: refused once, not task by task
    has_host = settings.label_studio_url and settings.label_studio_api_key
    client = client_of(settings) if has_host or source.project is not None else None
    media = Media(settings, Metrics(), client) if source.with_images else None
    file = source.export.stat() if source.export is not None and source.export.exists() else None
    fingerprint: list[Any] = [source.project, str(source.export), file and [file.st_size, file.st_mtime_ns]]
    fingerprint += [source.with_images, source.holdout, source.label_config, settings.label_studio_url, run]

    def tasks(position: dict[str, int]) -> Iterator[AnnotatedTask]:
        if source.project is not None and client is not None:
            return project_tasks(client, source.project, after=position["task"])
        if source.export is None:
            raise InputError("nothing to read: expected a project or an export")
        return islice(export_tasks(source.export, source.label_config or ""), position["num_tasks"], None)

    try:
        with SnapshotWriter(out, shares=shares, previous=previous, run=fingerprint) as writer:

            def show(num_tasks: int) -> None:
                on_progress(num_tasks, f"{writer.num_groups} groups, {writer.num_skipped.total()} left out")

            loader = None if media is None else lambda address, task: media.load(address, task=task)
            num_tasks = Collector(writer, loader, source.holdout).run(
                tasks(writer.position or {"num_tasks": 0, "task": 0}), show
            )
            if not writer.num_groups:
                writer.discard()
                skipped = sorted(writer.num_skipped.items())
                counted = ", ".join(f"{count} {code.replace('_', ' ')}" for code, count in skipped)
                raise InputError(
                    f"no annotated group in {num_tasks} tasks ({counted or 'the source is empty'}); nothing written: "
                    + ("the log says why, by task" if num_tasks else "submit annotations first, or name another source")
                )
            return writer.finish(), num_tasks
    finally:
        if client is not None:
            client.close()
