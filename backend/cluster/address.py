"""`CALICO_WORKERS`: whether the model runs in this process, in processes of this machine, or on a cluster."""

from __future__ import annotations

import logging
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calico.errors import InputError

log = logging.getLogger("calico.backend")

VALID_WORKERS = "local:N (N processes of this machine), ray://HOST:PORT, or auto (the Ray cluster of this machine)"
AUTO_CONNECT = "RAY_ENABLE_AUTO_CONNECT"
ROOT = Path(__file__).resolve().parents[2]
TRAVELS_NOT = [".git", ".venv*", ".demo", "runs", "tests", "docs", ".mypy_cache", ".pytest_cache", ".ruff_cache"]


@dataclass(frozen=True)
class WorkersAddress:
    """address: of a Ray that runs; None: one of our own on this machine. num_workers: None: as many as have room."""

    address: str | None
    num_workers: int | None

    @classmethod
    def parse(cls, text: str) -> WorkersAddress:
        """Raises ValueError for anything but `VALID_WORKERS`."""
        if match := re.fullmatch(r"local:([1-9]\d{0,3})", text):
            return cls(None, int(match[1]))
        if text == "auto" or re.fullmatch(r"ray://[\w.-]+:\d{1,5}", text):
            return cls(text, None)
        raise ValueError(f"expected {VALID_WORKERS}, got {text!r}")

    def __str__(self) -> str:
        return self.address or f"local:{self.num_workers}"


def connect(workers: WorkersAddress) -> Any:
    """The module `ray`, connected; of a Ray of our own, started.

    Raises InputError where Ray is not installed or does not answer.
    """
    ray = _imported()
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"include_dashboard": False, "configure_logging": False, "log_to_driver": False}
    try:
        if workers.address is None:
            # The clone is on the workers' path as it is on ours.
            path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
            os.environ["PYTHONPATH"] = path
            ray.init(num_cpus=workers.num_workers, **quiet)
        else:
            code = {"working_dir": str(ROOT), "excludes": TRAVELS_NOT}
            with warnings.catch_warnings():  # the error below says it in a line
                warnings.filterwarnings("ignore", message="Ray Client connection timed out")
                ray.init(address=workers.address, runtime_env=code, configure_logging=False, log_to_driver=False)
    except Exception as error:  # Ray raises `Exception` itself where its processes take long to start
        where = workers.address or "this machine"
        reason = " ".join(str(error).split())[:200]
        what = "start it first"
        if workers.address is not None:  # Ray's client says nothing of a token that is missing or another one
            what += ", and give this process the RAY_AUTH_MODE and RAY_AUTH_TOKEN that it was started with"
        raise InputError(f"Ray does not answer at {where} ({reason}); {what}") from None
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":  # Ray sets it itself where it finds a token
        log.warning(
            "Ray at %s asks for no token: whoever reaches its ports runs code on its machines. Set RAY_AUTH_MODE=token "
            "and the same RAY_AUTH_TOKEN for `ray start`, on every machine, and here",
            workers.address or "this machine",
        )
    return ray


def _imported() -> Any:
    """Ray, told not to start by itself: a late call would start one on this machine. It reads that at its import; what
    this process starts is not told so, since the server of Ray's client starts by it. Raises InputError."""
    before = os.environ.get(AUTO_CONNECT)
    os.environ[AUTO_CONNECT] = "0"
    try:
        import ray
    except ImportError:
        raise InputError("workers need Ray, which is not installed: pip install -e '.[cluster]'") from None
    finally:
        os.environ.pop(AUTO_CONNECT)
        if before is not None:
            os.environ[AUTO_CONNECT] = before
    return ray


def room_for(ray: Any, num_gpus: float) -> int:
    """How many workers with so many GPUs each, or a CPU each, a cluster has room for; 1 at least."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0.0) / num_gpus if num_gpus else resources.get("CPU", 1.0)))
