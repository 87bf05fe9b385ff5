"""Colours of part names: one a name, the same on every image and in every task of a project.

The first seven are Okabe and Ito's (their black left out, it hides an image). The others were chosen, one by one, as
far as can be from all before them for whoever sees no red, no green or no blue; tests/test_palette.py measures it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#d55e00")
COLORS = (*OKABE_ITO, "#772200", "#000099", "#bbffbb", "#554455", "#556655")
MAX_NAMES, MAX_NAME = 10_000, 200  # names of a project; characters of one
OBJECT_COLOR = "#c8c8c8"  # light, so that an object's mask hardly tints the parts on it
OTHER_COLOR = "#7f7f7f"


class Palette:
    """Which colour each part name of a project has. A name keeps the colour that it was first given."""

    def __init__(self, colors: Mapping[str, str] | None = None) -> None:
        self._colors = dict(colors or {})

    @property
    def colors(self) -> Mapping[str, str]:
        return dict(self._colors)

    def learn(self, parts: Sequence[Any]) -> None:
        """Takes over what the labels of a task say (`parts` of its data); the first to name a part decides."""
        for item in parts:
            if isinstance(item, Mapping) and item.get("hint") == "part":
                name, color = item.get("value"), item.get("background")
                if not (isinstance(name, str) and isinstance(color, str)) or max(len(name), len(color)) > MAX_NAME:
                    continue
                if len(self._colors) < MAX_NAMES:
                    self._colors.setdefault(name, color)

    def assign(self, names: Iterable[str]) -> dict[str, str]:
        """The colours of the names that one task shows together.

        A new name gets the colour that the fewest names of the project have and none of these has; so up to 12 names
        of a project have colours of their own, and those of one task differ where they are new together.
        """
        names = list(dict.fromkeys(names))
        colors_in_use = {self._colors[name] for name in names if name in self._colors}
        for name in names:
            if name not in self._colors:
                project_colors = list(self._colors.values())
                free = [color for color in COLORS if color not in colors_in_use] or list(COLORS)
                self._colors[name] = min(free, key=lambda color: (project_colors.count(color), COLORS.index(color)))
                colors_in_use.add(self._colors[name])
        return {name: self._colors[name] for name in names}
