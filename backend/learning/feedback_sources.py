"""Where annotated tasks come from: a project through the host's API, or a JSON export. A task at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backend.coco.task_files import UNNUMBERED, read_tasks
from backend.host.client import LabelStudioClient
from backend.host.filters import ANNOTATED

PAGE_SIZE = 20  # full tasks hold masks
MAX_ANNOTATIONS = 100  # of one task without ids

Json = Mapping[str, Any]


class AnnotatedTask(NamedTuple):
    """task: with `id`, `data`, `annotations` and, where known, `predictions`. label_config: the project's, as XML."""

    task: Json
    label_config: str


def project_tasks(client: LabelStudioClient, project: int, *, after: int = 0) -> Iterator[AnnotatedTask]:
    """The annotated tasks of a project, by ascending id above `after`. Raises HostError where the host is away."""
    label_config = client.project(project)["label_config"]
    for task in client.tasks(project, full=True, page_size=PAGE_SIZE, after=after, filters=[ANNOTATED]):
        yield AnnotatedTask({"project": project, **task}, label_config)


def export_tasks(path: Path, label_config: str) -> Iterator[AnnotatedTask]:
    """The tasks of a Label Studio JSON export, or of a file that `calico import_coco --as annotations` wrote: no host
    has given ids there, so tasks and annotations are numbered by their place, or beyond the ids of all hosts where
    another task of the file has that number. `InputError` where it is none."""
    ids: Collection[Any] | None = None
    for place, task in enumerate(read_tasks(path), start=1):
        if task.get("id") is None:
            if ids is None:
                ids = {number for one in read_tasks(path) if isinstance(number := one.get("id"), int)}
            task = _numbered(task, UNNUMBERED + place if place in ids else place)
        yield AnnotatedTask(task, label_config)


def _numbered(task: Json, number: int) -> Json:
    rows = task.get("annotations")
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        rows = [{"id": number * MAX_ANNOTATIONS + place, **row} for place, row in enumerate(rows[:MAX_ANNOTATIONS])]
    return {**task, "id": number, "annotations": rows}
