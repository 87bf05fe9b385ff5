"""One sampler for all data that a model trains on: a source draws images and the questions about them, `Batches` makes
a step's batch of these.

Sources: drawings (`DrawnImages`), an index of part data (`IndexSamples`), several at once (`calico.training.mixture`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

from calico.data.groups import GroupPlan, draw_batch
from calico.language.tokenizer import CalicoTokenizer
from calico.mixedparts.index import MixedParts
from calico.model.inputs import ModelInputs
from calico.training.augmentation import distorted
from calico.training.batches import (
    DRAWN,
    BatchSettings,
    TrainingBatch,
    Vocabulary,
    build_batch,
    mixed_plans,
    size_weights,
)
from calico.values import AnnotatedImage


class Source(Protocol):
    """favours_small_masks: whether small regions' masks are trained more often than others."""

    favours_small_masks: ClassVar[bool]

    @property
    def vocabulary(self) -> Vocabulary: ...

    def draw(
        self, rng: np.random.Generator, settings: BatchSettings, size: int
    ) -> tuple[list[AnnotatedImage], list[GroupPlan]]:
        """Images of one batch and the groups of them that are asked about. size: the model's input in pixels."""
        ...


class Batches:
    """`batch(number)` is a function of the seed and its arguments alone, so training resumes exactly and the processes
    that make batches need no state."""

    def __init__(
        self, source: Source, tokenizer: CalicoTokenizer, settings: BatchSettings, inputs: ModelInputs, seed: int
    ) -> None:
        self.source, self.tokenizer, self.settings, self.inputs, self.seed = source, tokenizer, settings, inputs, seed

    def batch(self, number: int, part: int = 0, num_parts: int = 1) -> TrainingBatch:
        """num_parts: of how many micro-batches batch `number` is made; each has its share of the images and groups."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, number * num_parts + part]))
        settings = self.settings.scaled(1 / num_parts)
        images, plans = self.source.draw(rng, settings, self.inputs.preprocess.grounding_size)
        batch = build_batch(images, plans, settings, self.tokenizer, self.inputs, rng, self.source.vocabulary)
        return replace(batch, seg_weight=size_weights(batch)) if self.source.favours_small_masks else batch


@dataclass(frozen=True)
class DrawnImages:
    """Drawings of the training stream."""

    favours_small_masks: ClassVar[bool] = False
    vocabulary: Vocabulary = DRAWN

    def images(self, rng: np.random.Generator, settings: BatchSettings, size: int) -> list[AnnotatedImage]:
        images = draw_batch(
            int(rng.integers(2**62)),
            num_images=settings.num_images,
            size=size,
            images_per_class=settings.images_per_class,
            difficulty_weights=settings.difficulty_weights,
        )
        return [distorted(image, rng) if rng.random() < settings.distorted_share else image for image in images]

    def draw(
        self, rng: np.random.Generator, settings: BatchSettings, size: int
    ) -> tuple[list[AnnotatedImage], list[GroupPlan]]:
        images = self.images(rng, settings, size)
        return images, mixed_plans(images, settings, rng)


@dataclass(frozen=True)
class IndexSamples:
    """Whole samples of an index, drawn by chance, each with its own question; each picture is opened once."""

    favours_small_masks: ClassVar[bool] = False
    data: MixedParts

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.data.classes, self.data.parts)

    def draw(
        self, rng: np.random.Generator, settings: BatchSettings, size: int
    ) -> tuple[list[AnnotatedImage], list[GroupPlan]]:
        rows, plans = self.plans(rng, settings)
        return self.data.drawn([self.data.record(row) for row in rows]), plans

    def plans(self, rng: np.random.Generator, settings: BatchSettings) -> tuple[list[int], list[GroupPlan]]:
        """Rows of objects and the groups over them: samples until the step's images or groups are full, one at least.

        The images of a group are shuffled, which is the paper's relatives' only augmentation.
        """
        place_of: dict[int, int] = {}
        plans: list[GroupPlan] = []
        while len(plans) < settings.num_groups:
            entry = self.data.entry(int(rng.integers(len(self.data))))
            fresh = set(entry.objects) - place_of.keys()
            if plans and len(place_of) + len(fresh) > settings.num_images:
                break
            for row in entry.objects:
                place_of.setdefault(row, len(place_of))
            order = rng.permutation(len(entry.objects))
            plans.append(GroupPlan(tuple(place_of[entry.objects[k]] for k in order), entry.sub_task))
        return list(place_of), plans
