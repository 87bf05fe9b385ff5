"""Another process's backend, asked as Label Studio asks it: for commands that run beside it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import httpx

from calico.errors import CalicoError, InputError

Json = dict[str, Any]

PREDICT_TIMEOUT_S = 120.0  # above the backend's time budget
BUSY_TIMEOUT_S = 900.0  # how long a loading or full backend is waited for


class BackendError(CalicoError):
    """The backend refused, failed, or could not be reached."""


def without_secret(text: str) -> str:
    """A message or an address without the secret in a backend's path."""
    return re.sub(r"/k/[^/\s)]+", "/k/***", text)


class BackendClient:
    """url: with `/k/<secret>` where the backend has a secret. auth: user and password of its basic auth."""

    def __init__(
        self,
        url: str,
        *,
        auth: tuple[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not re.match(r"https?://[^/\s]", url):
            raise InputError(f"--backend: expected http://HOST:PORT, got {url!r}")
        self.url = url.rstrip("/")
        self._sleep = sleep
        self._http = httpx.Client(
            transport=transport, auth=auth, timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def public_address(self) -> str:
        """The address without its secret."""
        return without_secret(self.url)

    def health(self) -> Json:
        """`{"status": "UP", "model": "loading" | "ready"}`; a backend whose model failed says so here too."""
        return self._json(self._send("GET", "/health"), allow=503)

    def version(self) -> str:
        """The version that its predictions carry."""
        answer = self._when_ready("POST", "/setup", {"project": "0", "schema": "<View/>"})
        return str(answer.get("model_version", ""))

    def predict(self, tasks: Sequence[Mapping[str, Any]], label_config: str, project: int) -> list[Any]:
        """One entry per task: a prediction, or `[]` where it failed or is late; `job` tells which."""
        body = {"tasks": list(tasks), "label_config": label_config, "project": str(project), "params": {}}
        results = self._when_ready("POST", "/predict", body).get("results")
        if not isinstance(results, list) or len(results) != len(tasks):
            raise BackendError(
                f"{self.public_address}: /predict gave no list of {len(tasks)} results; is it this backend?"
            )
        return results

    def job(self, task: int) -> Json:
        """The newest job of a task: {"state", "reason", ...}; empty where the backend knows none."""
        answer = self._json(self._send("GET", f"/jobs?task={task}&limit=1"))
        return next(iter(answer.get("jobs", [])), {})

    def _when_ready(self, method: str, path: str, body: Json) -> Json:
        waited = 0.0
        while True:
            response = self._send(method, path, json=body, timeout=httpx.Timeout(PREDICT_TIMEOUT_S, connect=5.0))
            if response.status_code != 503 or waited >= BUSY_TIMEOUT_S:
                return self._json(response)
            if path == "/setup" and self.health().get("model") == "failed":
                return self._json(response)
            try:
                pause = float(response.headers.get("Retry-After", 5))
            except ValueError:
                pause = 5.0
            self._sleep(pause)
            waited += max(pause, 0.1)

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, self.url + path, **arguments)
        except httpx.TimeoutException:
            raise BackendError(f"{self.public_address}: no answer in time to {path}; is it overloaded?") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BackendError(
                f"{self.public_address}: not reachable ({reason}); start it with `python -m backend`"
            ) from None

    def _json(self, response: httpx.Response, *, allow: int = 200) -> Json:
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.status_code == 401:
            raise BackendError(
                f"{self.public_address}: wants a credential; give its address as http://HOST:PORT/k/SECRET, or set "
                "CALICO_BASIC_AUTH_USER and CALICO_BASIC_AUTH_PASS"
            )
        if response.status_code not in (200, allow) or not isinstance(body, dict):
            reason = body.get("error") if isinstance(body, dict) else "no JSON; is it this backend?"
            raise BackendError(f"{self.public_address}: answered {response.status_code}: {reason}")
        return body
