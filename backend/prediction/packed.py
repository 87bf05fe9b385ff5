"""Co-segmentations and masks as they are kept and sent: a bit a pixel, deflated."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np

from calico.values import CoSegmentation, PartRegion

_NO_MASK = np.zeros((1, 1), np.bool_)
_ENTRY_BYTES = 1024  # names and bookkeeping of a region, roughly


@dataclass(frozen=True)
class PackedMask:
    """An HxW bool mask; hundreds of bytes to a few thousand for a megapixel."""

    bits: bytes
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        return cls(zlib.compress(np.packbits(mask).tobytes(), 1), (mask.shape[0], mask.shape[1]))

    def unpacked(self) -> np.ndarray:
        """HxW bool."""
        height, width = self.size_hw
        bits = np.frombuffer(zlib.decompress(self.bits), np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(self.size_hw).view(np.bool_)


@dataclass(frozen=True)
class Packed:
    """A co-segmentation."""

    result: CoSegmentation  # without its regions
    regions: tuple[PartRegion, ...]  # without their masks
    masks: tuple[PackedMask, ...]

    @classmethod
    def of(cls, result: CoSegmentation) -> Packed:
        regions = tuple(replace(region, mask=_NO_MASK) for region in result.regions)
        return cls(replace(result, regions=()), regions, tuple(PackedMask.of(region.mask) for region in result.regions))

    @property
    def num_bytes(self) -> int:
        return _ENTRY_BYTES * (1 + len(self.regions)) + sum(len(mask.bits) for mask in self.masks)

    def unpacked(self) -> CoSegmentation:
        """With masks of its own."""
        pairs = zip(self.regions, self.masks, strict=True)
        return replace(self.result, regions=tuple(replace(region, mask=mask.unpacked()) for region, mask in pairs))
