"""An index written on a Ray cluster: as one written here, each record once, whoever dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs ray[data]")
pytest.importorskip("lance_ray", reason="needs lance-ray")

from tests.flow.object_store import serving
from tests.flow.ray_cluster import Nodes, running

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import RecordError
from bowerbird.flow.report import RunReport
from bowerbird.record import content_id
from bowerbird.store import manifest
from bowerbird.store.location import Location

if TYPE_CHECKING:
    from tests.conftest import Command

pytestmark = [
    pytest.mark.slow,
    # Ray's own: it warns of its settings, and leaves sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Picture = Callable[..., bytes]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray import cloudpickle

    # Workers cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with running() as nodes:
        yield nodes


@pytest.fixture
def ray(nodes: Nodes) -> bb.Ray:
    """Two workers, and few records in a parcel, so that there are many pieces."""
    return bb.Ray(nodes.address, workers=2, batch=5)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit after every record, if possible."""
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", "0")


def rows(path: object) -> list[dict[str, Any]]:
    """All rows that a reader sees, in the order of ids, vectors as bytes."""
    index = bb.Index.open(str(path))
    names = [name for name in index.table.names if name != "indexed_at"]
    found = []
    for batch in index.table.scan(names):
        for row in batch.to_pylist():
            vectors = {name: value for name, value in row.items() if isinstance(value, list)}
            found.append(
                {**row, **{name: np.asarray(value, np.float32).tobytes() for name, value in vectors.items()}}
            )
    assert len(found) == len(index), "the manifest counts other rows"
    return sorted(found, key=lambda row: row["id"])


def counts(report: RunReport) -> dict[str, int]:
    """What a run did; of the stages only whether the network ran."""
    names = ("added", "changed", "moved", "unchanged", "copies")
    found = {name: report.counts[name] for name in names if report.counts[name]}
    return {**found, "done": report.done, "failed": report.failed.total(), "ran": "network" in report.stages}


def failures(path: Path) -> list[str]:
    """Ids and reasons in the file of errors."""
    lines = (path / "errors.jsonl").read_text("utf-8").splitlines()
    return sorted(" ".join(map(str, json.loads(line).values())) for line in lines)


class Both:
    """The same records written here and on the cluster, each into an index of its own."""

    def __init__(self, folder: Path, ray: bb.Ray) -> None:
        self.here, self.there = folder / "here.bower", folder / "there.bower"
        self.ray = ray

    def __call__(self, records: Callable[[], Collection[Any]]) -> dict[str, int]:
        local = records().embed("mini").on(bb.Local(threads=2)).write(str(self.here))
        remote = records().embed("mini").on(self.ray).write(str(self.there))
        assert counts(remote) == counts(local)
        assert remote.failed == local.failed
        assert rows(self.there) == rows(self.here)
        assert failures(self.there) == failures(self.here)
        return counts(remote)


@pytest.fixture
def both(tmp_path: Path, ray: bb.Ray) -> Both:
    return Both(tmp_path, ray)


def named(count: int, picture: Picture, **more: Any) -> list[Record]:
    return [
        Record(f"r{number:03}", picture(number), (f"number {number}",), {"price": number, **more}, named=True)
        for number in range(count)
    ]


# The same as on one machine.


