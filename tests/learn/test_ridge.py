"""Ridge regression against regressions that were really made again without each picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.heads import Branch, Head, Linear, Scale, Shift
from bowerbird.learn.recall import PAIRS, figures
from bowerbird.learn.ridge import REGULARISATIONS, WEIGHTS, _Regression, ridge


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def examples(
    count: int, width: int, words: int, seed: int = 0, *, noise: float = 0.3, captions: int = 1
) -> Examples:
    """Pictures whose tensor `deep` says something of their texts, and whose `shared` says nothing."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(count, 5))
    owner = np.repeat(np.arange(count), captions)
    deep = meaning @ rng.normal(size=(5, width)) + noise * rng.normal(size=(count, width))
    texts = meaning[owner] @ rng.normal(size=(5, words)) + noise * rng.normal(size=(len(owner), words))
    return Examples(
        tuple(Picture(f"p{row}", f"p{row}", b"", f"c{row}") for row in range(count)),
        tuple(f"text {row}" for row in range(len(owner))),
        np.stack([owner, np.arange(len(owner))], 1),
        images={
            "deep": unit(deep).astype(np.float32),
            "shared": unit(rng.normal(size=(count, words))).astype(np.float32),
        },
        words={"text": unit(texts).astype(np.float32)},
    )


def solved(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (d, t) by least squares with as many rows more, and the two means."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    more = np.sqrt(penalty) * np.eye(x.shape[1])
    rows = np.vstack([x - x_mean, more])
    wanted = np.vstack([y - y_mean, np.zeros((x.shape[1], y.shape[1]))])
    return np.linalg.lstsq(rows, wanted, rcond=None)[0], x_mean, y_mean


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 20), st.integers(1, 20), st.integers(1, 4), st.floats(0.01, 30), st.integers(0, 2**32 - 1)
)
def test_leaving_out_is_the_same_as_fitting_again(
    count: int, width: int, targets: int, scale: float, seed: int
):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, width)), rng.normal(size=(count, targets))
    regression = _Regression(x - x.mean(0), y - y.mean(0))
    assert regression.dual == (count <= width)
    penalty = scale * regression.unit
    found = regression.left_out(scale, np.arange(count))
    for row in range(count):
        rest = np.arange(count) != row
        weights, x_mean, _ = solved(x[rest], y[rest], penalty)
        # As the head gives it: the mean of the targets is left away.
        np.testing.assert_allclose(found[row], (x[row] - x_mean) @ weights, atol=1e-8, rtol=1e-6)
    np.testing.assert_allclose(regression.left_out(scale, np.arange(2)), found[:2], atol=1e-12)


@pytest.mark.parametrize("count", [8, 40], ids=["dual", "primal"])
@pytest.mark.parametrize("scale", [0.03, 1.0, 30.0])
def test_weights_are_those_of_least_squares(count: int, scale: float):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 16)) + 3, rng.normal(size=(count, 6)) - 2
    regression = _Regression(x - x.mean(0), y - y.mean(0))
    assert regression.unit == pytest.approx(((x - x.mean(0)) ** 2).sum() / count)
    wanted, _, _ = solved(x, y, scale * regression.unit)
    np.testing.assert_allclose(regression.weights(scale), wanted.T, atol=1e-9)


@pytest.mark.parametrize("count", [20, 60], ids=["dual", "primal"])
def test_the_head_is_the_regression_added_to_the_alignment(count: int):
    of = examples(count, 24, 12, captions=2)
    assert of.images is not None and of.words is not None
    heads = ridge(of, shared="shared", layer="deep", text="text", regularisation=0.3, weight=2.0)
    x = of.images["deep"].astype(np.float64)
    targets = unit(of.words["text"].astype(np.float64).reshape(count, 2, -1).sum(1))
    penalty = 0.3 * ((x - x.mean(0)) ** 2).sum() / count
    weights, x_mean, _ = solved(x, targets, penalty)
    wanted = unit(of.images["shared"] + 2 * unit((x - x_mean) @ weights))
    assert heads.image is not None and heads.text is not None
    np.testing.assert_allclose(heads.image.apply(of.images), wanted, atol=1e-5)
    np.testing.assert_array_equal(heads.text.apply(of.words), of.words["text"])
    assert heads.facts == {"regularisation": 0.3, "weight": 2.0, "chosen by": "the user"}


