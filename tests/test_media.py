from __future__ import annotations

import base64
import errno
import io
import os
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from backend_fakes import picture, png
from PIL import Image

from backend.host.client import LabelStudioClient
from backend.media.disk_cache import DiskCache
from backend.media.fetching import Fetcher, is_public, public_url, resolve, same_origin
from backend.media.media import Media
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import InputError

PUBLIC = "93.184.216.34"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
IMAGE = picture(1)
PNG = png(IMAGE)


class Web:
    """A pretended internet: answers by address as tasks name it, and what was asked of it."""

    def __init__(self, pages: dict[str, httpx.Response | bytes], hosts: dict[str, list[str]] | None = None) -> None:
        self.pages = pages
        self.hosts = hosts or {}
        self.requests: list[httpx.Request] = []
        self.looked_up: list[str] = []

    def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        return self.hosts.get(host, [PUBLIC])

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.raw_path.decode()
        page = self.pages.get(f"{request.url.scheme}://{request.headers['host']}{path}", httpx.Response(404))
        return httpx.Response(200, content=page) if isinstance(page, bytes) else page

    def fetcher(self, **options) -> Fetcher:
        return Fetcher(transport=httpx.MockTransport(self.handle), resolver=self.resolve, **options)


def redirect(url: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": url})


@pytest.fixture
def make(tmp_path):
    """Media over a pretended internet, with a folder `images` that tasks may name."""
    (tmp_path / "images").mkdir()

    def make(web: Web | None = None, *, limits: dict | None = None, token: bool = True, **settings) -> Media:
        values = {"media_roots": (tmp_path / "images",), "data_dir": tmp_path / "state", **settings}
        settings_ = Settings(**values)
        client = LabelStudioClient(settings_.label_studio_url, TOKEN) if settings_.label_studio_url and token else None
        fetcher = web.fetcher(allowed_hosts=settings_.allowed_hosts, **(limits or {})) if web else None
        return Media(settings_, Metrics(), client, fetcher)

    return make


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),  # metadata of most clouds
        ("100.100.100.200", False),  # metadata of one more
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "017700000001", "127.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_no_spelling_of_loopback_gets_through(host):
    with pytest.raises(InputError, match=r"private, loopback or reserved|no such host"):
        Fetcher(timeout_s=1).get(f"http://{host}:9/image.png")


def test_an_allowed_name_may_be_private():
    web = Web({"http://minio.internal:9000/a.png": PNG}, {"minio.internal": ["10.0.0.7"]})
    assert web.fetcher(allowed_hosts=["minio.internal"]).get("http://MinIO.internal:9000/a.png") == PNG
    with pytest.raises(InputError, match=r"minio.internal.*10.0.0.7.*CALICO_ALLOWED_HOSTS"):
        web.fetcher().get("http://minio.internal:9000/a.png")


def test_one_private_address_among_public_ones_refuses_the_host():
    with pytest.raises(InputError, match=r"10\.0\.0\.1"):
        Web({}, {"mixed.example": [PUBLIC, "10.0.0.1"]}).fetcher().get("http://mixed.example/a.png")


def test_the_address_that_was_checked_is_the_one_connected_to():
    web = Web({"https://images.example/a.png": PNG})
    assert web.fetcher().get("https://images.example/a.png") == PNG
    assert web.looked_up == ["images.example"]
    assert web.requests[0].url.host == PUBLIC
    assert web.requests[0].headers["host"] == "images.example"
    assert web.requests[0].extensions["sni_hostname"] == "images.example"


def test_a_redirect_to_a_private_address_is_refused():
    for target in ("http://127.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//localhost/x", "http://[::1]/"):
        web = Web({"http://evil.example/a.png": redirect(target)}, {"localhost": ["127.0.0.1"]})
        web.hosts |= {name: [name] for name in ("127.0.0.1", "169.254.169.254", "::1")}
        with pytest.raises(InputError, match="private, loopback or reserved"):
            web.fetcher().get("http://evil.example/a.png")
        assert len(web.requests) == 1


