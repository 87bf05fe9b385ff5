"""EXIF orientation: browsers, and so Label Studio, show a picture turned by it; most COCO tools read what is stored."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from calico.errors import InputError

_TAG = 0x0112


class Header(NamedTuple):
    """What a picture file says of itself. size_hw: (height, width) as displayed. file_format: Pillow's name of it."""

    size_hw: tuple[int, int]
    orientation: int
    file_format: str

    @property
    def stored_size_hw(self) -> tuple[int, int]:
        return self.size_hw[::-1] if self.orientation >= 5 else self.size_hw


def read_header(source: str | Path | bytes) -> Header:
    """Without decoding pixels; orientation 1 where the file says none. Raises InputError where it is no picture."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            value = image.getexif().get(_TAG, 1)
            orientation = value if isinstance(value, int) and 1 <= value <= 8 else 1
            size_hw = image.size if orientation >= 5 else image.size[::-1]
            return Header((size_hw[0], size_hw[1]), orientation, image.format or "")
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        name = f"image of {len(source):,} bytes" if isinstance(source, bytes) else str(source)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: not a picture that can be read ({reason}); export or download it again") from error


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """HxW[xC] pixels as stored -> as displayed (height and width change places for orientations 5 to 8)."""
    if orientation == 2:
        return stored[:, ::-1]
    if orientation == 3:
        return stored[::-1, ::-1]
    if orientation == 4:
        return stored[::-1]
    if orientation in (5, 6, 7, 8):
        turned = stored.swapaxes(0, 1)
        return {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}[orientation]
    return stored
