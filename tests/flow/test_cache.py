"""The cache of vectors: bit for bit, shared by processes, and never in the way."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bowerbird.flow.cache import Entry, VectorCache
from bowerbird.record import content_id

FACTS = {"format": "JPEG", "width": 640, "height": 480, "taken_at": "2020-05-17T10:11:12"}


def key(number: int) -> str:
    return content_id(str(number).encode())


def entry(number: int, dim: int = 64, thumbnail: bytes | None = b"thumbnail") -> Entry:
    vector = np.random.default_rng(number).normal(size=dim).astype(np.float32)
    return Entry({"image": vector}, {"image": float(number)}, {**FACTS, "number": number}, thumbnail)


def same(one: Entry, other: Entry) -> bool:
    return (
        list(one.vectors) == list(other.vectors)
        and all(
            one.vectors[name].shape == other.vectors[name].shape
            and one.vectors[name].tobytes() == other.vectors[name].tobytes()
            for name in one.vectors
        )
        and one.norms == other.norms
        and one.facts == other.facts
        and one.thumbnail == other.thumbnail
    )


arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=2, max_side=9),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True),
)
entries = st.builds(
    Entry,
    st.dictionaries(st.text(max_size=9), arrays, max_size=3),
    st.dictionaries(st.text(max_size=9), st.floats(allow_nan=False), max_size=3),
    st.dictionaries(st.text(max_size=9), st.none() | st.integers() | st.text() | st.booleans(), max_size=3),
    st.none() | st.binary(max_size=50),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 20).map(key), entries, max_size=5))
def test_what_was_put_comes_back_bit_for_bit(tmp_path, given_entries):
    with VectorCache("space", tmp_path / "vectors") as cache:
        cache.put(given_entries)
    with VectorCache("space", tmp_path / "vectors") as cache:
        found = cache.get([*given_entries, "never put"])
    assert set(found) == set(given_entries)
    assert all(same(found[content], given_entries[content]) for content in found)


def test_each_space_has_its_own(tmp_path):
    with VectorCache("one", tmp_path) as one, VectorCache("two", tmp_path) as two:
        one.put({key(1): entry(1)})
        assert two.get([key(1)]) == {}
        assert same(one.get([key(1)])[key(1)], entry(1))


def test_more_contents_than_one_query_takes(tmp_path):
    with VectorCache("space", tmp_path) as cache:
        cache.put({key(number): entry(number) for number in range(1500)})
        assert len(cache.get([key(number) for number in range(1600)])) == 1500


def test_vectors_can_be_written_to(tmp_path):
    with VectorCache("space", tmp_path) as cache:
        cache.put({key(1): entry(1)})
        cache.get([key(1)])[key(1)].vectors["image"][0] = 7
        assert same(cache.get([key(1)])[key(1)], entry(1))


def test_the_directory_of_the_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path))
    with VectorCache("space") as cache:
        cache.put({key(1): entry(1)})
        assert cache.path.parent == tmp_path / "vectors"
        assert cache.path.exists()


@pytest.mark.parametrize("zero", ["argument", "setting"])
def test_zero_bytes_mean_no_cache(monkeypatch, tmp_path, zero):
    if zero == "setting":
        monkeypatch.setenv("BOWERBIRD_CACHE_BYTES", "0")
    with VectorCache("space", tmp_path / "vectors", 0 if zero == "argument" else None) as cache:
        cache.put({key(1): entry(1)})
        assert cache.get([key(1)]) == {}
    assert not (tmp_path / "vectors").exists()


def test_many_threads_share_one(tmp_path):
    failures: list[int] = []

    def work(worker: int) -> None:
        for start in range(0, 64, 8):
            numbers = range(worker * 1000 + start, worker * 1000 + start + 8)
            cache.put({key(number): entry(number) for number in numbers})
            found = cache.get([key(number) for number in numbers])
            failures.extend(n for n in numbers if key(n) not in found or not same(found[key(n)], entry(n)))

    with VectorCache("space", tmp_path) as cache:
        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


WRITER = """
import sys
from pathlib import Path
import numpy as np
from bowerbird.flow.cache import Entry, VectorCache
from bowerbird.record import content_id