def test_a_redirect_does_not_inherit_trust_even_to_the_same_origin():
    web = Web(
        {"http://studio:8080/a": redirect("http://studio:8080/b"), "http://studio:8080/b": PNG},
        {"studio": ["10.0.0.2"]},
    )
    with pytest.raises(InputError, match="private"):
        web.fetcher().get("http://studio:8080/a", trusted=True)


def test_redirects_are_followed_but_not_for_ever():
    web = Web(
        {
            "http://a.example/": redirect("/b"),
            "http://a.example/b": redirect("https://c.example/i"),
            "https://c.example/i": PNG,
        }
    )
    assert web.fetcher().get("http://a.example/") == PNG
    loop = Web({"http://a.example/": redirect("http://a.example/")})
    with pytest.raises(InputError, match="more than 5 redirects"):
        loop.fetcher().get("http://a.example/")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://x/", "http://", "http://[::1", "http://a:b:c/"])
def test_a_redirect_elsewhere_than_the_web_is_refused(target):
    with pytest.raises(InputError):
        Web({"http://a.example/": redirect(target)}).fetcher().get("http://a.example/")


def test_an_unknown_host_is_named():
    with pytest.raises(InputError, match="no such host"):
        resolve("no-such-host.invalid", 80)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("http://h/a", "http://h:80/b", True),
        ("http://h/a", "https://h/a", False),
        ("http://h:1/a", "http://h:2/a", False),
        ("http://h@evil/a", "http://h/a", False),
        ("http://h.evil/a", "http://h/a", False),
        ("http://[bad", "http://h/a", False),
    ],
)
def test_same_origin(first, second, same):
    assert same_origin(first, second) is same


def test_what_is_shown_of_an_address_holds_no_credential():
    assert public_url("https://user:pass@h:8443/a/b.png?X-Amz-Signature=abc") == "https://h:8443/a/b.png"
    assert public_url("http://h:secret") == "an address that is no URL"


@pytest.mark.parametrize(
    ("status", "of_the_host", "of_others"),
    [
        (401, "LABEL_STUDIO_API_KEY", "may have expired, or it needs credentials"),
        (403, "the token's user", "may have expired, or it needs credentials"),
        (404, "local-files storage", "check the address in the task"),
        (500, "in a browser", "in a browser"),
    ],
)
def test_remedies_are_those_of_who_answered(status, of_the_host, of_others):
    def message(url, **options):
        web = Web({"http://studio/a": httpx.Response(status), "http://studio/b": redirect("https://s3.example/b?x=1"),
                   "https://s3.example/b?x=1": httpx.Response(status)})  # fmt: skip
        with pytest.raises(InputError) as caught:
            web.fetcher().get(url, **options)
        return str(caught.value)

    assert of_the_host in message("http://studio/a", trusted=True)
    for told in (message("http://studio/b", trusted=True), message("https://s3.example/b?x=1")):
        assert told.startswith(f"https://s3.example/b: answered {status}; ")
        assert told.endswith(of_others)


# -- a real server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A web server on loopback: /image, /large, /slow, /missing, /hop; what it was asked and what it sent whole."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append((self.path, dict(self.headers)))
            if self.path == "/hop":
                self.send_response(302)
                self.send_header("Location", f"http://images.test:{self.server.server_port}/image")
                self.end_headers()
                return
            body = {"/image": PNG, "/large": bytes(300_000), "/slow": b"x" * 100}.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            for i in range(0, len(body or b""), 100_000 if self.path != "/slow" else 1):
                self.wfile.write(body[i : i + (100_000 if self.path != "/slow" else 1)])
                self.wfile.flush()
                time.sleep(0.05 if self.path == "/slow" else 0)
            self.server.sent.append(self.path)

        def log_message(self, *_):
            pass

        def handle(self):
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has had enough: that is what is tested
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.sent = [], []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def local(server, **options) -> Fetcher:
    hosts = {"images.test": ["127.0.0.1"], "studio.test": ["127.0.0.1"]}
    return Fetcher(allowed_hosts=["images.test"], resolver=lambda host, port: hosts[host], **options)


