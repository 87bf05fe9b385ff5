"""The adapter for the package label-studio-ml (`label-studio-ml start ./backend`): our services behind its server.

Works under both lines of the package, 1.0.9 and 2.x, which make a new object of this class as often as they like: the
model, its lane and the inbox belong to the process. `python -m backend` is the better server (docs/running.md).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from backend.learning.inbox import Inbox
from backend.services import Services, build_services, open_inbox
from backend.settings import Settings
from calico.errors import InputError

_lock = threading.Lock()
_services: Services | None = None
_inbox: Inbox | None = None


def services() -> Services:
    """One per process, made from the environment when first asked for."""
    global _services
    with _lock:
        if _services is None:
            _services = build_services(Settings.from_environment())
        return _services


def inbox() -> Inbox:
    """Apart from `services`: 1.0.9 calls `fit` in a process of its own, which must not load the model for it."""
    global _inbox
    with _lock:
        if _inbox is None:
            _inbox = open_inbox(Settings.from_environment())
        return _inbox


class CalicoBackend(LabelStudioMLBase):
    """Made as `(label_config=..., train_output=..., ...)` by 1.0.9 and as `(project_id, label_config=...)` by 2.x."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._xml = kwargs.get("label_config") or ""
        super().__init__(*args, **kwargs)

    def setup(self) -> None:
        """2.x calls it after making the object, and answers `/setup` with this version."""
        self.set("model_version", services().model_version())

    def set_extra_params(self, extra_params: Any) -> None:
        """None are used. (That of 2.x fails on a JSON object.)"""

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any] | list[Any]]:
        """Plain predictions, one entry per task; `[]` for a group that failed."""
        predictor = services().predictor
        if not context or not context.get("result"):
            return predictor.predict(tasks, self._xml, str(getattr(self, "project_id", "")))
        if not tasks:
            raise InputError("interactive request: expected a task, got none")
        return [predictor.click(tasks[0], self._xml, context)]

    def fit(self, *args: Any, event: str | None = None, data: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Stores the event; called as `fit(event, data)` by 2.x, as `fit((), event=..., data=...)` by 1.0.9.

        Returns nothing: 1.0.9 would take a result for a newly trained model, of a new version at every annotation.
        """
        if event is None and args and isinstance(args[0], str):
            event = args[0]
            data = args[1] if len(args) > 1 else data
        inbox().put({**(data or {}), "action": event or ""})
