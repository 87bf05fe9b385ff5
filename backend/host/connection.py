"""A connection to one Label Studio: which token goes where, and errors that a user can act on.

Takes both kinds of token: a legacy token (40 hex characters, `Authorization: Token`) and a personal access token, a
refresh JWT that buys access JWTs of 300 s each (`Authorization: Bearer`). A token goes to the host's own origin only:
an absolute URL elsewhere is refused before anything is sent, and redirects are never followed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import httpx

from calico.errors import CalicoError, InputError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
REFRESH_PATH = "api/token/refresh/"
ACCESS_LIFETIME_S = 240.0  # of the 300 s that an access JWT lives

_REMEDIES = {
    401: "the token was refused: make a new one under Account & Settings; a personal access token always works, a "
    "legacy token only where the organization allows it",
    403: "the token's user may not do this: use the token of a member of the project",
    404: "check the id and LABEL_STUDIO_URL",
    413: "the host limits request bodies: send fewer or smaller items",
    429: "the host limits the rate of requests: try again later",
}


class HostError(CalicoError):
    """The host refused, failed, or could not be reached. status: the HTTP status, None where no answer came."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


class HostConnection:
    """A connection to one Label Studio; safe to share between threads; close it, or use it as a context manager.

    url: where the host is, with its path prefix if it has one. transport: for tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            base = httpx.URL(url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise InputError(f"LABEL_STUDIO_URL: {url!r} is not a URL ({error}); try http://localhost:8080") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise InputError(f"LABEL_STUDIO_URL: expected http://HOST:PORT or https://HOST, got {url!r}")
        if base.userinfo:
            raise InputError("LABEL_STUDIO_URL: leave user and password out of the address; the token is enough")
        token = token.strip()
        if not token or not token.isascii() or any(c.isspace() for c in token):
            raise InputError("LABEL_STUDIO_API_KEY: expected an ASCII token; copy it from Account & Settings")
        self.url = str(base).rstrip("/")
        self._base = base
        self._token = token
        self._clock = clock
        self._access: tuple[str, float] | None = None  # access JWT and when it was bought
        self._lock = threading.Lock()
        self._http = httpx.Client(
            transport=transport or httpx.HTTPTransport(retries=2),  # of connecting; what was sent is never sent again
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.token_kind} token)"

    # -- requests ---------------------------------------------------------------------------------------------------

    @property
    def token_kind(self) -> str:
        """`legacy`, or `personal` for a personal access token."""
        return "personal" if self._token.count(".") == 2 else "legacy"

    def owns(self, url: str) -> bool:
        """Whether an absolute URL has the host's scheme, name, port and path prefix: the only place a token may go."""
        try:
            other = httpx.URL(url)
        except httpx.InvalidURL:
            return False
        climbs = "\\" in other.path or not {".", ".."}.isdisjoint(other.path.split("/"))
        below = other.path.startswith(self._base.path) and not climbs
        return _origin(other) == _origin(self._base) and not other.userinfo and below

    def authorization_for(self, url: str) -> dict[str, str]:
        """The Authorization header for a URL of the host; nothing for any other address."""
        return self._authorization() if self.owns(url) else {}

    def _authorization(self) -> dict[str, str]:
        if self.token_kind == "legacy":
            return {"Authorization": f"Token {self._token}"}
        with self._lock:
            if self._access is None or self._clock() - self._access[1] > ACCESS_LIFETIME_S:
                bought_at = self._clock()
                answer = self._send("POST", self._resolve(REFRESH_PATH), headers={}, json={"refresh": self._token})
                self._raise_for_status(answer)
                access = (self.decoded(answer) or {}).get("access")
                if not isinstance(access, str) or not access:
                    raise HostError(f"{self.url}: {REFRESH_PATH} gave no access token; is this a Label Studio?")
                self._access = (access, bought_at)
            return {"Authorization": f"Bearer {self._access[0]}"}

    def _resolve(self, path: str) -> httpx.URL:
        if "://" in path or path.startswith("//"):
            if not self.owns(path):
                raise InputError(f"{_one_line(path, 120)}: not on {self.url}; a token is never sent elsewhere")
            return httpx.URL(path)
        return self._base.join(path.lstrip("/"))

    def _send(self, method: str, url: httpx.URL, headers: Mapping[str, str], **arguments: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, headers=headers, **arguments)
        except httpx.TimeoutException:
            raise HostError(f"{self.url}: no answer in time to {method} {url.path}; is the host overloaded?") from None
        except httpx.TransportError as error:
            reason = _one_line(str(error)) or type(error).__name__
            raise HostError(
                f"{self.url}: not reachable ({reason}); is Label Studio running there? Check LABEL_STUDIO_URL"
            ) from None

    def _raise_for_status(self, response: httpx.Response) -> None:
        status, url = response.status_code, response.request.url
        if status < 300:
            return
        what = f"{self.url}: {response.request.method} {url.path} answered {status}"
        if status < 400:
            target = httpx.URL(response.headers.get("location", "")).copy_with(query=None, fragment=None)
            raise HostError(f"{what}, a redirect to {target}; set LABEL_STUDIO_URL to where it ends", status)
        remedy = _REMEDIES.get(status, "see the log of Label Studio" if status >= 500 else "")
        raise HostError("; ".join(part for part in (what, self._reason(response), remedy) if part), status)

    def _reason(self, response: httpx.Response) -> str:
        """What the host says went wrong, without the token; its pages of HTML say nothing that a user could act on."""
        try:
            body = response.json()
        except ValueError:
            return ""
        if isinstance(body, Mapping):
            body = body.get("validation_errors") or body.get("detail") or body
        return _one_line((body if isinstance(body, str) else json.dumps(body)).replace(self._token, "***"))

    def request(self, method: str, path: str, *, timeout_s: float | None = None, **arguments: Any) -> httpx.Response:
        """One request with the token. path: below the host's address, or an absolute URL of the host.

        Raises InputError for another origin and HostError for any answer but a 2xx.
        """
        url = self._resolve(path)
        if timeout_s is not None:
            arguments["timeout"] = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        response = self._send(method, url, self._authorization(), **arguments)
        if response.status_code == 401 and self.token_kind == "personal":
            with self._lock:
                self._access = None  # revoked early, or the host's clock is ahead
            response = self._send(method, url, self._authorization(), **arguments)
        self._raise_for_status(response)
        return response

    def decoded(self, response: httpx.Response) -> Any:
        """The JSON of an answer, None where it is empty."""
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError:
            raise HostError(
                f"{self.url}: {response.request.url.path} answered {response.status_code} without JSON; is a Label "
                "Studio running there? Check LABEL_STUDIO_URL",
                response.status_code,
            ) from None
