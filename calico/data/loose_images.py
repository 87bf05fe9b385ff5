"""Loose images -> groups to be looked at together: by folder, by file-name pattern, or by similarity.

A source is a string (a path or an address) and stays as it is. What finds no group becomes a `Problem`, it is never
dropped silently.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from calico.data.image_files import ImageFolder, is_address, is_file
from calico.errors import InputError
from calico.values import MAX_GROUP_SIZE, MIN_GROUP_SIZE, Problem

#: Of the files that `load_image` reads and that a browser or a tool of pictures knows by name.
IMAGE_SUFFIXES = frozenset(
    [
        *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".jpx", ".mpo", ".pbm", ".pgm", ".pjp", ".pjpeg", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    ]
)


@dataclass(frozen=True)
class SourceGroup:
    """Sources that belong together, and the name of what they share (folder, pattern, or the first one's).

    similarity: of the two that are least alike, -1 to 1; None where nobody compared them.
    """

    name: str
    sources: tuple[str, ...]
    similarity: float | None = None


@dataclass(frozen=True)
class Grouping:
    """Every source given is in exactly one group or in `left_over`; problems say why those found no group."""

    groups: tuple[SourceGroup, ...]
    left_over: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def find_images(folder: Path, problems: list[Problem] | None = None) -> list[str]:
    """Image files in a folder and its sub-folders, by suffix, in natural order; what starts with a dot is left out.

    problems: is given one for each other kind of file, with their number.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images; check the path")
    paths: list[str] = []
    others: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if not is_file(path) or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            paths.append(path.as_posix())
        else:
            others[path.suffix.lower() or path.name] += 1
    left_out = [f"{count} {'file' if count == 1 else 'files'} {suffix!r}" for suffix, count in sorted(others.items())]
    if not paths:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(
            f"{folder}: no images in it; expected files that end in {suffixes}"
            + (f"; it has {', '.join(left_out[:10])}" if left_out else "")
        )
    if problems is not None:
        problems += [Problem("no_image", f"{folder}: {text} left out: of no kind that is read") for text in left_out]
    return sorted(paths, key=natural_order)


def read_list(path: Path, image_column: str = "image", group_column: str | None = None) -> list[tuple[str, str]]:
    """(source, group name) of every row of a list: CSV with a header line, JSON, or one JSON object a line.

    group_column None: the group names are empty. A relative path in the list starts at the list's own folder, with `/`
    or `\\` between folders; addresses (`https://...`, `s3://...`, `/data/...`) stay as they are. Blank rows are passed.
    """
    rows = _rows_of(path, image_column)
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: expected a list with at least one image; got {type(rows).__name__} without any")
    images = ImageFolder(path.parent)
    entries = []
    for number, row in enumerate(rows, start=1):
        row = {image_column: row} if isinstance(row, str) else row
        for column in filter(None, (image_column, group_column)):
            if not isinstance(row, dict) or not isinstance(row.get(column), str) or not row[column].strip():
                columns = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                sign = next(
                    (sign for sign in (";", "\t", "|") if isinstance(row, dict) and len(row) == 1 and sign in columns),
                    "",
                )
                hint = f"; are its columns separated by {sign!r}? Use commas" if sign else "; name the column"
                raise InputError(f"{path}: entry {number} has no text in {column!r} (it has: {columns}){hint}")
        source = row[image_column].strip()
        if not is_address(source):
            source = (images.find(source) or path.parent / source.replace("\\", "/")).as_posix()
        entries.append((source, row[group_column].strip() if group_column else ""))
    return entries


def _rows_of(path: Path, image_column: str) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if path.suffix.lower() == ".json":
            return json.loads(text)
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and lines[0].lstrip().startswith("{"):  # one object a line, whatever the file is called
            return [json.loads(line) for line in lines]
        rows = csv.DictReader(lines, skipinitialspace=True)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
        return [row for row in rows if any(isinstance(value, str) and value.strip() for value in row.values())]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not readable as a list of images ({error}); expected UTF-8 CSV or JSON") from None


def natural_order(text: str) -> list[tuple[str, int, str]]:
    """Sort key that puts `img2` before `img10`."""
    pieces = re.findall(r"(\D*)(\d*)", text)
    return [(letters.lower(), int(digits or -1), letters + digits) for letters, digits in pieces]


def by_folder(sources: Iterable[str], group_size: int | None = None, *, root: str = "") -> Grouping:
    """Images of one folder belong together. root: left out of the names of groups below it."""

    def name(source: str) -> str:
        folder = PurePosixPath(source).parent
        return (folder.relative_to(root) if root and folder.is_relative_to(root) else folder).as_posix()

    return by_key(((source, name(source)) for source in sources), group_size)


def by_pattern(sources: Iterable[str], pattern: str, group_size: int | None = None) -> Grouping:
    """Images whose paths have the same text where the pattern's parentheses stand belong together.

    pattern: a regular expression, searched in the source. `([^/]+)_\\d+\\.jpg$` joins `car_1.jpg` and `car_2.jpg`.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"pattern {pattern!r}: not a regular expression ({error})") from None
    if not expression.groups:
        raise InputError(f"pattern {pattern!r}: no parentheses; put them around what the images of a group share")
    keyed, left_over, problems = [], [], []
    for source in sources:
        if match := expression.search(source):
            keyed.append((source, " ".join(part or "" for part in match.groups())))
        else:
            left_over.append(source)
            problems.append(Problem("no_match", f"{source}: the pattern {pattern!r} does not match it"))
    grouping = by_key(keyed, group_size)
    return Grouping(grouping.groups, (*left_over, *grouping.left_over), (*problems, *grouping.problems))


def by_key(keyed: Iterable[tuple[str, str]], group_size: int | None = None) -> Grouping:
    """Sources of one key belong together, in the order given.

    keyed: (source, key). group_size: cut each key's sources into groups of exactly that many; None takes them whole.
    """
    _check_size(group_size)
    members: dict[str, list[str]] = {}
    for source, key in keyed:
        members.setdefault(key, []).append(source)
    groups, left_over, problems = [], [], []
    for key, sources in members.items():
        size = group_size or len(sources)
        for start in range(0, len(sources), size):
            chunk = sources[start : start + size]
            if len(chunk) == size and MIN_GROUP_SIZE <= size <= MAX_GROUP_SIZE:
                groups.append(SourceGroup(key, tuple(chunk)))
                continue
            sizes = group_size or f"{MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}"
            left_over += chunk
            problems.append(Problem("group_size", f"{key}: {len(chunk)} images left, a group has {sizes}"))
    return Grouping(tuple(groups), tuple(left_over), tuple(problems))


def by_similarity(
    sources: Sequence[str], features: np.ndarray, group_size: int, *, min_similarity: float = -1.0
) -> Grouping:
    """Groups of exactly `group_size` nearest neighbours. min_similarity: what any two of a group reach at least; an
    image that has not so many neighbours is left over.

    features: N x D float, one row per source; compared by cosine once the mean of all, which tells nothing apart, is
    taken out. The image farthest from the mean of those left takes its nearest neighbours, and so on: outliers choose
    first, since they have the fewest choices (the MDAV heuristic of Domingo-Ferrer and Mateo-Sanz, 2002).
    O(N^2 D / group_size) time, O(N D) memory.
    """
    _check_size(group_size)
    if features.ndim != 2 or len(features) != len(sources):
        raise InputError(f"expected one row of features per image, got {features.shape} for {len(sources)} images")
    centred = features - features.mean(axis=0) if len(features) else features
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = (centred / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    remaining = np.arange(len(sources))
    groups, unlike = [], []
    while len(remaining) >= group_size:
        rows = unit[remaining]
        rim = int(np.argmin(rows @ rows.mean(axis=0)))
        closeness = rows @ rows[rim]
        closeness[rim] = np.inf
        nearest = np.sort(np.argsort(-closeness, kind="stable")[:group_size])
        least = float((rows[nearest] @ rows[nearest].T).min())
        if least < min_similarity:
            unlike.append(sources[int(remaining[rim])])
            remaining = np.delete(remaining, rim)
            continue
        members = tuple(sources[i] for i in remaining[nearest].tolist())
        groups.append((int(remaining[nearest[0]]), SourceGroup(PurePosixPath(members[0]).stem, members, least)))
        remaining = np.delete(remaining, nearest)
    rest = tuple(sources[i] for i in remaining.tolist())
    lost = {*unlike, *rest}
    left_over = tuple(source for source in sources if source in lost)
    reason = f"left over, its nearest are less alike than {min_similarity:g}"
    problems = [Problem("unlike", f"{source}: {reason}") for source in unlike]
    problems += [Problem("group_size", f"{source}: left over, a group has {group_size} images") for source in rest]
    return Grouping(tuple(group for _, group in sorted(groups, key=lambda item: item[0])), left_over, tuple(problems))


def _check_size(group_size: int | None) -> None:
    if group_size is not None and not MIN_GROUP_SIZE <= group_size <= MAX_GROUP_SIZE:
        raise InputError(f"group size: expected {MIN_GROUP_SIZE} to {MAX_GROUP_SIZE}, got {group_size}")
