"""`verify`, `conditions` and `inspect` as a user runs them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import bowerbird as bb
from bowerbird.judge.golden import Golden

if TYPE_CHECKING:
    from tests.conftest import Command

MINI = Path(bb.__file__).parent / "models" / "mini"


@pytest.fixture
def tampered(tmp_path: Path) -> Path:
    """Reference arrays of one picture whose red and blue were swapped, and of a text that was cut too early."""
    golden = Golden.read(MINI / "golden.npz")
    coffee, long = golden.pictures[3], golden.texts[-1]
    path = tmp_path / "ref.npz"
    Golden(
        golden.meta,
        (dataclasses.replace(coffee, pixel_values=coffee.pixel_values[::-1].copy()),),
        (dataclasses.replace(long, input_ids=long.input_ids[:128]),),
    ).write(path)
    return path


def test_verify_mini(run: Command) -> None:
    found = run("verify", "mini")
    lines = found.out.splitlines()
    assert lines[-1] == "All 12 stages agree: mini computes what the original computes."
    assert "pictures\tdecoded\texact\t1\t0\t\tequal" in lines
    assert "texts\ttokens\texact\t1\t0\t\tequal" in lines
    assert not [line for line in lines if "DIFFERS" in line]
    assert found.err == ""


def test_verify_names_the_stage_and_the_fault(run: Command, tampered: Path) -> None:
    found = run("verify", "mini", "--golden", tampered, code=1)
    parted, diagnosis, rest = found.out.splitlines()[-3:]
    assert parted.startswith("The two part at pictures, pixel values, worst at coffee.jpg: ")
    assert "levels" in parted
    assert diagnosis == (
        "The reference looks as if red and blue were swapped (BGR): with that, all pixel values are equal."
    )
    assert rest == "Of what comes after it, fed with the reference's own values, raw and pooled differ too."
    data = json.loads(run("verify", "mini", "--golden", tampered, "--json", code=1).out)
    assert data["first"] == {"tower": "image", "stage": "pixel values", "run": "alone"}
    assert data["diagnosis"]["fault"] == "BGR"
    tokens = next(stage for stage in data["stages"] if stage["stage"] == "tokens")
    assert tokens["verdict"] == "DIFFERS"


def test_verify_without_a_reference_says_how_to_make_one(
    run: Command, tmp_path: Path, photographs: dict[str, Path]
) -> None:
    shutil.copytree(MINI, tmp_path / "copy", ignore=shutil.ignore_patterns("golden.npz"))
    found = run("verify", "./copy", photographs["coffee"], "a text", "gone.jpg", cwd=tmp_path)
    assert "bowerbird golden copy pictures... -o ref.npz" in found.out
    assert "bowerbird verify copy --golden ref.npz" in found.out
    assert "problem\tgone.jpg\t" in found.out
    assert "alone or in a batch" in found.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("verify", "no-such-model"), "no-such-model"),
        (("verify", "mini", "--golden", "no.npz"), "no.npz"),
        (("verify", "mini", "--precision", "half"), "half"),
        (("conditions", "mini", "no-such-folder"), "no-such-folder"),
        (("conditions", "mini", str(MINI), "--output", "nothing"), "nothing"),
        (("inspect", "mini", "no.jpg"), "no.jpg"),
        (("inspect", "no-such-model"), "no-such-model"),
    ],
)
def test_what_cannot_be_done_says_so(run: Command, words: tuple[str, ...], named: str) -> None:
    found = run(*words, code=2)
    assert named in found.err
    assert found.out == ""


@pytest.mark.slow
def test_conditions(run: Command, photographs: dict[str, Path]) -> None:
    some = [photographs[name] for name in ("coffee", "chelsea", "rocket")]
    rows = [line.split("\t") for line in run("conditions", "mini", *some).out.splitlines()]
    names = [row[0] for row in rows]
    assert names[0] == "right"
    assert {"nearest", "BGR", "squash", "crop + 1 px", "dynamic int8"} <= set(names)
    assert {row[1] for row in rows if row[0] == "without"} == {
        "EXIF ignored",
        "alpha dropped",
        "JPEG reduced",
    }
    data = json.loads(run("conditions", "mini", *some, "--json", "--no-int8").out)
    bgr = next(cost for cost in data["costs"] if cost["name"] == "BGR")
    row = rows[names.index("BGR")]
    assert (row[1], row[2]) == ("3", f"{bgr['mean']:.5f}")
    assert Path(bgr["worst"]) in some


def test_inspect(run: Command, tmp_path: Path, photographs: dict[str, Path]) -> None:
    found = run("inspect", "mini", photographs["coffee"], "-o", tmp_path / "drawn.png")
    assert "1  resize short side 256 bicubic" in found.out
    assert bb.load("mini").card.space in found.out
    assert "image_embeds, 384 dimensions" in found.out
    assert "onnx/vision_model.onnx" in found.out
    assert str(tmp_path / "drawn.png") in found.err
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.format == "PNG"
        assert image.width > 1900
    layers = run("inspect", "mini", "--layers").out
    assert layers.count("\n") > found.out.count("\n") - 20
    assert "more, with --layers" not in layers
    data = json.loads(run("inspect", "mini", "--json").out)
    assert data["image"]["recipe"] == str(bb.load("mini").card.image.steps)
    assert "picture" not in data
