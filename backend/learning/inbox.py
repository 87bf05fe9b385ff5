"""Every event that the host sends, kept until it was dealt with.

The host sends an event once, within the annotator's Submit, and never again: it is stored before it is answered, and
what never came is found by asking (`reconcile`). SQLAlchemy Core and one URL: SQLite by default, PostgreSQL likewise.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from backend.project.client import LabelStudioClient
from calico.errors import InputError

log = logging.getLogger("calico.backend")

KNOWN_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "PROJECT_CREATED",
        "PROJECT_UPDATED", "PROJECT_DELETED", "TASKS_CREATED", "TASKS_DELETED", "START_TRAINING",
    }
)  # fmt: skip
RECONCILED = "RECONCILED"  # our own: an annotation whose event never came

_ANNOTATED = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
_SECRET_KEYS = frozenset({"token", "access_token", "task_data_login", "task_data_password", "password"})

Json = Mapping[str, Any]

metadata = sa.MetaData()
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("project", sa.Integer, index=True),
    sa.Column("task", sa.Integer),
    sa.Column("annotation", sa.Integer, index=True),
    sa.Column("annotation_updated_at", sa.String(40)),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("handled_at", sa.DateTime(timezone=True), index=True),
)


class Corrections(NamedTuple):
    """num_tasks: with an annotation made or changed. first_at, last_at: when we were told, in seconds since 1970."""

    num_tasks: int
    first_at: float
    last_at: float


class Inbox:
    """Safe to share between threads and processes. Raises InputError where the database cannot be opened."""

    def __init__(self, url: str) -> None:
        self._write = threading.Lock()  # SQLite lets writers try their luck; here they queue
        try:
            address = sa.make_url(url)
            is_sqlite = address.get_backend_name() == "sqlite"
            # The host gives up after a second, but an event that is stored later than that is still stored.
            waiting = {"timeout": 30} if is_sqlite else {"connect_timeout": 10}
            self._engine = sa.create_engine(address, connect_args=waiting, pool_pre_ping=not is_sqlite)
            if is_sqlite:
                sa.event.listen(self._engine, "connect", _use_wal)
            metadata.create_all(self._engine)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise InputError(
                f"DATABASE_URL: cannot open the database ({reason}); expected for example "
                "sqlite:////var/lib/calico/inbox.db in a folder that can be written, or postgresql+psycopg://…"
            ) from None

    def close(self) -> None:
        self._engine.dispose()

    def put(self, body: Json) -> int:
        """Stores an event and returns its id; it is durable by then. Any JSON object is one; secrets are left out.

        One that lists annotations becomes an event for each of them, all or none; the id is the last one's.
        """
        received_at = datetime.now(UTC)
        rows = [{"received_at": received_at, **_row(single)} for single in _singly(_without_secrets(body))]
        insert = sa.insert(events).returning(events.c.id)
        with self._write, self._engine.begin() as connection:
            return [connection.execute(insert.values(row)).scalar_one() for row in rows][-1]

    def pending(self, *, limit: int = 100, action: str | None = None) -> list[dict[str, Any]]:
        """Events (of one action) nobody has dealt with yet, oldest first."""
        query = sa.select(events).where(events.c.handled_at.is_(None)).order_by(events.c.id).limit(limit)
        if action is not None:
            query = query.where(events.c.action == action)
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def mark_handled(self, event: int) -> None:
        with self._write, self._engine.begin() as connection:
            connection.execute(sa.update(events).where(events.c.id == event).values(handled_at=datetime.now(UTC)))

    def counts(self) -> dict[str, int]:
        """How many events of each action are stored."""
        query = sa.select(events.c.action, sa.func.count()).group_by(events.c.action)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def last(self) -> int:
        """The id of the newest event, 0 where there is none."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0

    def annotated_since(self, project: int, event: int) -> Corrections:
        """What was annotated in a project after an event."""
        columns = events.c
        query = sa.select(
            sa.func.count(columns.task.distinct()), sa.func.min(columns.received_at), sa.func.max(columns.received_at)
        ).where(columns.project == project, columns.id > event, columns.annotation.is_not(None))
        with self._engine.connect() as connection:
            num_tasks, first, last = connection.execute(query).one()
        return Corrections(num_tasks, _seconds(first), _seconds(last))

    def projects(self) -> list[int]:
        """Projects that have ever sent an event."""
        query = sa.select(events.c.project).where(events.c.project.is_not(None)).distinct()
        with self._engine.connect() as connection:
            return [project for (project,) in connection.execute(query)]

    def knows(self, annotation: int, updated_at: str) -> bool:
        """Whether this state of an annotation has been stored."""
        query = sa.select(events.c.id).where(
            events.c.annotation == annotation, events.c.annotation_updated_at == updated_at
        )
        with self._engine.connect() as connection:
            return connection.execute(query.limit(1)).first() is not None


