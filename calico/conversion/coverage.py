"""Which source tensor goes where: every place of the model and every key of the sources is accounted for."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from calico.conversion.layouts import FAMILIES
from calico.conversion.rules import Family, Piece
from calico.conversion.sources import WeightSource
from calico.conversion.vocabulary import Vocabulary
from calico.errors import CheckpointError

TOKEN_ROWS = {"llm.model.embed_tokens.weight", "llm.lm_head.weight"}


@dataclass(frozen=True)
class BaseRequest:
    """A source and the blocks of our model that it is to fill. rules: templates that go before the families' own."""

    source: WeightSource
    blocks: Collection[str]
    rules: tuple[tuple[str, ...], ...] = ()


@dataclass
class Coverage:
    """filled: place -> its source and pieces. starts: place -> why it is not taken from a source.

    unfilled: places without a key. unfit: place -> what is wrong with the tensor for it. unmatched: source name -> keys
    without a place. left_out: source name -> key -> why it has no place. families: source name -> family -> prefix.
    ambiguous: source name -> family -> prefixes, of families that are there more than once.
    """

    filled: dict[str, tuple[WeightSource, tuple[Piece, ...]]] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    unfilled: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    families: dict[str, dict[str, str]] = field(default_factory=dict)
    ambiguous: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not (self.unfilled or self.unfit or any(self.unmatched.values()))

    def faults(self) -> str:
        """What is not complete, in one line."""
        unmatched = [key for keys in self.unmatched.values() for key in keys]
        unfit = [f"{place}: {why}" for place, why in self.unfit.items()]
        faults = [
            f"{len(names)} {what} (first: {names[0]})"
            for what, names in (
                ("places without a key", self.unfilled),
                ("tensors that do not fit", unfit),
                ("keys without a place", unmatched),
            )
            if names
        ]
        return "; ".join(faults)

    def report(self) -> dict[str, Any]:
        """For JSON: counts by block, and every name that found no partner."""
        blocks: dict[str, Counter[str]] = {}
        for kind, places in (
            ("filled", self.filled),
            ("started", self.starts),
            ("unfilled", self.unfilled),
            ("unfit", self.unfit),
        ):
            for place in places:
                blocks.setdefault(place.partition(".")[0], Counter())[kind] += 1
        return {
            "is_complete": self.is_complete,
            "families": self.families,
            "ambiguous": self.ambiguous,
            "blocks": {block: dict(counts) for block, counts in sorted(blocks.items())},
            "started": self.starts,
            "unfilled": self.unfilled,
            "unfit": self.unfit,
            "unmatched": self.unmatched,
            "left_out": {
                name: {why: sum(w == why for w in keys.values()) for why in sorted(set(keys.values()))}
                for name, keys in self.left_out.items()
            },
        }


def cover(
    places: Mapping[str, Tensor],
    requests: Sequence[BaseRequest],
    starts: Mapping[str, str],
    vocabulary: Vocabulary | None = None,
) -> Coverage:
    """Match the model's places (a state dict on the meta device) with the keys of the sources; reads headers only.

    starts: places that begin without a source, and why. A family found twice in one file is not guessed at: its keys
    count as unmatched.
    """
    coverage = Coverage(starts=dict(starts))
    used: dict[str, set[str]] = {request.source.name: set() for request in requests}
    located = [(request, _located(request)) for request in requests]
    for place, like in places.items():
        if place in starts:
            continue
        pieces_of = next((pair for request, families in located if (pair := _fill(place, request, families))), None)
        if pieces_of is None:
            coverage.unfilled.append(place)
            continue
        source, pieces = pieces_of
        used[source.name] |= {piece.key for piece in pieces if piece.key}
        if why := _unfit(place, tuple(like.shape), source, pieces, vocabulary):
            coverage.unfit[place] = why
        else:
            coverage.filled[place] = (source, pieces)
    for request, families in located:
        name = request.source.name
        coverage.families[name] = {family.name: prefix for family, prefix in families}
        prefixes = {family.name: family.prefixes(request.source.keys) for family in FAMILIES}
        coverage.ambiguous[name] = {family: several for family, several in prefixes.items() if len(several) > 1}
        unmatched, left_out = coverage.unmatched.setdefault(name, []), coverage.left_out.setdefault(name, {})
        for key in sorted(request.source.keys - used[name]):
            if why := _why_left_out(key, request, families):
                left_out[key] = why
            else:
                unmatched.append(key)
    return coverage


