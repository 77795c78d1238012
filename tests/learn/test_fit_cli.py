"""`bowerbird fit` as a user runs it: a process, files, and a model that is used afterwards."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.learn.towers import picture_tower

import bowerbird as bb
from bowerbird.learn.checkpoints import Checkpoints
from bowerbird.learn.log import read_metrics

if TYPE_CHECKING:
    from tests.conftest import Command, Result

COLOURS = ("red", "green", "blue", "white")
LONG = 600  # seconds that a fit may take on a machine with other work


@pytest.fixture
def pairs(tmp_path: Path, picture: Callable[..., bytes]) -> Path:
    """40 pictures of blocks, each with a text of its own, in folders of two classes; one row leads nowhere."""
    lines = ["image,caption,kind"]
    for number in range(40):
        kind = COLOURS[number % 2]
        path = tmp_path / "photos" / kind / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
        lines.append(f"photos/{kind}/{number:02}.png,{COLOURS[number % 4]} blocks number {number},{kind}")
    lines.append("photos/none.png,not there,red")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(lines))
    return table


def fitted(run: Command, *words: object, code: int = 0) -> Result:
    return run.finish(run.start("fit", *words), code, seconds=LONG)


@pytest.mark.slow
def test_pairs_become_a_model_that_indexes_and_searches(run: Command, pairs: Path):
    words = (
        "pairs.csv",
        "--image",
        "image",
        "--text",
        "caption",
        "--text-model",
        "mini",
        "--image-model",
        "mini",
    )
    found = fitted(run, *words, "--recipe", "ridge", "--test", "0.25")
    rows = [line.split("\t") for line in found.out.splitlines()]
    measures = [(way, f"R@{k}") for way in ("text->image", "image->text") for k in (1, 5, 10)]
    assert [(row[0], row[1]) for row in rows] == measures
    assert {len(row) for row in rows} == {8}
    for row in rows:
        mean, low, high = map(float, row[5:])
        assert 0 <= low <= mean <= high <= 1
    assert "pairs.csv: 40 pictures, 40 texts, 40 pairs; 1 left out: 1 unreadable (none.png)" in found.err
    told = re.search(r"(\d+) pictures to learn from, (\d+) to choose by, 10 to judge by\.", found.err)
    assert told is not None
    assert int(told[1]) + int(told[2]) == 30
    assert "  left out: none.png: " in found.err
    commands = [line.strip() for line in found.err.splitlines() if line.startswith("  bowerbird ")]
    assert commands[0] == "bowerbird report ./pairs-model"
    assert not (pairs.parent / "pairs-model.training").exists()

    facts = json.loads((pairs.parent / "pairs-model" / "fit.json").read_text())
    assert facts["after"]["text->image"]["R@10"]["mean"] == pytest.approx(float(rows[2][5]), abs=1e-4)
    # Said from the folder above the pictures, with the same relative path, as the message shows it.
    run("index", "photos/", "--model", "./pairs-model")
    assert len(run("search", "red blocks", "--model", "./pairs-model").rows) > 0
    assert len(
        run("search", "red blocks", "--model", pairs.parent / "pairs-model", cwd=pairs.parent / "photos").rows
    )
    again = run("fit", "pairs.csv", "--recipe", "ridge", code=2)
    assert "pairs-model holds a model that was fitted before" in again.err
    assert "Reading" not in again.err


@pytest.mark.slow
def test_classes_of_folders_and_everything_as_json(run: Command, pairs: Path):
    found = fitted(
        run,
        "photos",
        "--labels",
        "folder",
        "--model",
        "mini",
        "--recipe",
        "ridge",
        "-o",
        "new/model",
        "--json",
    )
    facts = json.loads(found.out)
    assert facts["directory"] == "new/model"
    assert facts["classes"] == ["green", "red"]
    assert facts["after"]["class->image"].keys() >= {"P@10", "AP"}
    assert "held_out_pictures" not in facts
    assert bb.load(pairs.parent / "new" / "model").card.text is not None


@pytest.mark.slow
def test_a_network_that_reads_no_texts_learns_classes(run: Command, pairs: Path, tmp_path: Path):
    pytest.importorskip("torch")
    picture_tower(tmp_path / "net", "nchw")
    words = (
        "pairs.csv",
        "--labels",
        "kind",
        "--model",
        "./net",
        "--recipe",
        "linear",
        "--epochs",
        "2",
        "--dim",
        "8",
    )
    found = fitted(run, *words, "-o", "classes", "--strict", "--verbose", code=1)
    assert "Training\n" in found.err
    assert found.out.startswith("image->image\tP@10\t")
    assert bb.load(tmp_path / "classes").embed([tmp_path / "photos" / "red" / "00.png"]).shape == (1, 8)
    assert (tmp_path / "classes" / "training" / "metrics.csv").is_file()


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(run: Command, pairs: Path):
    pytest.importorskip("torch")
    words = ("pairs.csv", "--recipe", "shared-projection", "-o", "demo", "--batch-size", "8")
    process = run.start("fit", *words, "--epochs", "100000")
    place = Checkpoints(pairs.parent / "demo.training")
    deadline = time.monotonic() + LONG
    while len(place.all()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = read_metrics(pairs.parent / "demo.training")
    assert not (pairs.parent / "demo").exists()

    refused = run("fit", *words, code=2)
    assert (
        "demo.training holds a run that was interrupted. Go on with it: the same command with --resume"
        in refused.err
    )
    other = fitted(run, *words, "--lr", "0.1", "--resume", code=2)
    assert "lr was 0.0003 and is 0.1" in other.err
    done = fitted(run, *words, "--epochs", str(len(place.all()) + 2), "--resume")
    rows = read_metrics(pairs.parent / "demo" / "training")
    assert rows[: len(reached)] == reached
    assert len(rows) == len(Checkpoints(pairs.parent / "demo" / "training").all())
    assert "R@10" in done.out
    assert not (pairs.parent / "demo.training").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(run: Command, pairs: Path):
    pytest.importorskip("torch")
    process = run.start(
        "fit", "pairs.csv", "--recipe", "linear", "--epochs", "100000", "-o", "stopped", "--dim", "4"
    )
    place = Checkpoints(pairs.parent / "stopped.training")
    while not place.all():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    found = run.finish(process, 130, seconds=LONG)
    assert "Go on with the same command and --resume." in found.err
    assert not (pairs.parent / "stopped").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--recipe ridge --epochs 3", "ridge has no --epochs. It has --layer."),
        (
            "--recipe linear --temperature .1",
            "linear has no --temperature. It has --epochs, --batch-size, --lr,",
        ),
        (
            "--epochs 3 --lr .1",
            "auto tries recipes with settings of their own: --epochs, --lr cannot be given.",
        ),
        (
            "--recipe best",
            "There is no recipe 'best'. Take auto, shared-projection, ridge, linear, mlp, adapter",
        ),
        ("--recipe ridge --layer features --layer logits", "ridge reads one layer. Give --layer once."),
        ("--lr 0 --recipe linear", "0 is not above 0"),
        ("--format pickle", "--format pickle is not known. Use onnx or torchscript."),
        ("--test 1.5", "1.5 is no share of the pictures."),
        ("--labels folder -o photos", "photos exists and is not empty."),
    ],
    ids=["no epochs", "no temperature", "auto", "recipe", "layers", "rate", "format", "share", "output"],
)
def test_what_cannot_be_is_said_before_any_work(run: Command, pairs: Path, words: str, said: str):
    found = run("fit", "pairs.csv", *words.split(), code=2)
    assert said in " ".join(found.err.split())
    assert "Reading" not in found.err
    assert not list(pairs.parent.glob("*model*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,caption\n", "holds no pair of a picture and a text"),
        ("image,caption\na.png,x\nb.png,y\n", "2 left out: 2 unreadable (a.png, ...)"),
        ("image,caption\nphotos/red/00.png,x\n", "holds one pair of a picture and a text"),
    ],
    ids=["no rows", "no pictures", "one pair"],
)
def test_what_cannot_be_learned_from_leaves_nothing_behind(
    run: Command, pairs: Path, content: str, said: str
):
    (pairs.parent / "bad.csv").write_text(content)
    found = run("fit", "bad.csv", code=2)
    assert said in found.err
    assert not list(pairs.parent.glob("bad-model*"))


@pytest.mark.slow
def test_a_person_sees_a_table_and_what_auto_did(run: Command, pairs: Path):
    shutil.rmtree(pairs.parent / "photos" / "green")
    ours, theirs = pty.openpty()
    process = run.start(
        "fit", "pairs.csv", "--test", "0.2", "-v", "-o", "seen", env={"COLUMNS": "160"}, stdout=theirs
    )
    os.close(theirs)
    found = run.finish(process, seconds=LONG)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert shown.split()[:4] == ["on", "test", "before", "after"]
    assert "text->image R@10" in shown
    assert "taken: 2 pictures to choose by are too few (at least 20), and it settles itself" in found.err
    assert found.err.count("  left out: ") == 21
