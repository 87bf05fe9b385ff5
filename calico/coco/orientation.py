"""Orientation: browsers, and so Label Studio, show some formats turned by EXIF; most COCO tools read what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from calico.errors import InputError
from calico.images import open_picture, shown_orientation


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
        with open_picture(source) as image:
            orientation = shown_orientation(image)
            width, height = image.size
            if image.format == "TIFF" and orientation >= 5:  # Pillow has changed its sides already
                width, height = height, width
            size_hw = (width, height) if orientation >= 5 else (height, width)
            return Header(size_hw, orientation, image.format or "")
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
