"""Which regions of a group correspond, and so which are common and which unique: a function of their names.

Regions correspond when they have one name and one kind on different images. A relation drawn by hand joins two regions
whatever their names, and joins all that correspond to either. Used for predictions and, again, for corrected names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from calico.values import Occurrence, RegionKey


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

    known = set(keys)
    for first, second in relations:
        for key in (first, second):
            if key not in known:
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
        found = Correspondence(f"{group[0].kind}:{names}", tuple(sorted({key.image for key in group})))
        result.update(dict.fromkeys(group, found))
    return result
