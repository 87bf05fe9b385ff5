"""What an evaluation keeps of a group: keys, overlaps and names, no pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from calico.metrics.paper import Picture
from calico.metrics.strict import KeyMatch
from calico.values import SubTask

CLICK_KINDS = ("point", "point3", "box")


class ComparedAnswer(NamedTuple):
    """One question of one group. is_none: there is truly nothing of the asked kind; says_none: the answer says so."""

    matches: list[KeyMatch]
    pictures: list[Picture]
    says_none: bool
    is_none: bool
    malformed: bool


class ImageTag(NamedTuple):
    object_name: str | None
    difficulty: str | None


class ComparedGroup(NamedTuple):
    """One group held against the truth.

    Attributes:
        images: a tag of each.
        answers: each question's own.
        merged: the reconciled result.
        shown: of it, what people see.
        occurrences: (right, all).
        source: where the group comes from.
        number: of the group within a report.
    """

    images: tuple[ImageTag, ...]
    answers: Mapping[SubTask, ComparedAnswer]
    merged: list[KeyMatch]
    shown: list[KeyMatch]
    occurrences: tuple[int, int]
    source: str
    number: int = -1


class Click(NamedTuple):
    """One prompted mask. area_share: of the part that was meant, of its image. group: number within a report."""

    group_id: str
    kind: str
    iou: float
    object_name: str | None
    part_name: str | None
    area_share: float
    group: int = -1
