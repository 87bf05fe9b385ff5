"""A log of what the host told us: which annotation changed, and when. What was annotated stays with the host.

The host sends an event once, within the annotator's Submit, and never again: it is stored before it is answered, and
what never came is found by asking (`backend/learning/reconcile.py`).
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from backend.database.database import Database, inode_of, reason_of
from backend.database.schema import START, events
from calico.errors import CalicoError, InputError

log = logging.getLogger("calico.backend")

KNOWN_ACTIONS = frozenset(
    {
        "ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "PROJECT_CREATED",
        "PROJECT_UPDATED", "PROJECT_DELETED", "TASKS_CREATED", "TASKS_DELETED", START,
    }
)  # fmt: skip
RECONCILED = "RECONCILED"  # our own: an annotation whose event never came

NUM_WRITERS = 8  # requests that may wait for a database that hangs; the threads beyond them stay free
ROOM_WAIT_S = 0.5  # the host gives an event a second

Json = Mapping[str, Any]


class InboxUnavailable(CalicoError):
    """The database does not take the event; the host is asked for it later."""


class Trigger(NamedTuple):
    """What an event says. Ids are the host's; updated_at: the annotation's, as the host writes it."""

    action: str
    project: int | None = None
    task: int | None = None
    annotation: int | None = None
    updated_at: str | None = None


class Corrections(NamedTuple):
    """num_tasks: with an annotation made or changed. first_at, last_at: when we were told, in seconds since 1970."""

    num_tasks: int
    first_at: float
    last_at: float


class Inbox:
    """Safe to share between threads and processes. Raises InputError where the database cannot be opened.

    problem: why the last event was refused; None once one was stored again.
    """

    def __init__(self, url: str, *, num_writers: int = NUM_WRITERS) -> None:
        """num_writers: requests that may wait for a database that hangs."""
        self._num_writers = num_writers
        self._room = threading.BoundedSemaphore(num_writers)
        self.problem: str | None = None
        self.database = Database(url)
        self._inode = inode_of(self.database.file)

    def close(self) -> None:
        """With all of it in the database's own file, so that a copy of that file is whole."""
        self.database.close()

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, body: Json) -> int:
        """Stores what an event says and returns its id; it is durable by then. Any JSON object is an event.

        One that lists annotations is stored once for each of them, all or none; the id is the last one's.
        Raises InboxUnavailable where the database does not take it.
        """
        return self.add(triggers_of(body))

    def add(self, triggers: Sequence[Trigger]) -> int:
        """Stores them, all or none; the id of the last one. Raises InboxUnavailable."""
        now = datetime.now(UTC)
        rows = [
            {
                "received_at": now,
                "action": trigger.action,
                "project": trigger.project,
                "task": trigger.task,
                "annotation": trigger.annotation,
                "annotation_updated_at": trigger.updated_at,
                "handled_at": None if trigger.action == START else now,  # nothing else has to be done about the rest
            }
            for trigger in triggers
        ]
        insert = sa.insert(events).returning(events.c.id)
        with self._written() as connection:
            return [connection.execute(insert.values(row)).scalar_one() for row in rows][-1]

    def mark_handled(self, event: int) -> None:
        with self.database.writing() as connection:
            connection.execute(sa.update(events).where(events.c.id == event).values(handled_at=datetime.now(UTC)))

    def prune(self, before: datetime) -> int:
        """Removes handled events that came before a time; returns how many.

        The last one of every annotation stays, since `states` needs it, and so does the newest of all: ids only grow.
        """
        newer = events.alias()
        is_superseded = (
            sa.select(newer.c.id).where(newer.c.annotation == events.c.annotation, newer.c.id > events.c.id).exists()
        )
        newest = sa.select(sa.func.max(newer.c.id)).scalar_subquery()
        old = sa.delete(events).where(
            events.c.received_at < before,
            events.c.handled_at.is_not(None),
            events.c.id < newest,
            sa.or_(events.c.annotation.is_(None), is_superseded),
        )
        with self.database.writing() as connection:
            return connection.execute(old).rowcount

    @contextmanager
    def _written(self) -> Iterator[sa.Connection]:
        """A transaction. Raises InboxUnavailable where it cannot be had or does not end well."""
        try:
            if not self._room.acquire(timeout=ROOM_WAIT_S):
                raise InboxUnavailable(f"the inbox is busy: {self._num_writers} events wait for the database")
            try:
                self._check_file()
                with self.database.writing() as connection:
                    yield connection
                self._check_file()  # it may have gone meanwhile, and what was written with it
            finally:
                self._room.release()
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            self.problem = f"the inbox does not store events ({reason_of(error)})"
            raise InboxUnavailable(self.problem) from None
        except InboxUnavailable as error:
            self.problem = str(error)
            raise
        self.problem = None

    def _check_file(self) -> None:
        file = self.database.file
        if inode_of(file) != self._inode:
            raise InboxUnavailable(f"the inbox is gone: {file} was removed; start the backend again")

    # -- reading ------------------------------------------------------------------------------------------------------

    def pending(self, action: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Events of an action that nobody has dealt with yet, oldest first."""
        query = (
            sa.select(events)
            .where(events.c.action == action, events.c.handled_at.is_(None))
            .order_by(events.c.id)
            .limit(limit)
        )
        with self.database.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def counts(self) -> dict[str, int]:
        """How many events of each action are stored."""
        query = sa.select(events.c.action, sa.func.count()).group_by(events.c.action)
        with self.database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def last(self) -> int:
        """The id of the newest event, 0 where there is none."""
        with self.database.reading() as connection:
            return connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0

    def annotated_since(self, project: int, event: int) -> Corrections:
        """What was annotated in a project after an event."""
        columns = events.c
        query = sa.select(
            sa.func.count(columns.task.distinct()), sa.func.min(columns.received_at), sa.func.max(columns.received_at)
        ).where(columns.project == project, columns.id > event, columns.annotation.is_not(None))
        with self.database.reading() as connection:
            num_tasks, first, last = connection.execute(query).one()
        return Corrections(num_tasks, _seconds(first), _seconds(last))

    def projects(self, *, after: int = 0) -> list[int]:
        """Projects that have ever sent an event, or did after one."""
        query = sa.select(events.c.project).where(events.c.project.is_not(None), events.c.id > after).distinct()
        with self.database.reading() as connection:
            return [project for (project,) in connection.execute(query)]

    def states(self, project: int) -> set[tuple[int, str | None]]:
        """(annotation, updated_at) of all that a project's events told."""
        columns = events.c
        query = sa.select(columns.annotation, columns.annotation_updated_at).where(
            columns.project == project, columns.annotation.is_not(None)
        )
        with self.database.reading() as connection:
            return {(annotation, updated_at) for annotation, updated_at in connection.execute(query)}


# -- what an event says ----------------------------------------------------------------------------------------------


def triggers_of(body: Json) -> list[Trigger]:
    """One for each annotation that the event lists, with the task of that one; else one.

    The host lists what was made at once (`ANNOTATIONS_CREATED`), and a task as often as it got an annotation.
    """
    annotations = body.get("annotation")
    if not isinstance(annotations, list) or not annotations:
        return [_trigger(body, _mapping(annotations), _mapping(body.get("task")))]
    try:
        tasks = _tasks_of(annotations, body.get("task"))
    except InputError as error:
        log.warning(
            "%s: %s; the host is asked for these annotations by and by, if LABEL_STUDIO_API_KEY is set",
            _text(body.get("action"), 64),
            error,
        )
        return [_trigger(body, {}, {})]
    return [_trigger(body, annotation, {"id": task}) for annotation, task in zip(annotations, tasks, strict=True)]


def trigger_of(action: str, project: int, task: Any, annotation: Json) -> Trigger:
    """That of an annotation as the host's API gives it."""
    return _trigger({"action": action, "project": {"id": project}}, annotation, {"id": task})


def _trigger(body: Json, annotation: Json, task: Json) -> Trigger:
    return Trigger(
        _text(body.get("action"), 64),
        _number(_mapping(body.get("project")).get("id", annotation.get("project"))),
        _number(task.get("id", annotation.get("task"))),
        _number(annotation.get("id")),
        _text(annotation.get("updated_at"), 40) or None,
    )


def _tasks_of(annotations: list[Any], tasks: Any) -> list[int]:
    """The task of each annotation: the one it names, else that in its place. InputError where one has none."""
    by_place = [_id_of(task) for task in tasks] if isinstance(tasks, list) and len(tasks) == len(annotations) else []
    numbers = []
    for place, annotation in enumerate(annotations):
        if _id_of(annotation) is None:
            raise InputError(f"entry {place} of `annotation` has no id")
        number = _number(annotation.get("task"))
        if number is None and by_place:
            number = by_place[place]
        if number is None:
            raise InputError(f"entry {place} of `annotation` belongs to no entry of `task`")
        numbers.append(number)
    return numbers


def _text(value: Any, length: int) -> str:
    """Letters that every database takes and no log breaks at."""
    return re.sub(r"[^\x20-\x7e]", "?", str(value or "")[:length])


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _id_of(value: Any) -> int | None:
    return _number(_mapping(value).get("id"))


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


def _seconds(at: datetime | None) -> float:
    """SQLite gives times back without their zone, which is UTC."""
    return 0.0 if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
