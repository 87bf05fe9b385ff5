"""From what a task says of an image to the image: uploads, local files, web addresses, buckets, data URIs, paths."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, unquote_to_bytes, urlsplit

import httpx
import numpy as np

from backend.host.client import LabelStudioClient
from backend.media.disk_cache import DiskCache
from backend.media.fetching import Fetcher, public_url, same_origin
from backend.media.host_files import HOST_PATHS, is_file_of_host, path_below
from backend.media.local_files import Outside, read_below
from backend.media.pixels import PixelBudget
from backend.settings import Settings
from backend.telemetry.log_lines import one_line
from backend.telemetry.prometheus import Metrics
from calico.data.image_files import BUCKET_SCHEMES
from calico.errors import InputError
from calico.images import load_image

log = logging.getLogger("calico.backend")

MAX_ADDRESS = 8192  # characters; signed ones have one or two thousand

Reserve = Callable[[int], None]


class _Found(NamedTuple):
    """An image file. name: for messages. key: under which it is to be kept, None where it is at hand anyway."""

    content: bytes
    name: str
    key: str | None = None


class Media:
    """Loads the images of tasks. Safe to share between threads.

    client: for the token that the host wants; without one, what needs a token is refused by the host.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        client: LabelStudioClient | None = None,
        fetcher: Fetcher | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._client = client
        self._max_bytes = settings.max_image_mb * 1_000_000
        self._fetcher = fetcher or Fetcher(
            allowed_hosts=settings.allowed_hosts, timeout_s=settings.media_timeout_s, max_bytes=self._max_bytes
        )
        self._cache = DiskCache(
            settings.data_dir.expanduser() / "media",
            max_bytes=settings.media_cache_mb * 1_000_000,
            max_age_s=settings.media_cache_age_s,
        )

        limit = settings.max_megapixels_in_flight * 1_000_000
        self._pixels_of_groups, self._pixels_of_clicks = PixelBudget(limit), PixelBudget(limit // 2)

    def load(self, source: str, *, task: int | None = None, reserve: Reserve = lambda num_pixels: None) -> np.ndarray:
        """HxWx3 uint8 RGB, upright. source: as it stands in the task. task: its id, for the host's presign route.
        reserve: told the number of pixels before they are decoded; it may wait.

        Raises InputError of one line that holds no credential.
        """
        file = self._find(source, task)
        image = self._decode(file.content, file.name, reserve)
        if file.key is not None:
            try:
                self._cache.put(file.key, file.content)  # only what proved to be an image: no login page may stick
            except OSError as error:
                _warn_not_kept(self._cache.folder, error.strerror or type(error).__name__)
        return image

    @contextmanager
    def group(self, sources: Sequence[str], *, task: int | None = None) -> Iterator[tuple[np.ndarray, ...]]:
        """The images of a task, as `load` gives them, while they are needed: pixels in memory are counted over all
        tasks, and those of one that comes when too many are there wait. Let go of them inside."""
        with self._pixels_of_groups.holder() as holder:
            yield tuple(self.load(source, task=task, reserve=holder.take) for source in sources)

    @contextmanager
    def single(self, source: str, *, task: int | None = None) -> Iterator[np.ndarray]:
        """One image, for a click: its pixels are counted apart, so that clicks do not wait for batches."""
        with self._pixels_of_clicks.holder() as holder:
            yield self.load(source, task=task, reserve=holder.take)

    def _find(self, source: str, task: int | None) -> _Found:
        source = source.strip() if isinstance(source, str) else source
        if not isinstance(source, str) or not source:
            raise InputError(f"expected the address of an image in the task, got {type(source).__name__}")
        _check_text(source)
        scheme = source.partition(":")[0].lower() if "://" in source or source.startswith("data:") else ""
        if scheme == "data":
            return _Found(self._data_uri(source), "data URI")
        if scheme in ("http", "https"):
            return self._download(self._seen_from_here(source), task=task)
        if scheme in BUCKET_SCHEMES:
            return self._download(self._presign_url(source, task), task=task, name=source.partition("?")[0])
        if scheme == "file":
            try:
                path = unquote(urlsplit(source).path)
            except ValueError:
                raise InputError(f"{_short(source)}: expected file:///PATH") from None
            return self._file(path, self._settings.media_roots, "CALICO_MEDIA_ROOTS")
        if scheme:
            raise InputError(
                f"{_short(scheme)}://…: images of this kind are not supported; use http(s), s3, gs or azure-blob"
            )
        prefix = urlsplit(self._settings.label_studio_url or "").path  # of a host that is served below a path
        if prefix and source.startswith(prefix + "/"):
            source = source[len(prefix) :]
        local_root = self._settings.local_files_root
        if source.startswith("/data/local-files/") and local_root:
            relative_path = parse_qs(urlsplit(source).query).get("d", [""])[0]
            return self._file(str(local_root / relative_path.lstrip("/")), (local_root,), "CALICO_LOCAL_FILES_ROOT")
        if source.startswith(HOST_PATHS):
            return self._download(self._host_url(source, task), task=task, name=source.partition("?")[0])
        return self._file(source, self._settings.media_roots, "CALICO_MEDIA_ROOTS")

    def _decode(self, data: bytes, name: str, reserve: Reserve) -> np.ndarray:
        with self._metrics.span("decode"):
            try:
                return load_image(data, max_pixels=self._settings.max_image_megapixels * 1_000_000, reserve=reserve)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None

    def _data_uri(self, source: str) -> bytes:
        header, _, body = source[5:].partition(",")
        if len(body) > self._max_bytes * 3:  # percent-encoding triples, base64 adds a third
            raise InputError("data URI: larger than CALICO_MAX_IMAGE_MB")
        try:
            data = (
                base64.b64decode(unquote_to_bytes(body), validate=True)
                if header.endswith(";base64")
                else unquote_to_bytes(body)
            )
        except (binascii.Error, ValueError):
            raise InputError("data URI: not base64; expected data:image/png;base64,…") from None
        if len(data) > self._max_bytes:
            raise InputError("data URI: larger than CALICO_MAX_IMAGE_MB")
        return data

    def _file(self, source: str, roots: tuple[Path, ...], variable: str) -> _Found:
        """A file below one of the roots: neither `..` nor a link leads out, nor one that changes meanwhile."""
        if "\0" in source:
            raise InputError("an image path holds a NUL character")
        for root in roots:
            try:
                content = read_below(root, source, self._max_bytes)
            except Outside:
                continue
            except InputError as error:
                hint = f"{error} below {variable}; put it back, or set that to its folder"
                raise InputError(f"{_short(source)}: {hint if 'no such' in str(error) else error}") from None
            return _Found(content, _short(source))
        raise InputError(f"{_short(source)}: outside {variable}; set it to a folder that holds the images")

    def _host_url(self, path: str, task: int | None) -> str:
        base, shown_path = self._settings.label_studio_url, _short(path.partition("?")[0])
        if not base:
            is_local = path.startswith("/data/local-files/")
            remedy = "set CALICO_LOCAL_FILES_ROOT to the folder above the images' folder, or " if is_local else "set "
            raise InputError(f"{shown_path}: a file of Label Studio; {remedy}LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
        if not self._is_host_file(base + path, task):
            raise InputError(
                f"{shown_path}: not the address of a file of this task on Label Studio; expected for example "
                "/data/upload/1/image.jpg"
            )
        return base + path

    def _seen_from_here(self, url: str) -> str:
        """A file of the host under the name `localhost`, as the host calls itself: under its name here."""
        base = self._settings.label_studio_url
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            return url  # refused later, by name
        is_local = parsed.host in ("localhost", "127.0.0.1", "::1")
        if base is None or not is_local or not parsed.path.startswith(HOST_PATHS) or self._is_host(url):
            return url
        return base + parsed.raw_path.decode("ascii")

    def _presign_url(self, source: str, task: int | None) -> str:
        if task is None:
            name = _short(source.partition("?")[0])
            raise InputError(f"{name}: a bucket address needs the task's id, for the host's presign route")
        encoded = base64.urlsafe_b64encode(source.encode()).decode()
        return self._host_url(f"/tasks/{int(task)}/presign/?fileuri={encoded}", task)

    def _download(self, url: str, *, task: int | None, name: str | None = None) -> _Found:
        name = _short(name or public_url(url))
        is_file = self._is_host_file(url, task)
        key = f"host {url}" if is_file else url  # what the token brought is for who may use it
        data = self._cache.get(key)
        self._metrics.cache.labels("media", "miss" if data is None else "hit").inc()
        if data is not None:
            return _Found(data, name)
        with self._metrics.span("fetch"):
            headers = self._client.authorization_for(url) if self._client and is_file else {}
            return _Found(self._fetcher.get(url, headers=headers, trusted=is_file), name, key)

    def _is_host(self, url: str) -> bool:
        """Whether the address is Label Studio's own."""
        base = self._settings.label_studio_url
        return base is not None and same_origin(url, base)

    def _is_host_file(self, url: str, task: int | None) -> bool:
        """Whether it is a task's file on Label Studio: it gets the token, and may be private, as its operator named it.
        Any other address on that host is one like others."""
        base = self._settings.label_studio_url
        if base is None or not self._is_host(url):
            return False
        path = path_below(url, base)
        return path is not None and is_file_of_host(path, task)


def image_host(source: str) -> str | None:
    """Whose machine is asked for an image, so that one that is slow does not hold up the others; None: nobody's."""
    if source.startswith(HOST_PATHS):
        return "Label Studio"
    scheme = source[:16].partition("://")[0].lower() if "://" in source[:16] else ""
    if scheme in BUCKET_SCHEMES:
        return "Label Studio"  # whose presign route is asked first
    if scheme not in ("http", "https"):
        return None
    return source[: len(scheme) + 260].partition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def _check_text(source: str) -> None:
    """Refuses what no address can be before anything tries to encode it, look it up or open it."""
    if len(source) > MAX_ADDRESS and not source.startswith("data:"):
        raise InputError(f"{_short(source)}…: an address of {len(source):,} characters; the limit is {MAX_ADDRESS:,}")
    if not source.isascii() and any("\ud800" <= char <= "\udfff" for char in source):
        raise InputError(f"{_short(source)}: an address with half a character (a lone surrogate); import it again")


def _short(name: str) -> str:
    """A name from a task as messages show it: one that has no end, or begins a line, is somebody's attempt."""
    return one_line(name, 160)


@cache
def _warn_not_kept(folder: Path, reason: str) -> None:
    """Once per process: every image that follows has the same trouble."""
    log.warning(
        "%s: images cannot be kept there (%s), so each is fetched anew; make room or set CALICO_DATA_DIR "
        "to a folder that can be written",
        folder,
        reason,
    )
