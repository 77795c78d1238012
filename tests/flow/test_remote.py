"""Objects in a store: read, listed, and everything that can go wrong on the way."""

from __future__ import annotations

import pickle
import socket
import time

import pytest
from tests.flow.object_store import ObjectStore, forget_connections, gate, serving

from bowerbird.errors import BowerbirdError, DecodeError, MissingExtraError, UnreadableError
from bowerbird.flow.remote import StoredFile, is_remote, list_files, open_bytes, stored
from bowerbird.media.policy import DecodePolicy
from bowerbird.media.reading import Readable

POLICY = DecodePolicy()


@pytest.fixture(scope="module")
def store():
    with serving() as found:
        yield found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/key", True),
        ("https://host/a.jpg", True),
        ("GS://bucket/x", True),
        ("memory://a", True),
        ("file:///a/b.jpg", False),
        ("a/b.jpg", False),
        ("/a://b", False),
        ("C:\\a", False),
        ("", False),
        ("://", False),
    ],
)
def test_what_is_remote(text, expected):
    assert is_remote(text) is expected


def test_an_object_is_read_also_after_pickling(store: ObjectStore):
    uri = store.put("a.bin", b"some bytes")
    found = stored(uri)
    assert isinstance(found, Readable)
    assert str(found) == uri
    assert found.read(POLICY) == b"some bytes"
    assert pickle.loads(pickle.dumps(found)).read(POLICY) == b"some bytes"
    assert found.read(DecodePolicy(max_bytes=0, seconds=0)) == b"some bytes"


@pytest.mark.parametrize(
    "name", ["a b.jpg", "ä/日本.jpg", "a#b?c.jpg", "100%.jpg", "x::y.jpg", "[1].jpg", "a+b&c.jpg"]
)
def test_odd_names(store: ObjectStore, name):
    uri = store.put(f"odd/{name}", name.encode())
    assert stored(uri).read(POLICY) == name.encode()
    assert uri in list(list_files(store.uri("odd")))


def test_caps(store: ObjectStore):
    uri = store.put("big.bin", b"x" * 1000)
    assert len(stored(uri).read(DecodePolicy(max_bytes=1000))) == 1000
    with pytest.raises(UnreadableError, match=r"cap of 999"):
        stored(uri).read(DecodePolicy(max_bytes=999))
    with gate(store) as before:
        with pytest.raises(UnreadableError, match=r"1,000 bytes, more than the cap of 999"):
            StoredFile(uri, size=1000).read(DecodePolicy(max_bytes=999))
        assert before.seen == [], "a size that is known needs no request"


def test_an_empty_object_is_said_to_be_empty(store: ObjectStore):
    uri = store.put("empty.jpg", b"")
    for found in (stored(uri), StoredFile(uri, size=0)):
        with pytest.raises(DecodeError, match="empty"):
            found.read(POLICY)


def test_what_is_not_there(store: ObjectStore):
    with pytest.raises(UnreadableError, match=r"nothing\.jpg does not exist"):
        stored(store.uri("nothing.jpg")).read(POLICY)
    with pytest.raises(UnreadableError, match="bucket that does not exist"):
        stored("s3://there-is-no-such-bucket/a.jpg").read(POLICY)
    with pytest.raises(UnreadableError, match="does not exist"):
        list(list_files(store.uri("no-folder")))
    with pytest.raises(UnreadableError, match=r"Nothing is at|does not exist"):
        list(list_files(store.uri("no-folder/*.jpg")))
    with pytest.raises(UnreadableError, match="bucket that does not exist"):
        list(list_files("s3://there-is-no-such-bucket/*.jpg"))


def test_forbidden(store: ObjectStore):
    uri = store.put("secret.jpg", b"x")
    with gate(store) as before:
        before.faults.append(("GET|HEAD", 403, "AccessDenied", 99))
        with pytest.raises(UnreadableError, match=r"refused access") as caught:
            stored(uri).read(POLICY)
        assert "credentials" in caught.value.hint
        with pytest.raises(UnreadableError, match=r"refused access"):
            list(list_files(store.uri()))


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (0, "")])
def test_a_store_that_is_busy_is_asked_again(store: ObjectStore, status, code):
    uri = store.put("busy.jpg", b"x")
    with gate(store) as before:
        before.faults.append(("GET", status, code, 1))
        assert stored(uri).read(POLICY) == b"x"
        assert len(before.seen) == 2


def test_a_store_that_stays_busy_is_given_up(store: ObjectStore):
    uri = store.put("busy.jpg", b"x")
    with gate(store) as before:
        before.faults.append(("GET", 503, "ServiceUnavailable", 999))
        started = time.monotonic()
        with pytest.raises(UnreadableError, match=r"busy\.jpg"):
            stored(uri).read(DecodePolicy(seconds=5))
        assert time.monotonic() - started < 7
        assert 2 <= len(before.seen) < 30


