"""Where a model looks: on what was planted, for every kind of network, and back on the upright picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import bowerbird as bb
from bowerbird.errors import LearnError, UnreadableError, UnsupportedInputError
from bowerbird.learn.attention import Heat, attention, rollout, seen
from bowerbird.learn.attention_graph import grid_of
from bowerbird.models.vision.steps import Steps

CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))


@pytest.fixture(scope="module")
def mini() -> bb.Encoder:
    return bb.load("mini", precision="exact")


def planted(photograph: Path, corner: tuple[int, int], canvas: int = 256) -> Image.Image:
    """A photograph in one corner of a plain canvas."""
    found = Image.new("RGB", (canvas, canvas), (120, 140, 170))
    side = canvas * 3 // 8
    small = Image.open(photograph).convert("RGB")
    small = small.crop((0, 0, min(small.size), min(small.size))).resize((side, side))
    found.paste(small, tuple(canvas // 16 + at * canvas // 2 for at in corner))
    return found


def corner_of(heat: Heat) -> tuple[int, int]:
    x, y = heat.strongest
    return int(x >= heat.picture.width / 2), int(y >= heat.picture.height / 2)


@pytest.mark.parametrize(
    ("method", "corner"),
    [*(("places", corner) for corner in CORNERS), ("occlusion", (0, 1))],
    ids=str,
)
def test_what_was_planted_is_hot(mini, photographs, method, corner) -> None:
    heat = attention(mini, planted(photographs["coffee"], corner), method=method)
    assert corner_of(heat) == corner
    strength = heat.strength
    half = heat.picture.width // 2
    rows, columns = (slice(half * at, half * (at + 1)) for at in corner[::-1])
    assert np.nansum(strength[rows, columns]) > 0.6 * np.nansum(strength)
    assert np.nanmax(strength) == pytest.approx(1, abs=1e-5)


def test_a_text_finds_what_it_says(mini, photographs) -> None:
    """The shuttle behind the astronaut stands in the upper right quarter."""
    heat = attention(mini, photographs["astronaut"], text="a rocket")
    assert corner_of(heat) == (1, 0)
    both = Image.new("RGB", (448, 224))
    for place, name in enumerate(("chelsea", "coffee")):
        both.paste(Image.open(photographs[name]).convert("RGB").resize((224, 224)), (224 * place, 0))
    squash = "resize 224x224 bicubic -> x * 0.0078125, mean 0.9921875, std 1"
    model = mini.adapted(preprocess=squash)
    assert attention(model, both, text="a cat", method="places").strongest[0] < 224
    assert attention(model, both, text="a cup of coffee", method="places").strongest[0] >= 224


def test_the_score_is_that_of_the_model(mini, photographs) -> None:
    text, picture = mini.embed(["a cat"], role="query")[0], mini.embed(photographs["chelsea"])[0]
    for method in ("places", "gradient"):
        heat = attention(mini, photographs["chelsea"], text="a cat", method=method)
        assert heat.score == pytest.approx(float(text @ picture), abs=1e-4)


def test_the_same_again(mini, photographs) -> None:
    first, second = (
        attention(mini, photographs["rocket"], text="a rocket", method="gradient") for _ in range(2)
    )
    np.testing.assert_array_equal(first.values, second.values)
    assert first.draw().tobytes() == second.draw().tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "resnet"])
def test_networks_of_any_kind(family, tmp_path, photographs) -> None:
    """Random weights: nothing but the picture tells where something is."""
    pytest.importorskip("transformers")
    model = bb.load(str(_export(family, tmp_path)), precision="exact")
    for corner in CORNERS[1:3]:
        assert corner_of(attention(model, planted(photographs["coffee"], corner))) == corner
    for method in ("places", "gradient"):
        heat = attention(model, photographs["coffee"], method=method)
        assert min(heat.values.shape) >= 2
        assert np.isfinite(heat.values).all()
    if family == "resnet":
        with pytest.raises(LearnError, match="no attention of tokens"):
            attention(model, photographs["coffee"], method="rollout")
    else:
        heat = attention(model, photographs["coffee"], method="rollout")
        assert heat.values.sum() == pytest.approx(1, abs=1e-5)
        assert np.isnan(heat.score)


def _export(family: str, folder: Path) -> Path:
    import importlib.util

    from bowerbird.origin.export import export

    path = Path(__file__).parents[1] / "origin" / "tiny.py"
    spec = importlib.util.spec_from_file_location("bowerbird_tests_tiny_learn", path)
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    export(str(tiny.build(family, folder / "original")), folder / "exported")
    return folder / "exported"


def test_the_rest_of_a_network_computes_what_the_network_does(mini, photographs) -> None:
    from bowerbird.learn.attention_graph import rest_of

    side = mini.image
    rest = rest_of(side, side.pixels(side.open(photographs["chelsea"])))
    whole = side.run([side.pixels(side.open(photographs["chelsea"]))], [side.tower.output])[0]
    np.testing.assert_allclose(rest.run(rest.features), whole, atol=1e-5)
    assert (rest.rows, rest.columns, rest.extra) == (7, 7, 0)
    one = rest.filled(np.array([10]))
    np.testing.assert_array_equal(one[0], np.repeat(rest.features[:, 10], 49, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(40, 500), st.integers(40, 500), st.integers(16, 300), st.sampled_from(["floor", "even"]))
def test_what_is_seen_lies_where_the_pixels_came_from(width, height, side, rounding) -> None:
    """A dot in the middle of what is seen comes out in the middle of what the network takes."""
    even = ", half to even" if rounding == "even" else ""
    recipe = f"resize short side 128 bilinear -> centre crop {side}x{side}{even} -> x * 1/255"
    steps = Steps.parse(recipe)
    left, _, right, _ = seen(steps, (width, height))
    scale = 128 / min(width, height)
    assert (right - left) * scale == pytest.approx(side, rel=0.03)
    across = np.tile(np.arange(width, dtype=np.float32) / width * 255, (height, 1))
    out = steps.pixels(Image.fromarray(np.repeat(across[..., None], 3, -1).astype(np.uint8)))
    inside = [x for x in (0.3, 0.5, 0.7) if 2 < left + x * (right - left) < width - 2]
    for x in inside:
        expected = (left + x * (right - left)) / width * 255
        assert out[side // 2, int(x * side), 0] == pytest.approx(expected, abs=2.5 + 255 * 3 / width / scale)


def test_exif_turns_the_heat_as_well(mini, photographs, tmp_path) -> None:
    upright = planted(photographs["coffee"], (1, 0)).resize((320, 256))
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to the right when it is shown
    stored.save(tmp_path / "turned.png", exif=exif)
    heat = attention(mini, tmp_path / "turned.png")
    assert heat.picture.size == (320, 256)
    assert corner_of(heat) == (1, 0)


def test_what_is_cut_away_is_not_looked_at(mini, photographs) -> None:
    heat = attention(mini, photographs["chelsea"])
    strength = heat.strength
    left, top, right, bottom = heat.box
    assert strength.shape == heat.picture.size[::-1]
    assert np.isnan(strength[:, : int(left)]).all()
    assert np.isnan(strength[: int(top)]).all()
    assert not np.isnan(strength[int(top) + 1 : int(bottom) - 1, int(left) + 1 : int(right) - 1]).any()
    a, b, c, d = heat.half()
    assert left - 1 <= a < c <= right + 1
    assert top - 1 <= b < d <= bottom + 1


def test_an_empty_picture_has_nothing_that_sets_it_apart(mini) -> None:
    with pytest.raises(LearnError, match="same as an empty one"):
        attention(mini, Image.new("RGB", (300, 200), (90, 120, 40)))
    heat = attention(mini, Image.new("RGB", (300, 200), (90, 120, 40)), text="a cat")
    assert heat.draw().mode == "RGB"


def test_rollout_by_hand() -> None:
    """Two layers over a class token and four places: A~ = (A + I) / 2, multiplied."""
    first = np.full((5, 5), 0.2, np.float32)
    second = np.eye(5, dtype=np.float32)
    second[0] = (0, 1, 0, 0, 0)
    expected = ((second + np.eye(5)) / 2) @ ((first + np.eye(5)) / 2)
    found = rollout([first, second], (32, 32))
    np.testing.assert_allclose(found.ravel(), expected[0, 1:] / expected[0, 1:].sum(), atol=1e-6)
    assert found.argmax() == 0


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (50, (224, 224), (7, 7)),
        (197, (224, 224), (14, 14)),
        (201, (224, 224), (14, 14)),
        (261, (224, 224), (16, 16)),
        (196, (224, 224), (14, 14)),
        (129, (256, 128), (16, 8)),
    ],
    ids=str,
)
def test_tokens_lie_on_a_grid(tokens, size, grid) -> None:
    assert grid_of(tokens, size) == grid


def test_bad_input(mini, photographs, tmp_path) -> None:
    with pytest.raises(LearnError, match="no method 'magic'"):
        attention(mini, photographs["rocket"], method="magic")
    with pytest.raises(UnreadableError):
        attention(mini, tmp_path / "nowhere.jpg")
    with pytest.raises(LearnError, match="cannot be written"):
        attention(mini, photographs["rocket"], method="places").save(tmp_path / "heat.txt")
    with pytest.raises(UnsupportedInputError, match="takes no texts"):
        attention(mini.adapted(layer="features"), photographs["rocket"], text="a rocket")


def test_the_command(run: Callable[..., Any], photographs) -> None:
    found = run(
        "attention",
        "mini",
        photographs["astronaut"],
        "--text",
        "a rocket",
        "--method",
        "places",
        "-o",
        "heat.png",
    )
    lines = dict(line.split("\t", 1) for line in found.out.splitlines())
    x, y = map(int, lines["strongest"].split("\t"))
    assert x > 160
    assert y < 160
    with Image.open(run.cwd / "heat.png") as drawn:
        assert drawn.size[0] > 600
    run("attention", "mini", photographs["astronaut"], "-o", "heat.npy")
    assert np.load(run.cwd / "heat.npy").shape == (28, 28)
    assert "no method" in run("attention", "mini", photographs["astronaut"], "--method", "magic", code=2).err