def test_rows_of_a_table(tmp_path: Path, picture: Picture, both: Both, eager: None) -> None:
    """Parts, attributes, copies, failures; a second run; a third with changes."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(picture(number % 10))  # 10 and 11 are copies of 0 and 1
    (tmp_path / "12.png").write_bytes(b"not a picture")
    table = tmp_path / "goods.csv"

    def write(changed: str, price: object) -> None:
        lines = [f"s{n},{n}.png,{n * 10},text {n}{changed if n == 3 else ''}" for n in range(14)]
        lines += [f"t{n},,{price},only a text {n}" for n in range(4)] + [
            "t4,,8,only a text 3",  # a copy, and among the last, in the same piece
            "s2,5.png,1,the id has come before",
        ]
        table.write_text("sku,photo,price,caption\n" + "\n".join(lines) + "\n", "utf-8")

    def goods() -> Collection[Any]:
        return Collection.from_csv(table, image="photo", text="caption", id="sku")

    write("", 7)
    # A picture that is none, one that is not there, and an id that came twice.
    assert both(goods) == {"added": 17, "copies": 1, "done": 17, "failed": 3, "ran": True}
    assert both(goods) == {"unchanged": 17, "done": 17, "failed": 3, "ran": False}
    (tmp_path / "5.png").write_bytes(picture(100))
    write(" and more", 7.5)
    assert both(goods) == {"changed": 2, "unchanged": 15, "done": 17, "failed": 3, "ran": True}
    assert {row["price"] for row in rows(both.there) if row["id"][0] == "t"} == {7.5, 8}


def test_attributes_that_nobody_could_foresee(picture: Picture, both: Both, eager: None) -> None:
    """Of a source that can be read once nothing is known before: columns come, and change, while workers write."""

    def told(number: int) -> dict[str, Any]:
        if number < 12:
            return {}
        return {"price": "dear" if number == 40 else number + (0.5 if number >= 30 else 0), "from": "afar"}

    def records() -> Collection[Any]:
        return Collection.from_items(
            Record(f"r{number:03}", None, (f"the text of number {number}",), told(number), named=True)
            for number in range(45)
        )

    remote = records().embed("mini").on(both.ray).write(str(both.there))
    found = {row["id"]: row for row in rows(both.there)}
    refused = [failure.id for failure in remote.failures]
    # A column changes its type only when no worker writes rows of the old one.
    assert set(refused) >= {"r040"}
    assert set(refused) <= {f"r{number:03}" for number in range(30, 45)}
    assert set(found) == {f"r{number:03}" for number in range(45)} - set(refused)
    assert all(row["from"] == ("afar" if id_ > "r011" else None) for id_, row in found.items())
    assert all(found[f"r{number:03}"]["price"] == number for number in range(12, 30))
    # Another run, with nobody else at work, finds room for them.
    again = records().embed("mini").on(bb.Local(threads=2)).write(str(both.there))
    assert [failure.id for failure in again.failures] == ["r040"]
    assert len(rows(both.there)) == 44


def test_a_folder_and_what_becomes_of_it(tmp_path: Path, picture: Picture, ray: bb.Ray, eager: None) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02} a.png").write_bytes(picture(number))
        if number % 2:
            # Its copy is next to it, so that two workers meet them at the same time.
            (folder / f"{number:02} b.png").write_bytes(picture(number))
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "broken copy.png").write_bytes(b"not a picture")

    def both() -> dict[str, int]:
        reports, found = [], []
        for name, executor in (("here", None), ("there", ray)):
            place = tmp_path / f"{name}.bower"
            index = bb.Index.open(str(place)) if place.exists() else bb.Index.create(str(place))
            reports.append(index.add(folder, executor=executor))
            # Which of two copies has the plain content as its id depends on who was first.
            found.append(sorted((str(row.pop("uri")), row.pop("id")[:20], row) for row in rows(place)))
        for report in reports:
            report.seconds, report.verdict = 0, ""
            report.failed.sort()
        assert reports[0] == reports[1]
        assert found[0] == found[1]
        report = reports[1]
        names = ("added", "changed", "moved", "unchanged", "removed", "copies")
        return {name: number for name in names if (number := getattr(report, name))} | {
            "failed": len(report.failed)
        }

    assert both() == {"added": 30, "copies": 10, "failed": 2}
    assert both() == {"unchanged": 30, "failed": 2}
    (folder / "04 a.png").write_bytes(picture(104))
    (folder / "07 b.png").write_bytes(picture(107))
    (folder / "08 a.png").rename(folder / "moved.png")
    (folder / "09 a.png").unlink()
    (folder / "new.png").write_bytes(picture(200))
    assert both() == {
        "added": 1,
        "changed": 2,
        "moved": 1,
        "unchanged": 26,
        "removed": 1,
        "failed": 2,
    }


def test_copies_are_embedded_once(picture: Picture, tmp_path: Path, ray: bb.Ray) -> None:
    """Each picture in four records, in parcels of one, so that workers ask for the same bytes at the same time."""
    parts = [picture(number) for number in range(6)]
    seen = tmp_path / "seen"
    seen.mkdir()
    records = [Record(f"r{n}-{copy}", parts[n], named=copy < 2) for n in range(6) for copy in range(4)]
    ray.batch = 1
    report = Collection.from_items(records).embed("mini").on(ray).write(str(tmp_path / "copies.bower"))
    assert counts(report) == {"added": 24, "copies": 18, "done": 24, "failed": 0, "ran": True}
    found = rows(tmp_path / "copies.bower")
    assert Counter(row["content"] for row in found) == dict.fromkeys((row["content"] for row in found), 4)
    assert len({row["content"] for row in found}) == 6
    assert all(row["thumbnail"] for row in found)


def test_the_run_that_stops_at_the_first_failure_keeps_what_was_done(
    picture: Picture, tmp_path: Path, ray: bb.Ray
) -> None:
    records = named(30, picture)
    records[17] = Record("bad", b"not a picture", named=True)
    target = str(tmp_path / "strict.bower")
    with pytest.raises(RecordError, match="bad"):
        Collection.from_items(records).embed("mini").on_error("raise").on(ray).write(target)
    kept = [row["id"] for row in rows(target)]
    assert set(kept) >= {f"r{number:03}" for number in range(17)}
    report = Collection.from_items(records).embed("mini").on(bb.Local(threads=2)).write(target)
    assert report.counts["unchanged"] == len(kept)
    assert [row["id"] for row in rows(target)] == sorted({f"r{n:03}" for n in range(30)} - {"r017"})


# Deaths.


def slowly(folder: str) -> Callable[[Record], Record]:
    """A step that takes its time, and says which processes and machines are at work."""

    def wait(record: Record) -> Record:
        import ray

        (Path(folder) / str(os.getpid())).write_text(ray.get_runtime_context().get_node_id())
        time.sleep(0.03)
        return record

    return wait


def many(count: int, picture: Picture) -> list[Record]:
    """Records with pictures; every tenth is a copy of the one before it."""
    return [
        Record(f"r{number:03}", picture(number - (number % 10 == 9)), attributes={"n": number}, named=True)
        for number in range(count)
    ]


def assert_complete(path: object, records: list[Record]) -> None:
    found = {row["id"]: row for row in rows(path)}
    assert sorted(row["id"] for row in rows(path)) == sorted(record.id for record in records)
    for record in records:
        assert found[record.id]["content"] == content_id(bytes(record.image))  # type: ignore[arg-type]
        assert found[record.id]["n"] == record.attributes["n"]


@pytest.mark.parametrize("what", ["workers", "a node"])
def test_killed_in_the_middle(what: str, nodes: Nodes, picture: Picture, tmp_path: Path, eager: None) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    records, target = many(200, picture), tmp_path / "killed.bower"
    ray = bb.Ray(nodes.address, workers=3, batch=5)
    killed: list[str] = []

    def kill() -> None:
        """Three workers, one after the other; or one machine with what runs on it."""
        for turn in range(3 if what == "workers" else 1):
            while not (left := [mark for mark in marks.iterdir() if mark.name not in killed]):
                time.sleep(0.05)
            time.sleep(0.7)
            if what == "workers":
                os.kill(int(left[turn % len(left)].name), signal.SIGKILL)
            else:
                nodes.kill(left[0].read_text())
            killed.append(left[turn % len(left)].name)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        report = (
            Collection.from_items(records).map(slowly(str(marks))).embed("mini").on(ray).write(str(target))
        )
    finally:
        killer.join()
        if what == "a node":
            nodes.add()
    assert "a worker was lost; others took over its work" in report.notes
    assert counts(report) == {"added": 200, "copies": 20, "done": 200, "failed": 0, "ran": True}
    assert_complete(target, records)


DRIVER = """
import pickle, sys
from pathlib import Path
import bowerbird as bb

