"""Image hosts and task data that mean harm: packed answers, drips, paths and links that lead elsewhere."""

from __future__ import annotations

import gzip
import io
import os
import socket
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
from backend_fakes import picture, png
from PIL import Image
from test_media import PNG, PUBLIC, TOKEN, Web

from backend.host.client import LabelStudioClient
from backend.media.addresses import is_public
from backend.media.fetching import Fetcher
from backend.media.host_files import is_file_of_host
from backend.media.local_files import Outside, read_below
from backend.media.media import Media
from backend.media.pixels import PixelBudget
from backend.settings import Settings
from backend.telemetry.prometheus import Metrics
from calico.errors import InputError


@contextmanager
def serving(talk):
    """A server on loopback that lets `talk` answer every connection; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def one(connection):
        with connection, suppress(OSError):
            connection.settimeout(5)
            connection.recv(65536)
            talk(connection, ended)

    def run():
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"http://images.test:{listener.getsockname()[1]}/a.png"
    finally:
        ended.set()
        listener.close()


def fetcher(timeout_s=0.3, **options):
    return Fetcher(allowed_hosts=["images.test"], resolver=lambda *_: ["127.0.0.1"], timeout_s=timeout_s, **options)


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


BOMB = bytes(20_000_000)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BOMB)),
        ("gzip, gzip, gzip", gzip.compress(gzip.compress(gzip.compress(BOMB)))),
        ("x-gzip", gzip.compress(BOMB)),
        ("deflate", zlib.compress(BOMB)),
        ("deflate", deflated(BOMB)),
        ("br", b"\x8f\x0a\x80hello\x03"),
        ("zstd", b"\x28\xb5\x2f\xfd\x00\x58\x00\x00"),
        ("compress", b"\x1f\x9d\x90"),
        ("identity, gzip", gzip.compress(BOMB)),
        ("GZIP", gzip.compress(BOMB)),
        ("nonsense", PNG),
    ],
)
def test_a_packed_answer_is_refused_unread(encoding, body):
    def talk(connection, _):
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with serving(talk) as url:
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="Content-Encoding"):
                fetcher(timeout_s=5).get(url)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


def test_identity_is_no_packing():
    def talk(connection, _):
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: {len(PNG)}\r\n\r\n"
        connection.sendall(head.encode() + PNG)

    with serving(talk) as url:
        assert fetcher(timeout_s=5).get(url) == PNG


def drips(first, again):
    def talk(connection, ended):
        connection.sendall(first)
        while not ended.wait(0.05):
            connection.sendall(again)

    return talk


OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "nothing at all": drips(b"", b""),
    "the status line": drips(b"HTTP/1.1 200 O", b"K"),
    "a header's value": drips(OK + b"X-A: ", b"a"),
    "headers": drips(OK, b"X-A: a\r\n"),
    "100 Continue": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "102 Processing": drips(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "a chunk's extension": drips(OK + b"Transfer-Encoding: chunked\r\n\r\n5;a=", b"a"),
    "a chunk's size": drips(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "chunks": drips(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers": drips(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-A: a\r\n"),
    "a body with a length": drips(OK + b"Content-Length: 100000\r\n\r\n", b"x"),
    "a body without one": drips(OK + b"\r\n", b"x"),
    "an error's body": drips(b"HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_one_deadline_holds_for_the_whole_fetch(drip):
    with serving(drip) as url:
        started = time.monotonic()
        with pytest.raises(InputError, match=r"slower than 0\.3 s|answered 500|broke off|not reachable"):
            fetcher().get(url)
        assert time.monotonic() - started < 4


def test_one_deadline_holds_over_redirects_too():
    def talk(connection, ended):
        ended.wait(0.2)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    with serving(talk) as url:
        started = time.monotonic()
        with pytest.raises(InputError, match="slower than"):
            fetcher().get(url)
        assert time.monotonic() - started < 4


def test_a_name_that_is_never_resolved_is_given_up():
    asked = threading.Event()
    started = time.monotonic()
    with pytest.raises(InputError, match="slower than"):
        Fetcher(timeout_s=0.2, resolver=lambda *_: [str(asked.wait(5))]).get("http://slow.example/a.png")
    asked.set()
    assert time.monotonic() - started < 4


def test_framing_counts_as_bytes():
    """An endless head, and chunks of one byte with long extensions, end by their size long before the time is up."""

    def talk(connection, ended):
        connection.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"1;" + b"a" * 60_000 + b"\r\nx\r\n"
        while not ended.is_set():
            connection.sendall(chunk)

    with serving(talk) as url:
        started = time.monotonic()
        with pytest.raises(InputError):
            fetcher(timeout_s=20, max_bytes=100_000).get(url)
        assert time.monotonic() - started < 5


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.11", "192.0.0.170", "192.0.0.192", "192.0.0.255",
        "168.63.129.16", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "198.18.0.1", "198.19.255.255",
        "203.0.113.7", "198.51.100.7", "192.0.2.7", "100.64.0.1", "100.127.255.255", "172.31.255.255", "0.1.2.3",
        "240.0.0.1", "233.252.0.1", "169.254.1.1",
        "::127.0.0.1", "::10.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "::ffff:127.0.0.1",
        "fec0::1", "feb0::1", "64:ff9b:1::1", "64:ff9b::a00:1", "64:ff9b::a83f:8110", "3fff::1", "3fff:fff::1",
        "5f00::1", "100::1", "100:0:0:1::1", "2001::1", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1",
        "2001:10::1", "2001:20::1", "2001:30::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
        "2620:4f:8000::1", "fc00::1", "fd20:ce::254", "ff02::1", "ff0e::1", "4000::1", "8000::1", "e000::1", "1::",
    ],
)  # fmt: skip
def test_special_purpose_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "192.0.1.1", "168.63.129.17", "100.63.255.255", "100.128.0.1", "172.32.0.1", "198.20.0.1",
     "223.255.255.255", "2001:4860:4860::8888", "2606:4700::1111", "2a00:1450:4001::1", "2001:200::1", "3ffe::1",
     "64:ff9b::808:808", "::ffff:8.8.8.8"],
)  # fmt: skip
def test_the_open_internet_is_public(address):
    assert is_public(address)


# -- the operator's token ----------------------------------------------------------------------------------------------

STUDIO = "http://studio:8080"
CLIENT = LabelStudioClient(STUDIO, TOKEN, transport=httpx.MockTransport(lambda _: httpx.Response(500)))


def studio_media(tmp_path, web, **settings):
    settings = Settings(label_studio_url=STUDIO, data_dir=tmp_path / "state", **settings)
    return Media(settings, Metrics(), CLIENT, web.fetcher())


ELSEWHERE = [
    "/data/upload/../../api/users/",
    "/data/upload/1/../../../api/users/",
    "/data/upload/./../../api/users/",
    "/data/upload/%2e%2e/%2e%2e/api/users/",
    "/data/upload/%2E%2e/%2e%2E/api/users/",
    "/data/upload/.%2e/.%2e/api/users/",
    "/data/upload/..%2f..%2fapi/users/",
    "/data/upload/%252e%252e/%252e%252e/api/users/",
    "/data/upload/%25252e%25252e/%25252e%25252e/api/users/",
    "/data/upload/..\\..\\api\\users\\",
    "/data/upload/..%5c..%5capi/users/",
    "/data/upload/..;/..;/api/users/",
    "/data/upload/..;a=b/..;/api/users/",
    "/data/upload/\uff0e\uff0e/\uff0e\uff0e/api/users/",
    "/data/upload/ ../ ../api/users/",
    "/data/upload/a%0d%0aX: y",
    "/data/upload/",
    "/storage-data/../api/users/",
    "/tasks/7/presign/../../../api/users/",
    "/tasks/7/",
    "/tasks/7/annotations/",
    "/tasks/8/presign/?fileuri=YQ==",
    "/tasks/8/resolve/?fileuri=YQ==",
    "/projects/1/",
    "/projects/1/export?exportType=JSON",
    "/projects/1/presign/%2e%2e/%2e%2e/%2e%2e/api/users",
    "/data/local-files/../../api/users/?d=a.png",
]


@pytest.mark.parametrize("source", ELSEWHERE + [STUDIO + path for path in [*ELSEWHERE, "/api/users/", "/", "/admin/"]])
def test_no_spelling_sends_the_token_elsewhere_than_to_files(tmp_path, source):
    web = Web({}, {"studio": ["10.0.0.2"]})
    with pytest.raises(InputError):
        studio_media(tmp_path, web).load(source, task=7)
    assert web.requests == []


def test_files_of_tasks_are_still_fetched(tmp_path):
    paths = [
        "/data/upload/1/a.png",
        "/data/upload/1/50%25%20of.png",
        "/data/upload/a..b/..c.png",
        "/tasks/7/resolve/?x=1",
        "/projects/3/presign/?fileuri=YQ==",
        "/storage-data/uploaded/?filepath=upload/1/a.png",
    ]
    web = Web({STUDIO + path: PNG for path in paths}, {"studio": ["10.0.0.2"]})
    for path in paths:
        studio_media(tmp_path, web, media_cache_mb=0).load(path, task=7)
        studio_media(tmp_path, web, media_cache_mb=0).load(STUDIO + path, task=7)
    assert {request.headers.get("authorization") for request in web.requests} == {f"Token {TOKEN}"}


def test_another_path_of_a_public_host_goes_without_the_token(tmp_path):
    web = Web({f"{STUDIO}/static/a.png": PNG}, {"studio": [PUBLIC]})
    studio_media(tmp_path, web).load(f"{STUDIO}/static/a.png")
    assert [request.headers.get("authorization") for request in web.requests] == [None]


def test_what_the_token_brought_is_not_handed_to_another_task(tmp_path):
    web = Web({f"{STUDIO}/tasks/7/presign/?fileuri=YQ==": PNG}, {"studio": ["10.0.0.2"]})
    media = studio_media(tmp_path, web)
    media.load(f"{STUDIO}/tasks/7/presign/?fileuri=YQ==", task=7)
    with pytest.raises(InputError):
        media.load(f"{STUDIO}/tasks/7/presign/?fileuri=YQ==", task=8)


def test_a_path_is_a_file_of_the_host_by_a_list():
    assert is_file_of_host("/data/upload/3/x.jpg", 1)
    assert not is_file_of_host("/data/upload", 1)
    assert not is_file_of_host("/tasks/12345678901234567890/presign/", 1)


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["a" * 300 + ".png", "a/" * 3000 + "b.png", "a" * 100_000, "\ud800.png", "x/\udcff.png", "file:///\udc80",
     "http://h\ud800/a.png", "s3://b/\udfff.png", "http://h/" + "a" * 100_000, "/data/upload/1/\ud83d.png",
     "http://" + "a" * 5000 + "/a.png", "http://a" + ".a" * 300 + "/", "//", "///", "http:///", "data:\ud800,x",
     "FILE://[", "file://a]b/c",
     "file://\u2100.com/a.png", "http://["],
)  # fmt: skip
def test_names_that_nothing_can_have_are_a_line(tmp_path, source):
    (tmp_path / "images").mkdir()
    settings = Settings(media_roots=(tmp_path / "images",), data_dir=tmp_path / "state", label_studio_url=STUDIO)
    media = Media(settings, Metrics(), None, Web({}).fetcher())
    with pytest.raises(InputError) as caught:
        media.load(source, task=1)
    assert len(str(caught.value)) < 500
    str(caught.value).encode()


def test_only_plain_files_are_read(tmp_path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    os.mkfifo(root / "pipe")
    (root / "inner").symlink_to("folder")
    (root / "folder" / "a").write_bytes(b"abc")
    (root / "link").symlink_to("folder/a")
    (root / "loop").symlink_to("loop")
    for name in ("pipe", "folder", "missing", ".", "", "loop"):
        with pytest.raises(InputError):
            read_below(root, name, 100)
    for name in ("folder/a", "inner/a", "link", str(root / "folder" / "a")):
        assert read_below(root, name, 100) == b"abc"
    with pytest.raises(InputError, match="larger"):
        read_below(root, "folder/a", 2)
    with pytest.raises(Outside):
        read_below(root, "../root2", 2)
    mounted = tmp_path / "mounted"
    mounted.symlink_to(root)  # the operator's own link to the root is followed
    assert read_below(mounted, "folder/a", 100) == b"abc"


@pytest.mark.parametrize("swap", ["file", "folder"])
def test_links_that_change_meanwhile_lead_nowhere(tmp_path, swap):
    """A task's author who may write below the root swaps a file, or a folder on the way, for a link that leads out."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder, content in ((root / "d", b"inside"), (outside / "d", b"SECRET")):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(content)
    ended, place, aside = threading.Event(), root / "d", root / "d.aside"
    if swap == "file":
        place, aside = root / "d" / "a.png", root / "d" / "a.aside"
    target = outside / place.relative_to(root)

    def work():
        while not ended.is_set():
            place.rename(aside)
            place.symlink_to(target)
            place.unlink()
            aside.rename(place)

    thread = threading.Thread(target=work)
    thread.start()
    seen = set()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            try:
                seen.add(read_below(root, "d/a.png", 100))
            except InputError:
                continue
    finally:
        ended.set()
        thread.join()
    assert seen <= {b"inside"}


