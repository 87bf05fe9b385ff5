"""Which object classes of a source may stand in one group: those that share a part name (paper).

The authors picked their pairs by hand out of these; a file of overrides does the same here:

    [paco]
    ignore_parts = ["logo"]            # a part that says nothing: alone it makes no two classes comparable
    exclude = [["bench", "book"]]      # never in one group
    [partimagenet]
    only = [["car", "bicycle"]]        # these pairs of different classes and no others

TOML, or the same as JSON.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from calico.coco.names import clean_name, families_of, read_category
from calico.errors import InputError

PartsOf = Mapping[str, frozenset[str]]  # object class -> names of its parts, normalised


class ComparablePair(NamedTuple):
    """Two different classes, in the order of their names, and the part names that both have."""

    first: str
    second: str
    shared: frozenset[str]


def read_class_list(path: Path) -> dict[str, frozenset[str]]:
    """Object class -> part names out of a category list.

    Either COCO `categories` (PACO's `chair:leg`, `chair's leg`, `Quadruped Head`), or {"objects": {class: [parts]}}.
    Raises InputError where the file is neither.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a category list or a COCO file") from None
    listed = document.get("objects") if isinstance(document, dict) else None
    if isinstance(listed, dict) and all(isinstance(parts, (list, dict)) for parts in listed.values()):
        gathered: dict[str, set[str]] = {}
        for name, parts in listed.items():
            gathered.setdefault(clean_name(name), set()).update(clean_name(str(part)) for part in parts)
        return {name: frozenset(parts) for name, parts in sorted(gathered.items())}
    rows = document.get("categories") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected `categories` or `objects`; give a category list or a COCO file")
    return parts_of_categories([*rows, *document.get("part_categories", [])])


def parts_of_categories(rows: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Object class -> part names, of the rows of a COCO file's `categories`; rows that name no object are left out."""
    families = families_of(rows)
    gathered: dict[str, set[str]] = {}
    for row in rows:
        object_name, part_name = read_category(row, families)
        if object_name is not None:
            gathered.setdefault(object_name, set()).update([part_name] if part_name else [])
    return {name: frozenset(parts) for name, parts in sorted(gathered.items())}


@dataclass(frozen=True)
class Overrides:
    """A user's choice for one source, see the head of this file. only: None leaves all pairs that share a part."""

    ignore_parts: frozenset[str] = frozenset()
    exclude: frozenset[tuple[str, str]] = frozenset()
    only: frozenset[tuple[str, str]] | None = None


def read_overrides(path: Path) -> dict[str, Overrides]:
    """Source -> its overrides, from a TOML or JSON file. Raises InputError where it is not of the form above."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give overrides as TOML or JSON") from None
    if not isinstance(document, dict) or not all(isinstance(table, dict) for table in document.values()):
        raise InputError(f"{path}: expected a table per source, for instance [paco]")
    return {source: _overrides(table, f"{path}, [{source}]") for source, table in document.items()}


def _overrides(table: Mapping[str, Any], where: str) -> Overrides:
    if unknown := set(table) - {"ignore_parts", "exclude", "only"}:
        raise InputError(f"{where}: unknown {', '.join(sorted(unknown))}; expected ignore_parts, exclude, only")

    def pairs(key: str) -> frozenset[tuple[str, str]]:
        rows = table.get(key, [])
        if not isinstance(rows, list) or not all(_is_pair(pair) for pair in rows):
            raise InputError(f"{where}: {key} is a list of pairs of class names, got {rows!r:.80}")
        return frozenset(_ordered(clean_name(a), clean_name(b)) for a, b in rows)

    names = table.get("ignore_parts", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: ignore_parts is a list of part names, got {names!r:.80}")
    only = pairs("only") if "only" in table else None
    return Overrides(frozenset(map(clean_name, names)), pairs("exclude"), only)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)


def _ordered(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


def comparable_pairs(parts_of: PartsOf, overrides: Overrides | None = None) -> list[ComparablePair]:
    """Pairs of different classes that share a part name and that the overrides allow, sorted.

    A class may always stand beside itself, so such pairs are not listed. Raises InputError where the overrides name a
    class that there is not, or ask for a pair that shares no part.
    """
    overrides = overrides or Overrides()
    for pair in overrides.exclude | (overrides.only or frozenset()):
        _check_classes(pair, parts_of)
    pairs = []
    for first, second in combinations(sorted(parts_of), 2):
        shared = parts_of[first] & parts_of[second]
        if shared - overrides.ignore_parts and (first, second) not in overrides.exclude:
            pairs.append(ComparablePair(first, second, shared))
    if overrides.only is not None:
        for first, second in sorted(overrides.only):
            if first == second or not parts_of[first] & parts_of[second]:
                raise InputError(f"overrides: {first!r} and {second!r} share no part name; take the pair out of `only`")
        pairs = [pair for pair in pairs if (pair.first, pair.second) in overrides.only]
    return pairs


def _check_classes(names: Iterable[str], parts_of: PartsOf) -> None:
    for name in names:
        if name not in parts_of:
            near = difflib.get_close_matches(name, parts_of, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(parts_of)[:8])} ..."
            raise InputError(f"overrides: the source has no class {name!r}; {remedy}")
