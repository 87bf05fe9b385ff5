"""Wavefront OBJ and MTL -> meshes by unit: an object group x a material, named `group|material`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from calico.errors import InputError
from rendering.model import Finish, Mesh

NO_GROUP, NO_MATERIAL = "", ""
SHINY = 100  # Ns, above which a surface mirrors


@dataclass
class _Faces:
    corners: list[list[int]] = field(default_factory=list)
    textured: list[list[int] | None] = field(default_factory=list)


def read_obj(path: Path) -> tuple[dict[str, Mesh], dict[str, Finish]]:
    """Meshes by unit, and the finishes of the materials. y is up in these files: they are turned so that z is.

    Raises `InputError` naming the line that cannot be read.
    """
    points: list[tuple[float, ...]] = []
    places: list[tuple[float, ...]] = []
    units: dict[str, _Faces] = {}
    finishes: dict[str, Finish] = {}
    group, material = NO_GROUP, NO_MATERIAL
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        values = rest.split()
        try:
            if word == "v":
                x, y, z = map(float, values[:3])
                points.append((x, -z, y))
            elif word == "vt":
                places.append((float(values[0]), float(values[1])))
            elif word in ("o", "g"):
                group = rest.strip()
            elif word == "usemtl":
                material = rest.strip()
            elif word == "mtllib":
                finishes |= read_mtl(path.parent / rest.strip())
            elif word == "f":
                unit = units.setdefault(f"{group}|{material}", _Faces())
                corners = [_index(value.split("/")[0], len(points)) for value in values]
                second = [value.split("/")[1] for value in values if value.count("/") and value.split("/")[1]]
                textured = [_index(value, len(places)) for value in second]
                if len(corners) > 2:
                    unit.corners.append(corners)
                    unit.textured.append(textured if len(textured) == len(corners) else None)
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}, line {number}: {line[:60]!r} is no OBJ ({error})") from None
    every, uvs = np.array(points or [(0.0, 0.0, 0.0)]), np.array(places or [(0.0, 0.0)])
    return {name: _mesh(faces, every, uvs) for name, faces in units.items() if faces.corners}, finishes


def _index(value: str, count: int) -> int:
    """From 1, or from the end below 0."""
    number = int(value)
    index = number - 1 if number > 0 else count + number
    if not 0 <= index < count:
        raise ValueError(f"{value} of {count}")
    return index


def _mesh(faces: _Faces, points: np.ndarray, uvs: np.ndarray) -> Mesh:
    """Points at one place are one, and of faces over the same points the first is kept: doubled ones render black."""
    used = sorted({index for corners in faces.corners for index in corners})
    own = points[used]
    extent = max(float(np.ptp(points, axis=0).max()), 1e-9)
    _, first, inverse = np.unique(np.rint(own / extent * 1e6), axis=0, return_index=True, return_inverse=True)
    renamed = dict(zip(used, inverse.ravel().tolist(), strict=True))
    has_uvs = any(textured is not None for textured in faces.textured)
    kept: dict[frozenset[int], tuple[tuple[int, ...], np.ndarray]] = {}
    for corners, textured in zip(faces.corners, faces.textured, strict=True):
        face = [renamed[index] for index in corners]
        places = np.zeros((len(face), 2)) if textured is None else uvs[textured]
        keep = [k for k in range(len(face)) if face[k] not in face[:k]]
        if len(keep) > 2:
            kept.setdefault(frozenset(face), (tuple(face[k] for k in keep), places[keep]))
    return Mesh(own[first], [face for face, _ in kept.values()], [uv for _, uv in kept.values()] if has_uvs else [])


def read_mtl(path: Path) -> dict[str, Finish]:
    """By the material's name; a picture that is not there is left out. A missing file gives none."""
    if not path.is_file():
        return {}
    finishes: dict[str, Finish] = {}
    name: str | None = None
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.strip().partition(" ")
        numbers = _numbers(rest.split())
        if word == "newmtl":
            name = rest.strip()
            finishes[name] = Finish("paint", (0.6, 0.6, 0.6))
        elif name is None:
            continue
        elif word == "Kd" and len(numbers) >= 3:
            finishes[name] = finishes[name]._replace(rgb=(numbers[0], numbers[1], numbers[2]))
        elif word == "Ns" and numbers and finishes[name].kind != "glass":
            kind = "metal" if numbers[0] > SHINY else "plastic" if numbers[0] > 10 else "paint"
            finishes[name] = finishes[name]._replace(kind=kind)
        elif word == "d" and numbers:
            kind = "glass" if numbers[0] < 0.7 else finishes[name].kind
            finishes[name] = finishes[name]._replace(alpha=numbers[0], kind=kind)
        elif word == "map_Kd":
            finishes[name] = finishes[name]._replace(texture=_picture(path.parent, rest.split()))
    return finishes


def _picture(folder: Path, words: list[str]) -> Path | None:
    """The last word or words that name a file below the folder; options come before them."""
    for start in range(len(words)):
        name = PurePosixPath(" ".join(words[start:]).replace("\\", "/"))
        if not name.is_absolute() and ".." not in name.parts and (folder / name).is_file():
            return folder / name
    return None


def _numbers(words: Iterable[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        return []
