"""All models there are, the library's and the procedural ones, and which comes next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico.errors import InputError
from rendering.generators import make
from rendering.layout import weights_of
from rendering.model import Model
from rendering.obj_library import ObjLibrary


class Catalogue:
    """library: None for procedural models only. procedural: classes with a generator. shapes: models of each of these.

    only: classes to take; None: all. Raises `InputError` where nothing is left.
    """

    def __init__(
        self, library: ObjLibrary | None, procedural: Sequence[str], shapes: int, only: Sequence[str] | None = None
    ) -> None:
        self._library, self._shapes = library, shapes
        self._rows: dict[str, list[str]] = {}
        for row in library.there() if library is not None else ():
            if row.mount != "ceiling":  # there is no ceiling in the scenes
                self._rows.setdefault(row.object_name, []).append(row.key)
        self._procedural = set(procedural)
        every = sorted({*self._rows, *procedural})
        if unknown := sorted(set(only or ()) - set(every)):
            raise InputError(f"--objects: there are no models of {', '.join(unknown)}; there are: {', '.join(every)}")
        self.classes = [name for name in every if only is None or name in only]
        if not self.classes:
            raise InputError("no models: neither the library nor the generators have any")
        self._weights = weights_of([self._count(name) for name in self.classes])

    def _count(self, name: str) -> int:
        return len(self._rows.get(name, ())) + (self._shapes if name in self._procedural else 0)

    def draw(self, rng: np.random.Generator, split: str | None = None) -> Model:
        """split: of that split only: what training never sees stays out of its pictures."""
        while True:
            name = self.classes[int(rng.choice(len(self.classes), p=self._weights))]
            number = int(rng.integers(self._count(name)))
            keys = self._rows.get(name, [])
            if number < len(keys):
                assert self._library is not None
                if split in (None, self._library.rows[keys[number]].split):
                    return self._library.load(keys[number])
            else:
                model = make(name, number - len(keys))
                if split in (None, model.split):
                    return model