first, count, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
with VectorCache("space", directory) as cache:
    for start in range(first, first + count, 8):
        entries = {}
        for number in range(start, start + 8):
            vector = np.random.default_rng(number).normal(size=64).astype(np.float32)
            facts = {"format": "JPEG", "width": 640, "height": 480, "taken_at": "2020-05-17T10:11:12"}
            entries[content_id(str(number).encode())] = Entry(
                {"image": vector}, {"image": float(number)}, {**facts, "number": number}, b"thumbnail"
            )
        cache.put(entries)
        print(start, flush=True)
"""


def writer(first: int, count: int, directory: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-W", "error", "-c", WRITER, str(first), str(count), str(directory)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_many_processes_write_at_once(tmp_path):
    # Two of them write the same entries.
    processes = [writer(first, 400, tmp_path) for first in (0, 0, 400, 800)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert not err
    with VectorCache("space", tmp_path) as cache:
        found = cache.get([key(number) for number in range(1200)])
    assert len(found) == 1200
    assert all(same(found[key(number)], entry(number)) for number in range(1200))


def test_killed_while_it_writes(tmp_path):
    reported = 0
    for _ in range(3):
        process = writer(0, 1_000_000, tmp_path)
        assert process.stdout
        for _ in range(20):
            reported = max(reported, int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with VectorCache("space", tmp_path) as cache:
        found = cache.get([key(number) for number in range(reported + 800)])
        # All that was there when `put` came back, whole batches after it, and nothing half-written.
        assert set(found) >= {key(number) for number in range(reported + 8)}
        assert len(found) % 8 == 0
        assert all(same(found[key(n)], entry(n)) for n in range(reported + 800) if key(n) in found)
        cache.put({"after": entry(1)})
        assert "after" in cache.get(["after"])


def damage_all(path: Path) -> None:
    path.write_bytes(b"This is no database." * 1000)


def damage_end(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def damage_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (path.stat().st_size - 8192))


@pytest.mark.parametrize("damage", [damage_all, damage_end, damage_pages])
def test_a_damaged_file_is_set_aside(tmp_path, caplog, damage):
    contents = [key(number) for number in range(200)]
    with VectorCache("space", tmp_path) as cache:
        cache.put({key(number): entry(number) for number in range(200)})
        damaged = cache.path
    damage(damaged)
    with caplog.at_level(logging.WARNING, "bowerbird"), VectorCache("space", tmp_path) as cache:
        found = cache.get(contents)
        assert all(same(found[key(n)], entry(n)) for n in range(200) if key(n) in found)
        assert len(found) < 200
        cache.put({key(number): entry(number) for number in range(200)})
        assert len(cache.get(contents)) == 200
        assert cache.path != damaged
    assert "damaged" in caplog.text
    assert damaged.exists()
    caplog.clear()
    with VectorCache("space", tmp_path) as cache:
        assert len(cache.get(contents)) == 200
    assert not caplog.text


def test_a_changed_entry_is_not_believed(tmp_path, caplog):
    with VectorCache("space", tmp_path) as cache:
        cache.put({key(1): entry(1), key(2): entry(2)})
        path = cache.path
    connection = sqlite3.connect(path)
    (data,) = connection.execute("SELECT data FROM entries WHERE content = ?", (key(1),)).fetchone()
    changed = data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]
    connection.execute("UPDATE entries SET data = ? WHERE content = ?", (changed, key(1)))
    connection.commit()
    connection.close()
    with VectorCache("space", tmp_path) as cache:
        assert set(cache.get([key(1), key(2)])) == {key(2)}
        assert "damaged" in caplog.text
        cache.put({key(1): entry(1)})
        assert same(cache.get([key(1)])[key(1)], entry(1))


def test_an_entry_under_another_key_is_not_believed(tmp_path, caplog):
    with VectorCache("space", tmp_path) as cache:
        cache.put({key(1): entry(1)})
        path = cache.path
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET content = ?", (key(2),))
    connection.commit()
    connection.close()
    with VectorCache("space", tmp_path) as cache:
        assert cache.get([key(1), key(2)]) == {}
    assert "damaged" in caplog.text


def test_a_place_that_cannot_be_written_to(tmp_path, caplog):
    (tmp_path / "in the way").write_text("a file")
    with VectorCache("space", tmp_path / "in the way") as cache:
        for _ in range(3):
            cache.put({key(1): entry(1)})
            assert cache.get([key(1)]) == {}
    assert len([record for record in caplog.records if "not cached" in record.message]) == 1


FULL = """
import logging, resource, signal, sys
from pathlib import Path
import numpy as np
from bowerbird.flow.cache import Entry, VectorCache

logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
vector = np.arange(4096, dtype=np.float32)
with VectorCache("space", Path(sys.argv[1])) as cache:
    cache.put({"first": Entry({"image": vector})})
    # Larger files than this are refused by the system, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    for number in range(40):
        cache.put({str(number): Entry({"image": vector})})
    assert cache.get(["first"])["first"].vectors["image"].tobytes() == vector.tobytes()
"""


def test_a_full_disk_stops_writing_not_reading(tmp_path):
    words = [sys.executable, "-W", "error", "-c", FULL, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Vectors are not cached in this run") == len(done.stderr.splitlines()) == 1
    with VectorCache("space", tmp_path) as cache:
        assert "first" in cache.get(["first"])
        cache.put({key(1): entry(1)})
        assert key(1) in cache.get([key(1)])


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir() if not path.name.endswith("-shm"))


def test_over_the_cap_the_oldest_go(monkeypatch, tmp_path):
    cap = 4 << 20
    clock = [time.time() - 1e6]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    with VectorCache("space", tmp_path, cap) as cache:
        for number in range(0, 2000, 8):
            clock[0] += 4000
            cache.put({key(n): entry(n, 1024) for n in range(number, number + 8)})
            # In use all the time, so it stays.
            assert key(0) in cache.get([key(0)])
        found = cache.get([key(n) for n in range(2000)])
        assert set(found) >= {key(n) for n in [0, *range(1900, 2000)]}
        assert not set(found) & {key(n) for n in range(1, 500)}
        assert len(found) > 300
    assert size_of(tmp_path) < cap * 1.2


def test_other_spaces_are_pruned_first(tmp_path):
    cap = 4 << 20
    with VectorCache("old", tmp_path, cap) as old, VectorCache("new", tmp_path, cap) as new:
        old.put({key(n): entry(n, 1024) for n in range(700)})
        for start in range(0, 240, 8):
            new.put({key(n): entry(n, 1024) for n in range(start, start + 8)})
        assert len(new.get([key(n) for n in range(240)])) == 240
        # Another process may be using it: it has become smaller, not vanished.
        assert 50 < len(old.get([key(n) for n in range(700)])) < 400
        old.put({key(1): entry(1)})
        assert key(1) in old.get([key(1)])
    assert size_of(tmp_path) < cap * 1.2


def test_damaged_files_go_when_room_is_needed(tmp_path):
    cap = 4 << 20
    with VectorCache("space", tmp_path, cap) as cache:
        cache.put({key(n): entry(n, 1024) for n in range(500)})
        damaged = cache.path
    damage_all(damaged)
    with VectorCache("space", tmp_path, cap) as cache:
        for start in range(0, 2000, 8):
            cache.put({key(n): entry(n, 1024) for n in range(start, start + 8)})
    assert size_of(tmp_path) < cap * 1.2


def test_after_a_fork(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    program = (
        "import os, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from bowerbird.flow.cache import Entry, VectorCache\n"
        "cache = VectorCache('space', Path(sys.argv[1]))\n"
        "cache.put({'a': Entry({'x': np.ones(3, np.float32)})})\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    cache.put({'b': Entry({'x': np.ones(3, np.float32)})})\n"
        "    ok = set(cache.get(['a', 'b'])) == {'a', 'b'}\n"
        "    cache.close()\n"
        "    os._exit(0 if ok else 1)\n"
        "code = os.waitpid(child, 0)[1]\n"
        "assert set(cache.get(['a', 'b'])) == {'a', 'b'}\n"
        "cache.close()\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