def test_nobody_answers(store: ObjectStore, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    try:
        started = time.monotonic()
        with pytest.raises(UnreadableError, match=r"cannot be reached|took longer") as caught:
            stored("s3://bucket/a.jpg").read(DecodePolicy(seconds=20))
        assert time.monotonic() - started < 21
        assert "AWS_ENDPOINT_URL" in caught.value.hint
    finally:
        monkeypatch.undo()
        forget_connections()


def test_a_store_that_takes_too_long(store: ObjectStore, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget_connections()
        try:
            started = time.monotonic()
            with pytest.raises(UnreadableError, match=r"longer than 0\.5 s"):
                stored("s3://bucket/a.jpg").read(DecodePolicy(seconds=0.5))
            assert time.monotonic() - started < 3
        finally:
            monkeypatch.undo()
            forget_connections()


def test_listing_is_folder_by_folder_in_order(store: ObjectStore):
    for name in (
        "b.jpg",
        "a.png",
        "notes.txt",
        ".hidden.jpg",
        "z/2.jpg",
        "z/10.JPG",
        "c/d/e.webp",
        ".cache/f.jpg",
    ):
        store.put(f"photos/{name}", b"x")
    store.put("photos/c/", b"")  # what some tools make to stand for a folder
    base = store.uri("photos")

    def below(pattern: str) -> list[str]:
        return [uri.removeprefix(f"{base}/") for uri in list_files(pattern)]

    assert below(base) == below(f"{base}/") == ["a.png", "b.jpg", "c/d/e.webp", "z/10.JPG", "z/2.jpg"]
    assert below(f"{base}/*.jpg") == [".hidden.jpg", "b.jpg"]
    assert below(f"{base}/**/*.jpg") == [".hidden.jpg", "b.jpg", "z/2.jpg"]
    assert below(f"{base}/*/*") == ["z/10.JPG", "z/2.jpg"]
    assert below(f"{base}/notes.txt") == ["notes.txt"]
    assert below(f"{base}/?.*") == ["a.png", "b.jpg"]


def test_listing_asks_for_no_more_than_is_taken(store: ObjectStore):
    for folder in range(5):
        store.put(f"lazy/{folder}/a.jpg", b"x")
    with gate(store) as before:
        listing = list_files(store.uri("lazy/"))
        next(listing)
        asked = len(before.seen)
        assert len(list(listing)) == 4
        assert not any("lazy%2F1" in line for line in before.seen[:asked])
        assert any("lazy%2F1" in line for line in before.seen)


def test_open_bytes(store: ObjectStore, tmp_path):
    text = b"".join(b"line %d\n" % number for number in range(100_000))
    with open_bytes(store.put("lines.txt", text)) as file:
        assert file.readline() == b"line 0\n"
        assert sum(1 for _ in file) == 99_999
        file.seek(7)
        assert file.readline() == b"line 1\n"
    (tmp_path / "lines.txt").write_bytes(text)
    for place in (tmp_path / "lines.txt", str(tmp_path / "lines.txt"), (tmp_path / "lines.txt").as_uri()):
        with open_bytes(place) as file:
            assert file.read() == text
    with pytest.raises(UnreadableError, match="does not exist"):
        open_bytes(store.uri("nothing.txt"))
    with pytest.raises(FileNotFoundError):
        open_bytes(tmp_path / "nothing.txt")


def test_an_open_file_whose_store_goes_away(store: ObjectStore):
    uri = store.put("long.txt", b"x" * 60_000_000)
    with gate(store) as before, open_bytes(uri) as file:
        assert file.read(10) == b"x" * 10
        before.faults.append(("GET", 404, "NoSuchKey", 99))
        with pytest.raises(UnreadableError, match=r"long\.txt does not exist"):
            file.read()


class TestOtherFileSystems:
    def test_fsspec(self, tmp_path):
        import fsspec

        (tmp_path / "a.jpg").write_bytes(b"local")
        found = stored(str(tmp_path / "a.jpg"), fsspec.filesystem("file"))
        assert pickle.loads(pickle.dumps(found)).read(POLICY) == b"local"
        assert list(list_files(str(tmp_path), fsspec.filesystem("file"))) == [str(tmp_path / "a.jpg")]
        with pytest.raises(UnreadableError, match="cap of 3"):
            found.read(DecodePolicy(max_bytes=3))

    def test_pyarrow(self, tmp_path):
        from pyarrow import fs

        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "a.jpg").write_bytes(b"arrow")
        system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
        found = stored("b/a.jpg", system)
        assert found.read(POLICY) == b"arrow"
        assert pickle.loads(pickle.dumps(found)).read(POLICY) == b"arrow"
        assert list(list_files("b", system)) == ["b/a.jpg"]
        with open_bytes("b/a.jpg", system) as file:
            assert file.read() == b"arrow"
        with pytest.raises(UnreadableError, match="does not exist"):
            stored("b/nothing.jpg", system).read(POLICY)

    def test_pyarrow_s3(self, store: ObjectStore):
        from pyarrow import fs

        uri = store.put("arrow/a.jpg", b"arrow on s3")
        system = fs.S3FileSystem(
            access_key="testing",
            secret_key="testing",
            endpoint_override=store.url.removeprefix("http://"),
            scheme="http",
        )
        assert stored(uri, system).read(POLICY) == b"arrow on s3"
        assert list(list_files(store.uri("arrow"), system)) == [uri]

    def test_memory(self):
        import fsspec

        fsspec.filesystem("memory").pipe_file("/pictures/a.jpg", b"m")
        assert list(list_files("memory://pictures")) == ["memory:///pictures/a.jpg"]
        assert stored("memory:///pictures/a.jpg").read(POLICY) == b"m"

    def test_unknown(self):
        with pytest.raises(BowerbirdError, match="nonsense://"):
            stored("nonsense://a/b").read(POLICY)

    @pytest.mark.parametrize(
        ("uri", "package", "extra"), [("gs://b/a.jpg", "gcsfs", "gs"), ("az://b/a.jpg", "adlfs", "az")]
    )
    def test_a_package_that_is_missing_is_named(self, uri, package, extra):
        try:
            __import__(package)
        except ImportError:
            pass
        else:
            pytest.skip(f"{package} is installed")
        with pytest.raises(MissingExtraError) as caught:
            stored(uri).read(POLICY)
        assert (caught.value.package, caught.value.extra) == (package, extra)
