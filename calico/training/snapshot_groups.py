"""A snapshot's groups as training sees them, decoded when they are asked for and kept within a bound.

A thousand pairs at 1,536 pixels are 14 GB; what is known of all of them at once is a line each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from calico.errors import InputError
from calico.snapshots.records import AnnotatedGroup
from calico.snapshots.store import Snapshot
from calico.training.corrected_groups import CorrectedGroup, corrected

KEPT_BYTES = 2 * 2**30  # of pictures and part maps


@dataclass(frozen=True)
class Outline:
    """What is known of a group without its pictures; a `CorrectedGroup` says the same of itself."""

    id: str
    names: frozenset[str]
    weight: float
    num_images: int
    offset: int


class SnapshotGroups(Sequence[CorrectedGroup]):
    """longest: of a kept picture, in pixels. max_bytes: of what is kept decoded, the last used ones."""

    def __init__(
        self, snapshot: Snapshot, outlines: Sequence[Outline], longest: int, max_bytes: int = KEPT_BYTES
    ) -> None:
        self.snapshot, self.outlines, self.longest, self.max_bytes = snapshot, tuple(outlines), longest, max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[int, CorrectedGroup] = OrderedDict()

    def __len__(self) -> int:
        return len(self.outlines)

    @overload
    def __getitem__(self, index: int) -> CorrectedGroup: ...
    @overload
    def __getitem__(self, index: slice) -> SnapshotGroups: ...
    def __getitem__(self, index: int | slice) -> CorrectedGroup | SnapshotGroups:
        if isinstance(index, slice):
            return SnapshotGroups(self.snapshot, self.outlines[index], self.longest, self.max_bytes)
        outline = self.outlines[index]
        if outline.offset in self._kept:
            self._kept.move_to_end(outline.offset)
            return self._kept[outline.offset]
        group = AnnotatedGroup.from_record(self.snapshot.record_at(outline.offset))
        item = corrected(group, self.snapshot.load_images(group).images, self.longest, outline.weight)
        self._kept[outline.offset] = item
        self.num_bytes += item.num_bytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return item

    def __iter__(self) -> Iterator[CorrectedGroup]:
        return (self[index] for index in range(len(self)))


def outlines_of(groups: Sequence[CorrectedGroup]) -> Sequence[Outline | CorrectedGroup]:
    """Of groups that may be in memory or not."""
    return groups.outlines if isinstance(groups, SnapshotGroups) else groups


def read_groups(snapshot: Snapshot, ids: Iterable[str], longest: int, *, accepted_as_is: float = 1.0) -> SnapshotGroups:
    """The groups with these ids that say something. longest: of a kept picture in pixels. accepted_as_is: the weight of
    predictions that were submitted untouched; 0 leaves them out. Raises `InputError` for a snapshot without images."""
    group_ids, outlines = set(ids), []
    for offset, record in snapshot.placed_records():
        weight = accepted_as_is if record["provenance"]["accepted_as_is"] else 1.0
        if record["id"] not in group_ids or weight <= 0 or not record["regions"]:
            continue
        if any(image["sha256"] is None for image in record["images"]):
            raise InputError(f"{snapshot.folder}: made without images, so nothing can be trained on it")
        names = {name for region in record["regions"] for name in (region["object"], region["part"]) if name}
        outlines.append(Outline(record["id"], frozenset(names), weight, len(record["images"]), offset))
    return SnapshotGroups(snapshot, outlines, longest)
