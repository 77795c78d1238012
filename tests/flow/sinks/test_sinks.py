"""The contract that every sink passes: complete or not there, failures listed, nothing replaced unasked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bowerbird.errors import BowerbirdError, DecodeError, FunctionError, RecordError, RowError
from bowerbird.flow.plan import Plan
from bowerbird.flow.report import RunReport
from bowerbird.flow.sinks.clip_retrieval import ClipRetrievalSink
from bowerbird.flow.sinks.errors import ErrorsFile
from bowerbird.flow.sinks.parquet import ParquetSink
from bowerbird.flow.sinks.sink import Sink
from bowerbird.flow.sinks.vectors import NpySink
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.record import Failure, Record
from bowerbird.store.lance_files import LanceSink, LanceSource


@dataclass
class Kind:
    """How a sink is made, where, and how many rows its output has."""

    make: Callable[..., Sink]
    name: str
    count: Callable[[Path], int]
    errors: str


KINDS = {
    "parquet": Kind(ParquetSink, "o.parquet", lambda p: pq.read_table(p).num_rows, "o.parquet.errors.jsonl"),
    "parquets": Kind(ParquetSink, "o", lambda p: pq.read_table(p).num_rows, "o.errors.jsonl"),
    "npy": Kind(NpySink, "o", lambda p: len(np.load(p / "image.npy", mmap_mode="r")), "o/errors.jsonl"),
    "clip": Kind(ClipRetrievalSink, "o", lambda p: pq.read_table(p / "metadata").num_rows, "o/errors.jsonl"),
    "lance": Kind(LanceSink, "o.lance", lambda p: LanceSource(p).count(), "o.lance.errors.jsonl"),
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def record(number: int, **attributes: object) -> Record:
    vector = np.random.default_rng(number).normal(size=16).astype(np.float32)
    return Record(
        f"r{number}",
        Path(f"/p/{number}.jpg"),
        (f"text {number}",),
        attributes,
        {"image": vector},
        {"image": 2.0},
    )


def write(sink: Sink, *chunks: list[object]) -> RunReport:
    report = RunReport()
    for chunk in chunks:
        for item in chunk:
            if isinstance(item, Failure):
                report.take(item)
            else:
                report.done += 1
        sink.write(chunk)
    sink.finish(report)
    return report


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_is_written(kind, tmp_path):
    target = tmp_path / "new" / kind.name
    write(kind.make(target), [record(n) for n in range(5)], [], [record(n) for n in range(5, 8)])
    assert kind.count(target) == 8
    assert names(target.parent) == [kind.name]


def test_nothing_to_write(kind, tmp_path):
    target = tmp_path / kind.name
    report = write(kind.make(target))
    assert target.exists()
    assert report.done == 0
    assert names(tmp_path) == [kind.name]


def test_failures_are_listed_and_are_no_rows(kind, tmp_path):
    target = tmp_path / kind.name
    decode = Failure("b.jpg", "decode", DecodeError("b.jpg is no picture.", hint="Copy it."))
    raised = Failure("c", "map(f)", FunctionError("f raised.", kind="KeyError", trace="line 3"))
    odd = Failure("\udcff", "read", RowError("odd"))
    write(kind.make(target), [record(1), decode, record(2)], [raised, odd])
    assert kind.count(target) == 2
    lines = [json.loads(line) for line in (tmp_path / kind.errors).read_text("utf-8").splitlines()]
    assert lines == [
        {
            "id": "b.jpg",
            "step": "decode",
            "kind": "DecodeError",
            "message": "b.jpg is no picture.",
            "hint": "Copy it.",
        },
        {
            "id": "c",
            "step": "map(f)",
            "kind": "KeyError",
            "message": "f raised.",
            "hint": "",
            "trace": "line 3",
        },
        {"id": "\udcff", "step": "read", "kind": "RowError", "message": "odd", "hint": ""},
    ]


def test_errors_file_of_an_earlier_run_goes(kind, tmp_path):
    errors = tmp_path / "elsewhere.jsonl"
    errors.write_text("old")
    write(kind.make(tmp_path / kind.name, errors=errors), [record(1)])
    assert not errors.exists()
    write(
        kind.make(tmp_path / kind.name, errors=errors, overwrite=True),
        [record(1), Failure("b", "x", RowError("y"))],
    )
    assert len(errors.read_text().splitlines()) == 1


def test_what_is_there_is_replaced_only_when_asked(kind, tmp_path):
    target = tmp_path / kind.name
    write(kind.make(target), [record(1)])
    with pytest.raises(BowerbirdError, match="there already") as caught:
        kind.make(target)
    assert "overwrite=True" in caught.value.hint
    assert kind.count(target) == 1
    sink = kind.make(target, overwrite=True)
    sink.write([record(1), record(2)])
    # Until the end, the old one is there.
    assert kind.count(target) == 1
    sink.finish(RunReport())
    assert kind.count(target) == 2
    assert names(tmp_path) == [kind.name]


@pytest.mark.parametrize("overwrite", [True, False])
def test_other_things_are_never_replaced(kind, tmp_path, overwrite):
    target = tmp_path / kind.name
    target.mkdir()
    (target / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(BowerbirdError, match=r"holds other things|is a folder"):
        kind.make(target, overwrite=overwrite)
    assert (target / "holiday.jpg").read_bytes() == b"dear"


def test_a_file_where_a_folder_should_be(kind, tmp_path):
    if kind.name.endswith(".parquet"):
        pytest.skip("writes a file")
    (tmp_path / kind.name).write_text("a file")
    with pytest.raises(BowerbirdError, match="is a file"):
        kind.make(tmp_path / kind.name, overwrite=True)


def test_something_appears_while_it_runs(kind, tmp_path):
    target = tmp_path / kind.name
    sink = kind.make(target)
    sink.write([record(1)])
    write(kind.make(tmp_path / "other" / kind.name), [record(1), record(2)])
    (tmp_path / "other" / kind.name).rename(target)
    with pytest.raises(BowerbirdError, match="there already"):
        sink.finish(RunReport())
    sink.abort()
    assert kind.count(target) == 2
    assert names(tmp_path / "other") == []
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_aborted(kind, tmp_path):
    kind.make(tmp_path / kind.name).abort()
    sink = kind.make(tmp_path / kind.name)
    sink.write([record(1)])
    sink.abort()
    sink.abort()
    assert names(tmp_path) == []


def test_two_runs_at_once(kind, tmp_path):
    first, second = (kind.make(tmp_path / kind.name) for _ in range(2))
    first.write([record(1)])
    with pytest.raises(BowerbirdError, match="Another run"):
        second.write([record(2)])
    second.abort()
    first.finish(RunReport())
    assert kind.count(tmp_path / kind.name) == 1


def test_a_place_that_cannot_be_written_to(kind, tmp_path):
    (tmp_path / "file").write_text("in the way")
    sink = kind.make(tmp_path / "file" / kind.name)
    with pytest.raises(BowerbirdError, match="cannot be written"):
        sink.write([record(1)])
    sink.abort()


def test_a_full_disk(kind, tmp_path):
    # Larger files than this are refused by the system, as on a full disk.
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_sinks import KINDS, record\n"
        "from pathlib import Path\n"
        "from bowerbird.errors import BowerbirdError\n"
        "sink = KINDS[sys.argv[3]].make(Path(sys.argv[2]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    sink.write([record(n) for n in range(1000)])\n"
        "    from bowerbird.flow.report import RunReport\n"
        "    sink.finish(RunReport())\n"
        "except BowerbirdError as error:\n"
        "    print(error)\n"
        "    sink.abort()\n"
    )
    name = next(name for name in KINDS if KINDS[name] is kind)
    here = str(Path(__file__).parent)
    words = [sys.executable, "-W", "error", "-c", program, here, str(tmp_path / kind.name), name]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert not done.stderr
    assert names(tmp_path) == []


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_sinks import KINDS, record
sink = KINDS[sys.argv[3]].make(Path(sys.argv[2]), overwrite=True)
number = 0
while True:
    sink.write([record(n % 100) for n in range(number, number + 100)])
    number += 100
    if number % 1000 == 0:
        print(number, flush=True)
"""


