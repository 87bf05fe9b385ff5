"""What there is to label, and what is held out: drawings of an unseen domain, as groups with their truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from calico import drawings
from calico.correspondence import truth_of
from calico.data import groups as sampler
from calico.data import unseen
from calico.values import AnnotatedImage, CoSegmentation, ImageGroup

HELD_OUT_SEED = 6_007  # of the groups that are never labelled: the same for every seed and strategy
PART_NAMES = tuple(dict.fromkeys((*drawings.PART_NAMES, *(p for parts in unseen.PARTS_OF.values() for p in parts))))


@dataclass(frozen=True, eq=False)
class DrawnGroup:
    """order: its place among all groups of its pool. is_unseen: of the domain, not as the base was trained on."""

    id: str
    order: int
    is_unseen: bool
    images: tuple[AnnotatedImage, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of each image, what tells that two are of one picture; none: each drawing is its own."""
        return ("",) * len(self.images)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(item.source for item in self.images)

    @cached_property
    def group(self) -> ImageGroup:
        return ImageGroup(tuple(item.image for item in self.images), tuple(item.source for item in self.images))

    @property
    def truth(self) -> CoSegmentation:
        return truth_of(self.images)


def pool_group(
    domain: str, seed: int, number: int, *, unseen_share: float = 1.0, size: int | None = None
) -> DrawnGroup:
    """Group `number` of a pool of pairs; the first so many are a pool of so many. size: longest side, else 160 to 256.

    unseen_share: of groups that are of the domain; the others are drawings as the base was trained on.
    """
    group_seed = sampler.stream_seed("train", seed, number)
    is_unseen = int((number + 1) * unseen_share) > int(number * unseen_share)  # evenly spread: 0.25 is every fourth
    if is_unseen:
        images = unseen.draw_group(group_seed, domain=domain, stream="train", size=size)
    else:
        images = sampler.draw_group(group_seed, group_size=2, size=size, stream="train")
    return DrawnGroup(f"{domain}-{seed}-{number}", number, is_unseen, tuple(images))


@dataclass(frozen=True)
class DrawnPool:
    """domain, unseen_share, size: as `pool_group` takes them."""

    domain: str
    unseen_share: float = 1.0
    size: int | None = None
    part_names: tuple[str, ...] = PART_NAMES

    def labelled(self, seed: int, count: int) -> list[DrawnGroup]:
        return [
            pool_group(self.domain, seed, number, unseen_share=self.unseen_share, size=self.size)
            for number in range(count)
        ]

    def held_out(self, count: int) -> Iterator[tuple[str, ImageGroup, CoSegmentation]]:
        return held_out(self.domain, count, size=self.size)


def held_out(
    domain: str, num_groups: int, *, size: int | None = None
) -> Iterator[tuple[str, ImageGroup, CoSegmentation]]:
    """Pairs of the domain from the stream that is never labelled, as `calico.training.scoring.score` takes them."""
    groups = unseen.draw_groups(HELD_OUT_SEED, num_groups, domain=domain, stream="eval", size=size)
    for number, images in enumerate(groups):
        yield f"held-out-{domain}-{number}", ImageGroup(tuple(item.image for item in images)), truth_of(images)
