"""Where annotated tasks come from: a project through the host's API, a JSON export, or the inbox. A task at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from backend.coco.task_files import read_tasks
from backend.learning.inbox import events
from backend.project.client import LabelStudioClient
from calico.errors import InputError

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


def inbox_tasks(
    database_url: str,
    project: int | None = None,
    *,
    label_config: str | None = None,
    predictions_of: Callable[[int], list[Any]] | None = None,
) -> Iterator[AnnotatedTask]:
    """The tasks of stored events, by ascending id, each annotation in its last state; deleted ones, and those of
    deleted tasks, are left out.

    label_config: for events that do not tell it. predictions_of: asks the host for a task's predictions, which events
    do not hold.
    """
    engine = sa.create_engine(database_url)
    try:
        with engine.connect() as connection:
            columns = events.c
            gone = _deleted(connection, "ANNOTATIONS_DELETED", "annotations")
            gone_tasks = _deleted(connection, "TASKS_DELETED", "tasks")  # for good: the host gives no id twice
            last = (
                sa.select(sa.func.max(columns.id)).where(columns.annotation.is_not(None)).group_by(columns.annotation)
            )
            wanted = sa.select(columns.id, columns.annotation, columns.task, columns.project).where(
                columns.id.in_(last)
            )
            if project is not None:
                wanted = wanted.where(columns.project == project)
            of_task: dict[tuple[int, int], list[int]] = {}
            for event, annotation, task, owner in connection.execute(wanted):
                if task is not None and task not in gone_tasks and gone.get(annotation, 0) < event:
                    of_task.setdefault((owner or 0, task), []).append(event)
            for (owner, task), numbers in sorted(of_task.items()):
                query = sa.select(columns.body).where(columns.id.in_(numbers)).order_by(columns.id)
                bodies = list(connection.execute(query).scalars())
                yield _task_of_events(owner, task, bodies, label_config, predictions_of)
    except sa.exc.SQLAlchemyError as error:
        raise InputError(f"the inbox cannot be read ({str(error).splitlines()[0]}); check DATABASE_URL") from None
    finally:
        engine.dispose()


def _deleted(connection: sa.Connection, action: str, key: str) -> dict[int, int]:
    """The ids that events of this kind list under `key`, each with the last such event."""
    columns = events.c
    query = sa.select(columns.id, columns.body).where(columns.action == action).order_by(columns.id)
    return {
        item["id"]: event
        for event, body in connection.execute(query)
        for item in body.get(key) or ()
        if isinstance(item, Mapping) and "id" in item
    }


def _task_of_events(
    project: int,
    task: int,
    bodies: list[Any],
    label_config: str | None,
    predictions_of: Callable[[int], list[Any]] | None,
) -> AnnotatedTask:
    annotations = [body["annotation"] for body in bodies]
    newest = bodies[-1].get("task")
    data = newest.get("data") if isinstance(newest, Mapping) else None
    told = [(body.get("project") or {}).get("label_config") for body in bodies]
    config = next((text for text in reversed(told) if text), None) or label_config or ""
    has_parent = any(annotation.get("parent_prediction") for annotation in annotations)
    predictions = predictions_of(task) if predictions_of is not None and has_parent else []
    known = {"id": task, "project": project, "data": data, "annotations": annotations, "predictions": predictions}
    return AnnotatedTask(known, config)