@pytest.mark.parametrize("before", [0, 3])
def test_killed_in_the_middle(kind, tmp_path, before):
    target = tmp_path / kind.name
    if before:
        write(kind.make(target), [record(n) for n in range(before)])
    name = next(name for name in KINDS if KINDS[name] is kind)
    words = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(target), name]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout
    for _ in range(3):
        assert process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # What was there is there; nothing else looks like output.
    assert [found for found in names(tmp_path) if not found.startswith(".")] == (
        [kind.name] if before else []
    )
    if before:
        assert kind.count(target) == before
    # The next run starts anew and leaves nothing behind.
    write(kind.make(target, overwrite=bool(before)), [record(n) for n in range(7)])
    assert kind.count(target) == 7
    assert names(tmp_path) == [kind.name]


@pytest.mark.parametrize("kind", [KINDS["npy"], KINDS["clip"], KINDS["lance"]], ids=["npy", "clip", "lance"])
def test_killed_between_the_two_renames(kind, tmp_path):
    """A folder is replaced in two steps; a run that dies in between is mended by the next."""
    target = tmp_path / kind.name
    write(kind.make(target), [record(1)])
    hidden = tmp_path / f".{kind.name}.partial"
    hidden.mkdir()
    target.rename(hidden / "former")
    sink = kind.make(target, overwrite=True)
    sink.write([record(1), record(2)])
    sink.abort()
    assert kind.count(target) == 1
    assert names(tmp_path) == [kind.name]


