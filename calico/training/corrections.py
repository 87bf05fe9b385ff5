"""Batches of a finetune: corrected groups, with base data against forgetting.

A batch is a function of (seed, step) alone, as in `calico.training.sources`, so a finetune resumes exactly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from calico.data.groups import GroupPlan, draw_batch
from calico.errors import InputError
from calico.language.tokenizer import CalicoTokenizer
from calico.language.words import mirrored_name
from calico.model.inputs import ModelInputs
from calico.snapshots.splits import TRAIN, VALIDATION
from calico.snapshots.store import Snapshot
from calico.training.augmentation import augmented
from calico.training.batches import (
    DRAWN,
    BatchSettings,
    TrainingBatch,
    Vocabulary,
    build_batch,
    mixed_plans,
    size_weights,
)
from calico.training.corrected_groups import CorrectedGroup
from calico.training.snapshot_groups import Outline, SnapshotGroups, outlines_of, read_groups
from calico.values import AnnotatedImage, CoSegmentation

logger = logging.getLogger(__name__)
KEPT_SIZE = 2.0  # longest side of a kept picture, times the model's input: the part memory looks so closely
MAX_REPEAT = 4.0
MAX_PARTS = 250  # of one image: codes of a part map

#: Draws base data: (seed, number of images, longest side in pixels, favoured) -> annotated images of the base's
#: training stream, half of them of the favoured object names, as far as it has these.
Replay = Callable[[int, int, int, Sequence[str]], list[AnnotatedImage]]


def read_splits(
    snapshot: Snapshot, train_ids: Collection[str] | None, size: int, accepted_as_is: float, max_validation: int
) -> tuple[SnapshotGroups, SnapshotGroups]:
    """Groups of the training split and of the validation split; with `train_ids` those, and none to validate on.

    size: the model's input in pixels. accepted_as_is: as `read_groups` takes it.
    Raises `InputError` where there are none to train on.
    """
    by_split: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
    for record in snapshot.records():
        by_split.setdefault(record["split"], []).append(record["id"])
    if train_ids is not None:
        by_split = {TRAIN: list(train_ids), VALIDATION: []}
    longest = round(size * KEPT_SIZE)
    groups = read_groups(snapshot, by_split[TRAIN], longest, accepted_as_is=accepted_as_is)
    if not groups:
        splits = ", ".join(f"{len(ids)} {name}" for name, ids in sorted(by_split.items()))
        raise InputError(
            f"{snapshot.folder}: no groups to train on ({splits}; accepted as is count {accepted_as_is}); "
            "correct more groups"
        )
    validation = read_groups(snapshot, by_split[VALIDATION][:max_validation], longest, accepted_as_is=accepted_as_is)
    if not validation and train_ids is None:
        logger.warning("no validation groups: training to the end, the last weights count")
    return groups, validation


def reordered(target: CoSegmentation, order: Sequence[int]) -> CoSegmentation:
    """The same about the same images in another order: what was image `order[k]` comes k-th."""
    place = {image: k for k, image in enumerate(order)}
    regions = [
        replace(
            region,
            image=place[region.image],
            correspondence=tuple(sorted(place[image] for image in region.correspondence)),
        )
        for region in target.regions
    ]
    return CoSegmentation(
        tuple(target.sizes_hw[image] for image in order), tuple(sorted(regions, key=lambda region: region.image))
    )


def drawings(seed: int, num_images: int, size: int, favoured: Sequence[str] = ()) -> list[AnnotatedImage]:
    """Base data of a model that was trained on drawings."""
    weights = BatchSettings().difficulty_weights
    return draw_batch(seed, num_images=num_images, size=size, difficulty_weights=weights, favoured=favoured)


def class_weights(groups: Sequence[CorrectedGroup | Outline]) -> np.ndarray:
    """How often each group is drawn, in proportion: rare names more often, by the square root, as LVIS repeats them."""
    counts = Counter(name for group in groups for name in group.names)
    usual = float(np.median(list(counts.values()))) if counts else 1.0
    repeats = [
        min(MAX_REPEAT, max([1.0, *(float(np.sqrt(usual / counts[name])) for name in group.names)])) for group in groups
    ]
    weights = np.array([group.weight * repeat for group, repeat in zip(groups, repeats, strict=True)])
    return weights / weights.sum()


def may_flip(group: CorrectedGroup) -> bool:
    """Not where a relation was drawn by hand between names that a mirror would change."""
    return group.truth is None or all(mirrored_name(name) == name for name in group.names)


class CorrectionBatches:
    """`batch(step)` draws corrected groups and as many base images; `fixed(...)` is the same every time.

    vocabulary: of the base data. replay_share: of the images of a batch and of its questions, those of base data.
    favoured: names of objects that half of the base data should show.
    """

    def __init__(
        self,
        groups: Sequence[CorrectedGroup],
        replay: Replay,
        tokenizer: CalicoTokenizer,
        settings: BatchSettings,
        inputs: ModelInputs,
        seed: int,
        vocabulary: Vocabulary = DRAWN,
        replay_share: float = 0.5,
        favoured: Sequence[str] = (),
    ) -> None:
        if not 0 < replay_share < 1:
            raise InputError(f"replay share: expected above 0 and below 1, got {replay_share}")
        self.groups, self.replay, self.tokenizer, self.settings = groups, replay, tokenizer, settings
        self.inputs, self.seed, self.vocabulary = inputs, seed, vocabulary
        self.replay_share, self.favoured = replay_share, tuple(favoured)
        self._outlines = outlines_of(groups)
        self._weights = class_weights(self._outlines)

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> TrainingBatch:
        """num_parts: of how many micro-batches the step is made; each has its share of the images and groups."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step, part, num_parts]))
        num_own = self._num_own(num_parts)
        members: list[CorrectedGroup] = []
        order = rng.choice(len(self.groups), len(self.groups), replace=False, p=self._weights)
        for index in order:
            if members and sum(group.num_images for group in members) + self._outlines[index].num_images > num_own:
                break
            members.append(self.groups[index])
        members = [
            replace(group, images=tuple(augmented(image, rng, may_flip(group)) for image in group.images))
            for group in members
        ]
        return self._build(members, rng, num_parts)

    def fixed(self, groups: Sequence[CorrectedGroup], number: int, num_parts: int = 1) -> TrainingBatch:
        """A validation batch: these groups as they are, and their share of base images."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 2**31, number]))
        return self._build(groups, rng, num_parts)

    def all_fixed(self, groups: Sequence[CorrectedGroup], num_parts: int) -> Iterator[TrainingBatch]:
        """Validation batches of all these groups, each no larger than a micro-batch of one of `num_parts`."""
        num_own = self._num_own(num_parts)
        chunk: list[CorrectedGroup] = []
        number = 0
        for group in chain(groups, [None]):
            if chunk and (group is None or sum(len(g.images) for g in (*chunk, group)) > num_own):
                torch.manual_seed(number)  # which masks are looked at
                yield self.fixed(chunk, number, num_parts)
                chunk, number = [], number + 1
            if group is not None:
                chunk.append(group)

    def _num_own(self, num_parts: int) -> float:
        """How many images of a micro-batch are corrected ones; a group that is larger comes whole, alone."""
        return max(2, self.settings.num_images // num_parts) * (1 - self.replay_share)

    def _build(self, groups: Sequence[CorrectedGroup], rng: np.random.Generator, num_parts: int) -> TrainingBatch:
        images = [image for group in groups for image in group.images]
        num_own = len(images)
        room = self.settings.num_images // num_parts - num_own  # memory goes before shares
        num_base = max(2, min(room, round(num_own * self.replay_share / (1 - self.replay_share))))
        images += self.replay(int(rng.integers(2**62)), num_base, self.inputs.preprocess.grounding_size, self.favoured)
        share = 1 / num_parts
        settings = replace(
            self.settings,
            num_points=max(1, round(self.settings.num_points * share)),
            num_boxes=max(1, round(self.settings.num_boxes * share)),
        )
        plans = self._own_plans(groups, rng, max(1, round(self.settings.num_groups * share * (1 - self.replay_share))))
        partial = [k in group.partial_images for group in groups for k in range(len(group.images))]
        loose = [k for k, image in enumerate(images) if image.object_name and not (k < num_own and partial[k])]
        num_mixed = max(1, round(self.settings.num_groups * share) - len(plans))
        mixed = mixed_plans([images[k] for k in loose], settings, rng, num_mixed)
        plans += [replace(plan, indices=tuple(loose[k] for k in plan.indices)) for plan in mixed]
        batch = build_batch(images, plans, settings, self.tokenizer, self.inputs, rng, self.vocabulary)
        is_base = torch.tensor([min(plan.indices) >= num_own for plan in plans])
        return replace(batch, seg_weight=size_weights(batch), is_base=is_base)

    def _own_plans(self, groups: Sequence[CorrectedGroup], rng: np.random.Generator, limit: int) -> list[GroupPlan]:
        """The groups as they were annotated, each with some of the three questions."""
        plans, start = [], 0
        for group in groups:
            indices = tuple(range(start, start + len(group.images)))
            start += len(group.images)
            truth = group.truth
            if self.settings.reordered_share > 0 and rng.random() < self.settings.reordered_share:
                order = rng.permutation(len(indices)).tolist()
                indices, truth = tuple(indices[k] for k in order), None if truth is None else reordered(truth, order)
            plans += [GroupPlan(indices, task, truth) for task in group.sub_tasks]
        return [plans[k] for k in rng.permutation(len(plans))[:limit]]
