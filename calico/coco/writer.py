"""Rows -> one COCO file: streamed, resumable, atomic, and the same bytes for the same rows.

Until `finish`, rows lie in the folder `FILE.part`; `FILE` itself appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TextIO

from calico.coco.encode import EncodedGroup
from calico.coco.names import Category
from calico.errors import InputError
from calico.files import write_text, written_whole

INFO = {"description": "Part co-segmentation exported by calico", "frame": "upright: EXIF orientation applied"}


class CocoWriter:
    """A context manager. run: JSON-ready values that must be equal for a run to go on where another stopped.

    category_ids: ids that titles (name, supercategory) must keep, from `read_category_ids`; new ones follow.
    `saved` is what the last `save` of an unfinished equal run was given, else None.
    """

    def __init__(
        self,
        path: Path,
        *,
        scheme: str,
        run: Mapping[str, Any],
        category_ids: Mapping[tuple[str, str], int] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        if path.is_dir() or not path.resolve().parent.is_dir():
            raise InputError(f"{path}: expected a file in a folder that exists; check the path")
        self.path, self._folder = path, path.with_name(path.name + ".part")
        self._scheme, self._info = scheme, {**INFO, **(info or {})}
        self._run = {**run, "scheme": scheme, "categories": sorted([*k, v] for k, v in (category_ids or {}).items())}
        self._given = dict(category_ids or {})
        self._categories: dict[Category, int] = {}  # by first appearance, until all are known
        self.num_images = self.num_annotations = 0
        self.saved: Any = None
        self._files: dict[str, Any] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        state = self._read_state()
        for name in ("images", "annotations"):
            file = self._exit.enter_context(open(self._folder / f"{name}.jsonl", "ab"))
            file.truncate(state["bytes"][name] if state else 0)
            self._files[name] = file
        if state:
            self.saved = state["saved"]
            self.num_images, self.num_annotations = state["num_images"], state["num_annotations"]
            self._categories = {Category(*key): index for index, key in enumerate(state["categories"])}
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def add(self, group: EncodedGroup) -> None:
        for row in group.images:
            self._files["images"].write(_line(row))
        for row in group.annotations:
            index = self._categories.setdefault(row["category_id"], len(self._categories))
            self._files["annotations"].write(_line({**row, "category_id": index}))
        self.num_images += len(group.images)
        self.num_annotations += len(group.annotations)

    def save(self, state: Any) -> None:
        """From here an equal run may go on; `state` (JSON-ready) is what it finds in `saved`."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        kept = {
            "run": self._run,
            "saved": state,
            "num_images": self.num_images,
            "num_annotations": self.num_annotations,
            "categories": list(self._categories),
            "bytes": {name: file.tell() for name, file in self._files.items()},
        }
        write_text(self._folder / "state.json", json.dumps(kept))

    def images(self) -> Iterator[dict[str, Any]]:
        """The image rows so far, in order."""
        self._files["images"].flush()
        with open(self._folder / "images.jsonl", encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def finish(self) -> int:
        """Write the file, remove the folder; the number of categories."""
        self._exit.close()
        ids = self._category_ids()
        with written_whole(self.path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as out:
            out.write('{"info": ' + json.dumps(self._info, ensure_ascii=False) + ',\n"licenses": [],\n')
            out.write('"categories": [')
            _write_rows(out, (json.dumps(row, ensure_ascii=False) for row in _category_rows(ids, self._scheme)))
            out.write('],\n"images": [')
            with open(self._folder / "images.jsonl", encoding="utf-8") as rows:
                _write_rows(out, (line.rstrip("\n") for line in rows))
            out.write('],\n"annotations": [')
            by_index = [ids[category.title(self._scheme)] for category in self._categories]
            with open(self._folder / "annotations.jsonl", encoding="utf-8") as rows:
                _write_rows(out, (_numbered(line, by_index) for line in rows))
            out.write("]}\n")
        shutil.rmtree(self._folder)
        return len(ids)

    def _category_ids(self) -> dict[tuple[str, str], int]:
        """Title -> id: those given as they are, then the others by object and part from the next free one."""
        ids = dict(self._given)
        for category in sorted(self._categories, key=lambda c: (c.object_name, c.part_name or "")):
            ids.setdefault(category.title(self._scheme), max(ids.values(), default=0) + 1)
        return ids

    def _read_state(self) -> Any:
        try:
            state = json.loads((self._folder / "state.json").read_text(encoding="utf-8-sig"))
            sizes = {name: (self._folder / f"{name}.jsonl").stat().st_size for name in state["bytes"]}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._folder}: not readable ({error}); remove it to start anew") from None
        is_same = state["run"] == json.loads(json.dumps(self._run))
        return state if is_same and all(sizes[name] >= state["bytes"][name] for name in sizes) else None


def read_category_ids(path: Path) -> dict[tuple[str, str], int]:
    """(name, supercategory) -> id of an earlier COCO file, so that a later one numbers its categories alike."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))["categories"]
        return {(str(row["name"]), str(row.get("supercategory", ""))): int(row["id"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a COCO file with categories ({error!r}); check the path") from None


def _category_rows(ids: Mapping[tuple[str, str], int], scheme: str) -> Iterator[dict[str, Any]]:
    for (name, above), number in sorted(ids.items(), key=lambda item: item[1]):
        yield {"id": number, "name": name, "supercategory": above}


def _numbered(line: str, by_index: list[int]) -> str:
    row = json.loads(line)
    row["category_id"] = by_index[row["category_id"]]
    return json.dumps(row, ensure_ascii=False)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _write_rows(out: TextIO, rows: Iterator[str]) -> None:
    for number, row in enumerate(rows):
        out.write((",\n" if number else "\n") + row)
