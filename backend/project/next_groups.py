"""Which unlabelled groups of a project to label next, written where the host can sort by it.

Every task is looked at once, a page at a time, and only a line of facts is kept of each. The chosen tasks get their
place as a field of their data, by which a tab of the data manager shows them, or as a prediction's score; annotations
are never written, changed or removed.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backend.codecs.annotation import read_names
from backend.codecs.annotations_of_task import annotation_that_counts
from backend.codecs.config import read_config, task_images
from backend.codecs.controls import LabelingConfig
from backend.codecs.rows import read_rows
from backend.host.client import HostError, LabelStudioClient
from backend.host.filters import task_filter
from calico.data.selection import STRATEGIES, Choice, GroupFacts, Labelled, PredictedPart, choose
from calico.errors import InputError
from calico.files import written_whole

log = logging.getLogger(__name__)

Task = Mapping[str, Any]
FeatureSource = Callable[[Sequence[str], int], np.ndarray]  # addresses and task id -> D float32; may raise InputError

PAGE_SIZE = 20  # of whole tasks: brush masks make them large
PLACE, REASON = "next_place", "next_reason"
TAB = "Label next"  # of the data manager
WRITES = ("field", "score")
#: A place as a prediction's score: below every mean score; the host's uncertainty sampling takes the lowest first.
SCORE_STEP = 1e-6


@dataclass(frozen=True)
class Options:
    """count: groups to choose. version: of the predictions to judge by, None: each task's latest. write: into a `field`
    of the task's data, or as the `score` of that prediction."""

    strategy: str = "mix"
    count: int = 50
    seed: int = 0
    version: str | None = None
    write: str = "field"
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"--strategy: expected one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if not 1 <= self.count <= 9999:
            raise InputError(f"--count: expected 1 to 9999, got {self.count}")
        if self.write not in WRITES:
            raise InputError(f"--write: expected {' or '.join(WRITES)}, got {self.write!r}")


class Row(NamedTuple):
    """What is kept of a task. state: `open`, `labelled` or `skipped` (only cancelled annotations).

    names: part names that people gave. place: what an earlier run wrote into its data.
    """

    id: int
    state: str
    names: tuple[str, ...] = ()
    parts: tuple[tuple[str, float], ...] | None = None
    confidence: float | None = None
    features: tuple[float, ...] | None = None
    prediction: int | None = None
    place: str | None = None
    problem: str = ""


@dataclass
class Summary:
    """Counts of tasks. written: got their place now; current: had it. cleared: lost one from an earlier run."""

    seen: int = 0
    open: int = 0
    labelled: int = 0
    skipped: int = 0
    without_prediction: int = 0
    without_features: int = 0
    written: int = 0
    current: int = 0
    cleared: int = 0
    annotated_meanwhile: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)