def reconcile(inbox: Inbox, client: LabelStudioClient) -> int:
    """Asks the host for what the inbox missed: annotations of the connected projects in a state it has never seen.

    Returns how many were added, each as an event `RECONCILED`. A project belongs to us if its backend URL has been seen
    here, that is if it ever sent an event, or if one of its backends is titled CALICO.
    """
    added = 0
    for project in _connected_projects(inbox, client):
        for task in client.tasks(project["id"], full=True, page_size=20, filters=[_ANNOTATED]):
            for annotation in task.pop("annotations", ()):
                if inbox.knows(annotation["id"], str(annotation.get("updated_at"))):
                    continue
                bare = {"id": task["id"], "data": task.get("data"), "project": project["id"]}
                inbox.put({"action": RECONCILED, "annotation": annotation, "task": bare, "project": project})
                added += 1
    return added


def _connected_projects(inbox: Inbox, client: LabelStudioClient) -> Iterator[Json]:
    """Each with its `id` and `label_config`, as the host's own events have them."""
    known = set(inbox.projects())
    for project in client.projects():
        number = int(project["id"])
        if number in known or any(backend.get("title") == "CALICO" for backend in client.backends(number)):
            yield {"id": number, "label_config": project.get("label_config")}


def _singly(body: Json) -> list[Json]:
    """The event once for each annotation that it lists, with the task of that one; as it came where none can be told.

    The host lists what was made at once (`ANNOTATIONS_CREATED`), and a task as often as it got an annotation.
    """
    annotations = body.get("annotation")
    if not isinstance(annotations, list) or not annotations:
        return [body]
    try:
        tasks = _tasks_of(annotations, body.get("task"))
    except InputError as error:
        log.warning(
            "%s: %s; stored as it came, which no snapshot reads: start the backend again with LABEL_STUDIO_API_KEY, "
            "and it asks the host for these annotations",
            str(body.get("action"))[:64],
            error,
        )
        return [body]
    return [{**body, "annotation": one, "task": task} for one, task in zip(annotations, tasks, strict=True)]


def _tasks_of(annotations: list[Any], tasks: Any) -> list[Json]:
    """The task of each annotation: that of the id it gives, else that in its place. InputError where one has none."""
    if not isinstance(tasks, list):
        raise InputError(f"`annotation` is a list, so `task` must be one, got {type(tasks).__name__}")
    by_id: dict[int | None, Json] = {number: task for task in tasks if (number := _id_of(task)) is not None}
    found = []
    for place, annotation in enumerate(annotations):
        if _id_of(annotation) is None:
            raise InputError(f"entry {place} of `annotation` has no id")
        given = annotation.get("task")
        if given is None and len(tasks) == len(annotations):
            given = _id_of(tasks[place])
        task = by_id.get(_number(given))
        if task is None:
            raise InputError(f"entry {place} of `annotation` belongs to no entry of `task`")
        found.append(task)
    return found


def _row(body: Json) -> dict[str, Any]:
    """The columns of an event without its secrets."""
    annotation = _mapping(body.get("annotation"))
    return {
        "action": str(body.get("action") or "")[:64],
        "project": _number(_mapping(body.get("project")).get("id", annotation.get("project"))),
        "task": _number(_mapping(body.get("task")).get("id", annotation.get("task"))),
        "annotation": _number(annotation.get("id")),
        "annotation_updated_at": str(annotation.get("updated_at") or "")[:40] or None,
        "body": body,
    }


def _use_wal(connection: Any, _: Any) -> None:
    """Readers do not block the writer; a commit is safe against a crash of the process."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _seconds(at: datetime | None) -> float:
    """SQLite gives times back without their zone, which is UTC."""
    return 0.0 if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _id_of(value: Any) -> int | None:
    return _number(_mapping(value).get("id"))


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


def _without_secrets(value: Any) -> Any:
    """The host's events carry the project's token: it is not ours to keep."""
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items() if key not in _SECRET_KEYS}
    if isinstance(value, list) and value and isinstance(value[0], (Mapping, list)):
        return [_without_secrets(item) for item in value]
    return value
