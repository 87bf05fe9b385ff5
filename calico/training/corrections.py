"""Batches of a finetune: corrected groups, with base data against forgetting.

A batch is a function of (seed, step) alone, as in `calico.training.batches`, so a finetune resumes exactly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
from PIL import Image

from calico.correspondence import co_segmentation, truth_of
from calico.data.groups import GroupPlan, choose_groups, draw_batch
from calico.errors import InputError
from calico.language.tokenizer import CalicoTokenizer
from calico.model.inputs import ModelInputs
from calico.model.preprocessing import fitted_size_hw
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.splits import TRAIN, VALIDATION
from calico.snapshots.store import Snapshot
from calico.training.augmentation import augmented
from calico.training.batches import DRAWN, BatchSettings, TrainingBatch, Vocabulary, build_batch
from calico.values import AnnotatedImage, CoSegmentation, NamedMask, PartRegion, SubTask

logger = logging.getLogger(__name__)
KEPT_SIZE = 1.5  # longest side of a kept picture, times the model's input: an augmentation takes some of it away
MAX_REPEAT = 4.0
MAX_PARTS = 250  # of one image: codes of a part map

#: Draws base data: (seed, number of images, longest side in pixels, favoured) -> annotated images of the base's
#: training stream, half of them of the favoured object names, as far as it has these.
Replay = Callable[[int, int, int, Sequence[str]], list[AnnotatedImage]]


@dataclass(frozen=True, eq=False)
class CorrectedGroup:
    """A group of a snapshot as training sees it: pictures no larger than need be, parts as maps.

    truth: where names alone do not tell what corresponds (a relation drawn by hand), else None. weight: how often it is
    drawn, in proportion. sub_tasks: the questions that its annotation answers whole. partial_images: on which something
    is not annotated, so that they are put into no other group.
    """

    id: str
    images: tuple[AnnotatedImage, ...]
    truth: CoSegmentation | None
    weight: float = 1.0
    keys: tuple[str, ...] = field(default=())
    sub_tasks: tuple[SubTask, ...] = tuple(SubTask)
    partial_images: frozenset[int] = frozenset()

    @property
    def names(self) -> set[str]:
        return {name for image in self.images for name in (image.object_name, *image.part_names) if name}


def read_groups(
    snapshot: Snapshot, ids: Iterable[str], size: int, *, accepted_as_is: float = 1.0
) -> list[CorrectedGroup]:
    """The groups with these ids. size: the model's input in pixels. accepted_as_is: the weight of predictions that were
    submitted untouched; 0 leaves them out. Memory: 2 bytes a kept pixel and image, times two."""
    wanted, found = set(ids), []
    for group in snapshot.groups():
        weight = accepted_as_is if group.provenance["accepted_as_is"] else 1.0
        if group.id in wanted and weight > 0 and group.target.regions:
            images = snapshot.load_images(group).images
            found.append(corrected(group, images, round(size * KEPT_SIZE), weight))
    return found


def read_splits(
    snapshot: Snapshot, train_ids: Collection[str] | None, size: int, accepted_as_is: float, max_validation: int
) -> tuple[list[CorrectedGroup], list[CorrectedGroup]]:
    """Groups of the training split and of the validation split; with `train_ids` those, and none to validate on.

    size, accepted_as_is: as `read_groups` takes them. Raises `InputError` where there are none to train on.
    """
    by_split: dict[str, list[str]] = {TRAIN: [], VALIDATION: []}
    for record in snapshot.records():
        by_split.setdefault(record["split"], []).append(record["id"])
    if train_ids is not None:
        by_split = {TRAIN: list(train_ids), VALIDATION: []}
    groups = read_groups(snapshot, by_split[TRAIN], size, accepted_as_is=accepted_as_is)
    if not groups:
        splits = ", ".join(f"{len(ids)} {name}" for name, ids in sorted(by_split.items()))
        raise InputError(
            f"{snapshot.folder}: no groups to train on ({splits}; accepted as is count {accepted_as_is}); "
            "correct more groups"
        )
    validation = read_groups(snapshot, by_split[VALIDATION][:max_validation], size, accepted_as_is=accepted_as_is)
    if not validation and train_ids is None:
        logger.warning("no validation groups: training to the end, the last weights count")
    return groups, validation


def corrected(group: AnnotatedGroup, images: Sequence[np.ndarray], longest: int, weight: float) -> CorrectedGroup:
    """longest: of a kept picture, in pixels."""
    by_image: list[list[PartRegion]] = [[] for _ in images]
    for region in group.target.regions:
        by_image[region.image].append(region)
    kept = tuple(
        reduced(annotated(image, regions, f"{group.id} image {k + 1}"), longest)
        for k, (image, regions) in enumerate(zip(images, by_image, strict=True))
    )
    truth = _hand_drawn(group.target, kept)
    return CorrectedGroup(group.id, kept, truth, weight, group.keys, group.sub_tasks, group.partial_images)


def annotated(image: np.ndarray, regions: Sequence[PartRegion], source: str) -> AnnotatedImage:
    """One image's regions as a part map. The object is its region and all its parts; where parts overlap, the smaller
    one is in front. An image without regions has an empty object name, and nothing is asked to be found on it."""
    parts = sorted((r for r in regions if r.part_name is not None), key=lambda r: (-int(r.mask.sum()), r.name))
    if len(parts) > MAX_PARTS:
        logger.warning("%s: %d parts, the %d largest are trained on", source, len(parts), MAX_PARTS)
        parts = parts[:MAX_PARTS]
    part_map = np.zeros(image.shape[:2], np.uint8)
    for region in regions:
        if region.part_name is None:
            part_map[region.mask] = 1
    for k, region in enumerate(parts):
        part_map[region.mask] = k + 2
    shown = np.bincount(part_map.ravel(), minlength=len(parts) + 2)[2:]
    if hidden := [r.name for r, count in zip(parts, shown, strict=True) if not count]:
        logger.warning(
            "%s: %s: all covered by smaller parts, so not trained on; draw what is only theirs",
            source,
            ", ".join(hidden),
        )
    name = regions[0].object_name if regions else ""
    return AnnotatedImage(image, name, tuple(r.name for r in parts), part_map, "correction", source)


def reduced(item: AnnotatedImage, longest: int) -> AnnotatedImage:
    """No larger than `longest` pixels; a part that has no pixel left is given one, since it is named."""
    if max(item.image.shape[:2]) <= longest:
        return item
    height, width = fitted_size_hw((item.image.shape[0], item.image.shape[1]), longest)
    image = Image.fromarray(item.image).resize((width, height), Image.Resampling.BILINEAR)
    part_map = np.array(Image.fromarray(item.part_map).resize((width, height), Image.Resampling.NEAREST))
    for k in range(len(item.part_names)):
        if not (part_map == k + 2).any() and (where := np.argwhere(item.part_map == k + 2)).size:
            y, x = where[len(where) // 2] * (height, width) // item.part_map.shape
            part_map[y, x] = k + 2
    return replace(item, image=np.asarray(image), part_map=part_map)


def _hand_drawn(target: CoSegmentation, images: Sequence[AnnotatedImage]) -> CoSegmentation | None:
    """The truth about the kept images with the target's relations, where names alone give others."""
    plain = truth_of(images)
    told = {key: region.correspondence for key, region in target.by_key.items()}
    if all(told.get(r.key, r.correspondence) == r.correspondence for r in plain.regions):
        return None
    ids = {region.key: region.correspondence_id for region in target.regions}
    pairs = [(a, b) for a, b in combinations([r.key for r in plain.regions if r.key in ids], 2) if ids[a] == ids[b]]
    masks = [NamedMask(r.image, r.object_name, r.part_name, r.mask) for r in plain.regions]
    return co_segmentation(plain.sizes_hw, masks, relations=pairs)


