"""Copies of large images for a screen: upright, reduced, named as the originals, in a folder of their own.

An editor in a browser encodes every mask again when it submits, so that masks of 12 megapixels take a minute. People
label on the copies; `enlarged` brings their masks to the originals' size.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from calico.coco.orientation import Header, read_header
from calico.data.image_files import is_address
from calico.errors import InputError
from calico.files import written_whole
from calico.images import load_image

MIN_SIDE, QUALITY = 256, 92
_SHOWN_BY_BROWSERS = frozenset({"JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP"})


class DisplayCopy(NamedTuple):
    """path: what is shown. original: the path of the original, below the folder's parent. size_hw, shown_hw: the
    original's (height, width) and the copy's, upright."""

    path: Path
    original: str
    size_hw: tuple[int, int]
    shown_hw: tuple[int, int]


class DisplayCopies:
    """Of the images below a folder, none of them longer than `max_side`; what is small enough is linked or copied.

    What an earlier run made stays, where the image has not changed since.
    """

    def __init__(self, folder: Path, out: Path, max_side: int) -> None:
        """Raises InputError for a folder of copies within that of the images, where the next run would find them."""
        if max_side < MIN_SIDE:
            raise InputError(f"--max-side: expected {MIN_SIDE} or more pixels, got {max_side}; 2048 suits most screens")
        self.folder, self.out, self.max_side = folder.resolve(), out.resolve(), max_side
        if self.out.is_relative_to(self.folder):
            raise InputError(f"--copies {out}: lies within {folder}; name a folder beside it")

    @classmethod
    def beside(cls, folder: Path, out: Path | None, max_side: int) -> DisplayCopies:
        """In `out`, or in a folder beside that of the images, named by it and the size."""
        folder = folder.resolve()
        return cls(folder, out or folder.with_name(f"{folder.name}-{max_side}"), max_side)

    def copy(self, source: str) -> DisplayCopy:
        """Raises InputError for an address, and for what is no picture or lies elsewhere."""
        if is_address(source):
            raise InputError(f"--max-side reads the images themselves: {source[:120]} is not a file; use files")
        try:
            relative = Path(source).resolve().relative_to(self.folder)
        except ValueError:
            raise InputError(f"{source}: not below {self.folder}, so its copy has no place; leave it out") from None
        header = read_header(Path(source))
        is_kept = header.file_format in _SHOWN_BY_BROWSERS and max(header.size_hw) <= self.max_side
        name = relative if is_kept or header.file_format in ("JPEG", "PNG") else Path(f"{relative}.jpg")
        path = self.out / name
        if not self._is_current(path, Path(source), header):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if is_kept:
                _link(Path(source), path)
            else:
                self._reduce(source, path, "PNG" if header.file_format == "PNG" else "JPEG")
        return DisplayCopy(
            path, f"{self.folder.name}/{relative.as_posix()}", header.size_hw, self._size_hw(header.size_hw)
        )

    def _size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, self.max_side / max(size_hw))
        return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))

    def _is_current(self, path: Path, source: Path, header: Header) -> bool:
        try:
            is_newer = path.stat().st_mtime >= source.stat().st_mtime
            return is_newer and read_header(path).size_hw == self._size_hw(header.size_hw)
        except (OSError, InputError):
            return False

    def _reduce(self, source: str, path: Path, file_format: str) -> None:
        pixels = load_image(source)
        height, width = self._size_hw((pixels.shape[0], pixels.shape[1]))
        reduced = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
        with written_whole(path, is_durable=False) as temporary:
            reduced.save(temporary, file_format, quality=QUALITY)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def reduced(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """HxW bool for a copy of that size: every pixel of the copy takes the value under its middle. It undoes `enlarged`,
    so that masks which were exported come back as they were drawn."""
    rows, columns = (
        ((2 * np.arange(small) + 1) * large // (2 * small)) for small, large in zip(size_hw, mask.shape, strict=True)
    )
    return mask[rows][:, columns]


def enlarged(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """H'xW' bool of a HxW mask of a reduced copy: every pixel of the original takes the value of the copy's pixel that
    its middle lies in. Exact: taken back to the copy's size at the middles of its pixels, it is the same mask."""
    rows, columns = (
        ((2 * np.arange(large) + 1) * small // (2 * large)) for large, small in zip(size_hw, mask.shape, strict=True)
    )
    return mask[rows][:, columns]
