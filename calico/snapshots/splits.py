"""Which split a group goes to: a function of its images, that no growth of the data changes.

Groups that share an image, directly or through other groups, are one component (images known by content and by
address), and a component is in one split: that of the hash of its first group's images. A later group that would join
components of different splits goes to none: it would leak, or move what is settled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from calico.errors import InputError

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True)
class Shares:
    """Expected shares of groups; training has the rest."""

    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise InputError(f"shares: expected 0 or more and a sum below 1, got {self.validation} and {self.test}")

    def split_of(self, keys: Iterable[str]) -> str:
        """By the hash of a group's image keys, whatever their order. Larger shares keep what smaller ones held out."""
        digest = hashlib.sha256(json.dumps(sorted(set(keys))).encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        return TEST if place < self.test else VALIDATION if place >= 1 - self.validation else TRAIN


class Splitter:
    """Gives groups their splits, in the order in which they came to be.

    Since a component has one split, the split of each image is all there is to keep: a union-find of components would
    hold the same and allow what must not be, joining two splits. settled: image keys of an earlier snapshot, each
    with its split.
    """

    def __init__(self, shares: Shares | None = None, settled: Iterable[tuple[str, str]] = ()) -> None:
        self._shares = shares or Shares()
        self._split_of_key = {_short(key): SPLITS.index(split) for key, split in settled}

    def add(self, keys: Iterable[str]) -> str | None:
        """The split of the next group; None where it joins components of different splits."""
        keys = list(keys)
        shorts = [_short(key) for key in keys]
        splits = {self._split_of_key[short] for short in shorts if short in self._split_of_key}
        if len(splits) > 1:
            return None
        split = SPLITS[splits.pop()] if splits else self._shares.split_of(keys)
        self._split_of_key.update(dict.fromkeys(shorts, SPLITS.index(split)))
        return split


def _short(key: str) -> bytes:
    """Eight bytes: half a million images take tens of megabytes."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
