"""An HTTP transport in which one deadline and one count of bytes hold for a whole answer.

httpx's timeouts are per read: a host that sends a byte now and then, in headers, in `100 Continue` or within a chunk's
framing, is never too slow for them. Here every read and write gets what is left until the deadline, and every byte off
the wire counts.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import httpcore
import httpx

FRAMING = 1_000_000  # bytes of headers and chunks' framing beside the body; more is no image server
LONGEST_S = 600.0  # where a request names no deadline


class _Budget:
    def __init__(self, deadline: float, max_bytes: int) -> None:
        self.deadline, self.bytes_left = deadline, max_bytes

    def seconds(self, timeout: float | None) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise httpcore.ReadTimeout("the whole answer took too long")
        return remaining if timeout is None else min(remaining, timeout)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, budget: _Budget) -> None:
        self._inner, self._budget = inner, budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, self._budget.seconds(timeout))
        self._budget.bytes_left -= len(data)
        if self._budget.bytes_left < 0:
            raise httpcore.RemoteProtocolError("more bytes than any answer of that size needs")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._budget.seconds(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._budget.seconds(timeout)), self._budget)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    def __init__(self, budget: _Budget) -> None:
        self._inner, self._budget = httpcore.SyncBackend(), budget

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._budget.seconds(timeout)
        return _Stream(self._inner.connect_tcp(host, port, seconds, local_address, socket_options), self._budget)


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any, pool: httpcore.ConnectionPool) -> None:
        self._stream, self._pool = stream, pool

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except Exception as error:
            raise _as_httpx(error) from None

    def close(self) -> None:
        self._stream.close()
        self._pool.close()


class BoundedTransport(httpx.BaseTransport):
    """One connection for one request, never kept: a kept one is found by address and port, whatever name its
    certificate was checked for.

    Of a request's extensions `deadline` (as time.monotonic counts) and `max_bytes` (of the body) bound the whole
    answer; `timeout` and `sni_hostname` are httpx's own.
    """

    @cached_property
    def _ssl(self) -> ssl.SSLContext:
        return httpx.create_ssl_context(trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = request.extensions.get("deadline", time.monotonic() + LONGEST_S)
        max_bytes = 2 * request.extensions.get("max_bytes", 1 << 40) + FRAMING
        pool = httpcore.ConnectionPool(
            ssl_context=self._ssl if request.url.scheme == "https" else None,
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Network(_Budget(deadline, max_bytes)),
        )
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        try:
            answer = pool.handle_request(
                httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
            )
        except Exception as error:
            pool.close()
            raise _as_httpx(error) from None
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.stream, pool), extensions=answer.extensions
        )


def _as_httpx(error: Exception) -> Exception:
    """httpcore's errors under httpx's names; any other stays as it is."""
    kind = getattr(httpx, type(error).__name__, None)
    if type(error).__module__.partition(".")[0] != "httpcore":
        return error
    if not (isinstance(kind, type) and issubclass(kind, httpx.TransportError)):
        kind = httpx.TransportError
    return kind(str(error))
