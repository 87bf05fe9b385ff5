"""Which regions of a group correspond, and so which are common and which unique: a function of their names.

Regions correspond when they have one name and one kind on different images. A relation drawn by hand joins two regions
whatever their names, and joins all that correspond to either. Used for predictions and, again, for corrected names.
`co_segmentation` puts masks with their names together into what is known of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from calico.errors import InputError
from calico.values import (
    AnnotatedImage,
    CoSegmentation,
    NamedMask,
    Occurrence,
    PartRegion,
    Problem,
    RegionKey,
    SubTask,
    check_mask,
    normalize_name,
)


class Correspondence(NamedTuple):
    """id: equal for regions that correspond. images: ascending indices of the images that show it."""

    id: str
    images: tuple[int, ...]

    @property
    def occurrence(self) -> Occurrence:
        return Occurrence.COMMON if len(self.images) > 1 else Occurrence.UNIQUE


def correspond(
    keys: Iterable[RegionKey], relations: Iterable[tuple[RegionKey, RegionKey]] = ()
) -> dict[RegionKey, Correspondence]:
    """The correspondence of every key.

    relations: pairs of keys related by hand; a pair that names an unknown key or joins an object with a part is a
    `KeyError` or `ValueError`: the codec that read it reports it first.
    """
    keys = list(dict.fromkeys(keys))
    parent = {(key.kind, key.name): (key.kind, key.name) for key in keys}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        while parent[node] != node:
            node = parent[node]
        return node

    present = set(keys)
    for first, second in relations:
        for key in (first, second):
            if key not in present:
                raise KeyError(f"relation names a region that is not there: {key}")
        if first.kind != second.kind:
            raise ValueError(f"a relation joins {first.kind} {first.name!r} with {second.kind} {second.name!r}")
        parent[root((second.kind, second.name))] = root((first.kind, first.name))

    members: dict[tuple[str, str], list[RegionKey]] = {}
    for key in keys:
        members.setdefault(root((key.kind, key.name)), []).append(key)
    result: dict[RegionKey, Correspondence] = {}
    for group in members.values():
        names = "  ".join(sorted({key.name for key in group}))  # two spaces: no normalised name holds them
        correspondence = Correspondence(f"{group[0].kind}:{names}", tuple(sorted({key.image for key in group})))
        result.update(dict.fromkeys(group, correspondence))
    return result


def co_segmentation(
    sizes_hw: Sequence[tuple[int, int]],
    masks: Iterable[NamedMask],
    *,
    answers: Mapping[SubTask, str] | None = None,
    problems: Iterable[Problem] = (),
    relations: Iterable[tuple[RegionKey, RegionKey]] = (),
) -> CoSegmentation:
    """Names are normalised, masks of one key united (score: the highest), occurrence and correspondence computed.

    Args:
        sizes_hw: (height, width) of each image.
        masks: each HxW bool at its image's own size.
        answers: raw text per sub-task.
        problems: met on the way.
        relations: pairs of keys that correspond whatever their names (drawn by hand).
    """
    united = _united(masks)
    shown_by = correspond(united, relations)
    regions = tuple(
        PartRegion(
            image=item.image,
            object_name=item.object_name,
            part_name=item.part_name,
            mask=item.mask,
            occurrence=shown_by[key].occurrence,
            correspondence=shown_by[key].images,
            correspondence_id=shown_by[key].id,
            score=item.score,
            is_taught=item.is_taught,
            certainty=item.certainty,
        )
        for key, item in united.items()
    )
    return CoSegmentation(tuple(sizes_hw), regions, dict(answers or {}), tuple(problems))


def truth_of(images: Sequence[AnnotatedImage]) -> CoSegmentation:
    """All three sub-tasks' truth about a group of annotated images."""
    sizes = [(item.image.shape[0], item.image.shape[1]) for item in images]
    return co_segmentation(sizes, [mask for i, item in enumerate(images) for mask in item.masks(i)])


def _united(masks: Iterable[NamedMask]) -> dict[RegionKey, NamedMask]:
    united: dict[RegionKey, NamedMask] = {}
    for item in masks:
        object_name = normalize_name(item.object_name)
        part_name = None if item.part_name is None else normalize_name(item.part_name)
        check_mask(item.mask, f"region {part_name or object_name!r} of image {item.image + 1}")
        key = RegionKey(item.image, "object" if part_name is None else "part", part_name or object_name)
        before = united.get(key)
        if before is None:
            united[key] = item._replace(object_name=object_name, part_name=part_name)
        elif before.mask.shape != item.mask.shape:
            raise InputError(f"{key}: masks of sizes {before.mask.shape} and {item.mask.shape} cannot be united")
        else:
            united[key] = before._replace(mask=before.mask | item.mask, score=max(before.score, item.score))
    return united