def test_a_real_download(server):
    url = f"http://images.test:{server.server_port}"
    assert local(server).get(f"{url}/image") == PNG
    assert server.seen[-1][1]["Host"] == f"images.test:{server.server_port}"
    with pytest.raises(InputError, match="404"):
        local(server).get(f"{url}/missing")
    with pytest.raises(InputError, match=r"0.2 MB.*CALICO_MAX_IMAGE_MB"):
        local(server, max_bytes=200_000).get(f"{url}/large")
    with pytest.raises(InputError, match="CALICO_MEDIA_TIMEOUT_SECONDS"):
        local(server, timeout_s=0.3).get(f"{url}/slow")
    assert "/slow" not in server.sent, "it did not wait for the end"


def test_a_token_is_not_sent_after_a_redirect(server):
    url = f"http://studio.test:{server.server_port}/hop"
    assert local(server).get(url, headers={"Authorization": "Token x"}, trusted=True) == PNG
    (first, sent), (second, sent_on) = server.seen
    assert (first, second) == ("/hop", "/image")
    assert sent["Authorization"] == "Token x"
    assert "Authorization" not in sent_on


def test_nobody_listening_is_said():
    with pytest.raises(InputError, match="not reachable"):
        Fetcher(allowed_hosts=["x.test"], resolver=lambda *_: ["127.0.0.1"], timeout_s=2).get("http://x.test:9/a")


# -- sources of a task -------------------------------------------------------------------------------------------------


def test_data_uris(make):
    media = make()
    encoded = base64.b64encode(PNG).decode()
    assert np.array_equal(media.load(f"data:image/png;base64,{encoded}"), IMAGE)
    with pytest.raises(InputError, match="not base64"):
        media.load("data:image/png;base64,@@@")
    with pytest.raises(InputError, match=r"data URI: .*not an image"):
        media.load("data:text/plain,hello")
    with pytest.raises(InputError, match="CALICO_MAX_IMAGE_MB"):
        make(max_image_mb=1).load("data:image/png;base64," + "A" * 4_100_000)


def test_paths_only_below_the_roots(make, tmp_path):
    media, inside = make(), tmp_path / "images" / "a b.png"
    inside.write_bytes(PNG)
    outside = tmp_path / "secret.png"
    outside.write_bytes(PNG)
    (tmp_path / "images" / "link.png").symlink_to(outside)
    (tmp_path / "images" / "folder").symlink_to(tmp_path)
    (tmp_path / "images-2").mkdir()
    (tmp_path / "images-2" / "a.png").write_bytes(PNG)
    for good in (str(inside), "a b.png", f"file://{tmp_path}/images/a%20b.png", "./x/../a b.png"):
        assert np.array_equal(media.load(good), IMAGE), good
    for bad in (
        str(outside),
        "../secret.png",
        f"{tmp_path}/images/../secret.png",
        "link.png",
        "folder/secret.png",
        f"{tmp_path}/images-2/a.png",
        "/etc/passwd",
        f"file://{outside}",
    ):
        with pytest.raises(InputError, match="outside CALICO_MEDIA_ROOTS"):
            media.load(bad)
    for bad in ("missing.png", "", "a\0b", 7, None):
        with pytest.raises(InputError):
            media.load(bad)
    with pytest.raises(InputError, match="not supported"):
        media.load("ftp://host/a.png")


