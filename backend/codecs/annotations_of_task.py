"""Which of a task's annotations counts: one rule for training, for COCO and for what to label next.

Not cancelled, not empty; then ground truth before others, then the one changed last, then the highest id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Json = Mapping[str, Any]


class PassedOver(NamedTuple):
    """An annotation that does not count. code: `cancelled`, `empty` or `superseded`."""

    code: str
    message: str
    annotation: Any


class Counting(NamedTuple):
    """annotation: None where none counts."""

    annotation: Json | None
    others: list[PassedOver]


def annotation_that_counts(annotations: Sequence[Json]) -> Counting:
    """By the module's rule. annotations: a task's, as the host gives them."""
    usable: list[Json] = []
    others: list[PassedOver] = []
    for annotation in annotations:
        number = annotation.get("id")
        if annotation.get("was_cancelled"):
            others.append(PassedOver("cancelled", "the annotation was cancelled", number))
        elif not isinstance(annotation.get("result"), list) or not annotation["result"]:
            others.append(PassedOver("empty", "the annotation has no regions", number))
        else:
            usable.append(annotation)
    usable.sort(key=_rank, reverse=True)
    if not usable:
        return Counting(None, others)
    message = f"annotation {usable[0].get('id')} of the same task counts"
    others += [PassedOver("superseded", message, other.get("id")) for other in usable[1:]]
    return Counting(usable[0], others)


def _rank(annotation: Json) -> tuple[bool, str, int]:
    number = annotation.get("id")
    return (
        bool(annotation.get("ground_truth")),
        str(annotation.get("updated_at") or ""),
        number if isinstance(number, int) else -1,
    )
