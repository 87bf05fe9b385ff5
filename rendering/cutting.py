"""Meshes cut by planes of the model's box, where one unit holds several parts.

A condition reads `z>0.6`, `(x<0.2)|(x>0.8)`, `(y>0.68)&(z>0.6)`: places from 0 to 1 of the box, y = 0 in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from calico.errors import InputError
from rendering.model import Mesh

Planes = list[tuple[str, float]]
TOKEN = re.compile(r"\s*(?:([xyz])\s*([<>])\s*([0-9.]+)|([()&|]))")


def cut(
    mesh: Mesh, pieces: Sequence[tuple[str, str | None]], low: np.ndarray, high: np.ndarray
) -> list[tuple[str | None, Mesh]]:
    """Each piece's mesh by its part name; a face belongs to the first condition that its middle meets ("": all do).

    low, high: the model's box, 3 each. What meets none is left out of the answer.
    """
    size = np.where(high > low, high - low, 1.0)
    parsed = [(parse(text), name) for text, name in pieces]
    for axis, place in dict.fromkeys(plane for tree, _ in parsed for plane in tree.planes):
        index = "xyz".index(axis)
        mesh = _split(mesh, index, float(low[index] + place * size[index]))
    middles = np.array([mesh.vertices[list(face)].mean(0) for face in mesh.faces])
    shares = (middles - low) / size
    left = np.ones(len(mesh.faces), bool)
    found = []
    for tree, name in parsed:
        chosen = left & tree.holds(shares)
        left &= ~chosen
        if chosen.any():
            indices = np.flatnonzero(chosen)
            uvs = [mesh.uvs[k] for k in indices] if mesh.uvs else []
            found.append((name, Mesh(mesh.vertices, [mesh.faces[k] for k in indices], uvs)))
    return found


class Condition:
    """A parsed condition. words: tokens in postfix order."""

    def __init__(self, words: list[tuple[str, ...]]) -> None:
        self._words = words

    @property
    def planes(self) -> Planes:
        return [(word[0], float(word[2])) for word in self._words if len(word) == 3]

    def holds(self, shares: np.ndarray) -> np.ndarray:
        """shares: N x 3 from 0 to 1 of the box. Returns N bool."""
        if not self._words:
            return np.ones(len(shares), bool)
        stack: list[np.ndarray] = []
        for word in self._words:
            if len(word) == 3:
                own = shares[:, "xyz".index(word[0])]
                stack.append(own > float(word[2]) if word[1] == ">" else own < float(word[2]))
            else:
                second, first = stack.pop(), stack.pop()
                stack.append(first & second if word[0] == "&" else first | second)
        return stack[0]


def parse(text: str) -> Condition:
    """Raises `InputError` for what is no condition."""
    out: list[tuple[str, ...]] = []
    waiting: list[str] = []
    place = 0
    while place < len(text.rstrip()):
        match = TOKEN.match(text, place)
        if match is None:
            raise InputError(f"cut {text!r}: expected conditions such as (z>0.6)&(x<0.2), got {text[place:]!r}")
        place = match.end()
        axis, sign, number, mark = match.groups()
        if axis:
            out.append((axis, sign, number))
        elif mark == "(":
            waiting.append(mark)
        else:
            while waiting and waiting[-1] != "(" and not (mark == "&" and waiting[-1] == "|"):
                out.append((waiting.pop(),))
            if mark != ")":
                waiting.append(mark)
            elif not waiting:
                raise InputError(f"cut {text!r}: a parenthesis is closed that was not opened")
            else:
                waiting.pop()
    out += [(mark,) for mark in reversed(waiting)]
    depth = 0
    for word in out:
        depth += 1 if len(word) == 3 else -1
        if depth < 1 or word[0] == "(":
            raise InputError(f"cut {text!r}: parentheses or signs do not match")
    if depth > 1:
        raise InputError(f"cut {text!r}: expected & or | between two conditions")
    return Condition(out)


def _split(mesh: Mesh, axis: int, place: float) -> Mesh:
    """Faces that cross the plane become two each, with new points on it."""
    vertices, faces, uvs = list(mesh.vertices), [], []
    side = np.sign(np.round(mesh.vertices[:, axis] - place, 9)).astype(int)
    made: dict[tuple[int, int], int] = {}

    def on_plane(a: int, b: int) -> tuple[int, float]:
        low, high = min(a, b), max(a, b)
        start, end = mesh.vertices[low], mesh.vertices[high]
        share = (place - start[axis]) / (end[axis] - start[axis])
        if (low, high) not in made:
            made[low, high] = len(vertices)
            vertices.append(start + share * (end - start))
        return made[low, high], float(share if a == low else 1 - share)

    for number, face in enumerate(mesh.faces):
        own = mesh.uvs[number] if mesh.uvs else np.zeros((len(face), 2))
        sides = side[list(face)]
        if not ((sides > 0).any() and (sides < 0).any()):
            faces.append(face)
            uvs.append(own)
            continue
        for sign in (-1, 1):
            piece: list[int] = []
            places: list[np.ndarray] = []
            for k, (a, b) in enumerate(zip(face, (*face[1:], face[0]), strict=True)):
                if sides[k] * sign >= 0:
                    piece.append(a)
                    places.append(own[k])
                after = sides[(k + 1) % len(face)]
                if sides[k] * after < 0:
                    index, share = on_plane(a, b)
                    piece.append(index)
                    places.append(own[k] + share * (own[(k + 1) % len(face)] - own[k]))
            if len(piece) > 2:
                faces.append(tuple(piece))
                uvs.append(np.array(places))
    return Mesh(np.array(vertices), faces, uvs if mesh.uvs else [])
