"""Encodings of single images: kept by content, joined into groups."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from calico.model.calico import ImageFeatures
from calico.model.encoders import GroundingFeatures


class EncodingCache:
    """Encodings by image content, least recently used out first, bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, ImageFeatures] = OrderedDict()

    def get(self, digest: str) -> ImageFeatures | None:
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)

    def put(self, digest: str, features: ImageFeatures) -> None:
        size = num_bytes(features)
        if size > self.max_bytes or digest in self._kept:
            return
        self._kept[digest] = features
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= num_bytes(self._kept.popitem(last=False)[1])


def _tensors(features: ImageFeatures) -> list[Tensor]:
    return [
        features.refined_tokens,
        features.image_tokens,
        features.grounding.embedding,
        *(features.grounding.fine or ()),
    ]


def num_bytes(features: ImageFeatures) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(features))


def _from_tensors(tensors: Sequence[Tensor]) -> ImageFeatures:
    refined, image_tokens, embedding, *fine = tensors
    return ImageFeatures(refined, image_tokens, GroundingFeatures(embedding, (fine[0], fine[1]) if fine else None))


def split_features(features: ImageFeatures) -> list[ImageFeatures]:
    """Of N images -> of each by itself, in memory of its own, so that a kept one does not hold the others."""
    return [
        _from_tensors(own)
        for own in zip(*([row.clone() for row in t.split(1)] for t in _tensors(features)), strict=True)
    ]


def join_features(features: Sequence[ImageFeatures]) -> ImageFeatures:
    """Encodings of single images -> of the group, in order."""
    return _from_tensors([torch.cat(tensors) for tensors in zip(*(_tensors(f) for f in features), strict=True)])
