"""What was read of images is kept, least recently used out first: a refit looks only at what is new."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
from torch import Tensor

from calico.part_memory.lessons import ImageRows, Reader, read_rows
from calico.part_memory.pyramid import WHOLE_SCALE, PyramidFeatures
from calico.values import AnnotatedImage, image_digest

PYRAMID_BYTES = 96 * 2**20  # about 25 images at 512 px in half precision
ROW_BYTES = 576 * 2**20  # about 400 images


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


T = TypeVar("T", bound=_Sized)


class _Shelf(Generic[T]):
    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes, self.num_read = max_bytes, 0, 0
        self._kept: OrderedDict[str, T] = OrderedDict()

    def __call__(self, name: str, read: Callable[[], T]) -> T:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        value = self._kept[name] = read()
        self.num_read += 1
        self.num_bytes += value.num_bytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return value


class KeptLooks:
    """Pyramids of images as they are, in half precision, and rows of lessons. Not safe under threads.

    reader: by which images are read that are new; None between two fits, so that no model is held for it.
    """

    def __init__(
        self, reader: Reader | None = None, pyramid_bytes: int = PYRAMID_BYTES, row_bytes: int = ROW_BYTES
    ) -> None:
        self.reader = reader
        self.pyramids: _Shelf[PyramidFeatures] = _Shelf(pyramid_bytes)
        self.row_shelf: _Shelf[ImageRows] = _Shelf(row_bytes)
        self.wholes: dict[str, Tensor] = {}  # of the few base images

    def pyramid(self, image: np.ndarray, scale: float = 1.0) -> PyramidFeatures:
        """A `Reader`."""
        return self.pyramids(f"{image_digest(image)} {scale}", lambda: self._read(image, scale).half())

    def rows(self, item: AnnotatedImage) -> ImageRows:
        """As `read_rows`: an image that was annotated anew is read anew."""
        annotation = hashlib.sha256(item.part_map.tobytes()).hexdigest()
        return self.row_shelf(f"{image_digest(item.image)} {annotation}", lambda: read_rows(item, self._read))

    def whole(self, image: np.ndarray) -> Tensor:
        """C, as `Presence` reads it."""
        digest = image_digest(image)
        if digest not in self.wholes:
            self.wholes[digest] = self._read(image, WHOLE_SCALE).mean
        return self.wholes[digest]

    def _read(self, image: np.ndarray, scale: float = 1.0) -> PyramidFeatures:
        if self.reader is None:
            raise ValueError("an image that was not read before, and no reader")
        return self.reader(image, scale)