@pytest.mark.slow
def test_memory_is_bounded(tmp_path):
    program = (
        "import sys, resource\nfrom pathlib import Path\nimport numpy as np\n"
        "from bowerbird.flow.report import RunReport\nfrom bowerbird.record import Record\n"
        "from bowerbird.flow.sinks.vectors import NpySink\n"
        "sink = NpySink(Path(sys.argv[1]))\n"
        "vectors = np.ones((1000, 512), np.float32)\n"
        "peaks = []\n"
        "for start in range(0, 100_000, 1000):\n"
        "    sink.write([Record(str(n), vectors={'image': v}) for n, v in enumerate(vectors, start)])\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "sink.finish(RunReport())\n"
        "print((peaks[-1] - peaks[9]) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "o")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # 100,000 rows are 205 MB.
    assert int(done.stdout) < 60
    assert np.load(tmp_path / "o" / "image.npy", mmap_mode="r").shape == (100_000, 512)


def test_the_errors_file_by_itself(tmp_path):
    path = tmp_path / "errors.jsonl"
    errors = ErrorsFile(path, step="save")
    assert errors.take_from([1, Failure("a", "s", RowError("m")), 2]) == [1, 2]
    # At once, not at the end.
    assert json.loads(path.read_text())["id"] == "a"
    errors.refuse("b", RowError("cannot be held"))
    report = RunReport(done=2)
    errors.finish(report)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == ["s", "save"]
    assert report.failed == {"RowError": 1}
    assert report.done == 1
    errors = ErrorsFile(path)
    errors.follow(Plan(ParquetSource("x.parquet"), on_error="raise"))
    with pytest.raises(RecordError, match="b"):
        errors.refuse("b", RowError("cannot be held"))


@pytest.mark.parametrize("name", ["npy", "clip"])
def test_nothing_was_embedded(name, tmp_path):
    kind = KINDS[name]
    sink = kind.make(tmp_path / "o")
    sink.write([Record("a", Path("/a.jpg"), ("x",)), Record("b", texts=("y",))])
    with pytest.raises(BowerbirdError, match=r"Nothing was embedded.*\.embed\(MODEL\)"):
        sink.finish(RunReport())
    sink.abort()
    assert names(tmp_path) == []
