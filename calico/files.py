"""Files and folders that appear whole or not at all, and folders that one process at a time writes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from calico.errors import InputError


def write_text(path: Path, text: str) -> None:
    """At once: a reader sees the old file or the whole new one. Makes the folder. What is no plain file, as
    `/dev/stdout`, is written in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
        return
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what then becomes `path`: in a folder beside it, since safetensors adds a file of its own. It has
    one name only, so what a kill leaves is gone with the next write; one process at a time writes a file."""
    folder = path.with_name(f".{path.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(0o644)  # safetensors keeps its files private
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
