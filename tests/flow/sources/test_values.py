"""Values from Python."""

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bowerbird import Collection
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
        yield "one"
        yield "two"
        raise KeyError("lost")

    found = []
    with pytest.raises(
        BowerbirdError, match=r"from_items: .* raised KeyError after 2 elements: 'lost'"
    ) as caught:
        found.extend(IterableSource(broken))
    assert isinstance(caught.value.__cause__, KeyError)
    # A source that is cut off never looks complete, however it is run.
    for collection in (Collection.from_items(broken), Collection.from_texts(broken)):
        for policy in ("keep", "drop", "raise"):
            with pytest.raises(BowerbirdError, match="KeyError after 2 elements"):
                collection.on_error(policy).to_list()


def test_a_function_that_raises():
    def refuses():
        raise ValueError("no")

    with pytest.raises(BowerbirdError, match="ValueError after 0 elements: no"):
        list(IterableSource(refuses))
    with pytest.raises(BowerbirdError, match="ValueError after 1 element: no"):
        list(IterableSource(itertools.chain([1], (refuses() for _ in [2]))))


def test_texts_are_several():
    for wrong in ("abc", b"abc"):
        with pytest.raises(BowerbirdError, match=r"one string.*Give a list"):
            Collection.from_texts(wrong)
    records = Collection.from_texts(["abc"]).to_list()
    assert [(record.id, record.text, record.named) for record in records] == [("text:0", "abc", False)]


def test_interrupting_is_not_a_failure():
    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(IterableSource(interrupted))


def test_what_cannot_be_iterated():
    with pytest.raises(BowerbirdError, match="type int cannot be iterated"):
        IterableSource(5)
