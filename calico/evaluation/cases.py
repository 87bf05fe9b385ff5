"""What a segmenter is measured on: groups of images with their truth, each with the questions asked of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from calico.correspondence import truth_of
from calico.data import unseen
from calico.data.groups import evaluation_groups
from calico.errors import InputError
from calico.mixedparts.index import MixedParts, target_of
from calico.snapshots.store import Snapshot
from calico.values import AnnotatedImage, CoSegmentation, ImageGroup, SubTask

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Case:
    """One group. group_id: unique within an evaluation. truth: all three sub-tasks'.

    sub_tasks: the questions to ask; a data set may ask one of each group. source: the data set it comes from, "" where
    there is one. difficulties: one per image, or none.
    """

    group_id: str
    group: ImageGroup
    truth: CoSegmentation
    sub_tasks: tuple[SubTask, ...] = tuple(SubTask)
    source: str = ""
    difficulties: tuple[str, ...] = ()

    @classmethod
    def of_annotated(cls, group_id: str, images: Sequence[AnnotatedImage], source: str = "") -> Case:
        """All three questions of annotated images."""
        group = ImageGroup(tuple(item.image for item in images), tuple(item.source for item in images))
        difficulties = tuple(item.difficulty for item in images)
        return cls(group_id, group, truth_of(images), source=source, difficulties=difficulties)

    @property
    def asked(self) -> CoSegmentation:
        """The truth of what is asked."""
        keys = {region.key for task in self.sub_tasks for region in self.truth.restricted_to(task).regions}
        return replace(self.truth, regions=tuple(region for region in self.truth.regions if region.key in keys))


def drawing_cases(
    num_groups: int, seed: int, group_sizes: Sequence[int] = (2,), domain: str | None = None
) -> Iterator[Case]:
    """Held-out drawings, `num_groups` of each size; the same for the same seed. domain: of `unseen.DOMAINS`, what no
    checkpoint was trained on instead."""
    for size in group_sizes:
        if domain is None:
            groups = evaluation_groups(seed, num_groups, size)
        else:
            groups = unseen.draw_groups(seed, num_groups, domain=domain, stream="eval", group_size=size)
        for number, images in enumerate(groups):
            yield Case.of_annotated(f"{domain or 'drawings'}-{seed}-{size}-{number}", images)


def snapshot_cases(snapshot: Snapshot, split: str | None = None) -> Iterator[Case]:
    """A team's own corrected groups, all three questions of each. split: of `SPLITS`, None: all. Accepted predictions
    are left out: their truth is what a model made."""
    for group in snapshot.groups(split):
        if not group.provenance["accepted_as_is"]:
            yield Case(group.id, snapshot.load_images(group), group.target)


@dataclass(eq=False)
class PartDataCases:
    """Samples of an index of part data, each with its one question; those whose picture cannot be read are skipped.

    limit: so many, drawn with `seed`, as balanced over sources and sub-tasks as the index is. all_questions: all three
    of each group, as an annotator's task asks. skipped: how many so far, and the first reasons.
    """

    data: MixedParts
    limit: int | None = None
    seed: int = 0
    all_questions: bool = False
    num_skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.data) if self.limit is None else min(self.limit, len(self.data))

    def __iter__(self) -> Iterator[Case | None]:
        """None for a sample that was skipped."""
        indices: Sequence[int] = range(len(self.data))
        if len(self) < len(self.data):
            rng = np.random.default_rng(self.seed)
            indices = sorted(rng.choice(len(self.data), len(self), replace=False).tolist())
        for number in indices:
            yield self._case(number)

    def _case(self, number: int) -> Case | None:
        entry, records = self.data.entry(number), self.data.records(number)
        try:
            images = tuple(self.data.load_image(record) for record in records)
            truth = target_of(records)
        except (InputError, OSError) as error:
            self.num_skipped += 1
            if len(self.reasons) < 5:
                self.reasons.append(str(error))
                log.warning("skipped: %s", error)
            return None
        group = ImageGroup(images, tuple(record.image_file for record in records))
        sub_tasks = tuple(SubTask) if self.all_questions else (entry.sub_task,)
        return Case(f"{entry.split}-{self.data.row(number):09d}", group, truth, sub_tasks, entry.source)
