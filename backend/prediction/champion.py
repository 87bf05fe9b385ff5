"""Which version is to serve: the one that a registry of versions names, else the checkpoint of the settings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from backend.prediction.protocol import Segmenter
from backend.prediction.succession import Successor
from calico.checkpoints.fingerprint import checkpoint_version
from calico.checkpoints.registry import POINTER, Registry
from calico.errors import InputError

Load = Callable[[Path | None], Segmenter]
"""Makes a segmenter from a folder, None: the embedded checkpoint."""


class Champion:
    """Reads the registry's pointer, again whenever the file is another one: one `stat` while nothing changes.

    registry: its folder, which need not be there yet; None: the checkpoint alone. load: see `Load`. join: told what is
    current ("" for the checkpoint), says what to begin with.

    Raises InputError where the pointer is damaged.
    """

    def __init__(
        self,
        registry: Path | None,
        checkpoint: Path | None,
        load: Load,
        join: Callable[[str], str] = lambda current: current,
    ) -> None:
        self._registry = None if registry is None else Registry(registry)
        self._checkpoint = checkpoint
        self._load = load
        self._lock = threading.Lock()
        self._seen = self._stamp()
        current = self._current = self._registry.current() if self._registry else None
        first = join(current or "") or None
        if self._registry and first != current and (first is None or first in self._registry.ids()):
            self._current, self._seen = first, None  # and the current one next

    @property
    def current(self) -> str | None:
        """Its id; None for the checkpoint."""
        return self._current

    @property
    def folder(self) -> Path | None:
        return (
            self._checkpoint if self._registry is None or not self._current else self._registry.path_of(self._current)
        )

    def version_of_files(self) -> str:
        """What its segmenter's version will be. Raises CheckpointError or OSError where the files do not tell."""
        return checkpoint_version(self.folder)

    def load(self) -> Segmenter:
        """Proves the version's files by their hashes and loads them. Raises CheckpointError, InputError, OSError."""
        return self._loaded(self._current)

    def follow(self) -> Successor | None:
        """The new champion, once, after a publish or a rollback."""
        with self._lock:
            stamp = self._stamp()
            if self._registry is None or stamp == self._seen:
                return None
            self._seen = stamp
            registry = self._registry
            try:
                history = registry.history()
            except InputError:
                return Successor(f"what {registry.folder / POINTER} names", lambda: self._loaded(registry.current()))
            target = (history[-1].version or None) if history else None
            if target == self._current:
                return None
            self._current = target
            is_rollback = bool(history) and history[-1].action == "rollback"
            return Successor(target or "the checkpoint", lambda: self._loaded(target), is_rollback, target or "")

    def _loaded(self, version: str | None) -> Segmenter:
        if self._registry is None or version is None:
            return self._load(self._checkpoint)
        self._registry.verify(self._registry.get(version))
        return self._load(self._registry.path_of(version))

    def _stamp(self) -> tuple[int, int, int] | None:
        """Changes with every write of the pointer, which is a rename of a new file over it."""
        if self._registry is None:
            return None
        try:
            status = os.stat(self._registry.folder / POINTER)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size
