"""Files and folders that appear whole or not at all, and folders that one process at a time writes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from calico.errors import InputError


def write_text(path: Path, text: str, *, is_private: bool = False) -> None:
    """As `written_whole`. Makes the folder. What is no plain file, as `/dev/stdout`, is written in place."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
        return
    with written_whole(path, is_private=is_private) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def written_whole(path: Path, *, is_private: bool = False, is_durable: bool = True) -> Iterator[Path]:
    """Where to write what then becomes `path` at once: a reader sees the old file or the whole new one.

    is_private: for the owner only, from the first byte. is_durable: also when the machine goes down; without, when the
    process is killed. Makes the folder.

    It is a file of the same name in a folder beside it, since safetensors adds a file of its own and others look at the
    suffix. That folder has one name only, so what a kill leaves is gone with the next write; one process at a time
    writes a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if is_private else 0o777)
    folder = path.with_name(f".{path.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(0o600 if is_private else 0o644)  # safetensors keeps its files private
        if is_durable:
            sync(temporary)
        temporary.replace(path)
        if is_durable:
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """What a file holds, or which names a folder holds, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(ready: Path, folder: Path, *, synced: Iterable[str]) -> None:
    """The finished folder `ready` becomes `folder`; what was there is gone after that, and not before.

    synced: the files in it that must have reached the disk first.
    """
    for name in synced:
        sync(ready / name)
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
