"""The image files behind a project's tasks, for exports: what they show upright, and upright copies of them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from backend.coco.task_files import file_name_of
from backend.media.media import Media, Reserve
from calico.coco.orientation import Header, read_header
from calico.errors import InputError
from calico.files import written_whole
from calico.images import load_image

_COPIED = {"JPEG": ".jpg", "PNG": ".png"}
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class ImageFiles(Protocol):
    def content(self, address: str, task: int) -> bytes:
        """An image file as it is stored. Raises InputError where there is none."""


class FolderImages:
    """Images in a folder: an address is found there by its whole path, or by as many of its last names as match."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a folder of images; check the path")
        self._folder = folder.resolve()

    def content(self, address: str, task: int) -> bytes:
        names = [name for name in Path(file_name_of(address)).parts if name not in ("..", "/")]
        for start in range(len(names)):
            # Label Studio puts eight hexadecimal digits before the name of an upload.
            for last in (names[-1], re.sub(r"^[0-9a-f]{8}-", "", names[-1])):
                path = self._folder.joinpath(*names[start:-1], last).resolve()
                if path.is_relative_to(self._folder) and path.is_file():
                    return path.read_bytes()
        raise InputError(f"{address[:120]}: no such file below {self._folder.name}")


class HostImages(Media):
    """Images as the backend fetches them, undecoded. For one thread."""

    _found = b""

    def content(self, address: str, task: int) -> bytes:
        self.load(address, task=task)
        return self._found

    def _decode(self, data: bytes, name: str, reserve: Reserve) -> np.ndarray:
        read_header(data)  # what is no picture must not get into the cache
        self._found = data
        return _NO_PIXELS


def write_upright(content: bytes, header: Header, folder: Path, stem: str) -> str:
    """Writes an image that every reader shows alike; its file name.

    A JPEG or PNG that needs no turning is copied as it is, any other becomes a PNG of its upright pixels.
    """
    if header.orientation == 1 and header.file_format in _COPIED:
        name = stem + _COPIED[header.file_format]
    else:
        name, buffer = stem + ".png", io.BytesIO()
        Image.fromarray(load_image(content)).save(buffer, "PNG")
        content = buffer.getvalue()
    with written_whole(folder / name, is_durable=False) as temporary:
        temporary.write_bytes(content)
    return name