def test_a_local_picture_is_what_it_was(tmp_path):
    image = picture(3)
    (tmp_path / "a.png").write_bytes(png(image))
    media = Media(Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state"), Metrics())
    assert np.array_equal(media.load("a.png"), image)


# -- pixels in flight --------------------------------------------------------------------------------------------------


def test_pixels_of_many_groups_stay_within_the_budget():
    budget, most, lock, ended = PixelBudget(100), [0], threading.Lock(), []

    def group(size):
        with budget.holder() as holder:
            for _ in range(8):
                holder.take(size)
                with lock:
                    most[0] = max(most[0], budget.num_held)
                time.sleep(0.001)
        ended.append(size)

    threads = [threading.Thread(target=group, args=(size,)) for size in [10, 3, 10, 1, 40, 10, 2, 10, 40, 3] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 30  # none waits for ever
    assert budget.num_held == 0
    assert most[0] <= 100 + 8 * 40


def test_decoding_waits_for_the_budget(tmp_path):
    """Four tasks of eight pictures, with room for two of them: at most those and one group's are there at once."""
    buffer = io.BytesIO()
    Image.new("1", (700, 700)).save(buffer, "PNG")
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(buffer.getvalue())
    media = Media(Settings(media_roots=(tmp_path,), data_dir=tmp_path / "state", max_megapixels_in_flight=1), Metrics())
    together, most = [0], [0]
    lock, load = threading.Lock(), media.load

    def counted(source, **options):
        image = load(source, **options)
        with lock:
            together[0] += 1
            most[0] = max(most[0], together[0])
        return image

    media.load = counted

    def task():
        with media.group([f"{i}.png" for i in range(8)]) as images:
            assert len(images) == 8
            with lock:
                together[0] -= 8

    threads = [threading.Thread(target=task) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == [0]
    assert most[0] <= 2 + 8
    with pytest.raises(InputError), media.group(["0.png", "missing.png"]):
        pass
    with media.single("0.png") as image:
        assert image.shape == (700, 700, 3)
    assert media._pixels_of_groups.num_held == media._pixels_of_clicks.num_held == 0
