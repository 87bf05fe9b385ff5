"""Groups of annotated images to train and to evaluate on: which images, which question, and how often "there are none".

`choose_groups` serves drawings and real part data alike. The rest draws the images. Seeds of training and of evaluation
come from two halves of the 64-bit integers, so no drawing is ever in both.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from calico.drawings import CLASSES, DIFFICULTIES, PARTS_OF, draw
from calico.values import AnnotatedImage, CoSegmentation, SubTask

_ATTEMPTS = 40
_EVALUATION_SIZES = (160, 256)  # longest side in pixels, from and to


@dataclass(frozen=True)
class GroupPlan:
    """Which images (indices into a sequence of images) are looked at together, and what is asked of them.

    truth: what a person says of the group, where names alone do not tell it; None: `truth_of` the images.
    """

    indices: tuple[int, ...]
    sub_task: SubTask
    truth: CoSegmentation | None = None


def stream_seed(stream: str, *key: int) -> int:
    """A 64-bit seed for "train" or "eval"; the highest bit tells them apart, so that they never meet."""
    top = {"train": 0, "eval": 1}[stream]
    digest = hashlib.sha256("/".join((stream, *map(str, key))).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 1) | (top << 63)


def visible_parts(item: AnnotatedImage) -> frozenset[str]:
    """Names of the parts that have pixels."""
    counts = np.bincount(item.part_map.ravel(), minlength=len(item.part_names) + 2)
    return frozenset(name for k, name in enumerate(item.part_names) if counts[k + 2])


def has_answer(sub_task: SubTask, objects: Sequence[str], parts: Sequence[frozenset[str]]) -> bool:
    """Whether a group with these object names and visible parts, one per image, has anything to name."""
    if sub_task is SubTask.COMMON_OBJECT:
        return max(Counter(objects).values()) > 1
    counts = Counter(name for names in parts for name in names).values()
    return any(n > 1 for n in counts) if sub_task is SubTask.COMMON_PARTS else any(n == 1 for n in counts)


def _split(total: int, shares: Sequence[float], rng: np.random.Generator) -> list[int]:
    """Integers that sum to total in these shares; what rounding leaves over goes by chance, by remainder."""
    exact = np.asarray(shares) * total / sum(shares)
    counts = np.floor(exact).astype(int)
    rest = exact - counts
    for _ in range(total - int(counts.sum())):
        k = int(rng.choice(len(shares), p=rest / rest.sum())) if rest.sum() > 1e-9 else 0
        counts[k] += 1
        rest[k] = 0.0
    return counts.tolist()


def choose_groups(
    images: Sequence[AnnotatedImage],
    rng: np.random.Generator,
    *,
    num_groups: int,
    sizes: Sequence[int] = (2, 3, 4),
    size_weights: Sequence[float] = (0.6, 0.25, 0.15),
    common_object_share: float = 0.3,
    same_class_shares: Sequence[float] = (1.0, 0.5, 0.5),
    mixed_share: float = 0.4,
    none_shares: Sequence[float] = (0.5, 0.2, 0.2),
) -> list[GroupPlan]:
    """Groups of distinct images out of `images`, each with one question, as balanced as the images allow.

    Args:
        images: to choose from.
        rng: what chance is drawn from.
        num_groups: how many to choose.
        sizes: of groups, in images; kept to as the images allow.
        size_weights: how often each size comes.
        common_object_share: share of that question; the rest goes evenly to common and unique parts.
        none_shares: per sub-task in the order of `SubTask`, the share of its groups whose answer is "there are none".
        mixed_share: of its other groups of three and more, the share with strangers beside two or more of one class.
        same_class_shares: per sub-task, among the rest, the share of one class only.
    """
    objects = [item.object_name for item in images]
    parts = [visible_parts(item) for item in images]
    members = {name: [i for i, other in enumerate(objects) if other == name] for name in sorted(set(objects))}
    fitting = [(size, weight) for size, weight in zip(sizes, size_weights, strict=True) if size <= len(images)]
    if not fitting:
        raise ValueError(f"{len(images)} images cannot make a group of {min(sizes)}")
    allowed = [size for size, _ in fitting]
    weights = np.array([weight for _, weight in fitting]) / sum(weight for _, weight in fitting)

    def of_one_class(size: int) -> list[int] | None:
        classes = [indices for indices in members.values() if len(indices) >= size]
        return rng.choice(classes[int(rng.integers(len(classes)))], size, replace=False).tolist() if classes else None

    def of_classes(size: int) -> list[int] | None:
        if len(members) < size:
            return None
        classes = rng.permutation(len(members))[:size]
        groups = list(members.values())
        return [groups[k][int(rng.integers(len(groups[k])))] for k in classes]

    def of_mixed(size: int) -> list[int] | None:
        together = of_one_class(int(rng.integers(2, size)))
        if together is None:
            return None
        strangers = [i for i, name in enumerate(objects) if name != objects[together[0]]]
        missing = size - len(together)
        return together + rng.choice(strangers, missing, replace=False).tolist() if len(strangers) >= missing else None

    def of_any(size: int) -> list[int]:
        return rng.choice(len(images), size, replace=False).tolist()

    def choose(sub_task: SubTask, same_class_share: float, answered: bool) -> tuple[int, ...]:
        size = int(rng.choice(allowed, p=weights))
        mixed, same_class = bool(rng.random() < mixed_share), bool(rng.random() < same_class_share)
        fallback: list[int] | None = None
        for attempt in range(_ATTEMPTS):
            if attempt == _ATTEMPTS * 3 // 4:
                size = min(allowed)
            indices: list[int] | None
            if not answered:
                indices = of_one_class(size) if sub_task is SubTask.UNIQUE_PARTS else of_classes(size)
            elif attempt >= _ATTEMPTS // 2:
                indices = of_any(size)
            elif mixed and size > 2:
                indices = of_mixed(size)
            else:
                indices = of_one_class(size) if same_class else of_classes(size)
            if indices is None:
                continue
            rng.shuffle(indices)
            fits = has_answer(sub_task, [objects[i] for i in indices], [parts[i] for i in indices]) == answered
            if fits and (tuple(sorted(indices)), sub_task) not in seen:
                break
            if fits or fallback is None:
                fallback = indices
        else:
            indices = fallback if fallback is not None else of_any(min(allowed))
        seen.add((tuple(sorted(indices)), sub_task))
        return tuple(int(i) for i in indices)

    seen: set[tuple[tuple[int, ...], SubTask]] = set()
    half = (1.0 - common_object_share) / 2
    plans: list[GroupPlan] = []
    counts = _split(num_groups, (common_object_share, half, half), rng)
    for sub_task, count, same, none in zip(SubTask, counts, same_class_shares, none_shares, strict=True):
        num_answered, num_none = _split(count, (1.0 - none, none), rng)
        plans += [
            GroupPlan(choose(sub_task, same, answered), sub_task)
            for answered in [True] * num_answered + [False] * num_none
        ]
    return [plans[k] for k in rng.permutation(len(plans))]


def _size_hw(rng: Random, longest: int, aspect: bool) -> tuple[int, int]:
    """The longest side as given, the other 0.75 to 1.0 of it, portrait or landscape."""
    shorter = max(1, round(longest * rng.uniform(0.75, 1.0))) if aspect else longest
    return (longest, shorter) if rng.random() < 0.5 else (shorter, longest)


def draw_batch(
    seed: int,
    *,
    num_images: int,
    size: int,
    aspect: bool = True,
    images_per_class: float = 2.2,
    difficulty_weights: Sequence[float] | None = None,
    favoured: Sequence[str] = (),
) -> list[AnnotatedImage]:
    """The drawings of one training step; about num_images / images_per_class classes, so that groups of one exist.

    Args:
        seed: the same for the same drawings.
        num_images: how many to draw.
        size: longest side in pixels.
        aspect: the other side is 0.75 to 1.0 of it, else the drawing is square.
        images_per_class: on average.
        difficulty_weights: shares of `DIFFICULTIES`, else as `draw` has them.
        favoured: classes that half of the drawings are of; names that are no classes are passed over.
    """
    rng = Random(stream_seed("train", seed))
    classes = rng.sample(CLASSES, min(len(CLASSES), max(1, round(num_images / images_per_class))))
    names = [classes[k % len(classes)] for k in range(min(num_images, 2 * len(classes)))]
    names += rng.choices(classes, k=num_images - len(names))
    if drawable := [name for name in favoured if name in CLASSES]:
        names[: num_images // 2] = rng.choices(drawable, k=num_images // 2)
    rng.shuffle(names)
    sizes = [_size_hw(rng, size, aspect) for _ in names]
    levels: list[str | None] = [None] * len(names)
    if difficulty_weights is not None:
        levels = list(rng.choices(DIFFICULTIES, difficulty_weights, k=len(names)))
    return [
        draw(stream_seed("train", seed, k), size_hw=size_hw, object_name=name, difficulty=level)
        for k, (name, size_hw, level) in enumerate(zip(names, sizes, levels, strict=True))
    ]


def _disjoint_classes(rng: Random, num: int) -> list[str] | None:
    """Classes of which no two share a part name, or None where there are not so many."""
    for _ in range(_ATTEMPTS):
        classes: list[str] = []
        for name in rng.sample(CLASSES, len(CLASSES)):
            if all(not set(PARTS_OF[name]) & set(PARTS_OF[other]) for other in classes):
                classes.append(name)
            if len(classes) == num:
                return classes
    return None


def draw_group(
    seed: int,
    *,
    group_size: int,
    size: int | None = None,
    stream: str = "eval",
    draw_one: Callable[..., AnnotatedImage] = draw,
    classes: Sequence[str] = CLASSES,
) -> list[AnnotatedImage]:
    """One held-out group: half of them of one class, and each of the three questions has groups with no answer.

    35 % one class by chance, 15 % one class without unique parts, 15 % classes without common parts, 20 % different
    classes, 15 % (groups of three and more) strangers beside a class. Beyond four classes some always share a part
    name: larger groups lack the third kind.

    Args:
        seed: the same for the same group.
        group_size: in images.
        size: longest side in pixels, else 160 to 256 for each image.
        stream: `train` or `eval`, whose seeds never meet.
        draw_one: what draws, called as `draw` is.
        classes: `CLASSES`, or a single one, of which the whole group then is.
    """
    rng = Random(stream_seed(stream, seed))
    kind = rng.choices(("same", "no unique", "no common", "different", "mixed"), (35, 15, 15, 20, 15))[0]
    names = None
    if len(classes) == 1:
        names = [*classes] * group_size
    elif kind == "no common":
        names = _disjoint_classes(rng, group_size)
    elif kind in ("same", "no unique"):
        names = [rng.choice(CLASSES)] * group_size
    elif kind == "mixed" and group_size > 2:
        names = [rng.choice(CLASSES)] * 2 + rng.sample(CLASSES, group_size - 2)
    names = names or rng.sample(CLASSES, group_size)
    rng.shuffle(names)
    group: list[AnnotatedImage] = []
    for k, name in enumerate(names):
        longest = size or rng.randint(*_EVALUATION_SIZES)
        size_hw = _size_hw(rng, longest, True)
        for attempt in range(12):
            item = draw_one(stream_seed(stream, seed, k, attempt), size_hw=size_hw, object_name=name)
            if kind != "no unique" or not group or set(item.part_names) == set(group[0].part_names):
                break
        group.append(item)
    return group


def evaluation_groups(
    seed: int, num_groups: int, group_size: int, *, size: int | None = None
) -> Iterator[list[AnnotatedImage]]:
    """Held-out groups, see `draw_group`; the same for the same seed, whatever num_groups."""
    for number in range(num_groups):
        yield draw_group(stream_seed("eval", seed, number), group_size=group_size, size=size)
