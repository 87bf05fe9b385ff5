"""Which addresses on Label Studio are files of tasks: the only ones that its operator's token is used for.

A task's author chooses the address, and the token is somebody else's: `/data/upload/../../api/users/` must not become
a request to the API, however the dots are spelled, since a server or a proxy on the way may read them so.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

import httpx

HOST_PATHS = ("/data/upload/", "/data/local-files/", "/storage-data/", "/tasks/", "/projects/")
_FILES = re.compile(
    r"/data/upload/[^/].*|/data/local-files/|/storage-data/[^/]+/?|/(tasks|projects)/(?P<number>\d+)/(presign|resolve)/?"
)
_MAX_DECODINGS = 4


def is_file_of_host(path: str, task: int | None = None) -> bool:
    """Whether a path (as sent, percent-encoded or not, without its query) is a task's file on the host.

    task: the one that names it, whose own presign route alone is asked where it is known.
    """
    if not _is_plain(path):
        return False
    match = _FILES.fullmatch(unquote(path))
    if match is None:
        return False
    of_task = match["number"] if path.startswith("/tasks/") else None
    return of_task is None or task is None or int(of_task) == task


def _is_plain(path: str) -> bool:
    """Whether no decoding of the path, once or more, has a step up, a backslash or a control character in it."""
    for _ in range(_MAX_DECODINGS):
        steps = unicodedata.normalize("NFKC", path).split("/")
        if any(step.partition(";")[0].strip() in (".", "..") for step in steps):
            return False
        if "\\" in path or any(ord(char) < 32 or ord(char) == 127 for char in path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


def path_below(url: str, base: str) -> str | None:
    """The path of an address below the host's own address, dots folded, as it is sent; None where it lies elsewhere."""
    try:
        target, root = httpx.URL(url), httpx.URL(base)
    except (httpx.InvalidURL, UnicodeError):
        return None
    prefix = root.path.rstrip("/")
    path = target.raw_path.decode("ascii").partition("?")[0]
    if target.userinfo or not path.startswith(prefix + "/"):
        return None
    return path[len(prefix) :]
