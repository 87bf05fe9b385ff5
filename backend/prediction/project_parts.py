"""The labels that a project's tasks bring, written into the tasks when what they show is predicted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from itertools import islice
from typing import Any

from backend.codecs.annotation import read_names
from backend.codecs.config import LabelingConfig
from backend.codecs.config_writer import PARTS
from backend.codecs.parts import Vocabulary, brings_parts, with_parts
from backend.codecs.rows import read_rows
from backend.host.client import LabelStudioClient
from backend.host.filters import ANNOTATED
from calico.errors import CalicoError, InputError
from calico.values import CoSegmentation

log = logging.getLogger("calico.backend")

MAX_TASKS_READ = 500  # whose labels and annotations tell what a project calls its parts


class ProjectParts:
    """Of one project; safe under threads. What annotators named is known, once, from its newest annotated tasks."""

    def __init__(self, client: LabelStudioClient, project: int) -> None:
        self._client, self._project = client, project
        self._known: Vocabulary | None = None
        self._lock = threading.Lock()

    def fit(self, task: int, data: Mapping[str, Any], coseg: CoSegmentation, config: LabelingConfig) -> dict[str, Any]:
        """The task's data with the labels for this co-segmentation; the host's task is updated where they are new.

        A host that does not answer is logged: the regions are then named beside the label `other part`.
        """
        if not brings_parts(config):
            return dict(data)
        with self._lock:
            try:
                vocabulary = self._vocabulary(config)
                fitted = with_parts(data, coseg, config, vocabulary)
                vocabulary.learn_from(fitted[PARTS])  # the next group's labels offer what this one shows
                if fitted[PARTS] != data.get(PARTS):
                    # The host's own data: what a request brings may have addresses that were resolved. From its list:
                    # to read one task that has no prediction yet makes the host ask us for one, and wait for it.
                    task_row = next(self._client.tasks(self._project, page_size=1, after=task - 1))
                    if task_row["id"] == task:
                        self._client.update_task(task, {**task_row["data"], PARTS: fitted[PARTS]})
                return fitted
            except CalicoError as error:
                log.warning("task %s: its labels could not be updated: %s", task, error)
                return dict(data)

    def _vocabulary(self, config: LabelingConfig) -> Vocabulary:
        if self._known is None:
            vocabulary = Vocabulary()
            for task in islice(self._client.tasks(self._project), MAX_TASKS_READ):
                vocabulary.learn_from(task["data"].get(PARTS))
            for task in islice(self._client.tasks(self._project, full=True, filters=[ANNOTATED]), MAX_TASKS_READ):
                for annotation in task.get("annotations") or []:
                    learn_annotation(vocabulary, annotation.get("result") or [], config, task["data"])
            self._known = vocabulary
        return self._known


def learn_annotation(
    vocabulary: Vocabulary, rows: list[Mapping[str, Any]], config: LabelingConfig, data: Mapping[str, Any]
) -> None:
    """What an annotation calls the parts of each image's object."""
    objects: dict[int, str] = {}
    parts: dict[int, list[str]] = {}
    for region in read_rows(rows, config).regions.values():
        image = config.image_of(region.to_name, region.item_index)
        if image is None:
            continue
        try:
            names = read_names(region, config.known_labels(image, data))
        except InputError:
            continue
        if names.part is not None:
            parts.setdefault(image, []).append(names.part)
        if names.owner is not None:
            objects.setdefault(image, names.owner)
    for image, names_here in parts.items():
        if image in objects:
            vocabulary.learn(objects[image], names_here)
