"""Annotated images by class, out of any source: what a mixed step of training draws its images from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Protocol

import numpy as np

from calico.data.groups import stream_seed
from calico.drawings import CLASSES, DIFFICULTIES, PART_NAMES, VERSION, draw
from calico.mixedparts.index import MixedParts
from calico.values import AnnotatedImage, normalize_name

MAX_CACHED_BYTES = 2 * 2**30  # of decoded images and part maps, for each pool
DIFFICULTY_WEIGHTS = (0.25, 0.35, 0.2, 0.2)
BESIDE_WEIGHT = 0.25  # of an object beside a larger annotated one, to one that is its image's subject


class ImagePool(Protocol):
    """A source of annotated images.

    version: for a checkpoint's `data_version`. keys: class -> its images. weights: class -> how often each is drawn, in
    proportion. parts: every part name.
    """

    @property
    def version(self) -> str: ...

    @property
    def keys(self) -> Mapping[str, Sequence[int]]: ...

    @property
    def weights(self) -> Mapping[str, np.ndarray]: ...

    @property
    def parts(self) -> Sequence[str]: ...

    def image(self, key: int) -> AnnotatedImage: ...


class _Cache:
    """Images by key until `max_bytes` are held; later ones are made anew each time."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._kept: dict[int, AnnotatedImage] = {}

    def get(self, key: int) -> AnnotatedImage | None:
        return self._kept.get(key)

    def put(self, key: int, item: AnnotatedImage) -> AnnotatedImage:
        size = item.image.nbytes + item.part_map.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[key] = item
        return item


class DrawnPool:
    """`num_each` training drawings of every class at `size` pixels, drawn when first asked for."""

    def __init__(self, size: int, num_each: int = 400, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self.size = size
        self.version = VERSION
        self.parts = PART_NAMES
        self.keys = {name: range(k * num_each, (k + 1) * num_each) for k, name in enumerate(CLASSES)}
        self.weights = {name: np.full(num_each, 1 / num_each) for name in CLASSES}
        self._num_each = num_each
        self._cache = _Cache(max_bytes)

    def image(self, key: int) -> AnnotatedImage:
        image = self._cache.get(key)
        if image is not None:
            return image
        seed = stream_seed("train", 2**40, key)
        rng = Random(seed)
        difficulty = rng.choices(DIFFICULTIES, DIFFICULTY_WEIGHTS)[0]
        name = CLASSES[key // self._num_each]
        return self._cache.put(key, draw(seed, size_hw=(self.size, self.size), object_name=name, difficulty=difficulty))


class IndexPool:
    """The objects of an index's training split; decoded once."""

    def __init__(self, data: MixedParts, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self.version = data.version
        self.parts = tuple(dict.fromkeys(normalize_name(name) for name in data.parts))
        self._data = data
        self._cache = _Cache(max_bytes)
        rows: dict[str, list[int]] = {}
        shares: dict[int, float] = {}
        largest: dict[str, float] = {}
        image_of: dict[int, str] = {}
        for row in range(data.num_objects):
            record = data.record(row)
            if record.split != "train":
                continue
            rows.setdefault(normalize_name(record.object_name), []).append(row)
            shares[row], image_of[row] = float(data.area(row)), record.image_file
            largest[record.image_file] = max(largest.get(record.image_file, 0.0), shares[row])
        self.keys = dict(sorted(rows.items()))
        self.weights = {}
        for name, own_rows in self.keys.items():
            each = [1.0 if shares[row] == largest[image_of[row]] else BESIDE_WEIGHT for row in own_rows]
            self.weights[name] = np.array(each) / sum(each)

    def image(self, key: int) -> AnnotatedImage:
        image = self._cache.get(key)
        return image if image is not None else self._cache.put(key, self._data.drawn([self._data.record(key)])[0])
