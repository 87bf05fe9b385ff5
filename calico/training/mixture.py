"""Several sources of annotated images, trained on at once: drawings, renders, any index.

Classes are drawn by their sources' shares and the square root of their size; a class that several sources know is drawn
from all of them, so that a drawn chair and a rendered one are asked about together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from calico.data.groups import GroupPlan
from calico.data.scenes import SceneSettings, varied_scene
from calico.training.batches import BatchSettings, Vocabulary, mixed_plans
from calico.training.pools import ImagePool
from calico.values import AnnotatedImage

SHARED_CLASS = 0.5  # of the images of a class that several sources know, those from its other sources


@dataclass(frozen=True)
class Mixture:
    """pools: the sources. shares: of the classes of a step, those drawn from each; they sum to 1."""

    favours_small_masks: ClassVar[bool] = True
    pools: Sequence[ImagePool]
    shares: tuple[float, ...]
    scenes: SceneSettings = field(default_factory=SceneSettings)

    @property
    def version(self) -> str:
        """Drawings first, which is what a finetune replays where nothing else is named."""
        return "+".join(sorted(pool.version for pool in self.pools))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({name for pool in self.pools for name in pool.keys}))

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for pool in self.pools for part in pool.parts))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.classes, self.parts)

    def draw(
        self, rng: np.random.Generator, settings: BatchSettings, size: int
    ) -> tuple[list[AnnotatedImage], list[GroupPlan]]:
        images = self.images(rng, settings, size)
        return images, mixed_plans(images, settings, rng)

    def images(self, rng: np.random.Generator, settings: BatchSettings, size: int) -> list[AnnotatedImage]:
        """`num_images`, of about num_images / images_per_class classes, each changed as `varied_scene` does."""
        num_images = settings.num_images
        num_classes = max(1, round(num_images / settings.images_per_class))
        chosen = [self._choose_class(rng) for _ in range(num_classes)]

        def other() -> AnnotatedImage:
            return self._draw(rng, *self._choose_class(rng))

        images = []
        for number in range(num_images):
            source, name = chosen[number % len(chosen)]
            images.append(varied_scene(self._draw(rng, source, name), rng, size, other, self.scenes))
        return [images[k] for k in rng.permutation(len(images))]

    @cached_property
    def _chances(self) -> list[np.ndarray]:
        """Of each pool's classes, in their order."""
        sizes = [np.sqrt([len(keys) for keys in pool.keys.values()]) for pool in self.pools]
        return [size / size.sum() for size in sizes]

    def _choose_class(self, rng: np.random.Generator) -> tuple[int, str]:
        source = int(rng.choice(len(self.pools), p=self.shares))
        names = list(self.pools[source].keys)
        return source, names[int(rng.choice(len(names), p=self._chances[source]))]

    def _draw(self, rng: np.random.Generator, source: int, name: str) -> AnnotatedImage:
        beside = [k for k, pool in enumerate(self.pools) if k != source and name in pool.keys]
        if beside and rng.random() < SHARED_CLASS:
            source = beside[int(rng.integers(len(beside)))]
        pool = self.pools[source]
        return pool.image(pool.keys[name][int(rng.choice(len(pool.keys[name]), p=pool.weights[name]))])
