"""Where annotated tasks come from: a project through the host's API, or a JSON export. A task at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from backend.coco.task_files import read_tasks
from backend.host.client import LabelStudioClient

PAGE_SIZE = 20  # full tasks hold masks
_ANNOTATED = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}

Json = Mapping[str, Any]


class AnnotatedTask(NamedTuple):
    """task: with `id`, `data`, `annotations` and, where known, `predictions`. label_config: the project's, as XML."""

    task: Json
    label_config: str


def project_tasks(client: LabelStudioClient, project: int, *, after: int = 0) -> Iterator[AnnotatedTask]:
    """The annotated tasks of a project, by ascending id above `after`. Raises HostError where the host is away."""
    label_config = client.project(project)["label_config"]
    for task in client.tasks(project, full=True, page_size=PAGE_SIZE, after=after, filters=[_ANNOTATED]):
        yield AnnotatedTask({"project": project, **task}, label_config)


def export_tasks(path: Path, label_config: str) -> Iterator[AnnotatedTask]:
    """The tasks of a Label Studio JSON export. `InputError` where it is none."""
    return (AnnotatedTask(task, label_config) for task in read_tasks(path))
