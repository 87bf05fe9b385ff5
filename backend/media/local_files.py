"""Files below a folder, opened so that nobody who may write there can lead out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from calico.errors import InputError

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not be waited for


class Outside(InputError):
    """The path leads out of the folder."""


def read_below(root: Path, source: str, max_bytes: int) -> bytes:
    """The content of a file below `root`. Links are resolved once; what they lead to is then opened component by
    component without following any, so one that changes in between leads nowhere.

    Raises Outside, or InputError where there is no such file or it is larger than `max_bytes`.
    """
    try:
        base = root.resolve()
        path = (base / source).resolve()  # an absolute source replaces the root
    except (OSError, ValueError, RuntimeError):
        raise InputError("the path of an image cannot be read (too long, a loop of links, or no text)") from None
    if not path.is_relative_to(base):
        raise Outside("outside")
    try:
        handle = _opened(base, path.relative_to(base).parts)
    except (OSError, ValueError):
        raise InputError("no such file") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise InputError("no such file")
    with os.fdopen(handle, "rb") as file:
        content = b"" if status.st_size > max_bytes else file.read(max_bytes + 1)  # it may grow meanwhile
    if status.st_size > max_bytes or len(content) > max_bytes:
        raise InputError(f"larger than CALICO_MAX_IMAGE_MB ({max_bytes // 1_000_000} MB)")
    return content


def _opened(base: Path, parts: tuple[str, ...]) -> int:
    """A file descriptor. Raises OSError: something on the way is missing, a link, or no folder."""
    if not parts:
        raise FileNotFoundError
    folder = os.open(base, _FOLDER)
    try:
        for name in parts[:-1]:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
