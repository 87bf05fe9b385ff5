"""The builder's choice of samples: which objects are looked at together, and what is asked of them.

One pool is the objects of one source in one split; groups never mix pools. Rules, with their source:

- classes of a group are equal or share a part name (paper); "there are none" may also join others;
- objects below 2 % of the image are left out of common-object questions (the released loader);
- common and unique are decided on what is visible in the group (paper, section 3);
- a class that another image of the group also shows, though as another object, is no basis for "no common object";
- no group is asked the same question twice.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from calico.data.groups import has_answer
from calico.mixedparts.classes import ComparablePair
from calico.mixedparts.index import SPLITS, TABLES
from calico.mixedparts.tables import Table
from calico.values import SubTask

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_PATIENCE = 400  # failed attempts in a row after which a pool is taken to be used up


@dataclass(frozen=True)
class GroupRules:
    """What a build may be told about its groups.

    sizes: images of a group, ascending; each half as often as the one before. same_class_share: of the part questions
    with an answer, those about one class. none_share: of each sub-task's groups, those to which "there are none" is
    the answer. min_object_share: of the image, for common-object questions (the released loader's 2 %).
    """

    sizes: tuple[int, ...] = (2, 3, 4)
    same_class_share: float = 0.5
    none_share: float = 0.2
    min_object_share: float = 0.02


class Member(NamedTuple):
    """One object. row: of `objects.npy`. image: row of `images.npy`. parts: its visible ones. share: of the image."""

    row: int
    image: int
    class_name: str
    parts: frozenset[str]
    share: float


@dataclass
class Pool:
    """The objects of one source in one split. classes_on: image -> every class that it shows."""

    members: list[Member] = field(default_factory=list)
    classes_on: dict[int, set[str]] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        self.members.append(member)
        self.classes_on.setdefault(member.image, set()).add(member.class_name)


def load_pools(
    folder: Path, sources: Sequence[str], classes: Sequence[str], parts: Sequence[str]
) -> dict[tuple[str, str], Pool]:
    """(split, source) -> its pool, from an index's tables; masks are not read."""
    images, objects, part_rows = (
        Table(folder / name, TABLES[name])[:] for name in ("images.npy", "objects.npy", "parts.npy")
    )
    names = np.array(parts, object)
    part_sets: dict[frozenset[str], frozenset[str]] = {}  # one set for all objects that show the same
    pools: dict[tuple[str, str], Pool] = {}
    areas = images["height"].astype(np.int64) * images["width"]
    for row, item in enumerate(objects):
        image, first = int(item["image"]), int(item["first_part"])
        part_set = frozenset(names[part_rows["name_id"][first : first + int(item["num_parts"])]])
        part_set = part_sets.setdefault(part_set, part_set)
        key = SPLITS[images["split"][image]], sources[images["source"][image]]
        share = float(item["area"] / areas[image])
        pools.setdefault(key, Pool()).add(Member(row, image, classes[item["class_id"]], part_set, share))
    return pools


class Chosen(NamedTuple):
    """objects: N x K rows, -1 where a group is smaller. says_none: N bool. quota: how many were asked for."""

    objects: np.ndarray
    says_none: np.ndarray
    quota: int


def choose_samples(
    pool: Pool, sub_task: SubTask, number: int, pairs: Sequence[ComparablePair], rules: GroupRules, rng: Random
) -> Chosen:
    """Up to `number` different groups for one question, in random order; fewer where the pool holds no more."""
    chooser = _Chooser(pool, sub_task, pairs, rules, rng)
    weights = [0.5**place for place in range(len(rules.sizes))]
    keys: set[tuple[int, ...]] = set()
    groups: list[tuple[tuple[int, ...], bool]] = []
    num_none = round(number * rules.none_share)
    for says_none, goal in ((False, number - num_none), (True, num_none)):
        failures = count = 0
        while count < goal and failures < _PATIENCE:
            # A pool that is nearly used up still has pairs.
            size = rules.sizes[0] if failures > _PATIENCE // 2 else rng.choices(rules.sizes, weights)[0]
            group = chooser.none(size) if says_none else chooser.answered(size)
            key = tuple(sorted(member.row for member in group))
            if len(group) != size or key in keys or not chooser.fits(group, says_none):
                failures += 1
                continue
            failures, count = 0, count + 1
            keys.add(key)
            groups.append((tuple(member.row for member in group), says_none))
    rng.shuffle(groups)
    objects = np.full((len(groups), max(rules.sizes)), -1, np.int32)
    for place, (rows, _) in enumerate(groups):
        objects[place, : len(rows)] = rows
    return Chosen(objects, np.array([none for _, none in groups], bool), number)


class _Chooser:
    """Proposes groups; `fits` decides."""

    def __init__(
        self, pool: Pool, sub_task: SubTask, pairs: Sequence[ComparablePair], rules: GroupRules, rng: Random
    ) -> None:
        self.pool, self.sub_task, self.rules, self.rng = pool, sub_task, rules, rng
        fitting = [m for m in pool.members if self._may_be_asked(m)]
        self.by_class = _gathered(fitting, lambda m: m.class_name)
        self.by_parts = _gathered(fitting, lambda m: m.parts)
        self.classes = sorted(self.by_class)
        class_pairs = [(p.first, p.second) for p in pairs if p.first in self.by_class and p.second in self.by_class]
        self.beside: dict[str, list[str]] = {}
        for first, second in class_pairs:
            self.beside.setdefault(first, []).append(second)
            self.beside.setdefault(second, []).append(first)
        # Classes by the square root of their number: the rare ones more often, but not until they are used up.
        self._class = _Weighted([(name, len(rows) ** 0.5) for name, rows in sorted(self.by_class.items())], rng)
        self._pair = _Weighted(
            [(p, (len(self.by_class[p[0]]) * len(self.by_class[p[1]])) ** 0.5) for p in class_pairs], rng
        )
        alike = sorted((rows for rows in self.by_parts.values() if len(rows) > 1), key=lambda rows: rows[0].row)
        self._alike = _Weighted([(rows, len(rows) ** 0.5) for rows in alike], rng)

    def _may_be_asked(self, member: Member) -> bool:
        if self.sub_task is SubTask.COMMON_OBJECT:
            return member.share >= self.rules.min_object_share
        return bool(member.parts)

    def answered(self, size: int) -> list[Member]:
        name = self._class.pick()
        if name is None:
            return []
        if self.sub_task is SubTask.COMMON_OBJECT:
            if size > 2 and self.rng.random() < 0.4:  # two of a class, and comparable strangers
                return self._of([name, name, *self._neighbours(name, size - 2)])
            return self._of([name] * size)
        if self.rng.random() < self.rules.same_class_share:
            return self._of([name] * size)
        return self._of(self._comparable(size))

    def none(self, size: int) -> list[Member]:
        if self.sub_task is SubTask.UNIQUE_PARTS:
            alike = self._alike.pick() or []
            return self.rng.sample(alike, min(size, len(alike)))
        # Comparable classes make the question hard; others are all there is where these always share.
        if self.rng.random() < 0.5 and (names := self._comparable(size)):
            return self._of(names)
        return self._of(self.rng.sample(self.classes, min(size, len(self.classes))))

    def _comparable(self, size: int) -> list[str]:
        """Different classes, each comparable with one before it; fewer where there are no more."""
        pair = self._pair.pick()
        return [] if pair is None else [*pair, *self._neighbours(pair[0], size - 2, avoid=pair)]

    def _neighbours(self, name: str, number: int, avoid: Sequence[str] = ()) -> list[str]:
        others = [other for other in self.beside.get(name, []) if other not in avoid]
        return self.rng.sample(others, min(number, len(others)))

    def _of(self, names: Sequence[str]) -> list[Member]:
        return [self.rng.choice(self.by_class[name]) for name in names]

    def fits(self, group: Sequence[Member], says_none: bool) -> bool:
        if len({member.image for member in group}) != len(group):
            return False
        names = [member.class_name for member in group]
        if self.sub_task is SubTask.COMMON_OBJECT:
            for member in group:
                on_image = self.pool.classes_on[member.image] - {member.class_name}
                others = [other for other in group if other.class_name != member.class_name]
                if any(on_image & self.pool.classes_on[other.image] for other in others):
                    return False
        return has_answer(self.sub_task, names, [member.parts for member in group]) != says_none


def _gathered(members: Sequence[Member], key: Callable[[Member], K]) -> dict[K, list[Member]]:
    members_of: dict[K, list[Member]] = {}
    for member in members:
        members_of.setdefault(key(member), []).append(member)
    return members_of


class _Weighted(Generic[T]):
    """Picks items by weight; None where there are none."""

    def __init__(self, items: Sequence[tuple[T, float]], rng: Random) -> None:
        self._items = [item for item, _ in items]
        self._ends = list(accumulate(weight for _, weight in items))
        self._rng = rng

    def pick(self) -> T | None:
        return self._rng.choices(self._items, cum_weights=self._ends)[0] if self._items else None


def balanced(chosen: Mapping[K, Chosen]) -> dict[K, Chosen]:
    """The same number of each kind: that of the smallest which has any."""
    smallest = min((len(choice.objects) for choice in chosen.values() if len(choice.objects)), default=0)
    return {
        key: Chosen(choice.objects[:smallest], choice.says_none[:smallest], choice.quota)
        for key, choice in chosen.items()
    }
