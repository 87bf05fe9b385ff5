"""Recent co-segmentations, masks packed, bounded in bytes."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from calico.values import CoSegmentation

_NO_MASK = np.zeros((1, 1), np.bool_)
_ENTRY_BYTES = 1024  # names and bookkeeping of a region, roughly


class _Packed(NamedTuple):
    result: CoSegmentation  # without its regions
    regions: tuple
    masks: tuple[bytes, ...]

    @property
    def num_bytes(self) -> int:
        return _ENTRY_BYTES * (1 + len(self.regions)) + sum(map(len, self.masks))


class ResultCache:
    """Least recently used out first. What is put in must not be changed afterwards; what comes out is a copy."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, _Packed] = OrderedDict()
        self._num_bytes = 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, key: Hashable) -> CoSegmentation | None:
        with self._lock:
            packed = self._entries.get(key)
            if packed is None:
                return None
            self._entries.move_to_end(key)
        sizes = packed.result.sizes_hw
        regions = tuple(
            replace(region, mask=_unpack(mask, sizes[region.image]))
            for region, mask in zip(packed.regions, packed.masks, strict=True)
        )
        return replace(packed.result, regions=regions)

    def put(self, key: Hashable, result: CoSegmentation) -> None:
        masks = tuple(zlib.compress(np.packbits(region.mask).tobytes(), 1) for region in result.regions)
        packed = _Packed(
            replace(result, regions=()), tuple(replace(region, mask=_NO_MASK) for region in result.regions), masks
        )
        if packed.num_bytes > self._max_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            self._num_bytes += packed.num_bytes - (before.num_bytes if before else 0)
            self._entries[key] = packed
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._entries.popitem(last=False)[1].num_bytes


def _unpack(data: bytes, size_hw: tuple[int, int]) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8), count=size_hw[0] * size_hw[1])
    return bits.reshape(size_hw).astype(np.bool_)
