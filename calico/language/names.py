"""A vocabulary as the decoder sees it: every name's tokens in a tree, so that thousands of names cost as much as ten.

A question can list only so many names. Where a vocabulary is longer, the tree alone holds the answer to it, and the
question lists those names that are likeliest for its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

from calico.language import PHRASE_CLOSE, PHRASE_OPEN, spoken_name
from calico.language.tokenizer import CalicoTokenizer

Ids = tuple[int, ...]


class Node:
    """Where some tokens lead. below: by the next token. count: names that go through. name: the one that ends here."""

    __slots__ = ("below", "count", "name")

    def __init__(self) -> None:
        self.below: dict[int, Node] = {}
        self.count = 0
        self.name: str | None = None


class SpelledNames:
    """Names with the ids that spell each behind `<p>`, up to and with `</p>`, as `render_answer` does."""

    def __init__(self, tokenizer: CalicoTokenizer, names: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self.ids: dict[str, Ids] = {}
        self.root = Node()
        for spoken in dict.fromkeys(map(spoken_name, names)):
            ids = tuple(tokenizer.ids(f"{PHRASE_OPEN} the {spoken} {PHRASE_CLOSE}")[1:])
            self.ids[spoken] = ids
            node = self.root
            node.count += 1
            for token in ids:
                node = node.below.setdefault(token, Node())
                node.count += 1
            node.name = spoken

    def __len__(self) -> int:
        return len(self.ids)

    def taken(self, used: Iterable[str]) -> Mapping[int, int]:
        """How many of the used names go through each node, by the node's `id`."""
        counts: dict[int, int] = {}
        for name in used:
            node = self.root
            for token in self.ids[name]:
                node = node.below[token]
                counts[id(node)] = counts.get(id(node), 0) + 1
        return counts

    @cached_property
    def num_listed_tokens(self) -> dict[str, int]:
        """How many tokens each name takes in a question's list."""
        return {name: len(self._tokenizer.ids(f", {name}")) for name in self.ids}

    def fitting(self, limit: int, scores: Mapping[str, float] | None = None) -> tuple[str, ...] | None:
        """The names that a list of `limit` tokens holds, in their own order: all, or those of the highest scores.

        None where not all fit and no scores tell which to take.
        """
        lengths = self.num_listed_tokens
        if sum(lengths.values()) <= limit:
            return tuple(self.ids)
        if scores is None:
            return None
        kept, room = set(), limit
        for name in sorted(lengths, key=lambda name: -scores[name]):
            if lengths[name] <= room:
                kept.add(name)
                room -= lengths[name]
            if room < 2:
                break
        return tuple(name for name in lengths if name in kept)


@lru_cache(maxsize=16)
def spelled_names(tokenizer: CalicoTokenizer, names: tuple[str, ...]) -> SpelledNames:
    """One for all answers that are held to the same names."""
    return SpelledNames(tokenizer, names)