def test_without_an_alignment_texts_are_centred():
    of = examples(60, 24, 12)
    assert of.images is not None and of.words is not None
    heads = ridge(of, shared="", layer="deep", text="text")
    assert heads.image is not None and heads.text is not None
    words = of.words["text"].astype(np.float64)
    np.testing.assert_allclose(heads.text.apply(of.words), unit(words - unit(words).mean(0)), atol=1e-5)
    assert [type(layer).__name__ for layer in heads.image.branches[0].layers] == ["Shift", "Linear", "Unit"]
    assert heads.facts["weight"] is None
    assert heads.facts["regularisation"] in REGULARISATIONS
    assert heads.facts["chosen by"] == "leave-one-out"
    new = examples(60, 24, 12)  # the same pictures; what it learned holds for them at least
    assert new.images is not None and new.words is not None
    assert figures(new, heads.image.apply(new.images), heads.text.apply(new.words))[PAIRS] > 0.8


def test_the_choice_is_the_best_of_all_that_were_left_out():
    """Every setting, by regressions made again for each picture: the one that was chosen is the best of them."""
    of = examples(14, 6, 5, seed=3, noise=1.0)
    assert of.images is not None and of.words is not None
    x, words = of.images["deep"].astype(np.float64), of.words["text"].astype(np.float64)
    unit_of = ((x - x.mean(0)) ** 2).sum(1).mean()
    best: dict[tuple[float, float], float] = {}
    for scale in REGULARISATIONS:
        predicted = np.zeros_like(words)
        for row in range(14):
            rest = np.arange(14) != row
            weights, x_mean, _ = solved(x[rest], words[rest], scale * unit_of)
            predicted[row] = (x[row] - x_mean) @ weights
        for weight in WEIGHTS:
            images = unit(of.images["shared"] + weight * unit(predicted))
            best[weight, scale] = figures(of, images.astype(np.float32), of.words["text"])[PAIRS]
    facts = ridge(of, shared="shared", layer="deep", text="text").facts
    most = max(best.values())
    # Of equals the least weight, then the weakest regularisation.
    assert (facts["weight"], facts["regularisation"]) == min(
        one for one, value in best.items() if value > most - 1e-9
    )


def test_what_gains_nothing_is_not_added():
    """The alignment is perfect already, and the layer is noise."""
    rng = np.random.default_rng(5)
    of = examples(40, 10, 12)
    assert of.images is not None and of.words is not None
    images = {"shared": of.words["text"], "deep": unit(rng.normal(size=(40, 10))).astype(np.float32)}
    perfect = Examples(of.pictures, of.texts, of.links, images=images, words=of.words)
    heads = ridge(perfect, shared="shared", layer="deep", text="text")
    assert heads.facts["weight"] == 0
    assert heads.image is not None and heads.text is not None
    assert heads.image.branches[0].layers == ()
    np.testing.assert_array_equal(heads.image.apply(images), images["shared"])


def test_a_weight_that_was_given_stays():
    of = examples(30, 10, 12)
    heads = ridge(of, shared="shared", layer="deep", text="text", weight=0.5)
    assert heads.facts["weight"] == 0.5
    assert isinstance(heads.image, Head)
    assert [branch.tensor for branch in heads.image.branches] == ["shared", "deep"]
    assert isinstance(heads.image.branches[1].layers[-1], Scale)
    kept = ridge(of, shared="shared", layer="deep", text="text", regularisation=3.0)
    assert kept.facts["regularisation"] == 3.0


