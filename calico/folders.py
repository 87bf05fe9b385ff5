"""Files and folders that appear whole or not at all, and folders that one process at a time writes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from calico.errors import InputError


def write_text(path: Path, text: str) -> None:
    """At once: a reader sees the old file or the whole new one. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def put_in_place(ready: Path, folder: Path, *, synced: Iterable[str]) -> None:
    """The finished folder `ready` becomes `folder`; what was there is gone after that, and not before.

    synced: the files in it that must have reached the disk first.
    """
    for name in synced:
        with (ready / name).open("rb") as file:
            os.fsync(file.fileno())
    aside = folder.with_name(folder.name + ".replaced")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
    ready.rename(folder)
    shutil.rmtree(aside, ignore_errors=True)


def recover(folder: Path) -> None:
    """After a kill between the two renames of `put_in_place` the old folder lies aside: put it back."""
    aside = folder.with_name(folder.name + ".replaced")
    if aside.is_dir() and not folder.exists():
        aside.rename(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`. Raises InputError where another process does."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{path.parent}: another process is writing here; wait for it") from None
        yield
