"""Heads as a network: the same numbers as in NumPy, and the batches they learn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.learn.runs import examples, mlp, unit

from bowerbird.errors import LearnError
from bowerbird.learn.heads import Branch, Gelu, Head, Heads, Linear, Relu, Scale, Shift, Unit
from bowerbird.learn.loop import Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import Batch, Batches, heads_of, linear, network_of

torch = pytest.importorskip("torch")

SIZES = {"output": 7, "features": 12}


@st.composite
def heads(draw) -> Head:
    """Any layers upon any tensors."""
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    branches = []
    for tensor in draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=3)):
        size, layers = SIZES[tensor], []
        for kind in draw(st.lists(st.sampled_from("ulsrgb"), max_size=5)):
            if kind == "l":
                layers.append(linear(size, 5, rng, bias=draw(st.booleans())))
                size = 5
            else:
                shift = Shift(rng.normal(size=size).astype(np.float32))
                layers.append({"u": Unit(), "s": shift, "r": Relu(), "g": Gelu(), "b": Scale(0.7)}[kind])
        branches.append(Branch(tensor, (*layers, linear(size, 6, rng))))
    return Head(tuple(branches))


def tensors(rows: dict[str, np.ndarray]) -> dict[str, object]:
    return {name: torch.from_numpy(array) for name, array in rows.items()}


@settings(max_examples=80, deadline=None)
@given(head=heads(), seed=st.integers(0, 999))
def test_the_network_computes_what_the_head_does(head: Head, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = {name: unit(rng.normal(size=(4, size))) for name, size in SIZES.items()}
    network = network_of(Heads(None, head), dropout=0.5).eval()
    with torch.no_grad():
        found = network.texts(tensors(rows)).numpy()
    np.testing.assert_allclose(found, head.apply(rows), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(head=heads(), other=heads())
def test_heads_survive_the_network_bit_for_bit(head: Head, other: Head) -> None:
    given_heads = Heads(head, other, sigmoid=(2.0, -1.0), facts={"a": 1})
    back = heads_of(network_of(given_heads))
    assert (back.sigmoid, dict(back.facts)) == ((2.0, -1.0), {"a": 1})
    for before, after in ((head, back.image), (other, back.text)):
        assert [branch.tensor for branch in before.branches] == [branch.tensor for branch in after.branches]
        for one, two in zip(before.branches, after.branches, strict=True):
            assert list(map(type, one.layers)) == list(map(type, two.layers))
            for mine, theirs in zip(one.layers, two.layers, strict=True):
                for name, value in vars(mine).items():
                    np.testing.assert_array_equal(value, getattr(theirs, name))


def test_linear_layers_learn_and_nothing_else_does() -> None:
    rng = np.random.default_rng(0)
    mean = Shift(rng.normal(size=12).astype(np.float32))
    head = Head((Branch("features", (mean, Scale(2.0), linear(12, 6, rng))), Branch("output", (Unit(),))))
    network = network_of(Heads(head, None))
    assert [tuple(weight.shape) for weight in network.parameters()] == [(6, 12), (6,)]
    batch = Batch(
        {"features": torch.ones(2, 12), "output": torch.ones(2, 6)}, {}, torch.arange(2), torch.arange(2)
    )
    embedded = network(batch)
    assert embedded.texts is None
    embedded.images[:, 0].sum().backward()
    assert all(weight.grad.any() for weight in network.parameters())
    np.testing.assert_array_equal(heads_of(network).image.branches[0].layers[0].by, mean.by)


def test_dropout_is_only_for_learning() -> None:
    network = network_of(mlp(), dropout=0.5)
    rows = {"features": torch.from_numpy(examples().images["features"])}
    network.eval()
    assert torch.equal(network.images(rows), network.images(rows))
    network.train()
    assert not torch.equal(network.images(rows), network.images(rows))
    for share in (-0.1, 1.0, 1.5):
        with pytest.raises(LearnError, match="share from 0 to below 1"):
            network_of(mlp(), dropout=share)


def test_layers_that_are_tied_stay_one() -> None:
    rng = np.random.default_rng(0)
    begun = Heads(
        Head((Branch("features", (linear(12, 8, rng), Relu(), linear(8, 8, rng))),)),
        Head((Branch("sentence", (linear(10, 8, rng), Relu(), linear(8, 8, rng))),)),
    )
    network = network_of(begun, tied=[(("image", 0, -1), ("text", 0, 2))])
    assert sum(weight.numel() for weight in network.parameters()) == 12 * 8 + 8 + 10 * 8 + 8 + 8 * 8 + 8
    train(network, Batches(examples(), begun, batch_size=10), InfoNCE(), Schedule(epochs=2))
    image, text = (head.branches[0].layers[2] for head in (heads_of(network).image, heads_of(network).text))
    np.testing.assert_array_equal(image.weight, text.weight)
    np.testing.assert_array_equal(image.bias, text.bias)
    assert not np.array_equal(image.weight, begun.image.branches[0].layers[2].weight)


@pytest.mark.parametrize(
    "spot", [("text", 0, 0), ("text", 0, 1), ("text", 0, 9), ("text", 3, 0), ("sound", 0, 0)], ids=str
)
def test_what_cannot_be_tied(spot) -> None:
    rng = np.random.default_rng(0)
    begun = Heads(
        Head((Branch("features", (linear(12, 8, rng),)),)),
        Head((Branch("sentence", (linear(10, 8, rng), Relu(), linear(8, 8, rng))),)),
    )
    with pytest.raises(LearnError, match="tied"):
        network_of(begun, tied=[(("image", 0, 0), spot)])


def test_a_layer_begins_as_torch_begins_it() -> None:
    found = linear(100, 400, np.random.default_rng(0))
    theirs = torch.nn.Linear(100, 400)
    for mine, other in ((found.weight, theirs.weight), (found.bias, theirs.bias)):
        assert mine.shape == tuple(other.shape)
        assert np.abs(mine).max() <= 0.1
        assert mine.std() == pytest.approx(float(other.detach().std()), rel=0.15)
        assert mine.dtype == np.float32
    np.testing.assert_array_equal(found.weight, linear(100, 400, np.random.default_rng(0)).weight)
    assert linear(3, 2, np.random.default_rng(0), bias=False).bias is None


def test_making_a_network_draws_no_random_numbers_of_the_caller() -> None:
    before = torch.get_rng_state()
    network_of(mlp())
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=40, deadline=None)
@given(
    pictures=st.integers(2, 25),
    captions=st.integers(1, 4),
    size=st.integers(2, 9),
    epoch=st.integers(1, 50),
    way=st.sampled_from(["one", "all"]),
    order=st.randoms(use_true_random=False),
)
def test_batches_hold_each_picture_or_each_pair_once(pictures, captions, size, epoch, way, order) -> None:
    given_examples = examples(pictures, captions)
    shuffled = list(range(len(given_examples.links)))
    order.shuffle(shuffled)
    given_examples.links[:] = given_examples.links[shuffled]
    batches = Batches(given_examples, mlp(), batch_size=size, captions=way, seed=3)
    found = list(batches(epoch))
    assert len(found) == len(batches(epoch))
    assert all(len(batch) == size for batch in found[:-1])
    pairs = [
        pair for batch in found for pair in zip(batch.pictures.tolist(), batch.captions.tolist(), strict=True)
    ]
    links = set(map(tuple, given_examples.links.tolist()))
    assert set(pairs) <= links
    wanted = pictures if way == "one" else len(links)
    left = wanted % size if wanted > size else 0
    assert len(pairs) == len(set(pairs)) == wanted - (left == 1)
    if way == "one":
        assert len({picture for picture, _ in pairs}) == len(pairs)
    for batch in found:
        rows = given_examples.images["features"][batch.pictures.numpy()]
        np.testing.assert_array_equal(batch.images["features"].numpy(), rows)
        rows = given_examples.words["sentence"][batch.captions.numpy()]
        np.testing.assert_array_equal(batch.texts["sentence"].numpy(), rows)
    again = [
        pair
        for batch in batches(epoch)
        for pair in zip(*map(list, (batch.pictures, batch.captions)), strict=True)
    ]
    assert [(int(one), int(two)) for one, two in again] == pairs


def test_every_epoch_draws_anew() -> None:
    batches = Batches(examples(10, 3), mlp(), batch_size=10)
    drawn = [next(iter(batches(epoch))) for epoch in range(1, 40)]
    assert len({tuple(batch.pictures.tolist()) for batch in drawn}) == 39
    assert len({int(caption) for batch in drawn for caption in batch.captions}) == 30
    other = Batches(examples(10, 3), mlp(), batch_size=10, seed=1)
    assert next(iter(other(1))).pictures.tolist() != drawn[0].pictures.tolist()


def test_a_batch_goes_to_a_device() -> None:
    """`meta` is one that every PyTorch has."""
    batch = next(iter(Batches(examples(), mlp(), batch_size=4)(1))).to("meta")
    tensors = [batch.images["features"], batch.texts["sentence"], batch.pictures, batch.captions]
    assert {str(tensor.device) for tensor in tensors} == {"meta"}
    assert batch.labels is None
    assert len(batch) == 4


def test_labels_come_along() -> None:
    from dataclasses import replace

    with_classes = replace(examples(6), labels=np.array([0, 1, 2, 0, 1, 2]), classes=("a", "b", "c"))
    for batch in Batches(with_classes, mlp(), batch_size=4)(1):
        assert batch.labels.tolist() == [place % 3 for place in batch.pictures.tolist()]


def test_nothing_to_learn_from() -> None:
    with pytest.raises(LearnError, match="no pairs"):
        Batches(examples().only([]), mlp(), batch_size=4)
    wanted = Heads(Head((Branch("logits", (Linear(np.ones((2, 2), np.float32)),)),)), None)
    with pytest.raises(LearnError, match="no vectors of 'logits'"):
        Batches(examples(), wanted, batch_size=4)
