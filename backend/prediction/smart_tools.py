"""Clicks, boxes and names asked for: from a request of the editor to the regions that it shows.

A click is answered on its own image and, where tasks bring their group's names, on the others too: the same part by its
name, where it was not predicted and is believed to be there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backend.codecs.config import LabelingConfig, task_images
from backend.codecs.labels import label_of_region
from backend.codecs.parts import brings_parts
from backend.media.media import Media
from backend.prediction.clicks import (
    ClickMemory,
    clicked_mask,
    id_of,
    is_answered,
    name_of,
    region_under,
    shown_mask,
)
from backend.prediction.engine import Engine, NotReady
from backend.prediction.interactive import Prompts, encode_mask, read_prompts, read_question
from backend.prediction.lane import LaneFull, Priority
from backend.prediction.proposals import Proposal, ask_all, missing_images, objects_of, proposal_rows, proposals
from backend.prediction.protocol import Remembered
from backend.telemetry.prometheus import Metrics
from calico.errors import InputError
from calico.inference.belief import MIN_IMAGE_SCORE, worth_showing
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, CoSegmentation, ImageGroup, normalize_name

log = logging.getLogger("calico.backend")

FOUND_WAIT_S = 8.0  # for what is predicted of a clicked group, which mostly is known already

Prediction = dict[str, Any]


class SmartTools:
    """Safe to share between threads. min_score: as `worth_showing` takes it: what is not shown can be asked for.
    remembered: sees a prediction in the light of what the project has taught, as the one on the screen was.
    """

    def __init__(
        self,
        engine: Engine,
        media: Media,
        metrics: Metrics,
        *,
        min_score: float = MIN_IMAGE_SCORE,
        remembered: Remembered | None = None,
    ) -> None:
        self._engine, self._media, self._metrics, self._min_score = engine, media, metrics, min_score
        self._remembered = remembered
        self._memory = ClickMemory()

    def answer(
        self,
        task: int | None,
        data: Mapping[str, Any],
        config: LabelingConfig,
        context: Mapping[str, Any],
        deadline: float,
        project: str = "",
    ) -> Prediction:
        """deadline: on the monotonic clock, when the answer must be there. project: as the host writes it.

        Raises InputError for what cannot be answered, NotReady or LaneFull for what cannot be answered now.
        """
        sources = task_images(config, data)
        text = read_question(context, config)
        if text is not None:
            return self._asked(normalize_name(text), task, data, config, sources, deadline, context, project)
        prompts = read_prompts(context, config)
        if not 0 <= prompts.image < len(sources):
            raise InputError(f"interactive request: image {prompts.image + 1} of a task that has {len(sources)}")
        # The clicks of other layouts stay with the editor, and two people's must not be taken for one's.
        prompts, known = self._memory.together(task if brings_parts(config) else None, prompts)
        mask, score, version = self._mask(prompts, sources, task, deadline)
        if not brings_parts(config) or not MIN_GROUP_SIZE <= len(sources) <= MAX_GROUP_SIZE:
            mask = clicked_mask(mask, prompts)
            region = known or id_of(task, prompts, None, None)
            mask = mask if is_answered(score, prompts) else mask & False
            return self._encoded(mask, score, prompts, config, version, data, region)
        with self._media.group(sources, task=task) as images:
            group = ImageGroup(images)
            del images
            found = self._found(group, config, data, min(deadline, time.monotonic() + FOUND_WAIT_S), project)
            pieces = clicked_mask(mask, prompts)
            under = region_under(found, prompts, pieces)
            name = name_of(prompts, under, config, data)
            pieces, score = shown_mask(pieces, score, prompts, under, name)
            region = known or id_of(task, prompts, under, name)
            if prompts.label is None and name is not None and under is not None:
                match = label_of_region(under, config.known_labels(prompts.image, data), config.vocabulary)
                prompts = replace(prompts, label=None if match is None else match.label)
            answer = self._encoded(pieces, score, prompts, config, version, data, region)
            if not pieces.any():
                return answer
            self._memory.remember(task, prompts, pieces, region)
            if found is not None and name is not None:
                shown = sorted({prompts.image, *(r.image for r in found.regions if r.part_name == name)})
                named = self._named(group, name, found, shown, deadline)
                made = proposals(found, name, named, task=task, clicked=prompts.image, under=under)
                answer["result"] += self._rows(made, group, config, version, task, data)
            return answer

    # -- what the model is asked --------------------------------------------------------------------------------------

    def _mask(
        self, prompts: Prompts, sources: Sequence[str], task: int | None, deadline: float
    ) -> tuple[np.ndarray, float, str]:
        with self._media.single(sources[prompts.image], task=task) as image:
            height, width = image.shape[:2]
            if prompts.size_wh not in (None, (width, height)):
                sizes = f"{prompts.size_wh} in the editor, {(width, height)} in the file"
                raise InputError(f"interactive request: image {prompts.image + 1} is {sizes} (width, height)")
            points, box = prompts.points_xy(height, width), prompts.box_xyxy(height, width)
            try:
                call = self._engine.segment_prompts(
                    image, points, prompts.labels, box, timeout_s=deadline - time.monotonic()
                )
                try:
                    mask, score = call.result(max(0.0, deadline - time.monotonic()))
                finally:
                    call.cancel()
            except TimeoutError:
                raise NotReady("the model is busy; try again in some seconds") from None
        return mask, score, call.version

    def _found(
        self, group: ImageGroup, config: LabelingConfig, data: Mapping[str, Any], deadline: float, project: str
    ) -> CoSegmentation | None:
        """What is predicted for the group; None where it is not known in time: the click is answered without it."""
        names = tuple(config.candidates(data))
        try:
            call = self._engine.segment(group, names, Priority.WAITED_FOR)
            prediction = call.result(max(0.0, deadline - time.monotonic()))
            if self._remembered is not None:
                prediction, _ = self._remembered(project, call.version, group, prediction, names)
            return worth_showing(prediction, self._min_score)
        except (TimeoutError, LaneFull) as error:
            log.warning("a click is answered without the rest of its group: %s", error or "not predicted in time")
            return None

    def _named(
        self, group: ImageGroup, name: str, found: CoSegmentation, shown: Sequence[int], deadline: float
    ) -> Mapping[int, tuple[np.ndarray, float]]:
        """The forced name on the images that do not show it."""
        if not [image for image in missing_images(found, name) if image not in shown]:
            return {}

        def ask(known: Sequence[int]) -> Mapping[int, tuple[np.ndarray, float]]:
            call = self._engine.segment_named(group, name, objects_of(found), known)
            return call.result(max(0.0, deadline - time.monotonic()))

        try:
            return ask_all(ask, found, shown)
        except TimeoutError:
            return {}
        except InputError as error:  # a name that no answer can hold
            log.info("not asked of the other images: %s", error)
            return {}

    def _asked(
        self,
        name: str,
        task: int | None,
        data: Mapping[str, Any],
        config: LabelingConfig,
        sources: Sequence[str],
        deadline: float,
        context: Mapping[str, Any],
        project: str,
    ) -> Prediction:
        """The part of that name on every image that shows it and on which it was not predicted; and a word about it."""
        if not MIN_GROUP_SIZE <= len(sources) <= MAX_GROUP_SIZE:
            raise InputError(f"a group has {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE} images, the task has {len(sources)}")
        with self._media.group(sources, task=task) as images:
            group = ImageGroup(images)
            del images
            found = self._found(group, config, data, deadline, project)
            if found is None:
                raise NotReady("the model is busy; try again in some seconds")
            shown = sorted({region.image for region in found.regions if region.part_name == name})
            named = self._named(group, name, found, shown, deadline)
            made = proposals(found, name, named, task=task)
            version = self._engine.version()
            rows = self._rows(made, group, config, version, task, data)
        score = max((proposal.mask.score for proposal in made), default=0.0)
        rows.append(_said(context, name, shown, [proposal.mask.image for proposal in made]))
        return {"model_version": version, "score": round(float(score), 4), "result": rows}

    # -- what the editor is told --------------------------------------------------------------------------------------

    def _encoded(
        self,
        mask: np.ndarray,
        score: float,
        prompts: Prompts,
        config: LabelingConfig,
        version: str,
        data: Mapping[str, Any],
        region: str,
    ) -> Prediction:
        with self._metrics.span("encode"):
            return encode_mask(mask, score, prompts, config, model_version=version, task_data=data, region=region)

    def _rows(
        self,
        made: list[Proposal],
        group: ImageGroup,
        config: LabelingConfig,
        version: str,
        task: int | None,
        data: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        if not made:
            return []
        with self._metrics.span("encode"):
            return proposal_rows(made, group.sizes_hw, config, model_version=version, task=task, task_data=data)


def _said(context: Mapping[str, Any], name: str, shown: Sequence[int], made: Sequence[int]) -> dict[str, Any]:
    """The answer in words, in the field where it was asked."""
    question = context["result"][-1]
    parts = []
    if made:
        parts.append(f"found on image {_listed(made)}")
    if shown:
        parts.append(f"on image {_listed(shown)} already")
    text = f"{name}: {'; '.join(parts)}" if parts else f"{name}: no image shows it"
    row = {key: question[key] for key in ("id", "from_name", "to_name", "type", "item_index") if key in question}
    return {**row, "value": {"text": [text]}}


def _listed(images: Sequence[int]) -> str:
    return " and ".join(str(image + 1) for image in sorted(images))
