"""Rows of numbers on disk: plain .npy files that any numpy reads, read here a row at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np

from calico.errors import InputError

BLOCK_ROWS = 65_536


class Blob:
    """A file of bytes, read by place. Reads move no position, so forked workers share it; it pickles by its path."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); build the index anew") from None
        self.num_bytes = os.fstat(self._file).st_size

    def read(self, offset: int, length: int) -> bytes:
        content = os.pread(self._file, length, offset)
        if len(content) != length:
            raise InputError(f"{self.path}: ends before byte {offset + length}; build the index anew")
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class Table:
    """The rows of a one-dimensional .npy file of records.

    `table[i]` is one row, `table[a:b]` an array of them. Read from the file each time rather than mapped: pages of a
    map count as this process's memory, and grow with what is looked at.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.dtype = dtype
        self._blob = Blob(path)
        with Path(path).open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                shape, _, stored_dtype = np.lib.format.read_array_header_1_0(file)
            except ValueError as error:
                raise InputError(f"{path}: is no .npy file ({error}); build the index anew") from None
            self._start = file.tell()
        if stored_dtype != dtype or len(shape) != 1:
            raise InputError(f"{path}: holds {stored_dtype} {shape}, expected rows of {dtype}; build the index anew")
        self._num_rows = int(shape[0])
        if self._blob.num_bytes != self._start + self._num_rows * dtype.itemsize:
            raise InputError(f"{path}: was cut off, {self._num_rows} rows are promised; build the index anew")

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, place: int) -> np.void: ...
    @overload
    def __getitem__(self, place: slice) -> np.ndarray: ...
    def __getitem__(self, place: int | slice) -> np.void | np.ndarray:
        if isinstance(place, slice):
            first, stop, step = place.indices(self._num_rows)
            if step != 1:
                raise IndexError("a table is read forwards, without a step")
            return self._rows(first, max(0, stop - first))
        row = place + self._num_rows if place < 0 else place
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {place} of {self._num_rows}")
        return self._rows(row, 1)[0]

    def _rows(self, first: int, number: int) -> np.ndarray:
        size = self.dtype.itemsize
        return np.frombuffer(self._blob.read(self._start + first * size, number * size), self.dtype)

    def blocks(self, first: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The rows from `first` to `stop`, a block at a time."""
        stop = len(self) if stop is None else stop
        for start in range(first, stop, BLOCK_ROWS):
            yield self[start : min(start + BLOCK_ROWS, stop)]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._blob.path, self.dtype)


class TableWriter:
    """Writes rows to `path`, whose number is known only at the end; a context manager."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path, self.dtype = Path(path), dtype
        self._spool = self.path.with_name(self.path.name + ".rows")
        self.num_rows = 0

    def __enter__(self) -> TableWriter:
        self._file = self._spool.open("wb")
        return self

    def add(self, *row: Any) -> int:
        """One row, its columns in order; gives its number."""
        return self.extend(np.array([row], self.dtype))

    def extend(self, rows: np.ndarray) -> int:
        """Several rows; gives the number of the first."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        first, self.num_rows = self.num_rows, self.num_rows + len(rows)
        return first

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
            with self.path.open("wb") as file, self._spool.open("rb") as rows:
                np.lib.format.write_array_header_1_0(file, header | {"shape": (self.num_rows,)})
                shutil.copyfileobj(rows, file, 1 << 20)
        self._spool.unlink()
