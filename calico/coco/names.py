"""What a COCO category is called, and what its name says of an object and its part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

from calico.errors import InputError
from calico.values import normalize_name

SCHEMES = ("object:part", "object part", "part")
_SPELLINGS = {"tier": "tire", "tiers": "tires"}  # PartImageNet's


class Category(NamedTuple):
    """One kind of region. part_name None: the whole object."""

    object_name: str
    part_name: str | None

    def title(self, scheme: str) -> tuple[str, str]:
        """(name, supercategory). scheme: how a part is spelled; an object is its own supercategory."""
        if self.part_name is None:
            return self.object_name, self.object_name
        if scheme == "object:part":
            return f"{self.object_name}:{self.part_name}", self.object_name
        if scheme == "object part":
            return f"{self.object_name} {self.part_name}", self.object_name
        if scheme == "part":
            return self.part_name, "part"  # one category for the part of whatever object
        raise InputError(f"category names: expected one of {', '.join(SCHEMES)}, got {scheme!r}")


def read_category(row: Mapping[str, Any], families: Set[str] = frozenset()) -> tuple[str | None, str | None]:
    """(object, part) that a `categories` row says, normalised; None where it does not say it.

    `chair:leg` (PACO), `chair's leg` (ADE20K-Part), `Quadruped Head` of the family `Quadruped` (PartImageNet), a name
    alone under the supercategory `part`; any other name is an object. families: from `families_of`.
    """
    name = row.get("name")
    if not isinstance(name, str) or not clean_name(name):
        raise InputError(f"category {row.get('id')!r}: expected a name, got {name!r}; repair the file's categories")
    above = _above(row)
    for mark in (":", "'s "):
        if mark in name:
            owner, part = (clean_name(piece) for piece in name.split(mark, 1))
            return owner or None, part or None
    if above == "part":
        return None, clean_name(name)
    if above in families and clean_name(name).startswith(above + " "):
        return above, clean_name(name)[len(above) + 1 :]
    return clean_name(name), None


def families_of(rows: Iterable[Any]) -> frozenset[str]:
    """Supercategories whose every category is named after them, as parts are; `sports` of `sports ball` is none."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row, Mapping) and isinstance(row.get("name"), str) and _above(row):
            names.setdefault(_above(row), []).append(clean_name(row["name"]))
    return frozenset(
        above for above, members in names.items() if all(f"{name} ".startswith(above + " ") for name in members)
    )


def _above(row: Mapping[str, Any]) -> str:
    return clean_name(row["supercategory"]) if isinstance(row.get("supercategory"), str) else ""


def clean_name(name: str) -> str:
    """`car_(automobile)` -> `car`, `trash_can` -> `trash can`, `Tier` -> `tire`; normalised."""
    words = normalize_name(re.split(r"[_ ]*\(", name, maxsplit=1)[0].replace("_", " ")).split()
    return " ".join(_SPELLINGS.get(word, word) for word in words)
