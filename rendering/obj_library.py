"""A library of OBJ models with a table that names their units: one JSON row a model.

    {"lib": "Scopia", "model": "/scopia/car/car.obj", "object": "car", "split": "train",
     "units": {"group|material": "wheel", ...}, "rest": null, "credit": "...",
     "cuts": {"group|material": [["z>0.6", "back"], ["", "seat"]]}, "path": "split/3/model.obj", "mount": "wall"}

Libraries are folders, or zip files named `LIB.sh3f` or `LIB.zip`, beside each other; `path` rows lie below another
folder.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from calico.errors import InputError
from rendering.cutting import cut
from rendering.model import Finish, Mesh, Model, Part
from rendering.obj_files import read_obj

PLAIN = Finish("paint", (0.6, 0.6, 0.6))
KEYS = ("lib", "model", "object", "split", "units", "credit")
ARCHIVES = (".sh3f", ".zip")


@dataclass(frozen=True)
class TableRow:
    """units: part name by unit; one that is not there has the name `rest`, None: the object and no part."""

    lib: str
    model: str
    object_name: str
    split: str
    units: Mapping[str, str]
    credit: str
    rest: str | None = None
    cuts: Mapping[str, Sequence[tuple[str, str]]] = ()  # type: ignore[assignment]
    path: str = ""
    mount: str = "floor"

    @property
    def key(self) -> str:
        return f"{self.lib}{self.model}"


def read_table(path: Path) -> list[TableRow]:
    """Raises `InputError` naming the line that is no row."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror}); expected a table of models") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{path}, line {number}: expected an object with {', '.join(KEYS)} ({error})"
                ) from None
    return rows


def _row(raw: Any) -> TableRow:
    lib, model, name, split, units, credit = (raw[key] for key in KEYS)
    if split not in ("train", "val") or not isinstance(units, dict):
        raise ValueError(f"split {split!r}, units {type(units).__name__}")
    cuts = {unit: [(text, part) for text, part in pieces] for unit, pieces in (raw.get("cuts") or {}).items()}
    return TableRow(
        lib,
        model,
        name,
        split,
        units,
        credit,
        raw.get("rest"),
        cuts,
        raw.get("path") or "",
        raw.get("mount") or "floor",
    )


class ObjLibrary:
    """library: the folder with the libraries. cut_meshes: the folder that `path` rows are below. unpacked: where files
    of archives are laid, once."""

    def __init__(self, table: Path, library: Path, cut_meshes: Path | None, unpacked: Path) -> None:
        self.rows = {row.key: row for row in read_table(table)}
        self._library, self._cut_meshes, self._unpacked = library, cut_meshes, unpacked
        if not library.is_dir():
            raise InputError(f"{library}: no such folder; expected the libraries that the table names")

    def there(self) -> Iterator[TableRow]:
        """Rows whose files can be had."""
        for row in self.rows.values():
            if row.path:
                if self._cut_meshes is not None and (self._cut_meshes / row.path).is_file():
                    yield row
            elif (self._library / row.lib).is_dir() or any(
                (self._library / (row.lib + end)).is_file() for end in ARCHIVES
            ):
                yield row

    def load(self, key: str) -> Model:
        """Raises `InputError` where the row's file is missing or is no OBJ."""
        row = self.rows[key]
        units, finishes = read_obj(self._file(row))
        return assembled(row, units, finishes)

    def _file(self, row: TableRow) -> Path:
        if row.path:
            if self._cut_meshes is None:
                raise InputError(f"{row.key}: is a mesh that was cut; say where these are (--cut-meshes)")
            return self._cut_meshes / row.path
        name = PurePosixPath(row.model.partition("#")[0].lstrip("/"))
        if ".." in name.parts:
            raise InputError(f"{row.key}: a model lies below its library")
        folder = self._library / row.lib
        if folder.is_dir():
            return folder / name
        target = self._unpacked / row.lib / name
        if not target.is_file():
            self._unpack(row.lib, name.parent)
        if not target.is_file():
            raise InputError(f"{row.key}: not in its library {row.lib}")
        return target

    def _unpack(self, lib: str, folder: PurePosixPath) -> None:
        """All files of one folder of an archive: the model, its materials, its pictures."""
        archive = next((path for end in ARCHIVES if (path := self._library / (lib + end)).is_file()), None)
        if archive is None:
            raise InputError(f"{self._library}: no library {lib} there, as a folder or as {lib}.sh3f")
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                name = PurePosixPath(info.filename)
                if info.is_dir() or ".." in name.parts or name.is_absolute() or name.parent != folder:
                    continue
                target = self._unpacked / lib / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(info) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)


def assembled(row: TableRow, units: Mapping[str, Mesh], finishes: Mapping[str, Finish]) -> Model:
    """The model of a row from its file's meshes; units that the row cuts become several parts."""
    plain = Model(row.object_name, row.key, tuple(Part(None, mesh, PLAIN) for mesh in units.values()), row.credit)
    low, high = plain.box
    parts = []
    for unit, mesh in units.items():
        finish = finishes.get(unit.rpartition("|")[2], PLAIN)
        if unit in dict(row.cuts):
            parts += [Part(name, piece, finish) for name, piece in cut(mesh, dict(row.cuts)[unit], low, high)]
        else:
            parts.append(Part(row.units.get(unit, row.rest), mesh, finish))
    return Model(row.object_name, row.key, tuple(parts), row.credit, row.split, row.mount)