def test_local_files_from_the_mounted_root(make, tmp_path):
    root = tmp_path / "studio"
    (root / "set 1").mkdir(parents=True)
    (root / "set 1" / "a.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    media = make(local_files_root=root)
    assert np.array_equal(media.load("/data/local-files/?d=set%201/a.png"), IMAGE)
    for bad in ("../secret.png", "%2e%2e/secret.png", "set%201/../../secret.png", "//etc/passwd"):
        with pytest.raises(InputError, match=r"outside|no such file"):
            media.load(f"/data/local-files/?d={bad}")


def test_files_of_the_host_are_fetched_with_the_token(make):
    base = "http://studio:8080"
    web = Web({f"{base}/data/upload/1/a.png": PNG, f"{base}/data/local-files/?d=a.png": PNG}, {"studio": ["10.0.0.2"]})
    media = make(web, label_studio_url=base)
    for source in ("/data/upload/1/a.png", f"{base}/data/upload/1/a.png?again=1", "/data/local-files/?d=a.png"):
        web.pages[f"{base}/data/upload/1/a.png?again=1"] = PNG
        assert np.array_equal(media.load(source), IMAGE)
    assert {request.headers.get("authorization") for request in web.requests} == {f"Token {TOKEN}"}
    with pytest.raises(InputError, match="LABEL_STUDIO_URL"):
        make().load("/data/upload/1/a.png")


def test_the_hosts_own_localhost_is_the_host(make):
    """In containers the host calls itself localhost; what is not of the host stays refused."""
    web = Web(
        {"http://studio:8080/tasks/7/presign/?fileuri=YQ==": PNG}, {"studio": ["10.0.0.2"], "localhost": ["127.0.0.1"]}
    )
    media = make(web, label_studio_url="http://studio:8080")
    assert np.array_equal(media.load("http://localhost:8080/tasks/7/presign/?fileuri=YQ=="), IMAGE)
    assert web.requests[0].headers["authorization"] == f"Token {TOKEN}"
    for url in ("http://localhost:8080/admin/", "http://localhost:8080/data/upload/../../admin", "http://localhost/"):
        with pytest.raises(InputError, match="private, loopback"):
            media.load(url)
    assert len(web.requests) == 1


def test_a_host_below_a_path(make):
    base = "https://host.example/studio"
    web = Web({f"{base}/data/upload/1/a.png": PNG})
    media = make(web, label_studio_url=base, media_cache_mb=0)
    for source in ("/data/upload/1/a.png", "/studio/data/upload/1/a.png", f"{base}/data/upload/1/a.png"):
        assert np.array_equal(media.load(source), IMAGE)
    web.pages["https://host.example/other/a.png"] = PNG
    media.load("https://host.example/other/a.png")
    assert [("authorization" in request.headers) for request in web.requests] == [True, True, True, False]


@pytest.mark.parametrize(
    "url",
    ["https://studio.example/a.png", "http://studio.example:8081/a.png", "http://studio.example.evil.example/a.png",
     "http://studio.example@evil.example/a.png"],
)  # fmt: skip
def test_no_token_for_any_other_origin(make, url):
    parsed = httpx.URL(url)
    web = Web({f"{parsed.scheme}://{parsed.netloc.decode()}/a.png": PNG})
    make(web, label_studio_url="http://studio.example").load(url)
    assert len(web.requests) == 1
    assert "authorization" not in web.requests[0].headers


def test_a_wrong_token_is_said(make):
    web = Web({"http://studio:8080/data/upload/1/a.png": httpx.Response(401)}, {"studio": ["10.0.0.2"]})
    with pytest.raises(InputError, match=r"401.*LABEL_STUDIO_API_KEY"):
        make(web, label_studio_url="http://studio:8080").load("/data/upload/1/a.png")


@pytest.mark.parametrize("source", ["s3://bucket/k/a b.png", "gs://bucket/a.png", "azure-blob://container/a.png"])
def test_buckets_go_through_the_presign_route(make, source):
    encoded = base64.urlsafe_b64encode(source.encode()).decode()
    signed = "https://bucket.example/a.png?X-Amz-Signature=s3cret"
    web = Web(
        {f"http://studio/tasks/7/presign/?fileuri={encoded}": redirect(signed), signed: PNG}, {"studio": ["10.0.0.2"]}
    )
    media = make(web, label_studio_url="http://studio")
    assert np.array_equal(media.load(source, task=7), IMAGE)
    assert [("authorization" in request.headers) for request in web.requests] == [True, False]
    with pytest.raises(InputError, match="task's id"):
        media.load(source)
    web.pages[signed] = httpx.Response(403)
    with pytest.raises(InputError) as caught:
        media.load(source.replace("a", "b"), task=7)
    web.pages[f"http://studio/tasks/8/presign/?fileuri={encoded}"] = redirect(signed)
    with pytest.raises(InputError) as caught:
        media.load(source, task=8)
    assert "s3cret" not in str(caught.value)


def test_what_is_no_image_is_refused_and_not_kept(make):
    web = Web({"http://a.example/login": b"<html>please log in</html>"})
    media = make(web)
    with pytest.raises(InputError, match=r"http://a\.example/login: .*not an image"):
        media.load("http://a.example/login")
    web.pages["http://a.example/login"] = PNG
    assert np.array_equal(media.load("http://a.example/login"), IMAGE)


def test_a_bomb_is_refused_from_its_header(make):
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(InputError, match="pixels"):
        make(Web({"http://a.example/bomb": buffer.getvalue()})).load("http://a.example/bomb")


def test_exif_orientation_is_applied(make):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture(1, size_hw=(24, 32))).save(buffer, "JPEG", exif=exif)
    assert make(Web({"http://a.example/a": buffer.getvalue()})).load("http://a.example/a").shape == (32, 24, 3)


