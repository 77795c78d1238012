"""Files on the web, from a server that behaves, and from one that does not."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.flow.web_server import PICTURE, WebServer, serving

from bowerbird.errors import BowerbirdError, DecodeError, UnreadableError
from bowerbird.flow import web
from bowerbird.flow.remote import open_bytes, stored
from bowerbird.flow.web import WebFile, WebLimits, open_web
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import Readable

POLICY = DecodePolicy()


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 0.02)


def read(server: WebServer, path: str, policy: DecodePolicy = POLICY, **limits) -> bytes:
    return WebFile(f"{server.url}/{path}", WebLimits(**limits)).read(policy)


def refused(server: WebServer, path: str, policy: DecodePolicy = POLICY, **limits) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        read(server, path, policy, **limits)
    assert path.partition("?")[0] in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_picture(server):
    found = stored(f"{server.url}/picture.png")
    assert isinstance(found, WebFile)
    assert isinstance(found, Readable)
    assert str(found) == f"{server.url}/picture.png"
    assert pickle.loads(pickle.dumps(found)) == found
    assert found.read(POLICY) == PICTURE
    assert server.agents[-1].startswith("bowerbird/")


def test_many_at_once_and_nothing_is_remembered_of_them(server):
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: read(server, "picture.png"), range(100))) == {PICTURE}
    assert set(server.cookies) == {None}


def test_a_process_of_its_own_ends_quietly(server):
    code = (
        "import sys; from bowerbird.flow.web import WebFile; from bowerbird.media.policy import DecodePolicy; "
        "print(len(WebFile(sys.argv[1]).read(DecodePolicy())))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, f"{server.url}/picture.png"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (str(len(PICTURE)), "")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("404", "not there"),
        ("403", "refused"),
        ("410", "any more"),
        ("401", "login"),
        ("418", "418"),
        ("204", "204"),
    ],
)
def test_an_answer_that_is_none(server, status, said):
    before = server.hits[f"/{status}"]
    assert said in str(refused(server, status))
    assert server.hits[f"/{status}"] == before + 1, "asking again would not help"


@pytest.mark.parametrize("status", ["500", "502", "503", "429"])
def test_a_server_that_stays_busy(server, status):
    before = server.hits[f"/{status}"]
    error = refused(server, status, retries=2)
    assert status in str(error)
    assert "3 attempts" in str(error)
    assert server.hits[f"/{status}"] == before + 3


@pytest.mark.parametrize("after", ["", "0", "soon"])
@pytest.mark.parametrize("status", [429, 503])
def test_busy_at_first(server, status, after):
    assert read(server, f"busy?1,{status},{after}") == PICTURE


def test_retry_after_is_honoured_within_bounds(server, monkeypatch):
    started = time.monotonic()
    assert read(server, "busy?1,429,1") == PICTURE
    assert time.monotonic() - started >= 1
    started = time.monotonic()
    assert "asks to wait 86400 s" in str(refused(server, "busy?9,429,86400"))
    assert server.hits["/busy?9,429,86400"] == 1
    assert time.monotonic() - started < 1


def test_retry_after_as_a_date():
    from datetime import datetime, timedelta, timezone
    from email.utils import format_datetime

    soon = datetime.now(timezone.utc) + timedelta(seconds=20)
    assert web._asked_wait(format_datetime(soon, usegmt=True)) == pytest.approx(20, abs=2)
    assert web._asked_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert web._asked_wait("7") == 7
    assert web._asked_wait("soon") is None
    assert web._asked_wait("") is None


@pytest.mark.parametrize("path", ["cut", "reset", "nonsense"])
def test_a_connection_that_breaks(server, path):
    error = refused(server, path, retries=1)
    assert "broke off" in str(error)
    assert "2 attempts" in str(error)


@pytest.mark.parametrize("path", ["cut-once", "reset-once"])
def test_a_connection_that_breaks_once(server, path):
    assert read(server, path) == PICTURE
    assert server.hits[f"/{path}"] == 2


def test_wrong_lengths(server):
    assert read(server, "short-length") == PICTURE[:100]  # It is cut as the server says; decoding tells.
    assert "99,999,999,999 bytes" in str(refused(server, "huge-length"))


@pytest.mark.parametrize("path", ["drip", "drip-headers", "silent"])
def test_slow(server, path):
    started = time.monotonic()
    assert "longer than 0.5 s" in str(refused(server, path, seconds=0.5, retries=0))
    assert "longer than 0.3 s" in str(refused(server, path, DecodePolicy(seconds=0.3), retries=0))
    assert time.monotonic() - started < 2


def test_silence(server):
    assert "stopped answering" in str(refused(server, "silent", read_seconds=0.2, retries=0))


def test_caps(server):
    size = len(PICTURE)
    assert read(server, "picture.png", max_bytes=size) == PICTURE
    assert read(server, "picture.png", DecodePolicy(max_bytes=0, seconds=0), seconds=0) == PICTURE
    assert f"cap of {size - 1:,}" in str(refused(server, "picture.png", max_bytes=size - 1))
    assert "cap of 99" in str(refused(server, "picture.png", DecodePolicy(max_bytes=99), max_bytes=size))
    assert "cap of 100,000" in str(refused(server, "endless", max_bytes=100_000))
    time.sleep(0.2)
    sent = server.sent
    assert sent < 30_000_000, "it went on reading"


def test_redirects(server):
    assert read(server, "to?/picture.png") == PICTURE
    assert read(server, f"to?{server.url}/picture.png") == PICTURE
    assert read(server, "count?5") == PICTURE
    assert "more than 5 times" in str(refused(server, "count?6"))
    assert "more than 5 times" in str(refused(server, "loop"))
    assert server.hits["/loop"] == 6
    for target in ("file:///etc/passwd", "ftp://host/a.jpg", "data:,x"):
        assert "no http:// or https:// address" in str(refused(server, f"to?{target}"))


@pytest.mark.parametrize("path", ["html", "html-as-picture.jpg"])
def test_a_page_instead_of_a_picture(server, path):
    assert "HTML" in str(refused(server, path))


def test_what_is_no_picture_is_left_to_the_decoder(server):
    assert read(server, "text") == b"just text"
    with pytest.raises(DecodeError, match="empty"):
        read(server, "empty")


def test_a_password_is_used_and_never_shown(server):
    url = server.url.replace("http://", "http://me:secret@")
    assert WebFile(f"{url}/secret").read(POLICY) == PICTURE
    with pytest.raises(UnreadableError) as caught:
        WebFile(f"{url}/404").read(POLICY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///a.jpg",
        "http://[::1",
        "http://a b/",
        "http://h:99999/",
        "http://\udcff/",
        "ftp://h/a",
    ],
)
def test_what_is_no_address(url):
    with pytest.raises(UnreadableError) as caught:
        WebFile(url).read(DecodePolicy(seconds=5))
    str(caught.value).encode()


def test_nobody_there(server):
    with pytest.raises(UnreadableError, match="cannot be reached"):
        WebFile("http://127.0.0.1:9/a.jpg", WebLimits(retries=1)).read(POLICY)
    with pytest.raises(UnreadableError, match=r"cannot be reached: its name has no address"):
        WebFile("http://no-such-host.invalid/a.jpg").read(POLICY)


@pytest.mark.parametrize("name", ["seconds", "retries", "max_bytes"])
def test_limits_that_are_none(name):
    with pytest.raises(BowerbirdError, match=name):
        WebLimits(**{name: -1})


class TestPublicOnly:
    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "[fe80::1]",
         "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "100.64.0.1", "224.0.0.1", "[2002:7f00:1::]", "127.1",
         "0177.0.0.1", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]", "[::7f00:1]", "[fec0::1]", "[fd00::1]"],
    )  # fmt: skip
    def test_addresses_that_are_not_public(self, server, host):
        port = server.url.rpartition(":")[2]
        before = sum(server.hits.values())
        with pytest.raises(UnreadableError, match=r"not a public address|cannot be reached|Invalid IPv4"):
            WebFile(f"http://{host}:{port}/picture.png", WebLimits(public_only=True, retries=0)).read(
                DecodePolicy(seconds=5)
            )
        assert sum(server.hits.values()) == before

    def test_a_name_is_looked_up_once_and_connected_to_as_checked(self, server, monkeypatch):
        """The second answer of a name server cannot lead somewhere else (DNS rebinding)."""
        asked = []
        real = socket.getaddrinfo
        port = int(server.url.rpartition(":")[2])

        def resolve(host, *more, **options):
            name = host.decode() if isinstance(host, bytes) else host
            asked.append(name)
            if name == "rebinding.test":
                address = "127.0.0.1" if asked.count(name) > 1 else "8.8.4.4"
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
            if name == "8.8.4.4":
                raise socket.gaierror(socket.EAI_NONAME, "not in a test")
            return real(host, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        before = sum(server.hits.values())
        with pytest.raises(UnreadableError, match="cannot be reached"):
            WebFile(f"http://rebinding.test:{port}/picture.png", WebLimits(public_only=True, retries=0)).read(
                POLICY
            )
        assert asked.count("rebinding.test") == 1
        assert sum(server.hits.values()) == before
        assert "127.0.0.1" not in asked

    def test_the_name_is_still_what_the_server_is_told(self, server, monkeypatch):
        """With the check out of the way: connected to the address, asked for by the name."""
        monkeypatch.setattr(web, "_is_public", lambda address: True)
        port = server.url.rpartition(":")[2]
        assert (
            WebFile(f"http://localhost:{port}/picture.png", WebLimits(public_only=True)).read(POLICY)
            == PICTURE
        )

    @pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"])
    def test_addresses_that_are_public(self, address):
        assert web._is_public(address)

    def test_no_proxy_is_asked(self, server, monkeypatch):
        """It would look up the name by itself, and reach what it likes."""
        monkeypatch.setattr(web, "_is_public", lambda address: True)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv("no_proxy", raising=False)
        web._client.cache_clear()
        try:
            assert WebFile(f"{server.url}/picture.png", WebLimits(public_only=True)).read(POLICY) == PICTURE
        finally:
            web._client.cache_clear()

    def test_a_redirect_to_a_private_address(self, server, monkeypatch):
        allowed = []

        def first_only(address):
            allowed.append(address)
            return len(allowed) == 1

        monkeypatch.setattr(web, "_is_public", first_only)
        error = refused(server, "to?/picture.png", public_only=True)
        assert "not a public address" in str(error)
        assert "picture.png" in str(error)


class TestOpen:
    def test_lines(self, server):
        with open_bytes(f"{server.url}/lines.csv") as file:
            assert file.readline() == b"line 0\n"
            assert sum(1 for _ in file) == 49_999
            assert file.read() == b""
        with open_web(f"{server.url}/lines.csv") as file:
            assert not file.seekable()
            assert file.read(3) == b"lin"

    @pytest.mark.parametrize("path", ["404", "loop", "reset", "to?file:///etc/passwd"])
    def test_what_cannot_be_opened(self, server, path):
        with pytest.raises(UnreadableError):
            open_web(f"{server.url}/{path}")

    def test_what_breaks_in_the_middle(self, server):
        with open_web(f"{server.url}/cut") as file, pytest.raises(UnreadableError, match="broke off"):
            file.read()

    def test_silence(self, server):
        with pytest.raises(UnreadableError, match="stopped answering"):
            open_web(f"{server.url}/silent", WebLimits(read_seconds=0.1))
