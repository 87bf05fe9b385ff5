"""A folder of downloaded bytes, bounded in size and age."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path

CLOCK_SKEW_S = 60.0  # a file from further in the future was written by another clock
ABANDONED_S = 3600.0  # a file half written for longer is of a process that was killed


class DiskCache:
    """Files named by the hash of their key, written whole or not at all, the least recently used dropped first.

    Several processes may share the folder: each file is written aside and moved into place.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_age_s: float) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        if not self._max_bytes:
            return None
        path = self._path(key)
        try:
            stat = path.stat()
            if not -CLOCK_SKEW_S <= time.time() - stat.st_mtime <= self._max_age_s:  # the clock may have been set back
                return None
            data = path.read_bytes()
            os.utime(path, (time.time(), stat.st_mtime))  # its access time says when it was last of use
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Raises OSError where the folder cannot be written, as on a full disk."""
        if len(data) > self._max_bytes:
            return
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._drop_abandoned()
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(name, self._path(key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._evict()

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.bin"

    def _drop_abandoned(self) -> None:
        """Before a write, so that it also makes room on a full disk."""
        for path in self.folder.glob("*.part"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()
            except FileNotFoundError:
                continue

    def _evict(self) -> None:
        with self._lock:
            entries = []
            for path in self.folder.glob("*.bin"):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                entries.append((stat.st_atime, stat.st_size, path))
            excess = sum(size for _, size, _ in entries) - self._max_bytes
            for _, size, path in sorted(entries):
                if excess <= 0:
                    return
                path.unlink(missing_ok=True)
                excess -= size
