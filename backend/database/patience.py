"""Asks a database that may hang without waiting for it: who answers people has something else to say after a second."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import sqlalchemy as sa

from backend.database.database import reason_of
from calico.errors import CalicoError

T = TypeVar("T")

WAIT_S = 1.0
PAUSE_S = 5.0  # after a call that did not come back: the next ones are not even tried


class Unavailable(CalicoError):
    """The database did not answer in time, or refused."""


class Patience:
    """Runs calls on threads of its own, which may hang with the database. Safe to share between threads."""

    def __init__(self, *, num_threads: int = 4, wait_s: float = WAIT_S, pause_s: float = PAUSE_S) -> None:
        self._wait_s, self._pause_s = wait_s, pause_s
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._asked_again_at = -pause_s
        for number in range(num_threads):
            threading.Thread(target=self._run, name=f"database-{number}", daemon=True).start()

    def ask(self, call: Callable[[], T]) -> T:
        """What the call gives. Raises Unavailable; the call may still take place then."""
        if time.monotonic() < self._asked_again_at:
            raise Unavailable("the database did not answer just now")
        answers: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        ended = threading.Event()

        def run() -> None:
            try:
                answers.put((True, call()))
            except BaseException as error:  # handed to whoever asked
                answers.put((False, error))
            ended.set()

        self._calls.put(run)
        if not ended.wait(self._wait_s):
            self._asked_again_at = time.monotonic() + self._pause_s
            raise Unavailable(f"the database did not answer within {self._wait_s:g} s")
        is_done, value = answers.get()
        if is_done:
            return value
        if isinstance(value, (sa.exc.SQLAlchemyError, sqlite3.Error)):
            raise Unavailable(f"the database refused ({reason_of(value)})")
        raise value

    def _run(self) -> None:
        while True:
            self._calls.get()()
