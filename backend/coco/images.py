"""The image files behind a project's tasks, for exports: what they show upright, and upright copies of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from backend.media.media import Media, Reserve
from calico.coco.orientation import Header, read_header
from calico.data.image_files import ImageFolder
from calico.errors import InputError
from calico.files import written_whole
from calico.images import load_image

_COPIED = {"JPEG": ".jpg", "PNG": ".png"}
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class ImageFiles(Protocol):
    def content(self, address: str, task: int) -> bytes:
        """An image file as it is stored. Raises InputError where there is none."""


class FolderImages:
    """Images in a folder, as `ImageFolder` finds them."""

    def __init__(self, folder: Path) -> None:
        self._images = ImageFolder(folder)

    def content(self, address: str, task: int) -> bytes:
        path = self._images.find(address)
        if path is None:
            raise InputError(f"{address[:120]}: no such file below {self._images.folder.name}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{path.name}: cannot be read ({error.strerror}); check its permissions") from None


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
