"""What a run over a corpus leaves: a file of predictions and one of failures per shard, whole or not at all.

corpus.json               what makes this run another than others
predictions/000012.jsonl  the shard's tasks with their predictions, one a line; there once the shard is done
failures/000012.jsonl     the shard's tasks that got none: line of the task file, id, reason; if there are any
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from backend.corpus.plan import Shard
from backend.corpus.stages import Failure, Prediction
from calico.errors import InputError
from calico.files import write_text

NOTE = "corpus.json"
PREDICTIONS, FAILURES = "predictions", "failures"


class Output:
    """Any number of processes may write shards of their own; the same shard twice gives one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, run: dict[str, Any]) -> None:
        """Makes the folder, or goes on in it. Raises InputError where it holds another run."""
        for name in (PREDICTIONS, FAILURES):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        note = self.folder / NOTE
        if not note.exists():
            write_text(note, json.dumps(run, indent=2) + "\n")
            return
        try:
            noted = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{note}: cannot be read ({error}); use another --out") from None
        if noted != run:
            others = sorted(key for key in {*run, *noted} if run.get(key) != noted.get(key))
            raise InputError(f"{self.folder}: holds a run with other {', '.join(others)}; use another --out")

    def is_done(self, shard: Shard) -> bool:
        return (self.folder / PREDICTIONS / shard.name).exists()

    def write(self, shard: Shard, outcomes: Iterable[Prediction | Failure]) -> tuple[int, int]:
        """(predictions, failures) of a shard. Failures first: once the predictions are there, all is."""
        failures: list[Failure] = []
        num_predictions = 0
        # A name of its own: two processes that were given one shard do not write into one file.
        temporary = self.folder / PREDICTIONS / f".{shard.name}.{uuid.uuid4().hex}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                for outcome in outcomes:
                    if isinstance(outcome, Failure):
                        failures.append(outcome)
                    else:
                        file.write(json.dumps(outcome.as_json) + "\n")
                        num_predictions += 1
                file.flush()
                os.fsync(file.fileno())
            if (num_outcomes := num_predictions + len(failures)) != shard.num_tasks:
                raise InputError(
                    f"{shard.path}: shard {shard.number} was planned with {shard.num_tasks} tasks and has "
                    f"{num_outcomes}; the file changed under the run, use another --out"
                )
            path = self.folder / FAILURES / shard.name
            if failures:
                failures.sort(key=lambda failure: failure.line)
                write_text(path, "".join(json.dumps(failure.as_json) + "\n" for failure in failures))
            else:
                path.unlink(missing_ok=True)
            temporary.replace(self.folder / PREDICTIONS / shard.name)
        finally:
            temporary.unlink(missing_ok=True)
        return num_predictions, len(failures)

    def drop_unfinished(self) -> None:
        """Removes what a kill left behind; only where no other process writes here."""
        for path in (self.folder / PREDICTIONS).glob(".*.jsonl.*"):
            path.unlink(missing_ok=True)

    def failures(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / FAILURES).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)
