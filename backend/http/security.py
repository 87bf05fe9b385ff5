"""Who may ask: basic auth, a secret in the path (`/k/<secret>/...`) or in a header.

Label Studio sends no credentials with its webhook, so the backend is registered as `http://host:9090/k/<secret>`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import Forbidden

from backend.settings import Settings

SECRET_HEADER = "X-Calico-Secret"
_ASKED_FOR = "calico.path"  # WSGI environment key: the path with the secret in it
_PREFIX = "/k/"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class SecretPath:
    """WSGI middleware: strips `/k/<secret>` off the path, so that every route is served below it too."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ[_ASKED_FOR] = environ.get("PATH_INFO", "")
        if path.startswith(_PREFIX):
            given, _, rest = path[len(_PREFIX) :].partition("/")
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + _PREFIX + given
            environ["PATH_INFO"] = "/" + rest
        return self._app(environ, start_response)


class Gate:
    """Who may ask. Either credential suffices; a wrong secret in the path is none."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def admits(self, path: str, secret: str | None, authorization: str | None) -> bool:
        """path: as it was asked for. secret, authorization: the headers of that name, None where they are missing."""
        given = path[len(_PREFIX) :].partition("/")[0] if path.startswith(_PREFIX) else None
        expected = self._settings.webhook_secret
        if given is None and not self._settings.has_credential:
            return True
        candidates = [text for text in (given, secret) if text is not None]
        if expected is not None and any(_equal(text, expected) for text in candidates):
            return True
        return self._has_basic_auth(authorization or "")

    def _has_basic_auth(self, authorization: str) -> bool:
        """UTF-8 and Latin-1 both: clients differ in how they encode a name beyond ASCII."""
        settings = self._settings
        kind, _, encoded = authorization.partition(" ")
        if settings.basic_auth_user is None or settings.basic_auth_pass is None or kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        expected = f"{settings.basic_auth_user}:{settings.basic_auth_pass}"
        is_right = hmac.compare_digest(given, expected.encode())
        try:
            return is_right | hmac.compare_digest(given, expected.encode("latin-1"))
        except UnicodeEncodeError:
            return is_right


def guard(app: Flask, settings: Settings) -> None:
    """All routes but `/health` want a credential, where one is set; a wrong secret in the path never passes."""
    app.wsgi_app = SecretPath(app.wsgi_app)  # type: ignore[method-assign]
    gate = Gate(settings)

    @app.before_request
    def check() -> Response | None:
        asked_for, headers = request.environ.get(_ASKED_FOR, request.path), request.headers
        if request.path == "/health" or gate.admits(
            asked_for, headers.get(SECRET_HEADER), headers.get("Authorization")
        ):
            return None
        answer = jsonify(error="credentials wanted: basic auth, or the webhook secret in the path or header")
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="calico", charset="UTF-8"'
        return answer


def check_same_origin(settings: Settings) -> None:
    """For what changes something: a page of another site, open in the browser of somebody who may ask, may not do it.

    Browsers say where a request comes from; programs say nothing, and need the credential. Without a credential the
    backend listens on loopback only, and the name that it is asked under must be loopback's too: a foreign name that
    was pointed here would make the foreign page one of ours. Raises Forbidden.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    try:
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()
        name = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:  # no address that anything has
        raise Forbidden from None
    if is_foreign or site not in (None, "same-origin", "none"):
        raise Forbidden
    if not settings.has_credential and name not in LOOPBACK_NAMES:
        raise Forbidden


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
