"""A trained byte-level tokenizer that learns further names: new merges behind its own, so that every id stays.

Texts that its model was trained on are cut as before: a pair of tokens that stands in one of them is never merged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from calico.language.tokenizer import CalicoTokenizer, wordings
from calico.language.words import DRAWN_OBJECTS, DRAWN_PARTS


def grown(tokenizer: CalicoTokenizer, names: Iterable[str], size: int) -> CalicoTokenizer:
    """A tokenizer of at most `size` tokens, in which as many words of `names` as possible are one token or few.

    Questions, answers and drawn names are cut as before.
    """
    known_texts = (*wordings(np.random.default_rng(0)), *(f" {name}" for name in (*DRAWN_OBJECTS, *DRAWN_PARTS)))
    content = json.loads(tokenizer.to_json())
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    fixed = {pair for text in known_texts for pair in pairwise(tokenizer.tokens(text))}
    words = Counter(f" {word}" for name in names for word in name.split())
    pieces = [(tokenizer.tokens(word), count) for word, count in sorted(words.items())]
    while len(vocabulary) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for tokens, count in pieces:
            for pair in pairwise(tokens):
                pairs[pair] += count
        candidates = {pair: count for pair, count in pairs.items() if pair not in fixed}
        if not candidates:
            break
        first, second = min(candidates, key=lambda pair: (-candidates[pair], pair))
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
        merges.append([first, second])
        pieces = [(_merged(tokens, first, second), count) for tokens, count in pieces]
    return CalicoTokenizer(Tokenizer.from_str(json.dumps(content)))


def _merged(tokens: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    for token in tokens:
        if merged and merged[-1] == first and token == second:
            merged[-1] = first + second
        else:
            merged.append(token)
    return merged
