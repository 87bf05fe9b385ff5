"""Encodings of single images: made in batches, kept by content, joined into groups."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from calico.model.calico import CalicoModel, ImageFeatures, Pixels
from calico.model.encoders import GroundingFeatures
from calico.model.out_of_memory import in_halves
from calico.model.preprocessing import Preprocessor

NUM_MAPS = 16  # images of which the trunk's maps are kept: 2.6 MB each with the small model


class EncodingCache:
    """Encodings by image content, least recently used out first, bounded in bytes: of the device, then of the host.

    What no longer fits the device's share goes to the host's, where that has room, and comes back when it is asked for.
    """

    def __init__(self, max_bytes: int, host_bytes: int = 0) -> None:
        """host_bytes: 0 where the device is the host, whose memory `max_bytes` bounds already."""
        self._near = _Shelf(max_bytes)
        self._far = _Shelf(host_bytes)

    @property
    def max_bytes(self) -> int:
        return self._near.max_bytes

    @property
    def num_bytes(self) -> int:
        return self._near.num_bytes

    def get(self, digest: str, device: torch.device | str = "cpu") -> ImageFeatures | None:
        """On `device`, whichever share it was found in."""
        features = self._near.get(digest)
        if features is None and (far_features := self._far.take(digest)) is not None:
            features = _moved(far_features, device)
            self.put(digest, features)
        return features

    def forget(self, *digests: str) -> None:
        for digest in digests:
            for shelf in (self._near, self._far):
                shelf.take(digest)

    def clear(self) -> None:
        self._near, self._far = _Shelf(self._near.max_bytes), _Shelf(self._far.max_bytes)

    def put(self, digest: str, features: ImageFeatures) -> None:
        for name, leaving in self._near.put(digest, features):
            if self._far.max_bytes:
                self._far.put(name, _moved(leaving, "cpu"))


class _Shelf:
    """One share of the cache."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, ImageFeatures] = OrderedDict()

    def get(self, digest: str) -> ImageFeatures | None:
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)

    def take(self, digest: str) -> ImageFeatures | None:
        features = self._kept.pop(digest, None)
        if features is not None:
            self.num_bytes -= num_bytes(features)
        return features

    def put(self, digest: str, features: ImageFeatures) -> list[tuple[str, ImageFeatures]]:
        """Returns what had to leave; what is larger than the shelf leaves at once."""
        if digest in self._kept:
            return []
        size = num_bytes(features)
        if size > self.max_bytes:
            return [(digest, features)]
        self._kept[digest] = features
        self.num_bytes += size
        leaving = []
        while self.num_bytes > self.max_bytes:
            leaving.append(self._kept.popitem(last=False))
            self.num_bytes -= num_bytes(leaving[-1][1])
        return leaving


class ImageEncoder:
    """The three encoders over any number of images, each content once, what is known taken from the cache. Calls from
    several threads take turns by batches. Of the last images, what the one trunk gave is kept too (`maps_of`)."""

    def __init__(self, model: CalicoModel, preprocess: Preprocessor, cache: EncodingCache, at_once: int) -> None:
        """at_once: images that go through the encoders together."""
        self._model = model
        self._preprocess = preprocess
        self._cache = cache
        self._at_once = at_once
        self._lock = threading.Lock()
        self._maps: OrderedDict[str, list[Tensor]] = OrderedDict()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 4 and (
                "_encoder." in name or name.startswith("trunk.")
            ):  # channels last: a third faster through them on a CPU
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def __call__(
        self, images: Sequence[np.ndarray], digests: Sequence[str], notices: list[str] | None = None
    ) -> tuple[ImageFeatures, list[int]]:
        """images: each HxWx3 uint8. Returns the features of the distinct ones, and for each image its index there.

        notices: is told of what did not fit into memory at once.
        """
        notices = [] if notices is None else notices
        distinct = dict(zip(digests, images, strict=True))
        with self._lock:
            features_of = {digest: self._cache.get(digest, self._model.device) for digest in distinct}
        missing = [(digest, image) for digest, image in distinct.items() if features_of[digest] is None]
        while missing:
            with self._lock:
                batch, missing = missing[: self._at_once], missing[self._at_once :]
                num_notices = len(notices)
                encoded = in_halves(self._encoded, batch, "images", notices)
                if len(notices) > num_notices:  # half of them fitted: no later batch has to find that out again
                    self._at_once = (len(batch) + 1) // 2
                for (digest, _), features in zip(batch, encoded, strict=True):
                    features_of[digest] = features
                    self._cache.put(digest, features)
        place = {digest: i for i, digest in enumerate(distinct)}
        return join_features([f for f in features_of.values() if f is not None]), [place[digest] for digest in digests]

    def maps_of(self, digest: str) -> list[Tensor] | None:
        """Each C x h x w over the frame, the pixels first; None for an image that was not encoded lately."""
        with self._lock:
            return self._maps.get(digest)

    def forget(self, *digests: str) -> None:
        """Of these images; of all where none is named."""
        with self._lock:
            if not digests:
                self._cache.clear()
                self._maps.clear()
            self._cache.forget(*digests)
            for digest in digests:
                self._maps.pop(digest, None)

    def _encoded(self, images: Sequence[tuple[str, np.ndarray]]) -> list[ImageFeatures]:
        """images: with their digests."""
        views = zip(*(self._preprocess(image) for _, image in images), strict=True)
        pixels = (torch.from_numpy(np.stack(view)).to(self._model.device, self._model.dtype) for view in views)
        stacked = Pixels(*(view.contiguous(memory_format=torch.channels_last) for view in pixels))
        seen = self._model.views(stacked)
        if isinstance(seen.grounding_view, list):
            for number, (digest, _) in enumerate(images):
                self._maps[digest] = [one[number].clone() for one in seen.grounding_view]
            while len(self._maps) > NUM_MAPS:
                self._maps.popitem(last=False)
        return split_features(self._model.features_of(self._model.see(seen))[0])


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
    grounding = GroundingFeatures(embedding, (fine[0], fine[1]) if fine else None)
    return ImageFeatures(refined, image_tokens, grounding)


def _moved(features: ImageFeatures, device: torch.device | str) -> ImageFeatures:
    return _from_tensors([tensor.to(device) for tensor in _tensors(features)])


def split_features(features: ImageFeatures) -> list[ImageFeatures]:
    """Of N images -> of each by itself, in memory of its own, so that a kept one does not hold the others."""
    return [
        _from_tensors(tensors)
        for tensors in zip(*([row.clone() for row in t.split(1)] for t in _tensors(features)), strict=True)
    ]


def join_features(features: Sequence[ImageFeatures]) -> ImageFeatures:
    """Encodings of single images -> of the group, in order."""
    return _from_tensors([torch.cat(tensors) for tensors in zip(*(_tensors(f) for f in features), strict=True)])