def test_classes_are_learned_from_their_names():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    centres = rng.normal(size=(4, 10))
    names = ("a", "b", "c", "d")
    of = Examples(
        tuple(Picture(f"p{row}", f"p{row}", b"", f"c{row}") for row in range(60)),
        names,
        np.stack([np.arange(60), labels], 1),
        labels,
        names,
        {
            "deep": unit(centres[labels] + 0.5 * rng.normal(size=(60, 10))).astype(np.float32),
            "shared": unit(rng.normal(size=(60, 8))).astype(np.float32),
        },
        {"text": unit(rng.normal(size=(4, 8))).astype(np.float32)},
    )
    assert of.images is not None and of.words is not None
    heads = ridge(of, shared="shared", layer="deep", text="text")
    assert heads.image is not None
    before = figures(of, of.images["shared"], of.words["text"])
    after = figures(of, heads.image.apply(of.images), of.words["text"])
    assert before["class->image P@10"] < 0.5
    assert after["class->image P@10"] > 0.9


def test_more_pictures_than_are_judged_give_the_same_each_time(monkeypatch: pytest.MonkeyPatch):
    from bowerbird.learn import ridge as module

    of = examples(50, 10, 12, noise=1.5)
    monkeypatch.setattr(module, "JUDGED", 20)
    one, two = (ridge(of, shared="shared", layer="deep", text="text", seed=3) for _ in range(2))
    assert one.facts == two.facts
    assert one.image is not None and two.image is not None
    for first, second in zip(one.image.branches, two.image.branches, strict=True):
        assert isinstance(first, Branch)
        for a, b in zip(first.layers, second.layers, strict=True):
            assert type(a) is type(b)
            if isinstance(a, Linear) and isinstance(b, Linear):
                np.testing.assert_array_equal(a.weight, b.weight)
            if isinstance(a, Shift) and isinstance(b, Shift):
                np.testing.assert_array_equal(a.by, b.by)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regularisation": 0.0}, "regularisation is 0.0"),
        ({"regularisation": -1.0}, "regularisation is -1.0"),
        ({"regularisation": float("nan")}, "regularisation is nan"),
        ({"weight": -0.5}, "weight is -0.5"),
        ({"weight": float("inf")}, "weight is inf"),
    ],
    ids=["no penalty", "below nothing", "no number", "against it", "without end"],
)
def test_numbers_that_cannot_be_are_refused(given: dict[str, float], message: str):
    with pytest.raises(LearnError, match=message):
        ridge(examples(10, 4, 3), shared="shared", layer="deep", text="text", **given)


def test_one_picture_is_too_few():
    with pytest.raises(LearnError, match="two pictures at least"):
        ridge(examples(1, 4, 3, captions=3), shared="shared", layer="deep", text="text")


@pytest.mark.parametrize("known", [0.0, 0.2, 1.0], ids=["says nothing", "says little", "says much"])
def test_with_50_pairs_it_is_no_worse_than_nothing(known: float):
    """Ten sets of 50 pairs, each judged by 300 others: what is chosen is chosen by what was left out."""
    gained = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        meaning = rng.normal(size=(350, 8))
        words = unit(meaning @ rng.normal(size=(8, 32)) + 0.5 * rng.normal(size=(350, 32)))
        deep = known * meaning @ rng.normal(size=(8, 80)) / np.sqrt(8) + rng.normal(size=(350, 80))
        of = Examples(
            tuple(Picture(str(row), str(row), b"", str(row)) for row in range(350)),
            tuple(map(str, range(350))),
            np.stack([np.arange(350)] * 2, 1),
            images={
                "shared": unit(words + 0.3 * rng.normal(size=(350, 32))).astype(np.float32),
                "deep": unit(deep).astype(np.float32),
            },
            words={"text": words.astype(np.float32)},
        )
        train, others = of.only(range(50)), of.only(range(50, 350))
        assert others.images is not None and others.words is not None
        heads = ridge(train, shared="shared", layer="deep", text="text")
        assert heads.image is not None
        after = figures(others, heads.image.apply(others.images), others.words["text"])[PAIRS]
        gained.append(after - figures(others, others.images["shared"], others.words["text"])[PAIRS])
    assert np.mean(gained) > (0.2 if known == 1 else -0.006)
    assert min(gained) > -0.04
