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
    """An HxW bool mask: hundreds of bytes to a few thousand for a megapixel.

    bits: deflated bits of the rows and of the bytes of each row between the first and the last that have any. place:
    (top, left, height, width) of these, rows in pixels, columns in bytes of eight pixels.
    """

    bits: bytes
    size_hw: tuple[int, int]
    place: tuple[int, int, int, int]

    @classmethod
    def of(cls, mask: np.ndarray) -> PackedMask:
        bits = np.packbits(mask, axis=1)
        rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        left, right = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
        packed = zlib.compress(bits[top:bottom, left:right].tobytes(), 1)
        return cls(packed, (mask.shape[0], mask.shape[1]), (top, left, bottom - top, right - left))

    def unpacked(self) -> np.ndarray:
        """HxW bool."""
        top, left, height, width = self.place
        mask = np.zeros(self.size_hw, np.bool_)
        if height and width:
            bits = np.frombuffer(zlib.decompress(self.bits), np.uint8).reshape(height, width)
            area = mask[top : top + height, 8 * left : 8 * (left + width)]
            area[:] = np.unpackbits(bits, axis=1, count=area.shape[1])
        return mask


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
