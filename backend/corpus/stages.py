"""What happens to a task: its line is read, its images are fetched, the model is asked, the answer is encoded.

The same stages run in this process and in a worker of a cluster. A task that fails at one of them is a `Failure` with
its reason; the others go on.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from backend.codecs.config import LabelingConfig, task_images
from backend.codecs.parts import Vocabulary, brings_parts, with_parts
from backend.codecs.prediction import encode_prediction
from backend.prediction.predictor import describe
from backend.prediction.protocol import Segmenter
from calico.errors import InputError
from calico.inference.belief import MIN_IMAGE_SCORE, worth_showing
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, CoSegmentation, ImageGroup

log = logging.getLogger(__name__)

Task = Mapping[str, Any]


class ImageLoader(Protocol):
    def load(self, source: str, *, task: int | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class Fetched:
    """line: of the file, counted from 1. candidates: the task's own names, empty for free naming."""

    line: int
    task: Task
    group: ImageGroup
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """as_json: a task with its one prediction, as Label Studio imports it."""

    line: int
    as_json: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    line: int
    task_id: Any
    reason: str

    @property
    def as_json(self) -> dict[str, Any]:
        return {"line": self.line, "id": self.task_id, "reason": self.reason}


def fetch(line: int, text: bytes, config: LabelingConfig, media: ImageLoader) -> Fetched | Failure:
    """Never raises: whatever is wrong with a line is the line's affair alone."""
    task_id = None
    try:
        try:
            task = json.loads(text)
        except ValueError as error:
            raise InputError(f"no JSON ({error}); expected one task a line") from None
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise InputError("no task with an object as its `data`; export the project as JSON, not as JSON-MIN")
        task_id = task.get("id")
        sources = task_images(config, task["data"])
        if not MIN_GROUP_SIZE <= len(sources) <= MAX_GROUP_SIZE:  # before anything is fetched
            raise InputError(f"a group has {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, the task has {len(sources)}")
        number = task_id if isinstance(task_id, int) else None
        group = ImageGroup(tuple(media.load(source, task=number) for source in sources))
        return Fetched(line, task, group, tuple(config.candidates(task["data"])))
    except Exception as error:
        return Failure(line, task_id, describe(error))


def segment(segmenter: Segmenter, batch: Sequence[Fetched]) -> list[CoSegmentation | Exception]:
    """Of each group its answer or what the model raised; one that fails spoils nobody else's."""
    candidates = [item.candidates or None for item in batch]
    if len(batch) > 1:
        try:
            return list(segmenter.segment_many([item.group for item in batch], candidates=candidates))
        except Exception as error:
            log.warning("%d groups together failed (%s); one by one", len(batch), type(error).__name__)
    answers: list[CoSegmentation | Exception] = []
    for item, names in zip(batch, candidates, strict=True):
        try:
            answers += segmenter.segment_many([item.group], candidates=[names])
        except Exception as error:
            answers.append(error)
    return answers


def encode(
    item: Fetched, answer: CoSegmentation | Exception, config: LabelingConfig, version: str, min_score: float
) -> Prediction | Failure:
    task_id = item.task.get("id")
    try:
        if isinstance(answer, Exception):
            raise answer
        answer = worth_showing(answer, min_score)
        data = item.task["data"]
        if brings_parts(config):
            data = with_parts(data, answer, config, Vocabulary())
        encoded = encode_prediction(answer, config, model_version=version, task_id=task_id or item.line, task_data=data)
        if not encoded.prediction["result"]:
            problems = "; ".join(problem.message for problem in (*answer.problems, *encoded.problems))
            raise InputError(f"no region to show: {problems or 'the model found nothing in common or unique'}")
    except Exception as error:
        return Failure(item.line, task_id, describe(error))
    kept = {key: value for key, value in item.task.items() if key in ("id", "data", "meta")}
    return Prediction(item.line, {**kept, "data": data, "predictions": [encoded.prediction]})


class Stages:
    """All four, over any number of lines: images are fetched ahead by threads, in memory for two batches.

    batch_size: groups that the model takes together. min_score: what is less sure is left out, see `worth_showing`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        media: ImageLoader,
        config: LabelingConfig,
        *,
        batch_size: int = 4,
        threads: int = 4,
        min_score: float = MIN_IMAGE_SCORE,
    ) -> None:
        self._segmenter, self._media, self._config = segmenter, media, config
        self._batch_size, self._min_score = batch_size, min_score
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fetch")

    @property
    def version(self) -> str:
        """What the predictions carry."""
        return self._segmenter.version

    def run(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Prediction | Failure]:
        """One outcome a line; failures may come before predictions of earlier lines."""
        batch: list[Fetched] = []
        for item in self._fetched(lines):
            if isinstance(item, Failure):
                yield item
                continue
            batch.append(item)
            if len(batch) == self._batch_size:
                yield from self._predictions(batch)
                batch = []
        yield from self._predictions(batch)

    def _fetched(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Fetched | Failure]:
        ahead: deque[Future[Fetched | Failure]] = deque()
        for line, text in lines:
            ahead.append(self._threads.submit(fetch, line, text, self._config, self._media))
            if len(ahead) > 2 * self._batch_size:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _predictions(self, batch: Sequence[Fetched]) -> Iterator[Prediction | Failure]:
        if batch:
            for item, answer in zip(batch, segment(self._segmenter, batch), strict=True):
                yield encode(item, answer, self._config, self._segmenter.version, self._min_score)