def main():
    pickled, target, address = sys.argv[1:]
    records = pickle.loads(Path(pickled).read_bytes())
    def wait(record):
        import time
        time.sleep(0.02)
        return record
    ray = bb.Ray(address, workers=2, batch=5)
    bb.Collection.from_items(records).map(wait).embed("mini").on(ray).write(target)

main()
"""


def test_the_process_that_started_the_run_is_killed(
    nodes: Nodes, ray: bb.Ray, picture: Picture, tmp_path: Path
) -> None:
    import pickle

    records, target = many(150, picture), tmp_path / "left.bower"
    (tmp_path / "records").write_bytes(pickle.dumps(records))
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tmp_path / "records", target, nodes.address],
        env={**os.environ, "BOWERBIRD_COMMIT_SECONDS": "0.1"},
    )
    end = time.monotonic() + 90
    while not (target / manifest.NAME).exists() or manifest.read(Location.of(target)).records < 60:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end, "nothing was written"
        time.sleep(0.02)
    process.kill()
    process.wait()
    left = rows(target)
    assert 60 <= len(left) < 150
    assert len({row["id"] for row in left}) == len(left)
    report = Collection.from_items(records).embed("mini").on(ray).write(str(target))
    # What the killed run had committed to the table and not yet shown to readers counts as well.
    assert report.counts["unchanged"] >= len(left)
    assert report.counts["unchanged"] + report.counts["added"] == 150
    assert report.counts["added"] > 0
    assert_complete(target, records)


# Elsewhere.


def test_in_an_object_store(nodes: Nodes, picture: Picture, tmp_path: Path) -> None:
    with serving() as store:
        lines = ["sku,photo,caption"]
        for number in range(12):
            store.put(f"images/{number}.png", picture(number))
            lines.append(f"s{number},{number}.png,number {number}")
        store.put("goods.csv", "\n".join(lines).encode())
        # Machines of a cluster know nothing of the variables that are set here.
        ray = bb.Ray(nodes.address, workers=2, batch=3, runtime_env={"env_vars": {**store.environment}})
        goods = Collection.from_csv(
            store.uri("goods.csv"), image="photo", text="caption", id="sku", root=store.uri("images")
        ).embed("mini")
        target = store.uri("goods.bower")
        assert counts(goods.on(ray).write(target))["added"] == 12
        assert counts(goods.on(bb.Local(threads=2)).write(str(tmp_path / "here.bower")))["added"] == 12
        assert rows(target) == rows(tmp_path / "here.bower")


def test_the_command_with_a_cluster_of_its_own(run: Command, picture: Picture) -> None:
    """Although the environment names another one."""
    for number in range(6):
        (run.cwd / f"{number}.png").write_bytes(picture(number))
    lines = [f"s{number},{number}.png,number {number}" for number in range(6)]
    (run.cwd / "goods.csv").write_text("sku,photo,caption\n" + "\n".join(lines), "utf-8")
    words = ("goods.csv", "--image", "photo", "--text", "caption", "--id", "sku", "--index", "goods.bower")
    where = ("--on", "ray", "--workers", 2, "--address", "local")
    started = run.start("index", *words, *where, env={"RAY_ADDRESS": "127.0.0.1:9"})
    done = run.finish(started, seconds=180)
    assert "6 added" in done.err
    assert "fork" not in done.err
    assert [row["id"] for row in rows(run.cwd / "goods.bower")] == [f"s{number}" for number in range(6)]


def test_several_models_are_filled_in_on_the_cluster(
    tmp_path: Path, picture: Picture, ray: bb.Ray, eager: None
) -> None:
    """By the workers, for records that they have written, and for a model that comes later."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed:02}.png").write_bytes(picture(seed))
    (folder / "broken.png").write_bytes(b"not a picture")
    small, smaller = (bb.load("mini", dimensions=dimensions) for dimensions in (64, 32))
    there = bb.Index.create(tmp_path / "there.bower", ["mini", small])
    report = there.add(folder, executor=ray)
    assert (report.added, report.filled, len(report.failed)) == (12, 12, 1)
    added = there.add_model(smaller, executor=ray)
    assert (added.filled, added.failed) == (12, [])
    here = bb.Index.create(tmp_path / "here.bower", ["mini", small, smaller])
    here.add(folder)
    columns = [column.name for column in here.columns]
    assert len(columns) == 6
    for mine, theirs in zip(rows(here.path), rows(there.path), strict=True):
        assert {name: mine[name] for name in columns} == {name: theirs[name] for name in columns}
