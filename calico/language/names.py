"""A vocabulary as the decoder sees it: what names begin alike is kept once, so thousands of names cost as much as ten.

A name may be spelled in any tokens that make up its text, not only as the tokenizer cuts it: a model writes as it was
trained to, and a tokenizer that has grown since cuts a name otherwise.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from calico.language import PHRASE_CLOSE, PHRASE_OPEN, spoken_name
from calico.language.tokenizer import CalicoTokenizer

LIST_TOKENS = 48  # of the names in a question: about fifteen, as many as training lists

_ATOM = 0xF0000  # of private use: behind it the letters that each stand for one token as a whole
_LAST = chr(0x10FFFF)
_BRACKETS = frozenset("<>[]()")  # in which special tokens and single bytes are written


class Node(NamedTuple):
    """The names from `start` to `stop` in order of spelling: their first `depth` letters are the same.

    is_end: the one name, closed.
    """

    start: int
    stop: int
    depth: int
    is_end: bool = False


class SpelledNames:
    """Names as they are spelled between `<p> the` and `</p>`. listed: those that a question lists, in their own order:
    all where they fit into `LIST_TOKENS`, else none, and the spelling alone holds the answer to them."""

    def __init__(self, tokenizer: CalicoTokenizer, names: Iterable[str]) -> None:
        spoken = tuple(dict.fromkeys(map(spoken_name, names)))
        fits = sum(len(tokenizer.ids(f", {name}")) for name in spoken) <= LIST_TOKENS
        self.listed = spoken if fits else ()
        self._close_id = tokenizer.phrase_close_id
        self._tokens = _tokens(tokenizer)
        self._longest = max(map(len, self._tokens))
        names_of = {self._spelling(tokenizer, name): name for name in spoken}
        self._spellings = sorted(names_of)
        self.names = [names_of[spelling] for spelling in self._spellings]  # in order of spelling
        self._places = {name: place for place, name in enumerate(self.names)}
        self.root = Node(0, len(self.names), 0)
        self._below: dict[Node, Mapping[int, Node]] = {}

    def __len__(self) -> int:
        return len(self.names)

    def below(self, node: Node, used: Collection[str] = ()) -> Mapping[int, Node]:
        """Each token that may follow and where it leads, on the way to a name that is not used yet."""
        if node not in self._below:
            self._below[node] = self._all_below(node)
        nodes = self._below[node]
        places = [place for name in used if node.start <= (place := self._places[name]) < node.stop]
        if not places:
            return nodes
        return {
            token: after
            for token, after in nodes.items()
            if after.stop - after.start > sum(after.start <= place < after.stop for place in places)
        }

    def _all_below(self, node: Node) -> Mapping[int, Node]:
        nodes: dict[int, Node] = {}
        if len(self._spellings[node.start]) == node.depth:  # the shortest is the first
            nodes[self._close_id] = Node(node.start, node.start + 1, node.depth, is_end=True)
        pieces = {
            spelling[node.depth : end]
            for spelling in self._spellings[node.start : node.stop]
            for end in range(node.depth + 1, min(len(spelling), node.depth + self._longest) + 1)
        }
        shared = self._spellings[node.start][: node.depth]
        for piece in pieces:
            token = ord(piece[0]) - _ATOM if len(piece) == 1 and piece >= chr(_ATOM) else self._tokens.get(piece)
            if token is not None:
                start = bisect_left(self._spellings, shared + piece, node.start, node.stop)
                stop = bisect_left(self._spellings, shared + piece + _LAST, start, node.stop)
                nodes[token] = Node(start, stop, node.depth + len(piece))
        return nodes

    def _spelling(self, tokenizer: CalicoTokenizer, name: str) -> str:
        """The name's tokens as one text, in which every letter is a token too, so that no spelling ends nowhere: a
        token with other letters (of Chinese, of single bytes) is one letter itself."""
        article = len(tokenizer.ids(f"{PHRASE_OPEN} the"))
        ids = tokenizer.ids(f"{PHRASE_OPEN} the {name} {PHRASE_CLOSE}")[article:-1]
        texts = (tokenizer.token(number) for number in ids)
        return "".join(
            text if all(letter in self._tokens for letter in text) else chr(_ATOM + number)
            for number, text in zip(ids, texts, strict=True)
        )


@lru_cache(maxsize=4)
def _tokens(tokenizer: CalicoTokenizer) -> Mapping[str, int]:
    """By its text each token that a name may be spelled with."""
    special = tokenizer.special_ids
    texts = tokenizer.vocabulary.items()
    return {text: number for text, number in texts if number not in special and not _BRACKETS & set(text)}


@lru_cache(maxsize=16)
def spelled_names(tokenizer: CalicoTokenizer, names: tuple[str, ...]) -> SpelledNames:
    """One for all answers that are held to the same names."""
    return SpelledNames(tokenizer, names)
