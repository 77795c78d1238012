"""Reports: counts, failures, times, verdicts."""

from __future__ import annotations

import pickle

from bowerbird import Failure
from bowerbird.errors import DecodeError, FunctionError, UnreadableError
from bowerbird.flow.plan import Clock
from bowerbird.flow.report import KEPT_FAILURES, LOADING, RunReport


def clock(**seconds: float) -> Clock:
    made = Clock()
    for stage, spent in seconds.items():
        made.add(stage, spent)
    return made


def test_a_summary_counts_by_kind_the_most_frequent_first():
    report = RunReport(done=1234)
    assert report.summary() == "1,234 done"
    report.take(Failure("a", "decode", DecodeError("x")))
    for _ in range(2):
        report.take(Failure("b", "map(f)", FunctionError("x", kind="KeyError")))
    assert report.summary() == "1,234 done, 3 failed (2 KeyError, 1 DecodeError)"


def test_all_failures_are_counted_and_the_first_are_kept_without_their_elements():
    report = RunReport()
    for n in range(KEPT_FAILURES + 5):
        report.take(Failure(str(n), "read", UnreadableError("gone"), bytes(10)))
    assert report.failed["UnreadableError"] == KEPT_FAILURES + 5
    assert len(report.failures) == KEPT_FAILURES
    assert report.failures[-1].id == str(KEPT_FAILURES - 1)
    assert {failure.value for failure in report.failures} == {None}


def test_errors_do_not_keep_the_frames_they_were_raised_in():
    def fail(data):
        try:
            raise OSError("disk")
        except OSError as error:
            raise UnreadableError("gone") from error

    try:
        fail(bytes(100))
    except UnreadableError as error:
        failure = Failure("a", "read", error)
    report = RunReport()
    report.take(failure)
    error = report.failures[0].error
    assert error.__traceback__ is None
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.__traceback__ is None


def test_the_verdict_names_what_took_longest_and_leaves_loading_out():
    report = RunReport()
    assert report.verdict == ""
    report.time(clock(**{LOADING: 100.0}))
    assert report.verdict == ""
    report.time(clock(decode=5.0, network=2.0))
    report.time(clock(decode=2.1, network=0.9))
    assert report.verdict == "decode-bound: 71% of the time"
    report.stages["network"] = 100 * sum(report.stages.values())
    assert report.verdict.startswith("model-bound: ")


def test_the_run_of_another_collection_is_taken_over():
    report, inner = RunReport(done=3), RunReport(done=7, notes=["memory ran short"])
    inner.take(Failure("a", "decode", DecodeError("x")))
    inner.time(clock(decode=1.0))
    inner.counts["dedupe(): dropped"] = 2
    report.time(clock(decode=0.5))
    report.absorb(inner)
    assert report.done == 3
    assert report.failed == {"DecodeError": 1}
    assert [failure.id for failure in report.failures] == ["a"]
    assert report.stages == {"decode": 1.5}
    assert report.counts == {"dedupe(): dropped": 2}
    assert report.notes == ["memory ran short"]


def test_clocks_add_up():
    one, other = clock(a=1.0), clock(a=2.0, b=3.0)
    one.count("x", 1)
    other.count("x", 2)
    one.merge(other)
    assert one.seconds == {"a": 3.0, "b": 3.0}
    assert one.counts == {"x": 3}
    with one.stage("c"):
        pass
    assert 0 <= one.seconds["c"] < 1


def test_a_report_can_be_sent_to_another_process():
    report = RunReport(done=2)
    report.take(Failure("a", "map(f)", FunctionError("x", kind="KeyError", trace="t")))
    again = pickle.loads(pickle.dumps(report))
    assert again.summary() == report.summary()
    assert again.failures[0].error.trace == "t"
