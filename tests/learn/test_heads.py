"""Heads as data: what `Head.apply` computes, against sums written out."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.learn.heads import Branch, Gelu, Head, Linear, Relu, Scale, Shift, Unit, as_it_is

SIZES = st.integers(1, 6)


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in row))
    return [value / length for value in row]


def through(layer: object, row: list[float]) -> list[float]:
    """One layer on one row, number by number."""
    if isinstance(layer, Unit):
        return unit(row)
    if isinstance(layer, Shift):
        return [value + float(by) for value, by in zip(row, layer.by, strict=True)]
    if isinstance(layer, Linear):
        sums = [sum(float(w) * value for w, value in zip(ws, row, strict=True)) for ws in layer.weight]
        bias = [0.0] * len(sums) if layer.bias is None else layer.bias.tolist()
        return [one + more for one, more in zip(sums, bias, strict=True)]
    if isinstance(layer, Scale):
        return [value * layer.by for value in row]
    if isinstance(layer, Relu):
        return [max(value, 0.0) for value in row]
    assert isinstance(layer, Gelu)
    return [0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in row]


def plain(head: Head, rows: dict[str, np.ndarray], place: int) -> list[float]:
    total: list[float] | None = None
    for branch in head.branches:
        row = rows[branch.tensor][place].astype(float).tolist()
        for layer in branch.layers:
            row = through(layer, row)
        total = row if total is None else [a + b for a, b in zip(total, row, strict=True)]
    assert total is not None
    return unit(total)


@st.composite
def heads(draw: st.DrawFn) -> tuple[Head, dict[str, np.ndarray]]:
    """A head of up to three branches upon two tensors, and rows for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    widths = {"a": draw(SIZES), "b": draw(SIZES)}
    out, count = draw(SIZES), draw(st.integers(1, 5))
    branches = []
    for _ in range(draw(st.integers(1, 3))):
        tensor = draw(st.sampled_from(["a", "b"]))
        width, layers = widths[tensor], []
        for kind in draw(st.lists(st.sampled_from([Unit, Shift, Linear, Scale, Relu, Gelu]), max_size=5)):
            if kind is Shift:
                layers.append(Shift(rng.normal(size=width).astype(np.float32)))
            elif kind is Linear:
                wide = int(rng.integers(1, 7))
                bias = rng.normal(size=wide).astype(np.float32) if rng.random() < 0.5 else None
                layers.append(Linear(rng.normal(size=(wide, width)).astype(np.float32), bias))
                width = wide
            elif kind is Scale:
                layers.append(Scale(float(rng.uniform(0.5, 2))))
            else:
                layers.append(kind())
        # With a bias of its own the sum is never nothing.
        last = Linear(
            rng.normal(size=(out, width)).astype(np.float32), rng.normal(size=out).astype(np.float32)
        )
        branches.append(Branch(tensor, (*layers, last)))
    rows = {name: rng.normal(size=(count, width)).astype(np.float32) for name, width in widths.items()}
    return Head(tuple(branches)), {
        name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in rows.items()
    }


@settings(deadline=None)
@given(heads())
def test_a_head_computes_its_layers(made: tuple[Head, dict[str, np.ndarray]]):
    head, rows = made
    found = head.apply(rows)
    assert found.dtype == np.float32
    for place in range(len(found)):
        try:
            wanted = plain(head, rows, place)
        except ZeroDivisionError:  # a Unit of what Relu left nothing of
            continue
        np.testing.assert_allclose(found[place], wanted, atol=2e-6)


@settings(deadline=None)
@given(heads())
def test_what_comes_out_has_length_1(made: tuple[Head, dict[str, np.ndarray]]):
    head, rows = made
    np.testing.assert_allclose(np.linalg.norm(head.apply(rows), axis=1), 1, atol=1e-6)


def test_rows_as_they_are():
    rows = {"a": np.asarray([[0.6, 0.8], [1, 0]], np.float32)}
    np.testing.assert_array_equal(as_it_is("a").apply(rows), rows["a"])
    assert as_it_is("a").parameters == 0
    assert as_it_is("a").tensors == ("a",)


def test_nothing_stays_nothing():
    """A row that the layers leave nothing of has no direction: zeros, and not a number that is none."""
    head = Head((Branch("a", (Scale(-1.0), Relu())),))
    np.testing.assert_array_equal(head.apply({"a": np.asarray([[0.6, 0.8]], np.float32)}), [[0, 0]])


def test_tensors_and_parameters_are_counted():
    first, second = np.zeros((3, 2), np.float32), np.zeros((3, 4), np.float32)
    head = Head(
        (
            Branch("a", (Shift(np.zeros(2, np.float32)), Linear(first, np.zeros(3, np.float32)))),
            Branch("b", (Linear(second),)),
            Branch("a", (Linear(first),)),
        )
    )
    assert head.tensors == ("a", "b")
    assert head.parameters == 6 + 3 + 12 + 6


def test_branches_are_added_before_the_length_is_made_1():
    rows = {"a": np.asarray([[1.0, 0.0]], np.float32), "b": np.asarray([[0.0, 1.0]], np.float32)}
    head = Head((Branch("a", (Scale(3.0),)), Branch("b", (Scale(4.0),))))
    np.testing.assert_allclose(head.apply(rows), [[0.6, 0.8]], atol=1e-7)