def drawings(seed: int, num_images: int, size: int, favoured: Sequence[str] = ()) -> list[AnnotatedImage]:
    """Base data of a model that was trained on drawings."""
    weights = BatchSettings().difficulty_weights
    return draw_batch(seed, num_images=num_images, size=size, difficulty_weights=weights, favoured=favoured)


def class_weights(groups: Sequence[CorrectedGroup]) -> np.ndarray:
    """How often each group is drawn, in proportion: rare names more often, by the square root, as LVIS repeats them."""
    counts = Counter(name for group in groups for name in group.names)
    usual = float(np.median(list(counts.values()))) if counts else 1.0
    repeats = [
        min(MAX_REPEAT, max([1.0, *(float(np.sqrt(usual / counts[name])) for name in group.names)])) for group in groups
    ]
    weights = np.array([group.weight * repeat for group, repeat in zip(groups, repeats, strict=True)])
    return weights / weights.sum()


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
        self._weights = class_weights(groups)
        names = {word for group in groups for name in group.names for word in name.split()}
        self._may_flip = not names & {"left", "right"}

    def batch(self, step: int, part: int = 0, num_parts: int = 1) -> TrainingBatch:
        """num_parts: of how many micro-batches the step is made; each has its share of the images and groups."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step, part, num_parts]))
        wanted = self._num_own(num_parts)
        chosen: list[CorrectedGroup] = []
        order = rng.choice(len(self.groups), len(self.groups), replace=False, p=self._weights)
        for index in order:
            if chosen and sum(len(group.images) for group in chosen) + len(self.groups[index].images) > wanted:
                break
            chosen.append(self.groups[index])
        chosen = [
            replace(group, images=tuple(augmented(image, rng, self._may_flip) for image in group.images))
            for group in chosen
        ]
        return self._build(chosen, rng, num_parts)

    def fixed(self, groups: Sequence[CorrectedGroup], number: int, num_parts: int = 1) -> TrainingBatch:
        """A validation batch: these groups as they are, and their share of base images."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, 2**31, number]))
        return self._build(groups, rng, num_parts)

    def all_fixed(self, groups: Sequence[CorrectedGroup], num_parts: int) -> Iterator[TrainingBatch]:
        """Validation batches of all these groups, each no larger than a micro-batch of one of `num_parts`."""
        wanted = self._num_own(num_parts)
        chunk: list[CorrectedGroup] = []
        number = 0
        for group in [*groups, None]:
            if chunk and (group is None or sum(len(g.images) for g in (*chunk, group)) > wanted):
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
        mixed = choose_groups(
            [images[k] for k in loose],
            rng,
            num_groups=max(1, round(self.settings.num_groups * share) - len(plans)),
            size_weights=settings.size_weights,
            common_object_share=settings.common_object_share,
            same_class_shares=settings.same_class_shares,
            mixed_share=settings.mixed_share,
            none_shares=settings.none_shares,
        )
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
            plans += [GroupPlan(indices, task, group.truth) for task in group.sub_tasks]
        return [plans[k] for k in rng.permutation(len(plans))[:limit]]


def size_weights(batch: TrainingBatch) -> torch.Tensor:
    """K: small regions' masks are trained more often, by the fourth root of their area; at most eight times."""
    maps = batch.part_maps.numpy()
    areas = [np.bincount(part_map.ravel(), minlength=256) for part_map in maps]
    images = [] if batch.prompts.seg_image is None else batch.prompts.seg_image.tolist()
    found = [
        float(areas[image][1:255].sum() if value == 1 else areas[image][value])
        for image, value in zip(images, batch.seg_value.tolist(), strict=True)
    ]
    weights = np.maximum(np.array(found), 4.0) ** -0.25
    return torch.from_numpy(np.maximum(weights, weights.max(initial=0) / 8))
