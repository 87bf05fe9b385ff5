"""The part memory of a finetune: fitted on the finetuned model's own features, after its last step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from calico.checkpoints.fingerprint import MEMORY
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory.fitting import MemorySettings, fit_memory, look_size
from calico.part_memory.lessons import Lesson
from calico.part_memory.memory import PartMemory, save_memory
from calico.part_memory.pyramid import WHOLE_SCALE, has_frozen_maps
from calico.training.base_data import BaseData
from calico.training.corrected_groups import CorrectedGroup
from calico.training.finetune import Finisher
from calico.values import AnnotatedImage

logger = logging.getLogger(__name__)
NEGATIVE_SEED = 4_013
NUM_NEGATIVES = 24
NUM_STRANGERS = 96
THOROUGH = MemorySettings(second_hidden=192, steps=4000, max_pixels=360_000)  # of hundreds of groups minutes


def lessons_of(groups: Sequence[CorrectedGroup]) -> list[Lesson]:
    """Each image of each group that a person changed: of a prediction that was accepted as it was the model made every
    pixel, so it stands in only where there is nothing else. Groups that share an image are measured together."""
    first: dict[str, int] = {}
    lessons = []
    changed_groups = [group for group in groups if group.weight >= 1]
    for number, group in enumerate(changed_groups or groups):
        component = min((first[key] for key in group.keys if key in first), default=number)
        first.update(dict.fromkeys(group.keys, component))
        whole = (image for k, image in enumerate(group.images) if k not in group.partial_images)
        lessons += [Lesson(image, component) for image in whole if image.object_name]
    return lessons


def negatives_of(
    lessons: Sequence[Lesson],
    size: int,
    draw: Callable[[int, int, int], Sequence[AnnotatedImage]],
    count: int = NUM_NEGATIVES,
) -> Iterator[np.ndarray]:
    """Base images that show no object which the lessons name. draw: (seed, number of images, longest side in px)."""
    taught = {lesson.image.object_name for lesson in lessons}
    for item in draw(NEGATIVE_SEED, count, size):
        if item.object_name not in taught:
            yield item.image


def strangers_of(
    lessons: Sequence[Lesson], size: int, draw: Callable[[int, int, int], Sequence[AnnotatedImage]]
) -> Iterator[np.ndarray]:
    """More of the same at the size at which they are looked at as a whole."""
    return negatives_of(lessons, round(size * WHOLE_SCALE), draw, NUM_STRANGERS)


def memory_finishers(is_wanted: bool, base_data: BaseData) -> tuple[Finisher, ...]:
    """A finisher that leaves the memory beside the adapter; none where it is not wanted. It is for finetunes of one
    start: where no training changes what a memory reads, the same groups are fitted once.

    base_data: what the start learnt from: of it, what shows nothing taught is nothing of these.
    """
    replay = base_data.draw
    fitted: dict[tuple[str, ...], PartMemory] = {}  # by the groups' ids

    def finish(
        folder: Path,
        model: CalicoModel,
        config: CalicoConfig,
        tokenizer: CalicoTokenizer,
        groups: Sequence[CorrectedGroup],
    ) -> None:
        lessons = lessons_of(groups)
        if not lessons or (folder / MEMORY).exists():
            return
        ids = tuple(group.id for group in groups)
        memory = fitted.get(ids) or fit(model.eval(), config, lessons)
        if has_frozen_maps(model):
            fitted[ids] = memory
        save_memory(folder, memory)

    def fit(model: CalicoModel, config: CalicoConfig, lessons: Sequence[Lesson]) -> PartMemory:
        size = look_size(config)

        def draw(seed: int, count: int, longest: int) -> Sequence[AnnotatedImage]:
            return replay(seed, count, longest, ())

        memory = fit_memory(
            model,
            config,
            lessons,
            THOROUGH,
            negatives=negatives_of(lessons, size, draw),
            strangers=strangers_of(lessons, size, draw),
        )
        estimate = "not measured" if memory.card.strict_miou_parts is None else f"{memory.card.strict_miou_parts:.3f}"
        logger.info(
            "part memory: %d names from %d images in %.0f s, cross-validated strict mIoU of parts %s",
            len(memory.card.names), memory.card.num_images, memory.card.seconds, estimate,
        )  # fmt: skip
        return memory

    return (finish,) if is_wanted else ()
