"""Filters of the host's data manager: which of a project's tasks a request is about."""

from __future__ import annotations

from typing import Any


def task_filter(column: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    """kind: of the column, as `Number` or `List`."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


ANNOTATED = task_filter("total_annotations", "greater", "Number", 0)
