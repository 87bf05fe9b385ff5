"""Key maps as data: one `Family` says how one library names the weights of one block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

ZEROS = "0"
"""In place of a source key: rows of zeros, where a library leaves out a part that is always zero."""

_FIELD = re.compile(r"\{(\w+)\}")
_PART = re.compile(r"(.+)\[(\d)/(\d)\]")


class Piece(NamedTuple):
    """Equal part number `part` of `num_parts` of a source tensor's rows (dimension 0). key None: zeros."""

    key: str | None
    part: int = 0
    num_parts: int = 1


@dataclass(frozen=True)
class Family:
    """The weights of a block in one library's names.

    anchor: a key that every file with this family has and no other family has; what stands before it in a file is the
    family's prefix there. rules: (place in our model, source key, ...): several source keys are stacked along dimension
    0, `key[1/3]` is the middle third of one. `{n}` stands for a number, `{rest}` for any tail. Of several rules for one
    place the first whose keys are all there holds. left_out: beginnings of keys that have no place, and why.
    """

    name: str
    anchor: str
    rules: tuple[tuple[str, ...], ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def prefixes(self, keys: Iterable[str]) -> list[str]:
        """What stands before this family's names in a file with these keys; empty where it is not in it."""
        prefixes = (key.removesuffix(self.anchor) for key in keys if key.endswith(self.anchor))
        return sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))

    def recipes(self, place: str, prefix: str) -> Iterator[tuple[Piece, ...]]:
        """What could fill a place, best first."""
        for target, *sources in self.rules:
            if match := _pattern(target).fullmatch(place):
                yield tuple(_piece(source, prefix, match.groupdict()) for source in sources)

    def block_of(self, key: str, prefix: str) -> str | None:
        """The block of our model that a source key belongs to, whatever the number of layers there."""
        for target, *sources in self.rules:
            for source in sources:
                bare = match[1] if (match := _PART.fullmatch(source)) else source
                if key.startswith(prefix) and _pattern(bare).fullmatch(key.removeprefix(prefix)):
                    return target.partition(".")[0]
        return None

    def why_left_out(self, key: str, prefix: str) -> str | None:
        if not key.startswith(prefix):
            return None
        rest = key.removeprefix(prefix)
        return next((why for start, why in self.left_out.items() if _pattern(start + "{rest}").fullmatch(rest)), None)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """`a.{n}.{rest}` as a regular expression with those names."""
    parts = _FIELD.split(template)
    names = {"rest": ".*"}
    seen: set[str] = set()
    text = ""
    for i, part in enumerate(parts):
        if i % 2 == 0:
            text += re.escape(part)
        elif part in seen:
            text += f"(?P={part})"
        else:
            seen.add(part)
            text += f"(?P<{part}>{names.get(part, '[0-9]+')})"
    return re.compile(text)


def _piece(source: str, prefix: str, fields: Mapping[str, str]) -> Piece:
    if source == ZEROS:
        return Piece(None)
    match = _PART.fullmatch(source)
    key = prefix + (match[1] if match else source).format_map(fields)
    return Piece(key, int(match[2]), int(match[3])) if match else Piece(key)