class NextGroups:
    """One project. features: for strategies that compare pictures. resume_file: facts of an unfinished run.

    model_version: of the model that gives the features; those of another are not reused.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        project: int,
        options: Options,
        *,
        features: FeatureSource | None = None,
        model_version: str | None = None,
        resume_file: Path | None = None,
    ) -> None:
        self._client, self._project, self._options, self._features = client, project, options, features
        self._model_version = model_version if features is not None else None
        self._resume_file = None if options.dry_run else resume_file
        self.summary = Summary()

    def run(self, on_progress: Callable[[Summary], None] = lambda summary: None) -> Summary:
        """Raises HostError where the host is away; run it again then, and it goes on."""
        summary, options = self.summary, self._options
        config = read_config(self._client.project(self._project)["label_config"])
        rows: list[Row] = []
        for row in self._rows(config):
            rows.append(row)
            summary.seen += 1
            setattr(summary, row.state, getattr(summary, row.state) + 1)
            on_progress(summary)
        open_rows = [row for row in rows if row.state == "open"]
        summary.without_prediction = sum(row.parts is None for row in open_rows)
        summary.without_features = sum(row.features is None for row in open_rows) if self._features else 0
        summary.failures = [{"task": row.id, "reason": row.problem} for row in rows if row.problem]
        summary.choices = choose(
            options.strategy,
            [_facts(row) for row in open_rows],
            options.count,
            labelled=_labelled(rows),
            seed=options.seed,
        )
        if not options.dry_run:
            self._write(rows, summary.choices, on_progress)
            if options.write == "field":  # by scores the host sorts for one model version only, that of the project
                self._show()
            if self._resume_file is not None:
                self._resume_file.unlink(missing_ok=True)
        return summary

    # -- facts ------------------------------------------------------------------------------------------------------

    def _rows(self, config: LabelingConfig) -> Iterator[Row]:
        """Facts that an unfinished run has kept, then those of the tasks after them."""
        rows = self._resumed()
        yield from rows
        file = None
        if self._resume_file is not None:
            self._keep(self._resume_file, rows)
            file = self._resume_file.open("a", encoding="utf-8")
        try:
            after = rows[-1].id if rows else 0
            for task in self._client.tasks(self._project, page_size=PAGE_SIZE, full=True, after=after):
                row = self._row(task, config)
                if file is not None:
                    file.write(json.dumps(row._asdict()) + "\n")
                    file.flush()
                yield row
        finally:
            if file is not None:
                file.close()

    def _row(self, task: Task, config: LabelingConfig) -> Row:
        place = task["data"].get(PLACE)
        annotations = task.get("annotations") or []
        submitted = [item for item in annotations if not item.get("was_cancelled")]
        prediction = self._prediction(task)
        state = "labelled" if submitted else "skipped" if annotations else "open"
        row = Row(int(task["id"]), state, place=place, prediction=prediction["id"] if prediction else None)
        problems: list[str] = []
        if submitted:
            counted, _ = annotation_that_counts(submitted)
            rows = [] if counted is None else _regions(counted["result"], config, task, problems)
            named = [name for _, name, _ in rows if name]
            row = row._replace(names=tuple(sorted(set(named))))
        elif prediction is not None:
            regions = _regions(prediction["result"], config, task, problems)
            scores = [score for _, _, score in regions]
            row = row._replace(
                parts=tuple((name, score) for _, name, score in regions if name),
                confidence=float(np.mean(scores)) if scores else None,
            )
        if self._features is not None and state != "skipped":
            try:
                vector = self._features(task_images(config, task["data"]), row.id)
                row = row._replace(features=tuple(round(float(value), 5) for value in vector))
            except (InputError, HostError) as error:
                problems.append(str(error))
        if problems:
            log.warning("task %s: %s", row.id, problems[0])
        return row._replace(problem=problems[0] if problems else "")

    def _prediction(self, task: Task) -> Task | None:
        version = self._options.version
        candidates = [item for item in task.get("predictions") or [] if version in (None, item.get("model_version"))]
        return max(candidates, key=lambda item: item["id"], default=None)

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write(self, rows: Sequence[Row], choices: Sequence[Choice], on_progress: Callable[[Summary], None]) -> None:
        """First the places of earlier runs go, then the new ones come; what is as it should be is left alone."""
        places = {int(choice.id): (number, choice) for number, choice in enumerate(choices, start=1)}
        by_id = {row.id: row for row in rows}
        in_field = self._options.write == "field"
        for row in rows:
            if row.place is not None and not (in_field and row.id in places):
                self._put(row.id, {PLACE: None, REASON: None})
                self.summary.cleared += 1
                on_progress(self.summary)
        for task, (place, choice) in places.items():
            if in_field:
                # Four digits, since the host sorts fields of the data as text.
                done = self._put(task, {PLACE: f"{place:04d}", REASON: choice.reason})
                self.summary.written += done == "written"
                self.summary.current += done == "current"
                self.summary.annotated_meanwhile += done == "annotated"
            elif (prediction := by_id[task].prediction) is not None:
                self._client.update_prediction(prediction, score=place * SCORE_STEP)
                self.summary.written += 1
            else:
                self.summary.failures.append({"task": task, "reason": "no prediction whose score could be written"})
            on_progress(self.summary)

    def _show(self) -> None:
        """The tab; what has been labelled meanwhile leaves it."""
        column = f"data.{PLACE}"
        filters = [
            task_filter(column, "empty", "String", False),
            task_filter("total_annotations", "equal", "Number", 0),
        ]
        self._client.show_tab(self._project, TAB, ordering=[f"tasks:{column}"], filters=filters)

    def _put(self, task: int, fields: Mapping[str, str | None]) -> str:
        """Sets (None: removes) fields of a task's data as it is now; the rest of it stays."""
        now = self._client.task(task)
        is_marking = any(value is not None for value in fields.values())
        if is_marking and any(not item.get("was_cancelled") for item in now.get("annotations") or []):
            return "annotated"
        data = {key: value for key, value in now["data"].items() if key not in fields}
        data |= {key: value for key, value in fields.items() if value is not None}
        if data == now["data"]:
            return "current"
        self._client.update_task(task, data)
        return "written"

    # -- resuming ---------------------------------------------------------------------------------------------------

    @property
    def _run(self) -> dict[str, Any]:
        """What must be equal for the facts of another run to count."""
        features = self._features is not None
        return {
            "url": self._client.url,
            "project": self._project,
            "version": self._options.version,
            "features": features,
            "model": self._model_version,
        }

    def _keep(self, path: Path, rows: Sequence[Row]) -> None:
        """The resume file with these rows, whole or as it was, also when the machine goes down."""
        with written_whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in (self._run, *(row._asdict() for row in rows)))

    def _resumed(self) -> list[Row]:
        if self._resume_file is None or not self._resume_file.exists():
            return []
        try:
            text = self._resume_file.read_text(encoding="utf-8")
            if not text:
                return []
            first, *lines = text.splitlines()
            if json.loads(first) != self._run:
                log.info("%s is of another run; starting from the first task", self._resume_file)
                return []
            rows = []
            for line in lines:
                try:
                    raw = json.loads(line)
                except ValueError:
                    break  # the last line of a run that was killed
                if raw["parts"] is not None:
                    raw["parts"] = tuple((name, score) for name, score in raw["parts"])
                rows.append(Row(**raw))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self._resume_file}: not readable ({error}); remove it to start anew") from None
        log.info("going on after task %d: %d tasks were looked at", rows[-1].id if rows else 0, len(rows))
        return rows


