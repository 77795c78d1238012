"""Files of TREC, read and written; what is wrong in them is named with its line."""

from __future__ import annotations

import gzip
import io
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bowerbird as bb
from bowerbird.errors import BowerbirdError, QueryError, RowError, StoreError, UnreadableError
from bowerbird.judge.measures import measure, measured
from bowerbird.judge.trec import (
    known_only,
    read_qrels,
    read_queries,
    read_run,
    write_qrels,
    write_run,
)

# Ids as people have them: paths with blanks, letters of any script; never a tab, an end of line, or blanks at the ends.
IDS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(
    lambda text: text == text.strip() and "\ufeff" not in text and "\x85" not in text
)
QRELS = st.dictionaries(IDS, st.dictionaries(IDS, st.integers(-5, 5), min_size=1), min_size=1)


@given(QRELS)
def test_qrels_come_back_as_they_were_written(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("trec") / "qrels.txt"
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


@given(st.dictionaries(IDS, st.lists(IDS, min_size=1, unique=True), min_size=1))
def test_a_run_comes_back_in_its_order(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("trec") / "run.txt"
    write_run(path, run)
    found = read_run(path)
    assert {
        query: sorted(scores, key=scores.__getitem__, reverse=True) for query, scores in found.items()
    } == run


def test_files_are_those_of_ir_measures(tmp_path: Path):
    ir_measures = pytest.importorskip("ir_measures")
    qrels, run = {"q1": {"a": 1, "b": 0}, "q2": {"c": 2}}, {"q1": ["b", "a"], "q2": ["c"]}
    write_qrels(tmp_path / "qrels", qrels)
    write_run(tmp_path / "run", run, "mine")
    theirs = ir_measures.calc_aggregate(
        [ir_measures.AP, ir_measures.nDCG @ 10],
        ir_measures.read_trec_qrels(str(tmp_path / "qrels")),
        ir_measures.read_trec_run(str(tmp_path / "run")),
    )
    ours = measured([measure("AP"), measure("nDCG@10")], qrels, run)
    assert {str(one): ours.mean(one) for one in ours.values} == {
        str(one): value for one, value in theirs.items()
    }
    assert (tmp_path / "run").read_text().splitlines()[0] == "q1 Q0 b 1 2 mine"


def test_files_as_others_write_them_are_read(tmp_path: Path):
    """Windows line ends, a byte order mark, blank lines, several blanks, tabs, gzip."""
    (tmp_path / "qrels").write_bytes("\ufeffq1 0  a 1\r\n\r\nq1\t0\tb c\t-1\r\n".encode())
    assert read_qrels(tmp_path / "qrels") == {"q1": {"a": 1, "b c": -1}}
    with gzip.open(tmp_path / "run.gz", "wb") as file:
        file.write(b"q1 Q0 a 1 1e-3 x\nq1 Q0 b 2 -inf x\n")
    assert read_run(tmp_path / "run.gz") == {"q1": {"a": 0.001, "b": float("-inf")}}


def test_a_query_that_is_a_picture_is_asked_as_one(tmp_path: Path, monkeypatch):
    shutil.copy(bb.samples() / "chelsea.jpg", tmp_path / "cat.jpg")
    absolute = bb.samples() / "coffee.jpg"
    (tmp_path / "q.tsv").write_text(f"1\ta cat\n2\tcat.jpg\n3\tlost.jpg\n4\t{absolute}\n5\ta\ttab\n")
    monkeypatch.chdir("/")
    assert read_queries(tmp_path / "q.tsv") == {
        "1": "a cat",
        "2": tmp_path / "cat.jpg",
        "3": "lost.jpg",
        "4": absolute,
        "5": "a\ttab",
    }


@pytest.mark.parametrize(
    ("read", "content", "said"),
    [
        (read_qrels, b"q1 0 a 1\nq1 0 a\n", "file.txt:2 has 3 fields"),
        (read_qrels, b"q1 0 a 1\n\nq1 0 a 2\n", "file.txt:3 judges 'a' for query 'q1' again"),
        (read_qrels, b"q1 0 a high\n", "file.txt:1: the grade 'high'"),
        (read_qrels, b"\n \n", "file.txt holds no judgement"),
        (read_qrels, b"q1 0 \xff 1\n", "line 1 is not UTF-8"),
        (read_run, b"q1 Q0 a 1 0.5\n", "file.txt:1 has 5 fields"),
        (read_run, b"q1 Q0 a 1 good x\n", "file.txt:1: the score 'good'"),
        (read_run, b"q1 Q0 a 1 nan x\n", "file.txt:1: the score 'nan'"),
        (read_run, b"q1 Q0 a 1 2 x\nq1 Q0 a 2 1 x\n", "file.txt:2 finds 'a'"),
        (read_queries, b"1 a cat\n", "file.txt:1 is not a query"),
        (read_queries, b"1\t \n", "file.txt:1 is not a query"),
        (read_queries, b"1\ta\n1\tb\n", "file.txt:2 repeats the query id '1'"),
        (read_queries, b"", "file.txt holds no query"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, read, content: bytes, said: str):
    (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(RowError) as error:
        read(tmp_path / "file.txt")
    assert said in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("read", [read_qrels, read_run, read_queries])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, read):
    with pytest.raises(UnreadableError, match=r"none\.txt"):
        read(tmp_path / "none.txt")


def test_a_picture_given_for_a_text_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(BowerbirdError, match=r"chelsea\.jpg"):
        read_qrels(bb.samples() / "chelsea.jpg")


def test_unknown_records_stay_relevant_and_are_told_of():
    ids = ["shoe-1", "shoe-2", "hat-1"]
    qrels = {"q": {"shoe-1": 1, "shoe-3": 1, "coat": 1}, "r": {"gone": 0}}
    kept, told = known_only(qrels, lambda name: name if name in ids else "", ids)
    assert kept == qrels
    assert told.startswith("3 of the 4 judged records are not in the index")
    assert "'shoe-3' (did you mean 'shoe-" in told
    scores = measured([measure("R@10")], kept, {"q": ["shoe-1"]})
    assert scores.values[measure("R@10")].tolist() == [pytest.approx(1 / 3), 0]


def test_records_may_be_named_by_something_else():
    kept, told = known_only({"q": {"a.jpg": 0, "b.jpg": 1}}, {"a.jpg": "7", "b.jpg": "7"}.get, ["7"])  # type: ignore[arg-type]
    assert (kept, told) == ({"q": {"7": 1}}, "")


def test_qrels_of_another_collection_are_refused():
    with pytest.raises(QueryError) as error:
        known_only({"q": {"d1": 1, "d2": 1}}, lambda _: "", ["photo-1"])
    assert "None of the 2 records" in error.value.message
    assert "'photo-1'" in error.value.hint


def test_ids_that_no_file_can_hold_are_refused(tmp_path: Path):
    with pytest.raises(QueryError, match="cannot be written"):
        write_qrels(tmp_path / "qrels", {"q": {"a\tb": 1}})


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(StoreError):
        write_run(tmp_path / "none" / "run", {"q": ["a"]})


def test_pytrec_eval_reads_what_is_written(tmp_path: Path):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    write_run(tmp_path / "run", {"q": ["b", "a", "c"]})
    assert pytrec_eval.parse_run(io.StringIO((tmp_path / "run").read_text())) == {
        "q": {"b": 3.0, "a": 2.0, "c": 1.0}
    }
