"""The tasks of a corpus as shards: ranges of lines of one file, so that any worker reads its own and memory stays flat.

A file of one task a line is read where it lies. Another form (a JSON list, an index of part data) is first written as
lines into the run's folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.coco.import_tasks import data_of
from backend.coco.task_files import read_tasks
from backend.codecs.config import LabelingConfig
from calico.errors import InputError
from calico.files import written_whole
from calico.mixedparts.index import MixedParts

LINES = "tasks.jsonl"
MAX_LINE_BYTES = 64 << 20  # a task with its images in data URIs

Task = Mapping[str, Any]


@dataclass(frozen=True)
class Shard:
    """Lines of a file. start, stop: bytes. first_line: counted from 0. num_tasks: lines that are not blank."""

    number: int
    path: str
    start: int
    stop: int
    first_line: int
    num_tasks: int

    @property
    def name(self) -> str:
        return f"{self.number:06d}.jsonl"

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """(number in the file, counted from 1; text) of each task, one at a time."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            number, at = self.first_line, self.start
            while at < self.stop:
                line = file.readline()
                if not line:
                    raise InputError(f"{self.path}: is shorter than when the run began; put the whole file back")
                number, at = number + 1, at + len(line)
                if line.strip():
                    yield number, line


@dataclass(frozen=True)
class Plan:
    """sha256: of the file's bytes; tasks that changed under a run are told by it."""

    path: str
    sha256: str
    shards: tuple[Shard, ...]

    @property
    def num_tasks(self) -> int:
        return sum(shard.num_tasks for shard in self.shards)


def plan_of(path: Path, shard_size: int, on_bytes: Callable[[int], None] = lambda count: None) -> Plan:
    """Reads the lines once; keeps two numbers a shard. on_bytes: called with what was read since the last call.

    Raises InputError for a file that cannot be read, has no tasks, or has a line over `MAX_LINE_BYTES`.
    """
    shards: list[Shard] = []
    digest = hashlib.sha256()
    start = at = line_number = first_line = num_tasks = unreported = 0

    def close() -> None:
        if num_tasks:
            shards.append(Shard(len(shards), str(path), start, at, first_line, num_tasks))

    try:
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(
                        f"{path}: line {line_number + 1} is over {MAX_LINE_BYTES >> 20} MiB; expected one task a line, "
                        "or a JSON list in a file that ends in .json"
                    )
                digest.update(line)
                at += len(line)
                line_number += 1
                num_tasks += bool(line.strip())
                unreported += len(line)
                if num_tasks == shard_size:
                    close()
                    start, first_line, num_tasks = at, line_number, 0
                    on_bytes(unreported)
                    unreported = 0
            close()
            on_bytes(unreported)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file of tasks") from None
    if not shards:
        raise InputError(f"{path}: has no tasks; expected one a line, or a JSON list")
    return Plan(str(path), digest.hexdigest(), tuple(shards))


def as_lines(tasks: Path, folder: Path, config: LabelingConfig) -> tuple[Path, tuple[Path, ...]]:
    """The file of one task a line (`tasks` itself, or `folder / LINES`, written once); and an index's picture folders.

    tasks: .jsonl, .json, or the folder of an index of part data, each of whose groups of pictures becomes one task.
    """
    if not tasks.exists():
        raise InputError(f"{tasks}: is not there; name a file of tasks, or the folder of an index")
    roots: tuple[Path, ...] = ()
    if tasks.is_dir():
        index = MixedParts(tasks)
        roots = tuple(Path(root).resolve() for root in index.roots.values())
        source: Iterator[Task] = _tasks_of_index(index, config)
    elif tasks.suffix == ".jsonl":
        return tasks, roots
    else:
        source = read_tasks(tasks)
    lines = folder / LINES
    if not lines.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(lines) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for task in source:
                file.write(json.dumps(task) + "\n")
    return lines, roots


def _tasks_of_index(index: MixedParts, config: LabelingConfig) -> Iterator[Task]:
    """One task per group of pictures, whatever its questions; addresses are absolute paths of the picture files."""
    keys: set[bytes] = set()
    for number, entry in enumerate(index.entries()):
        paths = []
        for record in map(index.record, entry.objects):
            root = index.roots.get(record.source)
            if root is None:
                raise InputError(f"{index.folder}: was built without pictures of {record.source}; build it with them")
            paths.append(str((Path(root) / record.image_file).resolve()))
        key = hashlib.blake2b("\0".join(paths).encode(), digest_size=16).digest()
        if key not in keys:
            keys.add(key)
            yield {"data": data_of(config, paths), "meta": {"sample": index.row(number)}}
