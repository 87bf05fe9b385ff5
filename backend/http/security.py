"""Who may ask: basic auth, a secret in the path (`/k/<secret>/...`) or in a header; and what the log may not hold.

Label Studio sends no credentials with its webhook, so the backend is registered as `http://host:9090/k/<secret>`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, jsonify, request

from backend.settings import Settings

SECRET_HEADER = "X-Calico-Secret"
_TRUSTED = "calico.trusted"  # WSGI environment key: the path held the right secret
_PREFIX = "/k/"


class SecretPath:
    """WSGI middleware: strips `/k/<secret>` off the path, so that every route is served below it too."""

    def __init__(self, app: Callable[..., Any], secret: str | None) -> None:
        self._app = app
        self._secret = secret

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.pop(_TRUSTED, None)
        path = environ.get("PATH_INFO", "")
        if path.startswith(_PREFIX):
            given, _, rest = path[len(_PREFIX) :].partition("/")
            environ[_TRUSTED] = self._secret is not None and _equal(given, self._secret)
            environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + _PREFIX + given
            environ["PATH_INFO"] = "/" + rest
        return self._app(environ, start_response)


def guard(app: Flask, settings: Settings) -> None:
    """All routes but `/health` want a credential, where one is set; a wrong secret in the path never passes."""
    app.wsgi_app = SecretPath(app.wsgi_app, settings.webhook_secret)  # type: ignore[method-assign]

    @app.before_request
    def check() -> Response | None:
        trusted = request.environ.get(_TRUSTED)
        is_open = request.path == "/health" or (not settings.has_credential and trusted is None)
        if is_open or trusted or _has_secret(settings) or _has_basic_auth(settings):
            return None
        answer = jsonify(error="credentials wanted: basic auth, or the webhook secret in the path or header")
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="calico", charset="UTF-8"'
        return answer


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _has_secret(settings: Settings) -> bool:
    given = request.headers.get(SECRET_HEADER)
    return given is not None and settings.webhook_secret is not None and _equal(given, settings.webhook_secret)


def _has_basic_auth(settings: Settings) -> bool:
    """UTF-8 and Latin-1 both: clients differ in how they encode a name beyond ASCII."""
    kind, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if settings.basic_auth_user is None or settings.basic_auth_pass is None or kind.lower() != "basic":
        return False
    try:
        given = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = f"{settings.basic_auth_user}:{settings.basic_auth_pass}"
    found = hmac.compare_digest(given, expected.encode())
    try:
        return found | hmac.compare_digest(given, expected.encode("latin-1"))
    except UnicodeEncodeError:
        return found


def blanked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if len(secret) >= 6:  # shorter ones occur in ordinary words
            text = text.replace(secret, "***")
    return text


class Redact(logging.Filter):
    """Blanks the configured secrets in whatever is logged: the second line of defence, after not logging them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = tuple(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = blanked(record.getMessage(), self._secrets), ()
        record.exc_info = record.exc_text = record.stack_info = (
            None  # a traceback shows values; describe() shows the place
        )
        return True
