"""Losses against their formulas, written out cell by cell in plain Python."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import LearnError
from bowerbird.learn.losses import (
    Embedded,
    InfoNCE,
    Loss,
    Margin,
    Sigmoid,
    SupervisedContrastive,
    Triplet,
)

torch = pytest.importorskip("torch")

ALL = [
    InfoNCE(),
    InfoNCE(0.5, both=False),
    InfoNCE(0.2, learned=True),
    Sigmoid(),
    Sigmoid(3.0, -1.0),
    Margin(),
    Margin(1.6),
    Triplet(),
    Triplet(0.9, hard=False),
    SupervisedContrastive(),
    SupervisedContrastive(0.5, texts=False),
]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def batch_of(size: int, seed: int, *, pictures=None, captions=None, labels=None) -> Embedded:
    rng = np.random.default_rng(seed)
    images, texts = (torch.tensor(unit(rng.normal(size=(size, 6)))) for _ in range(2))
    ids = [list(range(size)) if given is None else given for given in (pictures, captions)]
    return Embedded(
        images.requires_grad_(),
        texts.requires_grad_(),
        *map(torch.tensor, ids),
        None if labels is None else torch.tensor(labels),
    )


@st.composite
def batches(draw) -> Embedded:
    """Batches in which a picture, a text and a class may occur more than once, as they do in fact.

    The same id has the same vector, and the same picture the same class.
    """
    size = draw(st.integers(1, 9))
    ids = st.lists(st.integers(0, 5), min_size=size, max_size=size)
    pictures, captions = draw(ids), draw(ids)
    classes = draw(st.none() | st.lists(st.integers(0, 2), min_size=6, max_size=6))
    labels = None if classes is None else [classes[picture] for picture in pictures]
    batch = batch_of(6, draw(st.integers(0, 999)))
    images, texts = (
        rows.detach()[ids].requires_grad_()
        for rows, ids in ((batch.images, pictures), (batch.texts, captions))
    )
    return Embedded(
        images,
        texts,
        torch.tensor(pictures),
        torch.tensor(captions),
        None if labels is None else torch.tensor(labels),
    )


class Slow:
    """Each loss of a batch in loops over cells, from the formulas in their papers."""

    def __init__(self, batch: Embedded) -> None:
        self.size = len(batch)
        self.images, self.texts = batch.images.tolist(), batch.texts.tolist()
        self.pictures, self.captions = batch.pictures.tolist(), batch.captions.tolist()
        self.labels = None if batch.labels is None else batch.labels.tolist()

    def cosine(self, i: int, j: int) -> float:
        return math.fsum(a * b for a, b in zip(self.images[i], self.texts[j], strict=True))

    def together(self, i: int, j: int) -> bool:
        return self.pictures[i] == self.pictures[j] or self.captions[i] == self.captions[j]

    def wrong(self, i: int, j: int) -> bool:
        akin = self.labels is not None and self.labels[i] == self.labels[j]
        return not self.together(i, j) and not akin

    def info_nce(self, temperature: float, both: bool) -> float:
        def side(cosine) -> float:
            total = 0.0
            for i in range(self.size):
                others = [j for j in range(self.size) if j == i or self.wrong(i, j)]
                whole = math.fsum(math.exp(cosine(i, j) / temperature) for j in others)
                total -= math.log(math.exp(cosine(i, i) / temperature) / whole)
            return total / self.size

        forth = side(self.cosine)
        return (forth + side(lambda i, j: self.cosine(j, i))) / 2 if both else forth

    def sigmoid(self, scale: float, bias: float) -> float:
        total = 0.0
        for i in range(self.size):
            for j in range(self.size):
                if self.together(i, j) or self.wrong(i, j):
                    z = 1 if self.together(i, j) else -1
                    total -= math.log(1 / (1 + math.exp(-z * (scale * self.cosine(i, j) + bias))))
        return total / self.size

    def margin(self, margin: float) -> float:
        cells = [(i, j) for i in range(self.size) for j in range(self.size)]
        right = [math.dist(self.images[i], self.texts[i]) ** 2 for i in range(self.size)]
        wrong = [
            max(0.0, margin - math.dist(self.images[i], self.texts[j])) ** 2
            for i, j in cells
            if self.wrong(i, j)
        ]
        return sum(right) / len(right) / 2 + sum(wrong) / max(1, len(wrong)) / 2

    def triplet(self, margin: float, hard: bool) -> float:
        total = 0.0
        for turn in (lambda i, j: (i, j), lambda i, j: (j, i)):
            for i in range(self.size):
                hinges = [
                    max(0.0, margin + self.cosine(*turn(i, j)) - self.cosine(i, i))
                    for j in range(self.size)
                    if self.wrong(i, j)
                ]
                if hinges:
                    total += (max(hinges) if hard else sum(hinges) / len(hinges)) / self.size
        return total

    def supervised(self, temperature: float, texts: bool) -> float:
        rows: dict[tuple[str, int], tuple[list[float], int]] = {}
        sides = [("picture", self.pictures, self.images)] + (
            [("text", self.captions, self.texts)] if texts else []
        )
        for name, ids, vectors in sides:
            for i in range(self.size):
                rows.setdefault((name, ids[i]), (vectors[i], self.labels[i]))
        points = list(rows.values())
        losses = []
        for i, (vector, label) in enumerate(points):
            others = [place for place in range(len(points)) if place != i]
            own = [place for place in others if points[place][1] == label]
            if not own:
                continue
            exps = {
                a: math.exp(math.fsum(x * y for x, y in zip(vector, points[a][0], strict=True)) / temperature)
                for a in others
            }
            losses.append(-sum(math.log(exps[p] / sum(exps.values())) for p in own) / len(own))
        return sum(losses) / max(1, len(losses))

    def of(self, loss: Loss) -> float:
        if isinstance(loss, InfoNCE):
            return self.info_nce(loss.temperature, loss.both)
        if isinstance(loss, Sigmoid):
            return self.sigmoid(loss.scale, loss.bias)
        if isinstance(loss, Margin):
            return self.margin(loss.margin)
        if isinstance(loss, Triplet):
            return self.triplet(loss.margin, loss.hard)
        return self.supervised(loss.temperature, loss.texts)


@pytest.mark.parametrize("loss", ALL, ids=repr)
@settings(max_examples=60, deadline=None)
@given(batch=batches())
def test_every_loss_is_its_formula_whatever_occurs_twice(loss: Loss, batch: Embedded) -> None:
    if isinstance(loss, SupervisedContrastive) and batch.labels is None:
        with pytest.raises(LearnError, match="classes"):
            loss.module()(batch)
        return
    assert float(loss.module()(batch).detach()) == pytest.approx(Slow(batch).of(loss), abs=2e-6, rel=2e-6)


@pytest.mark.parametrize("loss", ALL, ids=repr)
@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_gradients_are_finite_and_their_own(loss: Loss, batch: Embedded) -> None:
    if isinstance(loss, SupervisedContrastive) and batch.labels is None:
        return
    module = loss.module()
    module(batch).backward()
    used = [batch.images] if batch.texts.grad is None else [batch.images, batch.texts]
    for vectors in used:
        assert vectors.grad.isfinite().all()
    assert all(number.grad.isfinite() for number in module.parameters())


@pytest.mark.parametrize("both", [True, False])
def test_info_nce_without_repetitions_is_cross_entropy_of_the_full_matrix(both: bool) -> None:
    batch = batch_of(32, 0)
    logits = batch.images @ batch.texts.T / 0.07
    right = torch.arange(32)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(logits, right)
    if both:
        expected = (expected + cross_entropy(logits.T, right)) / 2
    torch.testing.assert_close(InfoNCE(both=both).module()(batch), expected)


@pytest.mark.parametrize("loss", [InfoNCE(), Triplet(), Triplet(hard=False)], ids=repr)
def test_a_picture_is_not_its_own_negative(loss: Loss) -> None:
    """Five captions of one picture in a batch: there is nothing to tell apart."""
    batch = batch_of(5, 1, pictures=[3] * 5)
    value = loss.module()(batch)
    value.backward()
    assert float(value.detach()) == 0
    assert not batch.images.grad.any()
    # Nor is the same caption that two pictures have.
    assert float(loss.module()(batch_of(5, 1, captions=[3] * 5)).detach()) == 0
    assert float(loss.module()(batch_of(5, 1)).detach()) > 0


def test_siglip_takes_what_belongs_together_as_right_and_leaves_out_what_is_akin() -> None:
    plain = batch_of(2, 3)
    cosines = (plain.images @ plain.texts.T).tolist()

    def cells(batch: Embedded) -> float:
        return 2 * float(Sigmoid(4.0, -2.0).module()(batch).detach())

    def cell(z: int, cosine: float) -> float:
        return math.log1p(math.exp(-z * (4 * cosine - 2)))

    own = cell(1, cosines[0][0]) + cell(1, cosines[1][1])
    across = cosines[0][1], cosines[1][0]
    assert cells(plain) == pytest.approx(own + sum(cell(-1, s) for s in across))
    assert cells(batch_of(2, 3, captions=[7, 7])) == pytest.approx(own + sum(cell(1, s) for s in across))
    assert cells(batch_of(2, 3, labels=[7, 7])) == pytest.approx(own)


def test_a_learned_temperature_is_learned_and_stays_within_its_limit() -> None:
    module = InfoNCE(0.0101, learned=True).module()
    assert module.facts()["temperature"] == pytest.approx(0.0101)
    fixed = InfoNCE(0.0101).module()
    batch = batch_of(8, 2)
    torch.testing.assert_close(module(batch), fixed(batch), check_dtype=False, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        module.learned["log_scale"].fill_(9.0)  # a step that went too far
    value = module(batch)
    torch.testing.assert_close(value, InfoNCE(0.01).module()(batch), check_dtype=False, rtol=1e-5, atol=1e-5)
    value.backward()
    assert module.facts()["temperature"] == pytest.approx(0.01)
    # It still has a slope there, so it can come back.
    assert module.learned["log_scale"].grad.abs() > 0


def test_only_siglip_gives_the_scale_and_bias_of_a_probability() -> None:
    assert Sigmoid(12.0, -3.0).module().scale_and_bias() == pytest.approx((12.0, -3.0))
    assert Sigmoid().module().facts() == pytest.approx({"scale": 10.0, "bias": -10.0})
    others = [loss for loss in ALL if not isinstance(loss, Sigmoid)]
    assert {loss.module().scale_and_bias() for loss in others} == {None}


def test_pictures_alone() -> None:
    batch = batch_of(4, 0, labels=[0, 0, 1, 1])
    batch.texts = None
    assert float(SupervisedContrastive(texts=False).module()(batch).detach()) > 0
    for loss in (InfoNCE(), Sigmoid(), Margin(), Triplet(), SupervisedContrastive()):
        with pytest.raises(LearnError, match="no tower for texts"):
            loss.module()(batch)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_a_loss_is_data(loss: Loss) -> None:
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert eval(repr(loss)) == loss
    assert repr(loss) in repr(loss.module())


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", [InfoNCE, Sigmoid, Margin, Triplet, SupervisedContrastive])
def test_numbers_that_cannot_be(kind: type[Loss], value: float) -> None:
    with pytest.raises(LearnError, match=f"{kind.__name__}: .* Give a number above 0"):
        kind(value)


def test_without_torch_losses_are_still_data() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bowerbird.learn.losses as losses, bowerbird.learn.network, bowerbird.learn.loop\n"
        "print(losses.InfoNCE())\n"
        "try: losses.InfoNCE().module()\n"
        "except losses.LearnError.__mro__[1] as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "InfoNCE(temperature=0.07, learned=False, both=True)",
        "This needs the package 'torch', which is not installed. Run: pip install 'bowerbird[train]'",
    ]