def _regions(
    result: Any, config: LabelingConfig, task: Task, problems: list[str]
) -> list[tuple[int, str | None, float]]:
    """(image, part name or None for the object, score) of each region; masks are not decoded."""
    scores = {row["id"]: row["score"] for row in result if isinstance(row.get("score"), int | float) and "id" in row}
    regions = []
    for region in read_rows(result, config).regions.values():
        image = config.image_of(region.to_name, region.item_index)
        if image is None:
            problems.append(f"region {region.id}: no <Image> is named {region.to_name!r}")
            continue
        try:
            has_text = config.controls(image).text is not None
            names = read_names(region, config.known_labels(image, task["data"]), has_text=has_text)
        except InputError as error:
            problems.append(f"region {region.id}: {error}")
            continue
        regions.append((image, names.part, float(min(1.0, max(0.0, scores.get(region.row_id, 1.0))))))
    return regions


def _facts(row: Row) -> GroupFacts:
    parts = None if row.parts is None else tuple(PredictedPart(*part) for part in row.parts)
    features = None if row.features is None else np.array(row.features, np.float32)
    return GroupFacts(str(row.id), parts, row.confidence, features)


def _labelled(rows: Sequence[Row]) -> Labelled:
    labelled_rows = [row for row in rows if row.state == "labelled"]
    vectors = [row.features for row in labelled_rows if row.features is not None]
    counts = Counter(name for row in labelled_rows for name in row.names)
    return Labelled(counts, np.array(vectors, np.float32) if vectors else None)