# -- the disk cache ----------------------------------------------------------------------------------------------------


def test_an_image_is_fetched_once(make):
    web = Web({"http://a.example/a.png?x=1": PNG})
    media = make(web)
    for _ in range(3):
        assert np.array_equal(media.load("http://a.example/a.png?x=1"), IMAGE)
    assert len(web.requests) == 1
    fresh = make(web, media_cache_mb=0)
    fresh.load("http://a.example/a.png?x=1")
    fresh.load("http://a.example/a.png?x=1")
    assert len(web.requests) == 3


def test_the_disk_cache_is_bounded_whole_and_ages(tmp_path):
    cache = DiskCache(tmp_path / "cache", max_bytes=1000, max_age_s=100)
    assert cache.get("a") is None
    cache.put("a", b"a" * 400)
    cache.put("b", b"b" * 400)
    time.sleep(0.02)
    assert cache.get("a") == b"a" * 400  # used: b goes first
    time.sleep(0.02)
    cache.put("c", b"c" * 400)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"a" * 400, None, b"c" * 400)
    cache.put("large", bytes(1001))
    assert cache.get("large") is None
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 1000
    assert not list((tmp_path / "cache").glob("*.part"))
    assert DiskCache(tmp_path / "cache", max_bytes=1000, max_age_s=-1).get("a") is None


def test_the_disk_cache_is_not_kept_for_ever_by_a_clock_set_back(tmp_path):
    cache = DiskCache(tmp_path, max_bytes=1000, max_age_s=100)
    cache.put("a", b"a")
    [path] = tmp_path.glob("*.bin")
    os.utime(path, (time.time() + 86400, time.time() + 86400))
    assert cache.get("a") is None


def test_a_full_disk_costs_the_cache_and_not_the_image(make, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some.part")

    web = Web({f"http://a.example/{name}.png": PNG for name in "ab"})
    media = make(web)
    monkeypatch.setattr("backend.media.disk_cache.tempfile.mkstemp", full)
    for name in "aab":
        assert np.array_equal(media.load(f"http://a.example/{name}.png"), IMAGE)
    assert len(web.requests) == 3
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{tmp_path}/state/media: " in warning
    assert "No space left on device" in warning


def test_the_disk_cache_drops_what_killed_processes_left(tmp_path):
    now = time.time()
    for name, age_s in (("old.part", 4000), ("fresh.part", 60), ("other.txt", 4000)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    DiskCache(tmp_path, max_bytes=1000, max_age_s=100).put("a", b"a")
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".bin"} == {"fresh.part", "other.txt"}


def test_the_disk_cache_under_threads(tmp_path):
    cache = DiskCache(tmp_path / "cache", max_bytes=5000, max_age_s=100)
    wrong = []

    def work(seed):
        for i in range(40):
            key = str((seed * 7 + i) % 12)
            cache.put(key, key.encode() * 500)
            found = cache.get(key)
            if found is not None and found != key.encode() * 500:
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
