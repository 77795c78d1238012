"""Measures against ir-measures and pytrec_eval, on random judgements and runs with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bowerbird.errors import QueryError
from bowerbird.judge.measures import MEDIAN_RANK, Measure, measure, measured

ir_measures = pytest.importorskip("ir_measures")
pytrec_eval = pytest.importorskip("pytrec_eval")

KINDS = {
    "P": [1, 3, 10],
    "P(rel=2)": [3],
    "R": [1, 3, 10],
    "R(rel=2)": [3],
    "RR": [0, 1, 3, 10],
    "RR(rel=2)": [0, 3],
    "AP": [0, 1, 3],
    "AP(rel=2)": [0, 3],
    "nDCG": [0, 1, 3, 10],
    "Success": [1, 3],
    "Success(rel=2)": [3],
    "Judged": [0, 1, 3, 10],
    "Rprec": [0],
    "Rprec(rel=2)": [0],
}
NAMES = [f"{kind}@{cutoff}" if cutoff else kind for kind, cutoffs in KINDS.items() for cutoff in cutoffs]
PYTREC = {
    "P@3": "P_3",
    "R@3": "recall_3",
    "RR": "recip_rank",
    "AP": "map",
    "AP@3": "map_cut_3",
    "nDCG": "ndcg",
    "nDCG@3": "ndcg_cut_3",
    "Success@3": "success_3",
    "Rprec": "Rprec",
}
RECORDS = st.sampled_from([*"abcdefgh", "ä", "\uffff", "\U00010000"])
# Few different scores, so that most runs have ties; some differ only beyond single precision.
SCORE = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.00000001, -1.0, 1e-40]) | st.floats(-1e3, 1e3)
# trec_eval writes beyond its memory where all grades of a query are negative, so one is not.
GRADES = st.dictionaries(RECORDS, st.integers(-2, 3), min_size=1).filter(
    lambda grades: max(grades.values()) >= 0
)
QRELS = st.dictionaries(st.sampled_from("qrst"), GRADES, min_size=1)
RUN = st.dictionaries(st.sampled_from("qrstuv"), st.dictionaries(RECORDS, SCORE, min_size=1), min_size=1)


def ours(names, qrels, run) -> dict[tuple[str, str], float]:
    scores = measured([measure(name) for name in names], qrels, run)
    return {
        (str(one), query): float(value)
        for one, values in scores.values.items()
        for query, value in zip(scores.queries, values, strict=True)
    }


@given(QRELS, RUN)
@example({"q": {"a": 1, "b": 0}}, {"q": {"a": 1.00000001, "b": 1.0}})
@example({"q": {"a": 1}}, {"r": {"a": 1.0}})
@example({"q": {"a": -1, "b": 2}}, {"q": {"a": 3.0, "b": 2.0}})
def test_values_are_those_of_ir_measures(qrels, run):
    found = {
        (str(metric.measure), metric.query_id): metric.value
        for metric in ir_measures.iter_calc([ir_measures.parse_measure(name) for name in NAMES], qrels, run)
    }
    assert ours(NAMES, qrels, run) == pytest.approx(found, abs=1e-9)


@given(QRELS, RUN)
def test_means_are_those_of_ir_measures(qrels, run):
    whole = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in NAMES], qrels, run)
    scores = measured([measure(name) for name in NAMES], qrels, run)
    assert {str(one): scores.mean(one) for one in scores.values} == pytest.approx(
        {str(one): value for one, value in whole.items()}, abs=1e-9
    )


@given(QRELS, RUN)
def test_values_are_those_of_pytrec_eval(qrels, run):
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels,
        {"P.3", "recall.3", "recip_rank", "map", "map_cut.3", "ndcg", "ndcg_cut.3", "success.3", "Rprec"},
    )
    found = evaluator.evaluate(run)
    mine = ours(PYTREC, qrels, run)
    for query in qrels:
        for name, theirs in PYTREC.items():
            # pytrec_eval leaves out queries that found nothing; ir-measures counts them as 0, and so do we.
            assert mine[name, query] == pytest.approx(found.get(query, {}).get(theirs, 0.0), abs=1e-9)


@given(QRELS, RUN)
def test_a_list_is_judged_as_it_stands(qrels, run):
    lists = {query: list(found) for query, found in run.items()}
    scored = {
        query: {record: -float(rank) for rank, record in enumerate(found)} for query, found in lists.items()
    }
    assert ours(NAMES, qrels, lists) == ours(NAMES, qrels, scored)


@given(QRELS, RUN)
def test_the_median_rank_is_where_the_first_relevant_record_stands(qrels, run):
    one, reciprocal = measure("median rank"), measure("RR")
    scores = measured([one, reciprocal], qrels, run)
    assert np.allclose(1 / scores.values[one], scores.values[reciprocal])
    assert scores.mean(one) == np.median(scores.values[one])


def test_queries_that_found_nothing_count_as_zero():
    scores = measured(
        [measure("P@2"), measure("Judged@2"), measure("median rank")], {"q": {"a": 1}, "r": {}}, {"q": []}
    )
    assert [values.tolist() for values in scores.values.values()] == [[0, 0], [0, 0], [math.inf, math.inf]]


def test_a_query_with_negative_grades_alone_counts_as_zero():
    scores = measured(
        [measure("nDCG"), measure("AP"), measure("Rprec")], {"q": {"a": -2, "b": -1}}, {"q": ["a", "b"]}
    )
    assert [values.tolist() for values in scores.values.values()] == [[0], [0], [0]]


def test_no_queries_have_no_mean():
    scores = measured([measure("AP")], {}, {"q": {"a": 1.0}})
    assert scores.queries == ()
    assert math.isnan(scores.mean(measure("AP")))


@pytest.mark.parametrize("name", NAMES)
def test_names_are_spelled_as_in_ir_measures(name):
    assert str(measure(name)) == name == str(ir_measures.parse_measure(name))


@pytest.mark.parametrize("alias", ["MRR@10", "MAP", "NDCG@5", "Precision@2", "Recall@2", "RPrec"])
def test_other_spellings_of_ir_measures_are_taken(alias):
    assert str(measure(alias)) == str(ir_measures.parse_measure(alias))


def test_the_median_rank_has_two_names():
    assert measure("MedR") == measure(" median rank ") == Measure(MEDIAN_RANK)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ndgc@10", "Did you mean nDCG@10?"),
        ("recal@5", "Did you mean Recall@5?"),
        ("xyzzy", "Measures are P@10"),
        ("", "Measures are P@10"),
        ("P", "P@10"),
        ("R@0", "looks at no result"),
        ("Rprec@3", "takes no cutoff"),
        ("nDCG(rel=2)", "from which grade"),
        ("P(rel=0)@3", "from which grade"),
        ("P@-1", "Measures are"),
    ],
)
def test_names_that_are_none_are_refused_with_the_nearest(name, said):
    with pytest.raises(QueryError) as error:
        measure(name)
    assert said in str(error.value)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(QueryError, match="not a number"):
        measured([measure("AP")], {"q": {"a": 1}}, {"q": {"a": math.nan}})
