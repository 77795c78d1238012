"""What wrong conditions cost, against what the encoder itself gives under those conditions."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.errors import QueryError, UnsupportedInputError
from bowerbird.judge.conditions import Cost, CostReport, conditions
from bowerbird.models.vision.steps import Steps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, Path]) -> Path:
    """The photographs, one of them turned, one with something hidden under transparency, one broken."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("astronaut", "chelsea", "coffee"):
        shutil.copy(photographs[name], root)
    exif = Image.Exif()
    exif[274] = 6
    Image.open(photographs["coffee"]).rotate(90, expand=True).save(root / "turned.jpg", exif=exif)
    cat = Image.open(photographs["chelsea"]).convert("RGBA")
    cat.putalpha(Image.linear_gradient("L").resize(cat.size))
    cat.save(root / "veiled.png")
    Image.open(photographs["rocket"]).resize((1800, 1200)).save(root / "large.jpg")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


@pytest.fixture(scope="module")
def report(private_places: Path, folder: Path) -> CostReport:
    return conditions("mini", sorted(folder.iterdir()))


def named(report: CostReport) -> dict[str, Cost]:
    return {cost.name: cost for cost in report.costs}


def test_every_condition_is_tried_on_the_pictures_it_concerns(report: CostReport, folder: Path) -> None:
    costs = named(report)
    assert report.pictures == 6
    assert report.output == "features"
    assert [Path(name).name for name in report.problems] == ["broken.jpg"]
    assert {name: cost.pictures for name, cost in costs.items() if cost.pictures < 6} == {
        "EXIF ignored": 1,
        "alpha dropped": 1,
        "JPEG reduced": 1,
    }
    assert [Path(costs[name].worst).name for name in ("EXIF ignored", "alpha dropped", "JPEG reduced")] == [
        "turned.jpg",
        "veiled.png",
        "large.jpg",
    ]
    assert report.without == {}
    assert "dynamic int8" in costs


def test_costs_are_in_the_order_that_was_measured_elsewhere(report: CostReport) -> None:
    """The table of drift per fault, as far as six pictures can tell."""
    costs = named(report)
    assert costs["[-1,1]"].least > 0.999  # (x - 127) / 128 is nearly that
    assert costs["float resize"].mean > 0.99 > costs["squash"].mean
    assert costs["BGR"].mean < 0.95
    assert costs["dynamic int8"].mean < 0.95
    assert costs["resize only"].mean < 0.6
    for cost in report.costs:
        assert -1 <= cost.least <= cost.mean <= 1 + 1e-6
        assert 0 <= cost.neighbour <= 1
        assert 0 <= cost.label <= 1
        assert cost.spread.least <= cost.spread.median <= cost.spread.most
    assert costs["[-1,1]"].label == 1


def test_a_cost_is_what_the_encoder_gives_under_that_condition(
    report: CostReport, photographs: dict[str, Path], private_places: Path
) -> None:
    model = bb.load("mini", precision="exact")
    paths = [path for path in photographs.values() if path.stem in ("coffee", "chelsea")]
    small = named(conditions(model, paths, int8=False))
    right = model.embed(paths, output="features")
    assert conditions(model, paths, int8=False).spread.most == pytest.approx(
        float(right[0] @ right[1]), abs=1e-6
    )
    recipe = str(model.card.image.steps)
    for name, wrong in (
        ("nearest", recipe.replace("bicubic", "nearest")),
        ("BGR", f"{recipe}, bgr"),
        ("[0,1]", recipe.split(" -> x", maxsplit=1)[0] + " -> x * 1/255"),
    ):
        vectors = model.embed(paths, output="features", preprocess=Steps.parse(wrong))
        cosines = (right * vectors).sum(1)
        assert small[name].mean == pytest.approx(float(cosines.mean()), abs=1e-6)
        assert small[name].least == pytest.approx(float(cosines.min()), abs=1e-6)
        assert small[name].worst == str(paths[int(cosines.argmin())])
        assert small[name].neighbour is None  # two pictures have no choice of neighbours


def test_exif_ignored_is_the_picture_lying_on_its_side(folder: Path, private_places: Path) -> None:
    model = bb.load("mini", precision="exact")
    data = (folder / "turned.jpg").read_bytes()
    lying = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    vectors = model.embed([data, lying], output="features")
    cost = named(conditions(model, [data], int8=False))["EXIF ignored"]
    assert cost.mean == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert cost.spread is None


def test_another_output(photographs: dict[str, Path], private_places: Path) -> None:
    report = conditions("mini", [photographs["coffee"]], output="image_embeds", int8=False)
    assert report.output == "image_embeds"
    assert report.without["dynamic int8"] == "it was not asked for"
    assert json.loads(json.dumps(report.to_json()))["costs"][0]["name"] == "nearest"


def test_what_cannot_be_done_is_an_error(
    photographs: dict[str, Path], folder: Path, private_places: Path
) -> None:
    with pytest.raises(QueryError, match="none was given"):
        conditions("mini", [])
    with pytest.raises(QueryError, match=r"broken\.jpg"):
        conditions("mini", [folder / "broken.jpg"], int8=False)
    texts = bb.Encoder(dataclasses.replace(bb.load("mini").card, image=None))
    with pytest.raises(UnsupportedInputError, match="takes no pictures"):
        conditions(texts, [photographs["coffee"]])
