"""waitress with limits on who holds what: whole requests within a time, large bodies only of those who may ask.

waitress by itself closes a connection after two idle minutes, counts every byte as activity, and stops accepting at its
limit of connections: a hundred sockets without a credential would keep everybody out. Here the oldest of whoever has
most gives way instead. `/health` has a thread of its own, whatever the others do.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher
from waitress.utilities import Error

from backend.http.security import Gate
from backend.settings import Settings

HEAD_S = 10.0  # for a request's head, from the connection or the first byte on
IDLE_S = 30.0  # a kept connection without a request
BODY_S, BODY_BYTES_PER_S = 20.0, 100_000  # for a body: so long, and as long as it takes at such a rate
STALLED_S = 60.0  # an answer that nobody reads on
FREE_BODY = 64_000  # bytes of a body that is read before a credential was seen
MAX_CONNECTIONS = 1000


class Unauthorized(Error):
    code = 401
    reason = "Unauthorized"


class _Parser(HTTPRequestParser):
    gate: Gate
    error: Error | None

    def received(self, data: bytes) -> int:
        had_head = self.headers_finished
        consumed: int = super().received(data)
        if self.headers_finished and not had_head and self.error is None and self._is_large:
            header = self.headers.get
            if not self.gate.admits(self.path, header("X_CALICO_SECRET"), header("AUTHORIZATION")):
                self.error = Unauthorized(f"a body of over {FREE_BODY} bytes wants a credential before it is read")
                self.completed, self.expect_continue = True, False
        return consumed

    @property
    def _is_large(self) -> bool:
        return self.chunked or self.content_length > FREE_BODY

    @property
    def seconds(self) -> float:
        """How long it may take from its first byte to its last."""
        if not self.headers_finished:
            return HEAD_S
        size = self.adj.max_request_body_size if self.chunked else self.content_length
        return HEAD_S + BODY_S + size / BODY_BYTES_PER_S


class _Channel(HTTPChannel):
    """since: when the connection came, its request began or the one before was answered, by the monotonic clock.
    is_between: nothing came since the last request."""

    is_between = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.since = self.sent_at = time.monotonic()
        super().__init__(*arguments, **options)

    @property
    def is_waiting(self) -> bool:
        """Nothing of it is being worked on or sent."""
        return not self.requests and not self.total_outbufs_len

    def received(self, data: bytes) -> bool:
        if self.is_between:
            self.since, self.is_between = time.monotonic(), False  # once: empty lines begin no request
        return bool(super().received(data))

    def is_asking(self) -> None:
        """A request came whole."""
        self.since, self.is_between = time.monotonic(), True

    def readable(self) -> bool:
        """Asked of every connection at each turn of the loop, so at least once a second."""
        if self._is_overdue(time.monotonic()):
            self.will_close = True
        return bool(super().readable())

    def _is_overdue(self, now: float) -> bool:
        if self.total_outbufs_len:
            return now - self.sent_at > STALLED_S
        self.sent_at = now
        if self.requests:
            self.since = now  # what comes next has its time from when this one is answered
            return False
        request = self.request
        is_new = request is None and self.creation_time == self.last_activity
        return now - self.since > (HEAD_S if is_new else IDLE_S if request is None else request.seconds)

    def _flush_some(self, do_close: bool = True) -> bool:
        is_sent = bool(super()._flush_some(do_close=do_close))
        if is_sent:
            self.sent_at = time.monotonic()
        return is_sent


class _Server(TcpWSGIServer):
    health_dispatcher: ThreadedTaskDispatcher
    max_connections: int

    def add_task(self, task: _Channel) -> None:
        task.is_asking()
        request = task.requests[0]
        is_health = request.error is None and request.path.rpartition("/")[2] == "health"
        (self.health_dispatcher if is_health else self.task_dispatcher).add_task(task)

    def handle_accept(self) -> None:
        super().handle_accept()
        staying = [channel for channel in self.active_channels.values() if not channel.will_close]
        waiting = [channel for channel in staying if channel.is_waiting]
        if len(staying) > self.max_connections and waiting:
            most = Counter(channel.addr[0] for channel in waiting).most_common(1)[0][0]
            min((channel for channel in waiting if channel.addr[0] == most), key=_since).will_close = True


def _since(channel: _Channel) -> float:
    return channel.since


def listen(app: Any, settings: Settings, *, port: int | None = None) -> Any:
    """A server that listens, with `run` and `close`. port: other than the settings', 0 for a free one.

    Raises OSError where the address cannot be had.
    """
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = max(20, min(MAX_CONNECTIONS, soft_limit // 2 if soft_limit > 0 else MAX_CONNECTIONS))
    adjustments = Adjustments(
        host=settings.host,
        port=settings.port if port is None else port,
        threads=settings.threads,
        max_request_body_size=settings.max_request_mb * 1_000_000,
        max_request_header_size=64_000,
        connection_limit=connections + 100,
        backlog=min(1024, connections),
        channel_timeout=3600,  # ours are shorter, and by a clock that is never set back
        asyncore_use_poll=True,
        ident=None,
        clear_untrusted_proxy_headers=True,
    )
    dispatcher, health = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
    parser = type("Parser", (_Parser,), {"gate": Gate(settings)})
    channel = type("Channel", (_Channel,), {"parser_class": parser})
    own = {"channel_class": channel, "health_dispatcher": health, "max_connections": connections}
    kind = type("Server", (_Server,), own)
    sockets: dict[int, Any] = {}
    servers = [
        kind(app, sockets, True, None, dispatcher=dispatcher, adj=adjustments, sockinfo=sockinfo)
        for sockinfo in adjustments.listen
    ]
    dispatcher.set_thread_count(settings.threads)
    health.set_thread_count(1)
    if len(servers) == 1:
        return servers[0]
    places = [(server.effective_host, server.effective_port) for server in servers]
    return MultiSocketServer(sockets, adjustments, places, dispatcher, logging.getLogger("waitress").info)
