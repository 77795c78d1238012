"""Where an index lies: one contract for local directories and object stores, and the lock."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.flow.object_store import ObjectStore, forget_connections, gate, serving

from bowerbird.errors import IndexBusyError, IndexNotFoundError, IndexReadOnlyError, StoreError
from bowerbird.store import objects
from bowerbird.store.location import LOCK, Directory, Location
from bowerbird.store.objects import ObjectPlace


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with serving() as found:
        yield found


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> Location:
    if request.param == "local":
        return Location.of(tmp_path / "photos.bower")
    return Location.of(request.getfixturevalue("store").uri(f"{tmp_path.name}/photos.bower"))


class TestLocation:
    def test_it_is_found_again_by_its_name(self, place):
        assert Location.of(str(place)) == place
        assert Location.of(place) is place
        assert pickle.loads(pickle.dumps(place)) == place
        assert place.child("x") == f"{place}/x"

    def test_files(self, place):
        assert place.names() == []
        assert not place.exists("manifest.json")
        assert place.read_bytes("manifest.json") is None
        place.prepare()
        place.prepare()
        place.replace("manifest.json", b"1")
        place.replace("manifest.json", b"22")
        place.replace("other", b"")
        assert place.exists("manifest.json")
        assert place.read_bytes("manifest.json") == b"22"
        assert place.read_bytes("other") == b""
        assert place.names() == ["manifest.json", "other"]
        place.remove("other")
        place.remove("other")
        assert place.names() == ["manifest.json"]

    def test_folders(self, place):
        place.prepare()
        inner = Location.of(place.child("records.lance"))
        inner.prepare()
        inner.replace("a", b"1")
        assert place.names() == ["records.lance"]
        assert inner.names() == ["a"]
        place.remove("records.lance")
        assert place.names() == []
        place.remove("records.lance")

    def test_one_lock_at_a_time(self, place):
        place.prepare()
        with place.lock(1) as held:
            held.check()
            with pytest.raises(IndexBusyError, match=r"waited 0\.3 seconds") as caught, place.lock(0.3):
                pass
            assert str(place) in str(caught.value)
            assert "BOWERBIRD_LOCK_SECONDS" in caught.value.hint
        with place.lock(0):
            pass

    def test_the_lock_is_given_back_after_an_error(self, place):
        place.prepare()
        with pytest.raises(ZeroDivisionError), place.lock(0):
            raise ZeroDivisionError
        with place.lock(0):
            pass

    def test_many_want_the_lock(self, place):
        """Nobody is ever in it with another, and everybody gets it."""
        place.prepare()
        inside, most, done = [0], [0], []

        def work() -> None:
            with place.lock(60):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                inside[0] -= 1
            done.append(1)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most[0], len(done)) == (1, 6)


class TestDirectory:
    def test_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert Location.of("a.bower") == Location.of("~/a.bower") == Directory(tmp_path / "a.bower")

    def test_a_name_that_no_system_takes(self):
        with pytest.raises(StoreError, match="cannot hold an index"):
            Location.of(Path("/tmp/\udcff"))

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="in the way"):
            Location.of(tmp_path / "file").prepare()
        with pytest.raises(IndexNotFoundError, match="it is a file"):
            Location.of(tmp_path / "file").read_bytes("manifest.json")
        with pytest.raises(StoreError, match="cannot be read"):
            Location.of(tmp_path / "file").names()
        with pytest.raises(StoreError, match="in a folder that exists"):
            Location.of(tmp_path / "nothing").replace("a", b"")


class TestObjectPlace:
    def test_addresses(self):
        assert Location.of("s3://bucket/a.bower/") == ObjectPlace("s3://bucket/a.bower")
        assert Location.of("S3a://bucket/a.bower") == ObjectPlace("s3://bucket/a.bower")
        for address in ("https://host/a.bower", "memory://a.bower", "nonsense://a"):
            with pytest.raises(StoreError, match="cannot hold an index"):
                Location.of(address)

    def test_no_such_bucket(self, store):
        place = Location.of("s3://there-is-no-such-bucket/a.bower")
        actions: list[Callable[[], object]] = [
            place.prepare,
            place.names,
            lambda: place.exists("a"),
            lambda: place.read_bytes("a"),
            lambda: place.replace("a", b""),
            lambda: place.lock(0).__enter__(),
        ]
        for action in actions:
            with pytest.raises(StoreError, match="bucket that does not exist"):
                action()

    def test_forbidden(self, store):
        place = Location.of(store.uri("forbidden.bower"))
        place.replace("manifest.json", b"1")
        with gate(store) as before:
            before.faults.append(("PUT|POST|DELETE", 403, "AccessDenied", 99))
            assert place.read_bytes("manifest.json") == b"1"
            for action in (lambda: place.replace("a", b""), lambda: place.lock(0).__enter__()):
                with pytest.raises(IndexReadOnlyError, match="refused access"):
                    action()
            before.faults[:] = [("GET|HEAD", 403, "AccessDenied", 99)]
            with pytest.raises(StoreError, match="refused access") as caught:
                place.read_bytes("manifest.json")
            assert not isinstance(caught.value, IndexReadOnlyError)

    def test_nobody_answers(self, store, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        forget_connections()
        with pytest.raises(StoreError, match="cannot be reached"):
            Location.of("s3://bucket/a.bower").read_bytes("a")
        monkeypatch.undo()
        forget_connections()


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(objects, "LEASE", 3.0)


HOLD = """
import sys, time
from bowerbird.store import objects
from bowerbird.store.location import Location
objects.LEASE = float(sys.argv[2])
with Location.of(sys.argv[1]).lock(20) as held:
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(store) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that holds a lock."""
    started = []

    def start(uri: str, lease: float = 3.0) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, uri, str(lease)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **store.environment},
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
class TestLease:
    def test_a_lock_is_renewed_while_it_is_held(self, store, holder, monkeypatch):
        """For longer than the lease. It is a long one: it is lost where a machine stands still for half of it."""
        monkeypatch.setattr(objects, "LEASE", 12.0)
        place = Location.of(store.uri("renewed.bower"))
        process = holder(str(place), lease=12.0)
        with pytest.raises(IndexBusyError, match=f"process {process.pid} on ") as caught, place.lock(16):
            pass
        assert "waited 16 seconds" in caught.value.message

    def test_the_lock_of_a_killed_process_is_taken_over(self, store, holder, short_lease):
        place = Location.of(store.uri("killed.bower"))
        process = holder(str(place))
        process.kill()
        process.wait()
        started = time.monotonic()
        with place.lock(10) as held:
            assert time.monotonic() - started > 0.5
            held.check()
            assert len(store.names(f"killed.bower/{LOCK}")) == 1
        assert store.names("killed.bower") == []

    def test_a_process_that_was_stopped_knows_that_it_lost_the_lock(self, store, short_lease):
        place = Location.of(store.uri("stopped.bower"))
        code = HOLD.replace("time.sleep(60)", "sys.stdin.readline(); held.check()")
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(place), "3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **store.environment},
        )
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        with place.lock(10) as held:
            process.send_signal(signal.SIGCONT)
            _, err = process.communicate("\n", timeout=20)
            assert "IndexBusyError" in err
            assert "could not be renewed" in err
            held.check()
            assert len(store.names(f"stopped.bower/{LOCK}")) == 1, "it must not bring its own back"

    def test_a_store_that_goes_away_loses_the_lock(self, store, short_lease):
        place = Location.of(store.uri("away.bower"))
        with gate(store) as before, place.lock(5) as held:
            held.check()
            before.faults.append(("PUT", 403, "AccessDenied", 999))
            time.sleep(3.5)
            with pytest.raises(IndexBusyError, match="could not be renewed"):
                held.check()
