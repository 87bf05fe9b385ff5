"""Where an image's file is, from what a list, a COCO file or a task calls it: the one place that knows the spellings.

Windows paths, addresses, percent-encoding, queries, and the names that Label Studio gives to uploads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from calico.errors import InputError

BUCKET_SCHEMES = frozenset({"s3", "gs", "azure-blob"})
MAX_UPLOAD_CHARS = 100  # of an upload's whole path at the host, which cuts longer names
_MARKS = "\ufeff \t\r\n"


def is_address(source: str) -> bool:
    """Whether a source is an address that a host resolves, and not a path on this machine."""
    return "://" in source or source.startswith(("/data/", "data:"))


def scheme_of(source: str) -> str:
    """Of an address, in lower case; empty for a path and for a path of the host."""
    return source.partition(":")[0].lower() if "://" in source or source.startswith("data:") else ""


def relative_names(name: str) -> list[str]:
    """What an image is called -> the paths below some folder that this may mean, with `/`, the likeliest first.

    A bucket's key is taken as it is, a web address is decoded; of a path both are tried, and without a query. Steps up
    (`..`), drives and the root are left out. Empty for a data URI. InputError where an address cannot be split.
    """
    name = name.strip(_MARKS)
    scheme = scheme_of(name)
    if scheme == "data" or "\0" in name:
        return []
    if scheme in BUCKET_SCHEMES:
        key = name.partition("://")[2].partition("/")[2]
        names = [key, unquote(key), unquote(key.partition("?")[0])]
    elif is_address(name):
        try:
            parts = urlsplit(name)
        except ValueError as error:
            raise InputError(f"{name[:120]!r}: no address that can be read ({error}); correct it in the task") from None
        path = parts.path
        if "local-files" in path and (query := re.search(r"(?:^|&)d=([^&]*)", parts.query)):
            path = query[1].replace("+", " ") if "%" not in query[1] else query[1]
            raw = query[1]
        else:
            raw = path
        names = [unquote(path), unquote(raw), raw]
        names = [item.removeprefix("/data/") for item in names]
    else:
        plain = name.replace("\\", "/")
        names = [plain, *([name] if name != plain else []), unquote(plain), unquote(plain.partition("?")[0])]
    return list(dict.fromkeys(cleaned for item in names if (cleaned := _below(item))))


def _below(path: str) -> str:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "//", "..", ".")]
    if parts and re.fullmatch(r"[A-Za-z]:", parts[0]):
        parts = parts[1:]
    return "/".join(parts)


def is_file(path: Path) -> bool:
    """As `Path.is_file`; False too for what can be no file: a name that is too long, or holds a NUL."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def upload_name(name: str) -> str:
    """The name that Label Studio gives to an uploaded file, behind eight characters and a `-`: blanks become `_`, other
    marks than `-`, `_` and `.` go."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


class ImageFolder:
    """Finds images below a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError where there is none."""
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a folder of images; check the path")
        self.folder = folder
        self._root = folder.resolve()
        self._uploads = cache(self._uploads_in)

    def find(self, name: str) -> Path | None:
        """The file of an image, by its whole path or by as many of its last names as match; None where it is missing.

        Uploads are found by the name they had before. Nothing outside the folder is found, through a link neither.
        InputError where several files may be meant, or the name is an address that cannot be split.
        """
        names = relative_names(name)
        for candidate in (path for item in names for path in self._tails(item)):
            if is_file(candidate) and candidate.resolve().is_relative_to(self._root):
                return candidate
        for item in names:
            upload = self._find_upload(item)
            if upload is not None:
                return upload
        return None

    def _tails(self, item: str) -> Iterator[Path]:
        parts = item.split("/")
        for start in range(len(parts)):
            yield self.folder.joinpath(*parts[start:])
        if re.match(r"[0-9a-f]{8}-.", parts[-1]):
            for start in range(len(parts)):
                yield self.folder.joinpath(*parts[start:-1], parts[-1][9:])

    def _find_upload(self, item: str) -> Path | None:
        """A file that Label Studio would have called so."""
        parts = item.split("/")
        last = parts[-1][9:] if re.match(r"[0-9a-f]{8}-.", parts[-1]) else parts[-1]
        is_cut = len(item) + len("upload/") >= MAX_UPLOAD_CHARS
        for start in range(len(parts)):
            folder = self.folder.joinpath(*parts[start:-1])
            uploads = self._uploads(folder)
            files = uploads.get(last, [])
            if not files and is_cut:
                stem, dot, suffix = last.rpartition(".")
                files = [
                    path
                    for name, paths in uploads.items()
                    for path in paths
                    if len(stem) > 20 and name.startswith(stem) and name.endswith(dot + suffix)
                ]
            if len(files) > 1:
                names = ", ".join(repr(path.name) for path in files[:3])
                raise InputError(f"{item}: may be any of {names} in {folder}; rename all but one")
            if files and files[0].resolve().is_relative_to(self._root):
                return files[0]
        return None

    def _uploads_in(self, folder: Path) -> dict[str, list[Path]]:
        """The files of a folder by their names as uploads."""
        files_of: dict[str, list[Path]] = {}
        try:
            paths = sorted(path for path in folder.iterdir() if path.is_file())
        except (OSError, ValueError):
            return {}
        for path in paths:
            files_of.setdefault(upload_name(path.name), []).append(path)
        return files_of
