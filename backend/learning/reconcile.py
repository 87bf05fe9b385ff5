"""Asks the host for what the inbox missed: at start, after an event that could not be stored, and every so often.

Ids and times are compared, never what was annotated.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from backend.database.leader import RECONCILE_LOCK, alone
from backend.host.client import LabelStudioClient
from backend.host.filters import ANNOTATED, task_filter
from backend.learning.inbox import RECONCILED, Inbox, trigger_of
from backend.prediction.predictor import describe

log = logging.getLogger("calico.backend")

PAUSE_S = 15.0  # before the next try, twice as long each time
EVERY_S = 3600.0  # a look at what changed on the host lately
WHOLE_EVERY_S = 24 * 3600.0  # a look at everything
LEAD_S = 2.0  # between looks whether this backend leads now
OVERLAP = timedelta(hours=1)  # the host's clock may be another


def reconcile(inbox: Inbox, client: LabelStudioClient, *, since: datetime | None = None) -> int:
    """Stores an event `RECONCILED` for each annotation of our projects in a state that the inbox has never seen.

    Returns how many. A project is ours if its backend URL has been seen here, that is if it ever sent an event, or if
    one of its backends is titled CALICO. since: only tasks changed after it by the host's clock. Deletions that were
    missed are not found. Raises HostError and InboxUnavailable.
    """
    filters = [ANNOTATED]
    if since is not None:
        value = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        filters.append(task_filter("updated_at", "greater", "Datetime", value))
    num_added = 0
    for project in _connected_projects(inbox, client):
        states = inbox.states(project)
        for task in client.tasks(project, full=True, page_size=20, filters=filters):
            triggers = (trigger_of(RECONCILED, project, task["id"], one) for one in task.get("annotations", ()))
            missed = [trigger for trigger in triggers if (trigger.annotation, trigger.updated_at) not in states]
            if missed:
                inbox.add(missed)
                num_added += len(missed)
    return num_added


def _connected_projects(inbox: Inbox, client: LabelStudioClient) -> Iterator[int]:
    senders = set(inbox.projects())
    for project in client.projects():
        number = int(project["id"])
        if number in senders or any(backend.get("title") == "CALICO" for backend in client.backends(number)):
            yield number


class Reconciler:
    """A thread that looks for missed events at start, when it is told that one was refused, and every so often.

    It tries again, less and less often, until it succeeds: the host may start after the backend. Of several backends
    the one that leads looks every so often, all of it once it leads; the others only after they refused an event.
    """

    def __init__(self, inbox: Inbox, client: LabelStudioClient, *, leads: Callable[[], bool] = lambda: True) -> None:
        self._inbox, self._client, self._leads = inbox, client, leads
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)

    def start(self) -> Reconciler:
        self._thread.start()
        return self

    def wake(self) -> None:
        """An event was refused: look soon."""
        self._wake.set()

    def stop(self, timeout_s: float | None = None) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s, whole_at, since = PAUSE_S, -WHOLE_EVERY_S, None
        while not self._ended.is_set():
            if not self._leads() and not self._wake.is_set():
                whole_at = -WHOLE_EVERY_S
                self._wake.wait(LEAD_S)
                continue
            self._wake.clear()
            started, is_whole = datetime.now(UTC), time.monotonic() - whole_at >= WHOLE_EVERY_S
            try:
                with alone(self._inbox.database, RECONCILE_LOCK):
                    num_added = reconcile(self._inbox, self._client, since=None if is_whole else since)
            except Exception as error:
                log.warning("reconcile: %s; trying again in %.0f s", describe(error), pause_s)
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, EVERY_S)
                continue
            if num_added or whole_at < 0:
                log.info("reconcile: %d annotations had been missed", num_added)
            pause_s, since = PAUSE_S, started - OVERLAP
            whole_at = time.monotonic() if is_whole else whole_at
            if self._wake.wait(EVERY_S):
                self._ended.wait(PAUSE_S)  # what kept one event away may keep away more
