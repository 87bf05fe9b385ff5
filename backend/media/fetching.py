"""Downloading from the network what a task names, without being led anywhere else.

A task's addresses are other people's text. Only public addresses are connected to, or hosts that are allowed by name;
the address that was checked is the one connected to (a second look-up could give another); every redirect is checked
again; a token goes to the first address alone, if at all.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future

import httpx

from backend.media.addresses import is_public, port_of, public_url, same_origin
from backend.media.deadline import BoundedTransport
from calico.errors import InputError

__all__ = ["Fetcher", "is_public", "public_url", "resolve", "same_origin"]

MAX_REDIRECTS = 5
_HOST_REMEDIES = {  # of Label Studio itself
    401: "its token was refused or is missing: check LABEL_STUDIO_API_KEY",
    403: "the token's user may not read it",
    404: "no such file there; local files need a local-files storage in the project",
}
_REMEDIES = {
    401: "the link may have expired, or it needs credentials",
    403: "the link may have expired, or it needs credentials",
    404: "no such file there; check the address in the task",
}


def resolve(host: str, port: int) -> list[str]:
    """IP addresses of a host name, in the resolver's order. Raises InputError for an unknown name."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"{host}: no such host; check the address in the task") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _name(url: httpx.URL) -> str:
    """The host as it is resolved: lower case, ASCII."""
    return url.raw_host.decode("ascii").lower()


def _joined(base: httpx.URL, location: str) -> str:
    try:
        return str(base.join(location))
    except (httpx.InvalidURL, ValueError):
        raise InputError(f"{public_url(str(base))}: redirects to something that is no URL") from None


class Fetcher:
    """HTTP GET with limits. allowed_hosts: names whose addresses may be private."""

    def __init__(
        self,
        *,
        allowed_hosts: Collection[str] = (),
        timeout_s: float = 20.0,
        max_bytes: int = 64_000_000,
        transport: httpx.BaseTransport | None = None,
        resolver: Callable[[str, int], list[str]] = resolve,
    ) -> None:
        self._allowed = frozenset(allowed_hosts)
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._transport = transport or BoundedTransport()
        self._resolve = resolver

    def get(self, url: str, *, headers: Mapping[str, str] | None = None, trusted: bool = False) -> bytes:
        """The body of a 200 answer. `timeout_s` holds for all of it: look-ups, redirects, headers and body.

        headers and `trusted` (Label Studio itself: any address will do) hold for `url` itself, never for where it
        redirects to.
        Raises InputError: address refused, unreachable, too slow, too large, or any other answer.
        """
        deadline = time.monotonic() + self._timeout_s
        for hop in range(MAX_REDIRECTS + 1):
            target = self._parsed(url)
            addresses = self._checked(target, deadline, trusted=trusted and hop == 0)
            response = self._send(target, addresses, dict(headers or {}) if hop == 0 else {}, deadline)
            try:
                location = response.headers.get("location")
                if response.status_code in (301, 302, 303, 307, 308) and location:
                    url = _joined(target, location)
                    continue
                if response.status_code != 200:
                    remedies = _HOST_REMEDIES if trusted and hop == 0 else _REMEDIES
                    remedy = remedies.get(response.status_code, "try the address in a browser")
                    raise InputError(f"{public_url(url)}: answered {response.status_code}; {remedy}")
                return self._body(response, url, deadline)
            finally:
                response.close()
        raise InputError(f"{public_url(url)}: more than {MAX_REDIRECTS} redirects; name the final address in the task")

    @staticmethod
    def _parsed(url: str) -> httpx.URL:
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise InputError(
                "an address in the task is not a URL; expected for example https://host/image.jpg"
            ) from None
        if target.scheme not in ("http", "https") or not target.host:
            raise InputError(f"{public_url(url)}: expected an http or https address with a host")
        return target

    def _checked(self, target: httpx.URL, deadline: float, *, trusted: bool) -> list[str]:
        addresses = self._resolved(target, deadline)
        if not trusted and _name(target) not in self._allowed:
            refused = next((address for address in addresses if not is_public(address)), None)
            if refused is not None:
                raise InputError(
                    f"{target.host}: a private, loopback or reserved address ({refused}); add the host to "
                    "CALICO_ALLOWED_HOSTS if images may come from there, or set LABEL_STUDIO_URL if it is Label Studio"
                )
        return addresses

    def _resolved(self, target: httpx.URL, deadline: float) -> list[str]:
        """On a thread of its own, since a look-up has no time limit: whoever owns a name may let it wait."""
        answer: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                answer.set_result(self._resolve(_name(target), port_of(target)))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        try:
            return answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise self._too_slow(str(target)) from None

    def _too_slow(self, url: str) -> InputError:
        return InputError(f"{public_url(url)}: slower than {self._timeout_s:g} s; raise CALICO_MEDIA_TIMEOUT_SECONDS")

    def _send(
        self, target: httpx.URL, addresses: Sequence[str], headers: dict[str, str], deadline: float
    ) -> httpx.Response:
        headers = {
            "Host": target.netloc.decode("ascii"),
            "Accept-Encoding": "identity",
            "User-Agent": "calico",
            **headers,
        }
        reason = "no address"
        for number, address in enumerate(addresses):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            timeout = httpx.Timeout(left_s, connect=left_s / (len(addresses) - number))
            request = httpx.Request(
                "GET",
                target.copy_with(host=address, userinfo=b""),
                headers=headers,
                extensions={
                    "sni_hostname": _name(target),
                    "timeout": timeout.as_dict(),
                    "deadline": deadline,
                    "max_bytes": self._max_bytes,
                },
            )
            try:
                return self._transport.handle_request(request)
            except httpx.TransportError as error:
                reason = type(error).__name__
        if time.monotonic() >= deadline:
            raise self._too_slow(str(target))
        raise InputError(
            f"{public_url(str(target))}: not reachable ({reason}); is it up, and reachable from the backend's machine?"
        )

    def _body(self, response: httpx.Response, url: str, deadline: float) -> bytes:
        """As it came over the wire: what it would become if it was unpacked has no bound, so nothing packed is read."""
        encoding = ", ".join(response.headers.get_list("content-encoding")).strip().lower()
        if encoding not in ("", "identity"):
            raise InputError(
                f"{public_url(url)}: sent with Content-Encoding {encoding[:40]!r}, which was not asked for; have its "
                "server send the image file as it is"
            )
        if not isinstance(response.stream, httpx.SyncByteStream):
            raise TypeError("a transport of this kind answers with a stream that is read here")
        body = bytearray()
        try:
            for chunk in response.stream:
                body += chunk
                if len(body) > self._max_bytes:
                    limit = f"{self._max_bytes / 1e6:g} MB"
                    raise InputError(
                        f"{public_url(url)}: larger than {limit}; raise CALICO_MAX_IMAGE_MB if that is right"
                    )
                if time.monotonic() > deadline:
                    raise self._too_slow(url)
        except httpx.HTTPError as error:
            if time.monotonic() >= deadline:
                raise self._too_slow(url) from None
            raise InputError(f"{public_url(url)}: the download broke off ({type(error).__name__})") from None
        return bytes(body)
