"""`verify`, `conditions` and `inspect` as a user runs them."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
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
    parted, diagnosis, key, steps, rest = found.out.splitlines()[-5:]
    assert parted.startswith("The two part at pictures, pixel values, worst at coffee.jpg: ")
    assert "levels" in parted
    assert diagnosis == (
        "The reference looks as if red and blue were swapped (BGR): with that, all pixel values are equal."
    )
    assert key == "Look at do_flip_channel_order in the model's configuration."
    assert steps == f"Its own steps: {bb.load('mini').card.image.steps}"
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
    assert "bowerbird golden ORIGINAL pictures... -o ref.npz" in found.out
    assert "bowerbird verify ./copy --golden ref.npz pictures..." in found.out
    assert "problem\tgone.jpg\t" in found.out
    assert "alone or in a batch" in found.out


def test_verify_says_on_how_many_inputs(run: Command, tmp_path: Path, photographs: dict[str, Path]) -> None:
    golden = Golden.read(MINI / "golden.npz")
    Golden(golden.meta, golden.pictures[:2]).write(tmp_path / "ref.npz")
    found = run("verify", "mini", *photographs.values(), "--golden", "ref.npz")
    assert found.out.splitlines()[-1] == (
        "All 7 stages agree, on 2 of 6 pictures; the reference has no arrays for the others."
    )


def test_verify_half_a_model(run: Command, tmp_path: Path) -> None:
    """A model of texts, held against what was made of pictures and texts."""
    copy = tmp_path / "copy"
    shutil.copytree(
        MINI, copy, ignore=shutil.ignore_patterns("vision_model.onnx", "preprocessor_config.json")
    )
    config = json.loads((copy / "config.json").read_text())
    kept = {key: value for key, value in config.items() if "vision" not in key and "text" not in key}
    (copy / "config.json").write_text(json.dumps({**kept, "model_type": "bert"}))
    found = run("verify", "copy", code=1)
    assert "computes what the original computes" not in found.out
    assert "copy fails at pictures: The reference has 6 pictures, and the model takes none" in found.out


def test_verify_against_another_model(run: Command, tmp_path: Path) -> None:
    golden = Golden.read(MINI / "golden.npz")
    one = golden.pictures[0]
    other = dataclasses.replace(one, pooled=one.pooled[:32], unit=one.unit[:32])
    Golden(golden.meta, (other,)).write(tmp_path / "ref.npz")
    found = run("verify", "mini", "--golden", "ref.npz", code=1)
    assert found.out == "This reference is of another model: its vectors have 32 numbers, this model's 384.\n"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_names_are_whole_on_every_terminal(
    run: Command, tmp_path: Path, photographs: dict[str, Path], tampered: Path, width: int
) -> None:
    shown = on_terminal(run, width, "verify", "mini", "--golden", tampered, code=1)
    assert "coffee.jpg" in shown
    assert "against" in shown
    assert "1 picture and 1 text, profile" in shown
    shutil.copy(photographs["coffee"], tmp_path / "coffee-in-cup.jpg")
    shown = on_terminal(run, width, "conditions", "mini", "coffee-in-cup.jpg", "--no-int8")
    assert "coffee-in-cup.jpg" in shown.replace("\n", "") or "coffee-in-cup" in shown
    assert "features, 1 picture\n" in shown
    legend = " ".join(shown.split())
    assert "pairs: median cosine" in legend or "pairs: least, median, largest cosine" in legend
    assert "first class" in legend
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert "..." not in shown


def on_terminal(run: Command, width: int, *words: object, code: int = 0) -> str:
    """What a person sees, without the colours."""
    ours, theirs = pty.openpty()
    try:
        process = run.start(*words, stdout=theirs, env={"COLUMNS": str(width), "TERM": "dumb"})
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed.
                break
            if not part:
                break
            shown += part
        run.finish(process, code)
    finally:
        os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("verify", "no-such-model"), "no-such-model"),
        (("verify", "mini", "--golden", "no.npz"), "no.npz"),
        (("verify", "mini", "--precision", "half"), "half"),
        (("conditions", "mini", "no-such-folder"), "no-such-folder"),
        (("conditions", "mini", str(MINI), "--output", "nothing"), "nothing"),
        (("inspect", "mini", "no.jpg"), "no.jpg"),
        (("inspect", "mini", "-o", "drawn.png"), "no picture to draw"),
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


def test_inspect_draws_only_when_asked_to(run: Command, tmp_path: Path, photographs: dict[str, Path]) -> None:
    mine = tmp_path / "stages.png"
    mine.write_text("mine")
    found = run("inspect", "mini", photographs["coffee"])
    assert "224x224x3 uint8" in found.out
    assert "-o FILE.png" in found.err
    data = json.loads(run("inspect", "mini", photographs["coffee"], "--json").out)
    assert data["picture"]["stages"][0]["step"] == "decoded"
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*.png")] == ["stages.png"]
    run("inspect", "mini", photographs["coffee"], "-o", "stages.png")
    with Image.open(mine) as image:
        assert image.format == "PNG"
