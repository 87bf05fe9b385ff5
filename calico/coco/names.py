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


class Families(NamedTuple):
    """What the other categories of a file say about one. `families_of` makes it.

    families: supercategories whose every category is a part, named after them. names: of all categories. long_owners,
    long_parts: short names that several would share, so that these keep their parentheses. by_supercategory: a category
    is a part of its supercategory where that is a category too. given: names that a user gave, by a category's name.
    """

    families: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    long_owners: frozenset[str] = frozenset()
    long_parts: frozenset[tuple[str, str]] = frozenset()
    by_supercategory: bool = False
    given: Mapping[str, str] = {}


_NO_FAMILIES = Families()
_ROOTS = ("", "none")  # supercategories of a category that has none
_POSSESSIVE = re.compile(r"['\u2019]s ")


def read_category(row: Mapping[str, Any], families: Families | None = None) -> tuple[str | None, str | None]:
    """(object, part) that a `categories` row says, normalised; None where it does not say it.

    `chair:leg` (PACO), `chair's leg` (ADE20K-Part; where `chair` is a category too), `Quadruped Head` of the family
    `Quadruped` (PartImageNet), a name alone under the supercategory `part`; any other name is an object. families: from
    `families_of`; None where a name stands alone, without a file.
    """
    name = row.get("name")
    if not isinstance(name, str) or not clean_name(name):
        raise InputError(f"category {row.get('id')!r}: expected a name, got {name!r}; repair the file's categories")
    above, vocabulary = _above(row), families or _NO_FAMILIES
    if (given := vocabulary.given.get(name.strip())) is not None:
        said_owner, _, said_part = given.partition(":")
        return clean_name(said_owner) or None, clean_name(said_part) or None
    pieces = _pieces(name, None if families is None else vocabulary.names | {above})
    if len(pieces) == 2:
        owner = _short(pieces[0], vocabulary.long_owners) or None
        return owner, _short(pieces[1], vocabulary.long_parts, clean_name(pieces[0])) or None
    short = clean_name(name)
    if above == "part":
        return None, _short(name, vocabulary.long_parts, "")
    if above in vocabulary.families and short.startswith(above + " "):
        return above, short[len(above) + 1 :]
    if vocabulary.by_supercategory and above in vocabulary.names and above not in (short, *_ROOTS):
        return above, short
    return _short(name, vocabulary.long_owners), None


def _pieces(name: str, owners: Set[str] | None) -> list[str]:
    """[object, part] of a name that says both, else the name. owners: what may stand before `'s`; None: anything."""
    if ":" in name:
        return name.split(":", 1)
    pieces = _POSSESSIVE.split(name, maxsplit=1)
    return pieces if len(pieces) == 2 and (owners is None or clean_name(pieces[0]) in owners) else [name]


def _short(name: str, long: Set[Any], owner: str | None = None) -> str:
    """The name without what stands in parentheses, unless others are called so too."""
    short = clean_name(name)
    return long_name(name) if (short if owner is None else (owner, short)) in long else short


def families_of(
    rows: Iterable[Any],
    used: Set[Any] | None = None,
    *,
    by_supercategory: bool = False,
    given: Mapping[str, str] | None = None,
) -> Families:
    """What all rows of a file say together. used: ids of categories that annotations have, where that is known.

    Supercategories whose every category is named after them are families, as of parts; `sports` of `sports ball` is
    none, nor is an unused category that others stand under: such a root (Roboflow's) is a project's title.
    """
    named = [row for row in rows if isinstance(row, Mapping) and isinstance(row.get("name"), str)]
    names = frozenset(clean_name(row["name"]) for row in named if len(_pieces(row["name"], frozenset())) == 1)
    members: dict[str, list[str]] = {}
    owners: dict[str, set[str]] = {}
    parts: dict[tuple[str, str], set[str]] = {}
    roots = set()
    for row in named:
        above, short = _above(row), clean_name(row["name"])
        if above:
            members.setdefault(above, []).append(short)
        if used is not None and row.get("id") not in used and (above in _ROOTS or above == short):
            roots.add(short)
        owner, *part = _pieces(row["name"], names)
        if above == "part" and not part:
            owner, part = "", [owner]
        owners.setdefault(clean_name(owner), set()).add(long_name(owner))
        if part:
            parts.setdefault((clean_name(owner), clean_name(part[0])), set()).add(long_name(part[0]))
    families = frozenset(
        above
        for above, longer in members.items()
        if above not in roots and all(f"{name} ".startswith(above + " ") for name in longer)
    )
    return Families(
        families,
        names,
        frozenset(short for short, several in owners.items() if len(several) > 1),
        frozenset(key for key, several in parts.items() if len(several) > 1),
        by_supercategory,
        given or {},
    )


def _above(row: Mapping[str, Any]) -> str:
    return clean_name(row["supercategory"]) if isinstance(row.get("supercategory"), str) else ""


def clean_name(name: str) -> str:
    """`car_(automobile)` -> `car`, `trash_can` -> `trash can`, `Tier` -> `tire`; normalised."""
    return long_name(re.split(r"[_ ]*\(", name, maxsplit=1)[0])


def long_name(name: str) -> str:
    """As `clean_name`, with what stands in parentheses."""
    words = normalize_name(name.replace("_", " ")).split()
    return " ".join(_SPELLINGS.get(word, word) for word in words)
