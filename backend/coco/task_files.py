"""Tasks of a Label Studio JSON export, one after another, in memory that does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from backend.codecs.annotations_of_task import annotation_that_counts
from calico.data.image_files import relative_names
from calico.errors import InputError

CHUNK_CHARS = 1 << 20
UNNUMBERED = 8_000_000_000  # from here on: numbers for tasks without one; hosts' own are below

Task = Mapping[str, Any]


def read_tasks(path: Path) -> Iterator[Task]:
    """The tasks of an export of type JSON (also of a snapshot), of one task's JSON, or of one task a line.

    Raises InputError, where it is reached, for what is no task.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, item in enumerate(_items(file, path), start=1):
                if not isinstance(item, dict) or not isinstance(item.get("data"), dict):
                    keys = ", ".join(list(item)[:8]) if isinstance(item, dict) else type(item).__name__
                    raise InputError(
                        f"{path}: item {number} is no task with `data` (it has: {keys}); export the project as JSON, "
                        "not as JSON-MIN"
                    )
                yield item
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text ({error.reason}); export the project as JSON") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a Label Studio JSON export") from None


def _items(file: Any, path: Path) -> Iterator[Any]:
    """The objects of a JSON list, or those that stand one after another."""
    decode = json.JSONDecoder().raw_decode
    text, at, is_list, is_end = file.read(CHUNK_CHARS), 0, False, False
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at < len(text) and text[at] == "[" and not is_list:
            is_list, at = True, at + 1
            continue
        if at < len(text) and text[at] == "]" and is_list:
            return
        if at < len(text) and text[at] == "{":
            try:
                item, at = decode(text, at)
                yield item
                continue
            except json.JSONDecodeError as error:
                if is_end:
                    raise InputError(f"{path}: is no whole JSON ({error}); export it again") from None
        elif at < len(text):
            raise InputError(f"{path}: expected tasks, got {text[at : at + 20]!r}; export the project as JSON")
        elif is_end:
            if is_list:
                raise InputError(f"{path}: ends within its list; export it again")
            return
        # A task that is larger than what is there: twice as much each time, so that time stays linear.
        more = file.read(max(CHUNK_CHARS, len(text) - at))
        is_end = not more
        text, at = text[at:] + more, 0


class Chosen(NamedTuple):
    """result: the rows. provenance: what is known of them, JSON-ready. others: how many were passed over."""

    result: Sequence[Any]
    provenance: dict[str, Any]
    others: int


def choose(
    task: Task, source: Literal["annotations", "predictions"], model_version: str | None = None
) -> Chosen | None:
    """The one annotation (or prediction) of a task that stands for it; None where it has none.

    Annotations: the one that counts. Predictions: the newest, of `model_version` if given.
    """
    items = [item for item in task.get(source) or [] if isinstance(item, Mapping)]
    if source == "annotations":
        best, others = annotation_that_counts(items)
        if best is None:
            return None
        annotator = best.get("completed_by")
        annotator = annotator.get("id") if isinstance(annotator, Mapping) else annotator
        origin = {
            "annotation": best.get("id"),
            "annotator": annotator,
            "parent_prediction": best.get("parent_prediction"),
        }
        num_others = sum(other.code == "superseded" for other in others)
    else:
        items = [item for item in items if isinstance(item.get("result"), list)]
        items = [item for item in items if model_version is None or item.get("model_version") == model_version]
        if not items:
            return None
        best = max(items, key=lambda item: (str(item.get("updated_at") or ""), _number(item.get("id"))))
        origin = {"prediction": best.get("id"), "model_version": best.get("model_version")}
        num_others = len(items) - 1
    return Chosen(best["result"], {key: value for key, value in origin.items() if value is not None}, num_others)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def file_name_of(address: str) -> str:
    """The path of a task's image below the folder that holds the images, as far as its address tells it.

    `/data/upload/1/a.jpg` -> `upload/1/a.jpg`, `/data/local-files/?d=x/a.jpg` -> `x/a.jpg`, `s3://bucket/x/a.jpg` ->
    `x/a.jpg`; empty for a data URI, which has none. InputError where it is no address that can be split.
    """
    return next(iter(relative_names(address)), "")
