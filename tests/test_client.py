"""The host's API client against a scripted transport: tokens, origins, pages, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from backend.host.client import HostError, LabelStudioClient
from calico.errors import InputError

LEGACY = "ab" * 20
PERSONAL = "eyJhbGciOiJI.eyJ0b2tlbl90e.XkQ-sig_nature"
URL = "http://studio.test:8080"

Handler = Callable[[httpx.Request], httpx.Response]


def connect(handler: Handler, token: str = LEGACY, url: str = URL, **arguments: object) -> LabelStudioClient:
    return LabelStudioClient(url, token, transport=httpx.MockTransport(handler), **arguments)  # type: ignore[arg-type]


class Recorder:
    """Answers every request alike and keeps what was sent."""

    def __init__(self, *responses: httpx.Response) -> None:
        self.responses = list(responses) or [httpx.Response(200, json={})]
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.responses[min(len(self.requests), len(self.responses)) - 1]


class PersonalHost:
    """Sells numbered access tokens that live until `revoke`."""

    def __init__(self) -> None:
        self.sold = 0
        self.valid: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            assert "authorization" not in request.headers
            assert json.loads(request.content) == {"refresh": PERSONAL}
            self.sold += 1
            self.valid.add(f"access{self.sold}")
            return httpx.Response(200, json={"access": f"access{self.sold}"})
        scheme, _, token = request.headers["authorization"].partition(" ")
        return httpx.Response(200 if scheme == "Bearer" and token in self.valid else 401, json={"release": token})


def test_legacy_token_goes_as_it_is() -> None:
    sent = Recorder(httpx.Response(200, json={"release": "1.23.2"}))
    assert connect(sent).version() == "1.23.2"
    assert sent.requests[0].headers["authorization"] == f"Token {LEGACY}"


def test_personal_token_is_refreshed_when_it_ages_and_not_before() -> None:
    host, now = PersonalHost(), [0.0]
    client = connect(host, PERSONAL, clock=lambda: now[0])
    assert [client.version(), client.version()] == ["access1", "access1"]
    now[0] = 239.0
    assert client.version() == "access1"
    now[0] = 241.0
    assert client.version() == "access2"


def test_personal_token_is_refreshed_once_after_a_401() -> None:
    host = PersonalHost()
    client = connect(host, PERSONAL)
    client.version()
    host.valid.clear()
    assert client.version() == "access2"


def test_a_refused_personal_token_is_an_error_and_no_loop() -> None:
    sent = Recorder(httpx.Response(401, json={"detail": "Token is invalid"}))
    with pytest.raises(HostError, match=r"answered 401; Token is invalid; the token was refused") as caught:
        connect(sent, PERSONAL).version()
    assert caught.value.status == 401
    assert len(sent.requests) == 1


@pytest.mark.parametrize(
    "elsewhere",
    [
        "http://studio.test:8081/data/a.png",
        "https://studio.test:8080/data/a.png",
        "http://studio.test/data/a.png",
        "http://studio.test.evil.test:8080/data/a.png",
        "http://studio.test:8080@evil.test/data/a.png",
        "http://user@studio.test:8080/data/a.png",
        "//evil.test/data/a.png",
        "file:///etc/passwd",
    ],
)
def test_no_token_for_another_origin(elsewhere: str) -> None:
    sent = Recorder()
    client = connect(sent)
    assert client.authorization_for(elsewhere) == {}
    with pytest.raises(InputError, match=r"never sent elsewhere"):
        client.request("GET", elsewhere)
    assert not sent.requests


def test_origin_and_prefix() -> None:
    client = connect(sent := Recorder(), url="https://host.test/studio/")
    assert client.owns("https://host.test:443/studio/data/a.png")
    assert not client.owns("https://host.test/other/a.png")
    assert not client.owns("https://host.test/studio/%2e%2e/other/a.png")
    client.version()
    assert str(sent.requests[0].url) == "https://host.test/studio/api/version/"


def test_redirects_are_not_followed_and_say_where_to() -> None:
    sent = Recorder(httpx.Response(302, headers={"location": "https://evil.test/login?next=secret"}))
    with pytest.raises(HostError, match=r"a redirect to https://evil.test/login; set LABEL_STUDIO_URL"):
        connect(sent).version()
    assert len(sent.requests) == 1


@pytest.mark.parametrize("token", [LEGACY, PERSONAL])
def test_errors_are_one_line_without_the_token(token: str) -> None:
    body = {"detail": f"bad\nheader {token}", "long": "x" * 5000}
    with pytest.raises(HostError) as caught:
        connect(Recorder(httpx.Response(500, json=body)), token).version()
    message = str(caught.value)
    assert token not in message
    assert "\n" not in message
    assert len(message) < 600


def test_pages_of_html_are_not_quoted() -> None:
    with pytest.raises(HostError, match=r"answered 404; check the id and LABEL_STUDIO_URL$"):
        connect(Recorder(httpx.Response(404, text="<html>Page not found, traceback</html>"))).project(3)
    with pytest.raises(HostError, match=r"without JSON; is a Label Studio running there"):
        connect(Recorder(httpx.Response(200, text="<html>another program</html>"))).version()


def test_unreachable_and_slow_hosts_are_told_apart() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused", request=request)

    def stall(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    with pytest.raises(HostError, match=r"not reachable .*Connection refused.*Check LABEL_STUDIO_URL"):
        connect(refuse).version()
    with pytest.raises(HostError, match=r"no answer in time to GET /api/version/"):
        connect(stall).version()


@pytest.mark.parametrize(
    "url", ["studio.test:8080", "ftp://studio.test", "http://", "http://user:pw@studio.test", "http://[::1"]
)
def test_bad_addresses_name_the_variable(url: str) -> None:
    with pytest.raises(InputError, match=r"LABEL_STUDIO_URL"):
        LabelStudioClient(url, LEGACY)


@pytest.mark.parametrize("token", ["", "  ", "tökén", "two words"])
def test_bad_tokens_name_the_variable(token: str) -> None:
    with pytest.raises(InputError, match=r"LABEL_STUDIO_API_KEY"):
        LabelStudioClient(URL, token)


def test_pages_of_tasks_go_by_id_and_lose_nothing_when_tasks_vanish() -> None:
    stored = list(range(1, 8))

    def host(request: httpx.Request) -> httpx.Response:
        query = json.loads(request.url.params["query"])
        after, size = query["filters"]["items"][0]["value"], int(request.url.params["page_size"])
        assert query["ordering"] == ["tasks:id"]
        found = [task for task in stored if task > after][:size]
        return httpx.Response(200, json={"tasks": [{"id": task} for task in found]})

    seen = []
    for task in connect(host).tasks(5, page_size=3):
        seen.append(task["id"])
        if task["id"] == 3:
            stored.remove(2)  # by page number, task 5 would now be skipped
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert [task["id"] for task in connect(host).tasks(5, page_size=2, after=5)] == [6, 7]


class BackendHost:
    """Connects backends; `with_webhook` false is the host's trap: a row, and no webhook."""

    def __init__(self, *, with_webhook: bool = True) -> None:
        self.rows: list[dict[str, object]] = []
        self.with_webhook = with_webhook

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/webhooks/":
            hooks = [{"id": 1, "url": f"{row['url']}/webhook"} for row in self.rows if self.with_webhook]
            return httpx.Response(200, json=hooks)
        if request.method == "GET":
            return httpx.Response(200, json=self.rows)
        if request.method == "POST":
            self.rows.append({"id": len(self.rows) + 1} | json.loads(request.content))
        return httpx.Response(200, json=self.rows[-1])


def test_a_backend_is_connected_once_and_its_webhook_proven() -> None:
    client = connect(host := BackendHost())
    assert client.connect_backend(7, "http://10.0.0.2:9090/k/s3cret/")["url"] == "http://10.0.0.2:9090/k/s3cret"
    client.connect_backend(7, "http://10.0.0.2:9090/k/s3cret")
    assert len(host.rows) == 1


def test_a_backend_without_webhook_is_an_error() -> None:
    with pytest.raises(HostError, match=r"has no webhook.*LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS=false"):
        connect(BackendHost(with_webhook=False)).connect_backend(7, "http://10.0.0.2:9090")


def test_the_address_block_is_named() -> None:
    refused = httpx.Response(403, json={"detail": "URL resolves to a reserved network address"})

    def host(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=[]) if request.method == "GET" else refused

    with pytest.raises(HostError, match=r"refuses backends on private addresses") as caught:
        connect(host).connect_backend(7, "http://10.0.0.2:9090")
    assert caught.value.status == 403
