"""Values from Python."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird.errors import BowerbirdError, FunctionError
from bowerbird.flow.sources.values import PART_ITEMS, IterableSource, RangeSource
from bowerbird.record import Failure


@given(st.integers(-5000, 5000), st.none() | st.integers(-5000, 5000), st.integers(-7, 7).filter(bool))
def test_ranges_count_as_range_does(start, stop, step):
    expected = list(range(0, start, step) if stop is None else range(start, stop, step))
    source = RangeSource(start, stop, step)
    assert list(source) == expected
    assert source.count() == len(expected)
    assert [value for part in source.parts() for value in pickle.loads(pickle.dumps(part))] == expected
    assert source.describe().startswith("range(")


def test_a_range_without_end():
    with pytest.raises(BowerbirdError, match="step=0"):
        RangeSource(0, 5, 0)


def test_a_sequence_is_shared_out_in_order():
    values = list(range(PART_ITEMS * 2 + 1))
    source = IterableSource(values)
    assert list(source) == list(source) == values
    assert [part.count() for part in source.parts()] == [PART_ITEMS, PART_ITEMS, 1]
    assert [value for part in source.parts() for value in part] == values
    assert source.count() == len(values)
    assert len(IterableSource([]).parts()) == 1


def test_elements_are_as_they_are():
    elements = [None, {"a": 1}, Failure("x", "y", FunctionError("z"))]
    assert all(found is given for found, given in zip(IterableSource(elements), elements, strict=True))


def test_a_function_gives_a_new_iterator_each_time():
    source = IterableSource(lambda: iter("abc"))
    assert list(source) == list(source) == ["a", "b", "c"]
    assert source.count() is None
    assert source.parts() == (source,)


def test_a_generator_only_once():
    source = IterableSource(value for value in "abc")
    assert list(source) == ["a", "b", "c"]
    with pytest.raises(BowerbirdError, match=r"a second time.*function that returns a new iterator"):
        iter(source)


def test_an_iterator_that_raises():
    def broken():
        yield 1
        yield 2
        raise KeyError("lost")

    *before, failure = IterableSource(broken)
    assert before == [1, 2]
    assert failure.id == "element 2"
    assert failure.step == "from_items"
    assert failure.kind == "KeyError"
    assert "in broken" in failure.error.trace


def test_a_function_that_raises_gives_one_failure():
    def refuses():
        raise ValueError("no")

    (failure,) = IterableSource(refuses)
    assert (failure.id, failure.kind) == ("element 0", "ValueError")


def test_interrupting_is_not_a_failure():
    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(IterableSource(interrupted))


def test_what_cannot_be_iterated():
    with pytest.raises(BowerbirdError, match="type int cannot be iterated"):
        IterableSource(5)
