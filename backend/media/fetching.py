"""Downloading from the network what a task names, without being led anywhere else.

A task's addresses are other people's text. Only public addresses are connected to, or hosts that are allowed by name;
the address that was checked is the one connected to (a second look-up could give another); every redirect is checked
again; a token goes to the first address alone, if at all.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import httpx

from calico.errors import InputError

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


def shown(url: str) -> str:
    """An address as messages and logs show it: without user, password and query, where credentials stand."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        return "an address that is no URL"
    return f"{parts.scheme}://{parts.host}{f':{parts.port}' if parts.port else ''}{parts.path}"[:160]


def same_origin(first: str, second: str) -> bool:
    """Whether two addresses have one scheme, host and port, as the connection is made: by one parser."""
    try:
        origins = [(url.scheme, url.host, _port(url)) for url in (httpx.URL(first), httpx.URL(second))]
    except (httpx.InvalidURL, UnicodeError):
        return False
    return origins[0] == origins[1]


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: not private, loopback, link-local (metadata) or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if embedded is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int) -> list[str]:
    """IP addresses of a host name, in the resolver's order. Raises InputError for an unknown name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"{host}: no such host; check the address in the task") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _name(url: httpx.URL) -> str:
    """The host as it is resolved: lower case, ASCII."""
    return url.raw_host.decode("ascii").lower()


def _joined(base: httpx.URL, location: str) -> str:
    try:
        return str(base.join(location))
    except (httpx.InvalidURL, ValueError):
        raise InputError(f"{shown(str(base))}: redirects to something that is no URL") from None


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
        # A kept connection is reused by address and port, whatever name its certificate was checked for: keep none.
        self._transport = transport or httpx.HTTPTransport(
            limits=httpx.Limits(max_keepalive_connections=0), trust_env=False
        )
        self._resolve = resolver

    def get(self, url: str, *, headers: Mapping[str, str] | None = None, trusted: bool = False) -> bytes:
        """The body of a 200 answer.

        headers and `trusted` (Label Studio itself: any address will do) hold for `url` itself, never for where it
        redirects to.
        Raises InputError: address refused, unreachable, too slow, too large, or any other answer.
        """
        deadline = time.monotonic() + self._timeout_s
        for hop in range(MAX_REDIRECTS + 1):
            target = self._parsed(url)
            addresses = self._checked(target, trusted=trusted and hop == 0)
            response = self._send(target, addresses, dict(headers or {}) if hop == 0 else {}, deadline)
            try:
                location = response.headers.get("location")
                if response.status_code in (301, 302, 303, 307, 308) and location:
                    url = _joined(target, location)
                    continue
                if response.status_code != 200:
                    remedies = _HOST_REMEDIES if trusted and hop == 0 else _REMEDIES
                    remedy = remedies.get(response.status_code, "try the address in a browser")
                    raise InputError(f"{shown(url)}: answered {response.status_code}; {remedy}")
                return self._body(response, url, deadline)
            finally:
                response.close()
        raise InputError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects; name the final address in the task")

    @staticmethod
    def _parsed(url: str) -> httpx.URL:
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise InputError(
                "an address in the task is not a URL; expected for example https://host/image.jpg"
            ) from None
        if target.scheme not in ("http", "https") or not target.host:
            raise InputError(f"{shown(url)}: expected an http or https address with a host")
        return target

    def _checked(self, target: httpx.URL, *, trusted: bool) -> list[str]:
        addresses = self._resolve(_name(target), _port(target))
        if not trusted and _name(target) not in self._allowed:
            refused = next((address for address in addresses if not is_public(address)), None)
            if refused is not None:
                raise InputError(
                    f"{target.host}: a private, loopback or reserved address ({refused}); add the host to "
                    "CALICO_ALLOWED_HOSTS if images may come from there, or set LABEL_STUDIO_URL if it is Label Studio"
                )
        return addresses

    def _send(
        self, target: httpx.URL, addresses: Iterable[str], headers: dict[str, str], deadline: float
    ) -> httpx.Response:
        headers = {
            "Host": target.netloc.decode("ascii"),
            "Accept-Encoding": "identity",
            "User-Agent": "calico",
            **headers,
        }
        reason = "no address"
        for address in addresses:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            request = httpx.Request(
                "GET",
                target.copy_with(host=address, userinfo=b""),
                headers=headers,
                extensions={"sni_hostname": _name(target), "timeout": httpx.Timeout(left_s).as_dict()},
            )
            try:
                return self._transport.handle_request(request)
            except httpx.TransportError as error:
                reason = type(error).__name__
        raise InputError(
            f"{shown(str(target))}: not reachable ({reason}); is it up, and reachable from the backend's machine?"
        )

    def _body(self, response: httpx.Response, url: str, deadline: float) -> bytes:
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > self._max_bytes:
                    limit = f"{self._max_bytes / 1e6:g} MB"
                    raise InputError(f"{shown(url)}: larger than {limit}; raise CALICO_MAX_IMAGE_MB if that is right")
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{shown(url)}: slower than {self._timeout_s:g} s; raise CALICO_MEDIA_TIMEOUT_SECONDS"
                    )
        except httpx.HTTPError as error:
            raise InputError(f"{shown(url)}: the download broke off ({type(error).__name__})") from None
        return bytes(body)
