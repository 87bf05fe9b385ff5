"""One training step's data out of an index of part data: samples drawn by chance, each picture opened once."""

from __future__ import annotations

import numpy as np
import torch

from calico.data.groups import GroupPlan
from calico.language.tokenizer import CalicoTokenizer
from calico.mixedparts.index import MixedParts
from calico.model.inputs import ModelInputs
from calico.training.batches import BatchSettings, TrainingBatch, Vocabulary, build_batch


class IndexBatches(torch.utils.data.Dataset[TrainingBatch]):
    """`self[step]` is the batch of that step: a function of the seed and the step alone."""

    def __init__(
        self,
        data: MixedParts,
        tokenizer_file: str,
        settings: BatchSettings,
        inputs: ModelInputs,
        seed: int,
    ) -> None:
        self.data = data
        self.tokenizer_file = tokenizer_file
        self.settings = settings
        self.inputs = inputs
        self.seed = seed
        self.vocabulary = Vocabulary(data.classes, data.parts)
        self._tokenizer: CalicoTokenizer | None = None

    @property
    def tokenizer(self) -> CalicoTokenizer:
        if self._tokenizer is None:  # once per worker
            self._tokenizer = CalicoTokenizer.from_file(self.tokenizer_file)
        return self._tokenizer

    def __getitem__(self, step: int) -> TrainingBatch:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        places, plans = self.plans(rng)
        images = self.data.drawn([self.data.record(row) for row in places])
        return build_batch(images, plans, self.settings, self.tokenizer, self.inputs, rng, self.vocabulary)

    def plans(self, rng: np.random.Generator) -> tuple[list[int], list[GroupPlan]]:
        """Rows of objects and the groups over them: samples until the step's images or groups are full, one at least.

        The images of a group are shuffled, which is the paper's relatives' only augmentation.
        """
        place_of: dict[int, int] = {}
        plans: list[GroupPlan] = []
        while len(plans) < self.settings.num_groups:
            entry = self.data.entry(int(rng.integers(len(self.data))))
            fresh = set(entry.objects) - place_of.keys()
            if plans and len(place_of) + len(fresh) > self.settings.num_images:
                break
            for row in entry.objects:
                place_of.setdefault(row, len(place_of))
            order = rng.permutation(len(entry.objects))
            plans.append(GroupPlan(tuple(place_of[entry.objects[k]] for k in order), entry.sub_task))
        return list(place_of), plans
