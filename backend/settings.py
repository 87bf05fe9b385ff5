"""Every setting of the backend, read from the environment once, at start.

A wrong value is an `InputError` of one line that names the variable and a value that would do; the value of a secret is
never shown. docs/running.md documents each, and a test holds that page against this file.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.cluster.address import VALID_WORKERS, WorkersAddress
from calico.errors import InputError
from calico.images import MAX_PIXELS


def _setting(variable: str, default: Any, parse: Callable[[str], Any], valid: str, *, secret: bool = False) -> Any:
    """parse raises ValueError; valid: what to say then, an example of a good value in it."""
    return field(
        default=default,
        repr=not secret,
        metadata={"variable": variable, "parse": parse, "valid": valid, "secret": secret},
    )


def _number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _bits(text: str) -> int:
    return int(_one_of("8", "4")(text))


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return parse


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return parse


def _existing(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.exists():
        raise ValueError
    return path


def _folder(text: str) -> Path:
    path = _existing(text)
    if not path.is_dir():
        raise ValueError
    return path


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(_folder(part) for part in text.split(os.pathsep) if part.strip())


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if any(not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", host) for host in hosts):
        raise ValueError
    return hosts


def _host_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError
    parts.port  # noqa: B018  raises ValueError for a port that is no number
    return text.rstrip("/")


def _credential(text: str) -> str:
    if ":" in text or len(text) < 1:
        raise ValueError
    return text


@dataclass(frozen=True)
class Settings:
    """Fields are named as the variables are, in lower case and without `CALICO_`; sizes carry their unit."""

    checkpoint: Path | None = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_CHECKPOINT",
        None,
        _existing,
        "a checkpoint folder that exists, e.g. runs/first/best; unset: the embedded one",
    )
    versions: Path | None = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_VERSIONS",
        None,
        lambda text: Path(text).expanduser(),
        "the folder of a registry of versions, e.g. /var/lib/calico/registry",
    )
    device: str | None = _setting(
        "CALICO_DEVICE",
        None,
        _matching(r"cpu|cuda(:\d+)?"),
        "cpu, cuda or cuda:0; unset: chosen by what is there",
    )
    dtype: str | None = _setting(
        "CALICO_DTYPE",
        None,
        _one_of("float32", "bfloat16"),
        "float32 or bfloat16; unset: bfloat16 on a GPU where the weights are stored so, else float32",
    )
    llm_bits: int | None = _setting("CALICO_LLM_BITS", None, _bits, "8 or 4; unset: the numbers of CALICO_DTYPE")
    compile: str = _setting("CALICO_COMPILE", "0", _one_of("0", "1"), "1 to compile the decode steps, or 0")
    batch_groups: int = _setting(
        "CALICO_BATCH_GROUPS", 4, _number(int, 1, 256), "groups answered together, from 1 to 256, e.g. 4"
    )
    workers: WorkersAddress | None = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_WORKERS", None, WorkersAddress.parse, f"{VALID_WORKERS}; unset: the model runs in this process"
    )
    worker_gpus: float = _setting(
        "CALICO_WORKER_GPUS", 0.0, _number(float, 0, 64), "GPUs of each worker, e.g. 1 or, where two share a card, 0.5"
    )
    min_workers: int = _setting(
        "CALICO_MIN_WORKERS", 1, _number(int, 1, 9999), "workers that stay when nobody asks, e.g. 1"
    )
    encoding_cache_mb: int = _setting(
        "CALICO_ENCODING_CACHE_MB", 256, _number(int, 0, 10**6), "megabytes, 0 for none, e.g. 256"
    )
    host_encoding_cache_mb: int = _setting(
        "CALICO_HOST_ENCODING_CACHE_MB", 1024, _number(int, 0, 10**6), "megabytes, 0 for none, e.g. 1024"
    )
    host: str = _setting(
        "CALICO_HOST", "127.0.0.1", _matching(r"[\w.:-]+"), "an address to listen on, e.g. 127.0.0.1 or 0.0.0.0"
    )
    port: int = _setting("CALICO_PORT", 9090, _number(int, 1, 65535), "a port from 1 to 65535, e.g. 9090")
    threads: int = _setting("CALICO_THREADS", 32, _number(int, 4, 512), "request threads from 4 to 512, e.g. 32")
    log_level: str = _setting(
        "CALICO_LOG_LEVEL", "INFO", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR"
    )
    webhook_secret: str | None = _setting(
        "CALICO_WEBHOOK_SECRET", None, _matching(r"[A-Za-z0-9_-]{16,}"),
        "16 or more letters, digits, - and _, e.g. from `python -c 'import secrets; print(secrets.token_urlsafe())'`",
        secret=True,
    )  # fmt: skip
    basic_auth_user: str | None = _setting(
        "CALICO_BASIC_AUTH_USER",
        None,
        _credential,
        "a user name without a colon, with CALICO_BASIC_AUTH_PASS beside it",
    )
    basic_auth_pass: str | None = _setting(
        "CALICO_BASIC_AUTH_PASS", None, str, "a password, with CALICO_BASIC_AUTH_USER beside it", secret=True
    )
    label_studio_url: str | None = _setting(
        "LABEL_STUDIO_URL",
        None,
        _host_url,
        "Label Studio's address as this machine reaches it, e.g. http://localhost:8080",
    )
    label_studio_api_key: str | None = _setting(
        "LABEL_STUDIO_API_KEY", None, _matching(r"[\x21-\x7e]+"),
        "a personal access or legacy token from Account & Settings, with LABEL_STUDIO_URL beside it", secret=True,
    )  # fmt: skip
    local_files_root: Path | None = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_LOCAL_FILES_ROOT", None, _folder,
        "a folder that exists: the host's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, if it is mounted here",
    )  # fmt: skip
    media_roots: tuple[Path, ...] = _setting(
        "CALICO_MEDIA_ROOTS", (), _folders, f"folders that exist, parted by {os.pathsep!r}, e.g. /data/images"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "CALICO_ALLOWED_HOSTS", (), _hosts,
        "names or addresses without scheme and port, parted by commas, e.g. minio.internal,10.0.0.7",
    )  # fmt: skip
    media_timeout_s: float = _setting(
        "CALICO_MEDIA_TIMEOUT_SECONDS", 20.0, _number(float, 0.1, 600), "seconds from 0.1 to 600, e.g. 20"
    )
    max_image_mb: int = _setting("CALICO_MAX_IMAGE_MB", 64, _number(int, 1, 4096), "megabytes from 1 to 4096, e.g. 64")
    max_image_megapixels: int = _setting(
        "CALICO_MAX_IMAGE_MEGAPIXELS",
        50,
        _number(int, 1, MAX_PIXELS // 10**6),
        "megapixels from 1 to 50, which masks are limited to, e.g. 50",
    )
    max_megapixels_in_flight: int = _setting(
        "CALICO_MAX_MEGAPIXELS_IN_FLIGHT", 200, _number(int, 1, 10**5), "megapixels decoded at once, e.g. 200"
    )
    media_cache_mb: int = _setting(
        "CALICO_MEDIA_CACHE_MB", 2048, _number(int, 0, 10**7), "megabytes, 0 for none, e.g. 2048"
    )
    media_cache_age_s: int = _setting(
        "CALICO_MEDIA_CACHE_SECONDS", 3600, _number(int, 0, 10**8), "seconds that a fetched image is reused, e.g. 3600"
    )
    result_cache_mb: int = _setting(
        "CALICO_RESULT_CACHE_MB", 256, _number(int, 0, 10**6), "megabytes, 0 for none, e.g. 256"
    )
    queue_size: int = _setting(
        "CALICO_QUEUE_SIZE", 2000, _number(int, 1, 10**6), "tasks waiting at most, from 1 to 1000000, e.g. 2000"
    )
    time_budget_s: float = _setting(
        "CALICO_TIME_BUDGET_SECONDS", 50.0, _number(float, 0.1, 3600), "seconds from 0.1 to 3600, e.g. 50"
    )
    max_request_mb: int = _setting(
        "CALICO_MAX_REQUEST_MB", 64, _number(int, 1, 2048), "megabytes from 1 to 2048, e.g. 64"
    )
    data_dir: Path = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_DATA_DIR", Path("~/.calico"), Path, "a folder for the inbox and the media cache, e.g. /var/lib/calico"
    )
    database_url: str | None = _setting(
        "DATABASE_URL", None, _matching(r"(sqlite|postgresql)(\+\w+)?://.*"),
        "e.g. sqlite:////var/lib/calico/inbox.db or postgresql+psycopg://user:password@host/calico; unset: "
        "SQLite in CALICO_DATA_DIR", secret=True,
    )  # fmt: skip

    events_days: float = _setting(
        "CALICO_EVENTS_DAYS", 90.0, _number(float, 0, 10_000), "days that events are kept, 0 for ever, e.g. 90"
    )
    training_minutes: float = _setting(
        "CALICO_TRAINING_MINUTES", 8.0, _number(float, 0.05, 10_000), "minutes from 0.05 to 10000, e.g. 8"
    )
    training_base_groups: int = _setting(
        "CALICO_TRAINING_BASE_GROUPS", 60, _number(int, 1, 10_000), "groups from 1 to 10000, e.g. 60"
    )
    training_replay: Path | None = _setting(  # noqa: RUF009  it is `field` with our metadata
        "CALICO_TRAINING_REPLAY",
        None,
        _folder,
        "the folder of an index that `calico mixedparts build` made, e.g. /var/lib/calico/index; unset: drawings alone",
    )
    training_replay_share: float = _setting(
        "CALICO_TRAINING_REPLAY_SHARE", 0.75, _number(float, 0.01, 0.99),
        "of each batch the share of base data, from 0.01 to 0.99, e.g. 0.5",
    )  # fmt: skip
    training_base_drop: float = _setting(
        "CALICO_TRAINING_BASE_DROP", 0.02, _number(float, 0, 1), "what the base test may lose, from 0 to 1, e.g. 0.02"
    )
    training_card: str = _setting(
        "CALICO_TRAINING_CARD", "share", _one_of("share", "alone"),
        "share, where model and job fit on one GPU, or alone, where the model rests while a job trains",
    )  # fmt: skip
    training_cpu_minutes: float = _setting(
        "CALICO_TRAINING_CPU_MINUTES", 0.0, _number(float, 0, 10_000),
        "CPU minutes that replace CALICO_TRAINING_MINUTES, 0 for none, e.g. 16",
    )  # fmt: skip
    min_score: float = _setting(
        "CALICO_MIN_SCORE", 0.5, _number(float, 0, 1), "a mean score from 0 (show everything) to 1, e.g. 0.5"
    )
    part_memory: str = _setting("CALICO_PART_MEMORY", "1", _one_of("0", "1"), "1 to learn from each submitted group, 0")
    train_after_groups: int = _setting(
        "CALICO_TRAIN_AFTER_GROUPS", 0, _number(int, 0, 10**6), "corrected groups, 0 for never, e.g. 40"
    )
    train_after_hours: float = _setting(
        "CALICO_TRAIN_AFTER_HOURS", 0.0, _number(float, 0, 10_000), "hours, 0 for never, e.g. 24"
    )
    train_quiet_minutes: float = _setting(
        "CALICO_TRAIN_QUIET_MINUTES", 10.0, _number(float, 0, 10_000), "minutes from 0 to 10000, e.g. 10"
    )

    def __post_init__(self) -> None:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise InputError(
                "CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASS: expected both or neither; set the other one too"
            )
        if self.label_studio_api_key and not self.label_studio_url:
            raise InputError(
                "LABEL_STUDIO_API_KEY without LABEL_STUDIO_URL: set it to the host's address, e.g. http://localhost:8080"
            )
        if not self.is_loopback and not self.has_credential:
            raise InputError(
                f"CALICO_HOST={self.host}: refusing to listen beyond loopback without a credential; set "
                "CALICO_WEBHOOK_SECRET, or CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASS, or CALICO_HOST=127.0.0.1"
            )
        if (self.train_after_groups or self.train_after_hours) and self.versions is None:
            raise InputError(
                "CALICO_TRAIN_AFTER_GROUPS and CALICO_TRAIN_AFTER_HOURS need CALICO_VERSIONS: set it to the folder "
                "where the trained versions go, e.g. /var/lib/calico/registry"
            )

        if (self.train_after_groups or self.train_after_hours) and not self.label_studio_api_key:
            raise InputError(
                "CALICO_TRAIN_AFTER_GROUPS and CALICO_TRAIN_AFTER_HOURS need LABEL_STUDIO_URL and "
                "LABEL_STUDIO_API_KEY: training reads the corrections from Label Studio"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Raises InputError naming the first wrong variable. An empty variable counts as unset."""
        environment = os.environ if environment is None else environment
        values = {}
        for item in fields(cls):
            variable, text = item.metadata["variable"], environment.get(item.metadata["variable"], "")
            if not text:
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError:
                detail = "" if item.metadata["secret"] else f" (got {text!r})"
                raise InputError(f"{variable}: expected {item.metadata['valid']}{detail}") from None
        return cls(**values)

    def as_environment(self) -> dict[str, str]:
        """Variables for a process that is to have the same settings; the secrets among them, so never for a log."""
        variables = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, tuple):
                value = (os.pathsep if item.name == "media_roots" else ",").join(map(str, value))
            elif isinstance(value, Path):
                value = value.expanduser().resolve()
            variables[item.metadata["variable"]] = "" if value is None else str(value)
        return variables

    def with_checkpoint(self, folder: Path) -> Settings:
        """The same, serving this checkpoint or adapter whatever the registry has, and training nothing."""
        return replace(self, checkpoint=folder, versions=None, train_after_groups=0, train_after_hours=0.0)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def has_credential(self) -> bool:
        return bool(self.webhook_secret or self.basic_auth_user)

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password of a backend with these settings."""
        if self.basic_auth_user is None or self.basic_auth_pass is None:
            return None
        return self.basic_auth_user, self.basic_auth_pass

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no log line may hold."""
        return tuple(
            str(value) for item in fields(self) if item.metadata["secret"] and (value := getattr(self, item.name))
        )

    @property
    def inbox_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.expanduser() / 'inbox.db'}"
