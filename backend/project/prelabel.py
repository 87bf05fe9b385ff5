"""A whole project's predictions through the host's API: resumes, replaces what is stale, leaves a share without any.

Memory does not grow with the project: tasks come a page at a time, and only counts are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from backend.codecs.config import LabelingConfig, read_config, task_images
from backend.host.client import LabelStudioClient
from backend.host.filters import task_filter
from backend.project.prediction_sources import PredictionSource
from backend.project.summary_text import summary_text
from calico.errors import InputError
from calico.files import write_text

log = logging.getLogger(__name__)

Task = Mapping[str, Any]

PAGE_SIZE = 100
OUR_VERSIONS = "calico-"  # a stale prediction of another model is not ours to remove
MAX_FAILURES_KEPT = 100


@dataclass(frozen=True)
class Options:
    """only_unlabeled: leave out tasks with an annotation. replace_stale: remove our predictions of other versions.

    holdout: the share of groups, 0 to 1, that get no prediction. batch_size: tasks asked about at once.
    """

    only_unlabeled: bool = False
    replace_stale: bool = False
    holdout: float = 0.0
    dry_run: bool = False
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise InputError(f"--holdout: expected a share from 0 up to, not including, 1; got {self.holdout}")
        if not 1 <= self.batch_size <= PAGE_SIZE:
            raise InputError(f"--batch-size: expected 1 to {PAGE_SIZE}, got {self.batch_size}")


@dataclass
class Summary:
    """Counts of tasks. stored: predicted now (in a dry run: would be). current: had a prediction of this version."""

    num_tasks: int = 0
    seen: int = 0
    stored: int = 0
    current: int = 0
    labeled: int = 0
    held_out: int = 0
    held_out_with_prediction: int = 0
    failed: int = 0
    stale_removed: int = 0
    stale_kept: int = 0  # an annotation started from them
    failures: list[dict[str, Any]] = field(default_factory=list)  # the first ones

    def text(self, *, dry_run: bool = False) -> str:
        """What was done, a line each; what did not happen is left out."""
        would = "would be " if dry_run else ""
        lines = [
            (self.stored, f"{would}predicted"),
            (self.current, "had a prediction of this version"),
            (self.labeled, "left out: annotated"),
            (self.held_out, "held out"),
            (self.held_out_with_prediction, "of them have an older prediction, which spoils the comparison"),
            (self.failed, "failed"),
            (self.stale_removed, f"stale predictions {would}removed"),
            (self.stale_kept, "stale predictions kept: an annotation started from them"),
        ]
        return summary_text(self.seen, lines)


def is_held_out(addresses: Sequence[str], share: float) -> bool:
    """Whether a group belongs to the share that gets no prediction: a function of its image addresses alone.

    So it is the same in every run, and a larger share holds out the same groups and more.
    """
    digest = hashlib.sha256(json.dumps(list(addresses)).encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


class Prelabeler:
    """One project and one source. resume_file: where an unfinished run writes how far it came; removed in the end."""

    def __init__(
        self,
        client: LabelStudioClient,
        project: int,
        source: PredictionSource,
        options: Options,
        *,
        resume_file: Path | None = None,
    ) -> None:
        self._client, self._project, self._source, self._options = client, project, source, options
        self._resume_file = None if options.dry_run else resume_file
        self._summary = Summary()
        self._label_config = ""
        self._is_ambiguous = False

    def run(self, on_progress: Callable[[Summary], None] = lambda summary: None) -> Summary:
        """Goes through the project once. Raises HostError or BackendError where either is away; run it again then."""
        record = self._client.project(self._project)
        self._label_config = record["label_config"]
        config = read_config(self._label_config)
        version = self._source.version
        stored = self._client.model_versions(self._project)
        self._is_ambiguous = any(version in other and other != version for other in stored)
        after = self._resume()
        self._summary.num_tasks = int(record["task_number"])
        tasks = self._client.tasks(self._project, page_size=PAGE_SIZE, after=after)
        while page := list(islice(tasks, PAGE_SIZE)):
            waiting: list[Task] = []
            have_current = self._with_version(page)
            for task in page:
                self._summary.seen += 1
                if self._wants(task, config, have_current):
                    waiting.append(task)
                if len(waiting) == self._options.batch_size or task is page[-1]:
                    self._predict(waiting)
                    waiting = []
                    self._save(task["id"])
                    on_progress(self._summary)
        if self._options.replace_stale:
            self._remove_stale()
        if self._resume_file is not None:
            self._resume_file.unlink(missing_ok=True)
        return self._summary

    # -- which tasks ------------------------------------------------------------------------------------------------

    def _with_version(self, page: Sequence[Task]) -> set[int]:
        """Ids of the tasks of a page that have a prediction of the source's version."""
        if not any(task["total_predictions"] for task in page):
            return set()
        version = self._source.version
        candidates = self._tasks_with(version, after=page[0]["id"] - 1, up_to=page[-1]["id"])
        return {t["id"] for t in candidates if not self._is_ambiguous or self._predictions_of(t["id"], version)}

    def _tasks_with(self, version: str, *, after: int = 0, up_to: int | None = None) -> Iterator[Task]:
        """The host's filter finds parts of names too: where one name holds another, look at the predictions."""
        # A list, since of a string the host takes each letter for a version.
        filters = [task_filter("predictions_model_versions", "contains", "List", [version])]
        if up_to is not None:
            filters.append(task_filter("id", "less_or_equal", "Number", up_to))
        return self._client.tasks(self._project, page_size=PAGE_SIZE, after=after, filters=filters)

    def _predictions_of(self, task: int, version: str) -> list[Task]:
        return [item for item in self._client.predictions(task=task) if item.get("model_version") == version]

    def _wants(self, task: Task, config: LabelingConfig, have_current: set[int]) -> bool:
        summary = self._summary
        try:
            addresses = task_images(config, task["data"])
        except InputError as error:
            log.warning("task %s: %s", task["id"], error)
            self._failed(task, str(error))
            return False
        if self._options.holdout and is_held_out(addresses, self._options.holdout):
            summary.held_out += 1
            summary.held_out_with_prediction += bool(task["total_predictions"])
            return False
        if task["id"] in have_current:
            summary.current += 1
            return False
        if self._options.only_unlabeled and task["total_annotations"]:
            summary.labeled += 1
            return False
        return True

    # -- predictions ------------------------------------------------------------------------------------------------

    def _predict(self, tasks: Sequence[Task]) -> None:
        if self._options.dry_run:
            self._summary.stored += len(tasks)
            return
        if not tasks:
            return
        requests = [{"id": task["id"], "data": task["data"]} for task in tasks]
        version = self._source.version
        for task, outcome in zip(tasks, self._source.predict(requests, self._label_config, self._project), strict=True):
            if outcome.reason:
                self._failed(task, outcome.reason)
                continue
            is_stored = outcome.was_late and bool(self._predictions_of(task["id"], version))
            if outcome.prediction is not None and not is_stored:
                prediction = outcome.prediction
                self._client.create_prediction(
                    task["id"],
                    prediction["result"],
                    model_version=prediction.get("model_version", version),
                    score=prediction.get("score"),
                )
            self._summary.stored += 1

    def _failed(self, task: Task, reason: str) -> None:
        self._summary.failed += 1
        if len(self._summary.failures) < MAX_FAILURES_KEPT:
            self._summary.failures.append({"task": task["id"], "reason": reason})

    def _remove_stale(self) -> None:
        """Our predictions of other versions, on tasks that have one of this version.

        Kept where an annotation started from it: the host would forget what the annotator was shown.
        """
        current = self._source.version
        stored = self._client.model_versions(self._project)
        for version in (v for v in stored if v.startswith(OUR_VERSIONS) and v != current):
            if self._options.dry_run:
                self._summary.stale_removed += stored[version]
                continue
            for task in self._tasks_with(version):
                predictions = self._client.predictions(task=task["id"])
                if not any(item["model_version"] == current for item in predictions):
                    continue
                annotations = self._client.annotations(task["id"]) if task["total_annotations"] else []
                started_from = {item.get("parent_prediction") for item in annotations}
                for item in predictions:
                    if item["model_version"] != version:
                        continue
                    if item["id"] in started_from:
                        self._summary.stale_kept += 1
                    else:
                        self._client.delete_prediction(item["id"])
                        self._summary.stale_removed += 1

    # -- resuming -----------------------------------------------------------------------------------------------------

    @property
    def _run(self) -> dict[str, Any]:
        """What must be equal for a run to go on where another stopped."""
        options = self._options
        return {
            "url": self._client.url,
            "project": self._project,
            "version": self._source.version,
            "only_unlabeled": options.only_unlabeled,
            "holdout": options.holdout,
        }

    def _resume(self) -> int:
        """The task after which to go on; 0 at the start."""
        if self._resume_file is None or not self._resume_file.exists():
            return 0
        try:
            saved = json.loads(self._resume_file.read_text(encoding="utf-8"))
            if saved["run"] != self._run:
                log.info("%s is of another run; starting from the first task", self._resume_file)
                return 0
            self._summary = Summary(**saved["summary"])
            after = int(saved["after"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self._resume_file}: not readable ({error}); remove it to start anew") from None
        log.info("going on after task %d: %d of %d tasks were done", after, self._summary.seen, self._summary.num_tasks)
        return after

    def _save(self, after: int) -> None:
        if self._resume_file is None:
            return
        state = {"run": self._run, "after": after, "summary": asdict(self._summary)}
        write_text(self._resume_file, json.dumps(state))


def delete_version(client: LabelStudioClient, project: int, version: str, *, dry_run: bool = False) -> int:
    """Removes all predictions of one version; how many there are. Raises InputError for a version that is not there."""
    stored = client.model_versions(project)
    if version not in stored:
        versions = ", ".join(sorted(stored)) or "none"
        raise InputError(f"project {project} has no predictions of version {version!r}; it has: {versions}")
    return stored[version] if dry_run else client.delete_predictions(project, model_version=version)
