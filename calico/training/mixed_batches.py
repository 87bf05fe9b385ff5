"""One training step's data out of several sources at once: drawings, renders, any index.

Classes are drawn by their sources' shares and the square root of their size; a class that several sources know is drawn
from all of them, so that a drawn chair and a rendered one are asked about together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from calico.data.groups import choose_groups
from calico.data.scenes import varied_scene
from calico.language.tokenizer import CalicoTokenizer
from calico.model.inputs import ModelInputs
from calico.training.batches import BatchSettings, TrainingBatch, Vocabulary, build_batch
from calico.training.corrections import size_weights
from calico.training.mixture import Mixture
from calico.values import AnnotatedImage

SHARED_CLASS = 0.5  # of the images of a class that several sources know, those from its other sources


class MixedBatches(torch.utils.data.Dataset[TrainingBatch]):
    """`self[step]` is the batch of that step: a function of the seed and the step alone."""

    def __init__(
        self,
        mixture: Mixture,
        tokenizer_file: str,
        settings: BatchSettings,
        inputs: ModelInputs,
        seed: int,
    ) -> None:
        self.mixture = mixture
        self.tokenizer_file = tokenizer_file
        self.settings = settings
        self.inputs = inputs
        self.seed = seed
        self.vocabulary = Vocabulary(mixture.classes, mixture.parts)
        self._tokenizer: CalicoTokenizer | None = None
        self._chances = []
        for pool in mixture.pools:
            sizes = np.sqrt([len(keys) for keys in pool.keys.values()])
            self._chances.append(sizes / sizes.sum())

    @property
    def tokenizer(self) -> CalicoTokenizer:
        if self._tokenizer is None:  # once per worker
            self._tokenizer = CalicoTokenizer.from_file(self.tokenizer_file)
        return self._tokenizer

    def __getitem__(self, step: int) -> TrainingBatch:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        images = self.images(rng, self.settings.num_images)
        plans = choose_groups(
            images,
            rng,
            num_groups=self.settings.num_groups,
            size_weights=self.settings.size_weights,
            common_object_share=self.settings.common_object_share,
            same_class_shares=self.settings.same_class_shares,
            mixed_share=self.settings.mixed_share,
            none_shares=self.settings.none_shares,
        )
        batch = build_batch(images, plans, self.settings, self.tokenizer, self.inputs, rng, self.vocabulary)
        return replace(batch, seg_weight=size_weights(batch))

    def images(self, rng: np.random.Generator, num_images: int) -> list[AnnotatedImage]:
        """So many, of about num_images / images_per_class classes, each changed as `varied_scene` does."""
        num_classes = max(1, round(num_images / self.settings.images_per_class))
        chosen = [self._choose_class(rng) for _ in range(num_classes)]
        size = self.inputs.preprocess.grounding_size

        def other() -> AnnotatedImage:
            return self._draw(rng, *self._choose_class(rng))

        found = []
        for number in range(num_images):
            source, name = chosen[number % len(chosen)]
            found.append(varied_scene(self._draw(rng, source, name), rng, size, other, self.mixture.scenes))
        return [found[k] for k in rng.permutation(len(found))]

    def _choose_class(self, rng: np.random.Generator) -> tuple[int, str]:
        source = int(rng.choice(len(self.mixture.pools), p=self.mixture.shares))
        names = list(self.mixture.pools[source].keys)
        return source, names[int(rng.choice(len(names), p=self._chances[source]))]

    def _draw(self, rng: np.random.Generator, source: int, name: str) -> AnnotatedImage:
        beside = [k for k, pool in enumerate(self.mixture.pools) if k != source and name in pool.keys]
        if beside and rng.random() < SHARED_CLASS:
            source = beside[int(rng.integers(len(beside)))]
        pool = self.mixture.pools[source]
        return pool.image(pool.keys[name][int(rng.choice(len(pool.keys[name]), p=pool.weights[name]))])
