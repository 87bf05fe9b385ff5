"""Recent co-segmentations, masks packed, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from backend.prediction.packed import Packed
from calico.values import CoSegmentation


class ResultCache:
    """Least recently used out first. What is put in must not be changed afterwards; what comes out is a copy."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Packed] = OrderedDict()
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
        return packed.unpacked()

    def put(self, key: Hashable, result: CoSegmentation) -> None:
        if not self._max_bytes:
            return
        packed = Packed.of(result)
        if packed.num_bytes > self._max_bytes:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            self._num_bytes += packed.num_bytes - (before.num_bytes if before else 0)
            self._entries[key] = packed
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._entries.popitem(last=False)[1].num_bytes