def _located(request: BaseRequest) -> list[tuple[Family, str]]:
    """Each family that is in the source once, with its prefix; the caller's own rules first, as a family."""
    rules = [(Family("given rules", "", request.rules), "")] if request.rules else []
    prefixes_of = [(family, family.prefixes(request.source.keys)) for family in FAMILIES]
    return rules + [(family, prefixes[0]) for family, prefixes in prefixes_of if len(prefixes) == 1]


def _fill(
    place: str, request: BaseRequest, families: Sequence[tuple[Family, str]]
) -> tuple[WeightSource, tuple[Piece, ...]] | None:
    if place.partition(".")[0] not in request.blocks:
        return None
    for family, prefix in families:
        for pieces in family.recipes(place, prefix):
            if all(piece.key is None or piece.key in request.source.keys for piece in pieces):
                return request.source, pieces
    return None


def _why_left_out(key: str, request: BaseRequest, families: Sequence[tuple[Family, str]]) -> str | None:
    for family, prefix in families:
        if why := family.why_left_out(key, prefix):
            return why
    for family, prefix in families:
        block = family.block_of(key, prefix)
        if block is not None and block not in request.blocks:
            return f"{block} is not taken from here"
    return None


def _unfit(
    place: str, shape: tuple[int, ...], source: WeightSource, pieces: Sequence[Piece], vocabulary: Vocabulary | None
) -> str | None:
    """Why the pieces cannot stand at the place; None where they can."""
    specs = [source.spec(piece.key) for piece in pieces if piece.key is not None]
    for spec in specs:
        if spec.dtype is None:
            return f"is {spec.dtype_name}, expected plain floating point (quantised weights are not read)"
    shapes = [_part_shape(source.spec(piece.key).shape, piece) for piece in pieces if piece.key is not None]
    if any(part is None for part in shapes):
        return f"has {specs[0].shape}, whose rows do not divide"
    parts = [part for part in shapes if part is not None]
    if len(pieces) == 1:
        if place in TOKEN_ROWS and vocabulary is not None and parts[0][1:] == shape[1:]:
            if vocabulary.num_known <= parts[0][0] <= shape[0]:
                return None
            return f"has {parts[0][0]} rows for the {vocabulary.num_known} tokens of its tokenizer"
        fits = [n for n in parts[0] if n != 1] == [n for n in shape if n != 1]
        return None if fits else f"has shape {parts[0]}, expected {shape}"
    num_zeros = sum(piece.key is None for piece in pieces)
    rest = shape[0] - sum(part[0] for part in parts)
    fits = all(part[1:] == shape[1:] for part in parts) and (rest == 0 if not num_zeros else rest % num_zeros == 0)
    return None if fits and rest >= 0 else f"is made of {parts}, expected {shape}"


def _part_shape(shape: tuple[int, ...], piece: Piece) -> tuple[int, ...] | None:
    if piece.num_parts == 1:
        return shape
    return None if not shape or shape[0] % piece.num_parts else (shape[0] // piece.num_parts, *shape[1:])


def read_place(
    place: str,
    shape: tuple[int, ...],
    source: WeightSource,
    pieces: Sequence[Piece],
    vocabulary: Vocabulary | None = None,
) -> Tensor:
    """The tensor for one place, in the source's dtype. Raises `CheckpointError` for numbers that are not finite."""
    parts: list[Tensor | None] = []
    for piece in pieces:
        if piece.key is None:
            parts.append(None)
            continue
        num_rows = math.prod(source.spec(piece.key).shape[:1]) // piece.num_parts
        whole = piece.num_parts == 1
        start = piece.part * num_rows
        parts.append(source.read(piece.key, 0 if whole else start, None if whole else start + num_rows))
    tensors = [part for part in parts if part is not None]
    if len(parts) == 1:
        tensor = tensors[0]
        if place in TOKEN_ROWS and vocabulary is not None:
            tensor = vocabulary.grow(tensor, shape[0])
        tensor = tensor.reshape(shape)
    else:
        num_zeros = len(parts) - len(tensors)
        rest = (shape[0] - sum(len(part) for part in tensors)) // max(num_zeros, 1)
        zeros = tensors[0].new_zeros(rest, *shape[1:])
        tensor = torch.cat([zeros if part is None else part for part in parts])
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{source.name}: the tensor for {place} holds numbers that are not finite")
    return tensor


def grouped(names: Collection[str]) -> list[str]:
    """Names that differ in numbers alone as one line with their count, for people."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    return [f"{name} ({count})" if count > 1 else name for name, count in counts.items()]
