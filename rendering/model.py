"""What is rendered: a model is named parts, a part is a mesh and what it is made of. numpy only.

Frame: z up, the floor at z = 0, the front towards -y, as Blender has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Finish(NamedTuple):
    """kind: of `scene.FINISHES`. rgb: linear, from 0 to 1. texture: a picture that replaces the colour, by its UVs."""

    kind: str
    rgb: tuple[float, float, float]
    texture: Path | None = None
    alpha: float = 1.0


@dataclass(frozen=True)
class Mesh:
    """vertices: N x 3 float. faces: indices of each polygon, counter-clockwise seen from outside.

    uvs: per face, K x 2, where there is a texture; or none at all.
    """

    vertices: np.ndarray
    faces: list[tuple[int, ...]]
    uvs: list[np.ndarray] = field(default_factory=list)

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scaled(self, x: float, y: float, z: float) -> Mesh:
        """All above 0: a mirrored mesh would show its inside."""
        if min(x, y, z) <= 0:
            raise ValueError(f"scales are above 0, got {x}, {y}, {z}; `mirrored` mirrors")
        return replace(self, vertices=self.vertices * np.array([x, y, z]))

    def turned(self, axis: str, degrees: float) -> Mesh:
        """Counter-clockwise about an axis of the frame, seen from its tip."""
        first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        angle = np.deg2rad(degrees)
        vertices = self.vertices.copy()
        vertices[:, first] = np.cos(angle) * self.vertices[:, first] - np.sin(angle) * self.vertices[:, second]
        vertices[:, second] = np.sin(angle) * self.vertices[:, first] + np.cos(angle) * self.vertices[:, second]
        return replace(self, vertices=vertices)

    def mirrored(self, axis: str) -> Mesh:
        signs = np.ones(3)
        signs["xyz".index(axis)] = -1
        uvs = [own[::-1] for own in self.uvs]
        return Mesh(self.vertices * signs, [face[::-1] for face in self.faces], uvs)


def joined(*meshes: Mesh) -> Mesh:
    """One mesh of several; none of their vertices are merged."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [
        tuple(int(start) + index for index in face)
        for start, mesh in zip(starts, meshes, strict=False)
        for face in mesh.faces
    ]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), faces, [uv for mesh in meshes for uv in mesh.uvs])


def is_watertight(mesh: Mesh) -> bool:
    """Every edge lies between two faces that go along it in opposite directions, so the surface has an inside."""
    starts = np.concatenate(mesh.faces)
    ends = np.concatenate([(*face[1:], face[0]) for face in mesh.faces])
    there = np.sort(starts.astype(np.int64) * len(mesh.vertices) + ends)
    back = np.sort(ends.astype(np.int64) * len(mesh.vertices) + starts)
    return bool((np.diff(there) > 0).all()) and np.array_equal(there, back)


def volume(mesh: Mesh) -> float:
    """Inside a watertight mesh; below 0 where its faces look inwards."""
    fans = [(face[0], face[k], face[k + 1]) for face in mesh.faces for k in range(1, len(face) - 1)]
    a, b, c = (mesh.vertices[column] for column in np.array(fans).T)
    return float((a * np.cross(b, c)).sum()) / 6


@dataclass(frozen=True)
class Part:
    """name None: the object, but no part that anybody would name. bevel: how far its edges are rounded, in the mesh's
    own unit."""

    name: str | None
    mesh: Mesh
    finish: Finish
    bevel: float = 0.0


@dataclass(frozen=True)
class Model:
    """A thing of one class. key: names this very shape, wherever it is rendered; its split is its own, whole.

    credit: who made it, under which licence. mount: where it stands, `floor`, `wall` or `ceiling`.
    """

    object_name: str
    key: str
    parts: tuple[Part, ...]
    credit: str
    split: str = "train"
    mount: str = "floor"

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner, 3 each."""
        every = np.concatenate([part.mesh.vertices for part in self.parts])
        return every.min(0), every.max(0)

    def in_unit_box(self) -> Model:
        """Its longest side 1, its middle over the origin, standing on the floor."""
        low, high = self.box
        middle, size = (low + high) / 2, float((high - low).max())
        shift = np.array([middle[0], middle[1], low[2]])
        parts = tuple(
            replace(
                part, mesh=replace(part.mesh, vertices=(part.mesh.vertices - shift) / size), bevel=part.bevel / size
            )
            for part in self.parts
        )
        return replace(self, parts=parts)
