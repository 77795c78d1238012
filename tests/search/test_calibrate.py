"""Calibration of an index: when it is measured, where it lies, and what becomes of it when something goes wrong."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bowerbird as bb
from bowerbird import Record
from bowerbird.errors import IndexDamagedError, QueryError, SpaceMismatchError
from bowerbird.judge.doctor import doctor
from bowerbird.models.hub.fetch import locate
from bowerbird.search import background
from bowerbird.search.calibrate import calibrate, is_stale, refresh
from bowerbird.search.copying import copy_index
from bowerbird.store import manifest as manifests

THINGS = [f"a {c} {t}" for c, t in itertools.product(("red", "old", "tall", "cheap"), ("hat", "cup", "car"))]
MORE = [f"a {c} {t}" for c, t in itertools.product(("wet", "new"), ("boat", "tree", "song", "law"))]
QUERY = "a bottle"


def texts(names: list[str]) -> list[Record]:
    return [Record(name, texts=(name,)) for name in names]


def write(place: Path, model: bb.Encoder, names: list[str]) -> bb.Index:
    bb.Collection.from_items(texts(names)).embed(model).write(place)
    return bb.Index.open(place, model)


def told(place: Path) -> dict[str, Any]:
    (entry,) = json.loads((place / manifests.NAME).read_text())["models"]
    return entry["calibration"]


def change(place: Path, **changes: Any) -> None:
    """Edit what the manifest says of the calibration."""
    path = place / manifests.NAME
    data = json.loads(path.read_text())
    data["models"][0]["calibration"].update(changes)
    path.write_text(json.dumps(data))


def files(place: Path) -> set[str]:
    return {path.name for path in place.glob(f"{manifests.CALIBRATIONS}*")}


@pytest.fixture
def place(tmp_path: Path, model: bb.Encoder) -> Path:
    """An index of twelve texts."""
    write(tmp_path / "a.bower", model, THINGS)
    return tmp_path / "a.bower"


def test_it_is_measured_at_the_end_of_a_run(place, model):
    found = told(place)
    assert files(place) == {found["file"]}
    assert found["records"] == len(THINGS)
    assert found["space"] == model.card.space
    assert {(pair["query"], pair["column"]) for pair in found["pairs"]} == {
        ("text", "mini__image_embeds"),
        ("text", "mini__sentence_embedding"),
        ("image", "mini__image_embeds"),
        ("image", "mini__features"),
        ("image", "mini__sentence_embedding"),
    }
    assert found["correction"]["on"] is False
    assert found["sigmoid"] is None


def test_it_is_measured_again_when_the_index_has_grown(place, model):
    before = told(place)
    write(place, model, [*THINGS, MORE[0]])  # 8 %
    assert told(place) == before
    write(place, model, [*THINGS, *MORE[:2]])  # 17 % since it was measured
    after = told(place)
    assert (after["records"], before["records"]) == (14, 12)
    assert after["file"] != before["file"]


def test_a_column_that_has_its_first_rows_is_measured(place, model, photographs):
    before = told(place)
    items = [*texts(THINGS), Record("photo", photographs["coffee"])]
    bb.Collection.from_items(items).embed(model).write(place)  # 8 % more records
    after = told(place)
    assert after["file"] != before["file"]
    assert [told["columns"]["mini__image_embeds"] for told in (before, after)] == [0, 1]
    before, after = (
        [pair for pair in told["pairs"] if (pair["query"], pair["column"]) == ("text", "mini__image_embeds")]
        for told in (before, after)
    )
    assert before != after


def test_records_that_took_the_place_of_others_count(place, model):
    before = told(place)
    items = [Record(id_, texts=(f"the {number}th law",)) for number, id_ in enumerate(THINGS[:6])]
    bb.Collection.from_items([*items, *texts(THINGS[6:])]).embed(model).write(place)
    after = told(place)
    assert after["records"] == before["records"]
    assert after["file"] != before["file"]
    # Written once more, as a table is, they are the same.
    bb.Collection.from_items([*items, *texts(THINGS[6:])]).embed(model).write(place)
    assert told(place) == after
    # So they are where only what is known of them changes.
    items = [Record(item.id, texts=item.texts, attributes={"price": 3}) for item in items]
    bb.Collection.from_items([*items, *texts(THINGS[6:])]).embed(model).write(place)
    assert told(place) == after


def test_the_doctor_goes_by_the_same_rule(place, model):
    def finding() -> tuple[str, str]:
        (found,) = doctor(bb.Index.open(place, model), only=["calibration"]).findings
        return found.level.name, found.what

    index = bb.Index.open(place, model)
    assert not is_stale(index, index.manifest.models[0])
    assert finding()[0] == "OK"
    change(place, records=11)  # 12 now, 9 % more
    assert finding()[0] == "OK"
    change(place, records=10)
    level, said = finding()
    assert level == "WARNING"
    assert said == "Calibrated with 10 records, and there are 12 now."
    change(place, records=12, columns={**told(place)["columns"], "mini__sentence_embedding": 4})
    level, said = finding()
    assert level == "WARNING"
    assert "Calibrated with 12 records, and many of them" in said


def test_a_dropped_model_leaves_no_calibration_behind(place, model):
    other = bb.load("mini", layer="penultimate")
    index = bb.Index.create(place.with_name("two.bower"), [model, other])
    bb.Collection.from_items(
        [Record(path.name, path) for path in Path(bb.__file__).parent.glob("models/probe/c*.jpg")]
    ).embed(model).write(index.path)
    index.refresh()
    calibrate(index)
    path = Path(index.path)
    reader = bb.Index.open(path, [model, other])
    assert len(files(path)) == 2
    index.drop_model(other.card.space)
    assert files(path) == {told(path)["file"]}
    # Who opened it before has the vectors in its version of the table.
    picture = next(Path(bb.__file__).parent.glob("models/probe/coffee.jpg"))
    assert reader.search(picture, models=other.card.space)[0].id == "coffee.jpg"


def test_a_copy_has_the_calibration_of_its_manifest_alone(place, model):
    calibrate(bb.Index.open(place, model), seed=1)
    write(place, model, [*THINGS, *MORE])
    assert len(files(place)) == 2
    copy = place.with_name("copy.bower")
    copy_index(place, copy)
    assert files(copy) == {told(place)["file"]}
    assert len(bb.Index.open(copy, model).search(QUERY)) == 10


def test_readers_that_opened_before_go_on(place, model):
    reader = bb.Index.open(place, model)
    first = told(place)["file"]
    write(place, model, [*THINGS, *MORE[:4]])
    second = told(place)["file"]
    assert files(place) == {first, second}, "what the reader's manifest names is still there"
    hits = reader.search(QUERY, k=100)
    assert len(hits) == len(THINGS)
    # And one that has not asked anything before the next time, when the file it knows of is cleared away.
    late = bb.Index.open(place, model)
    write(place, model, [*THINGS, *MORE])
    write(place, model, [*THINGS, *MORE, *(f"{text} at night" for text in THINGS)])
    assert len(files(place)) == 2
    assert late.manifest.models[0].calibration["file"] not in files(place)
    assert len(late.search(QUERY, k=100)) == len(THINGS) + 4
    # A manifest that nobody replaced names a file that has to be there.
    current = bb.Index.open(place, model)
    (place / told(place)["file"]).unlink()
    with pytest.raises(IndexDamagedError):
        current.search(QUERY)


def test_a_seed_gives_the_same_sample(place, model, monkeypatch):
    monkeypatch.setattr(background, "SAMPLE", 6)
    index = bb.Index.open(place, model)
    named = {}
    for seed in (1, 2, 1):
        (found,) = calibrate(index, seed=seed)
        assert len(found.arrays["mini__sentence_embedding"]) == 6
        said = {key: value for key, value in told(place).items() if key != "made"}
        assert named.setdefault(seed, said) == said
    assert named[1]["file"] != named[2]["file"]
    assert named[1]["pairs"] != named[2]["pairs"]
    with pytest.raises(QueryError, match="no vectors of the model 'other'"):
        calibrate(index, "other")


def test_a_calibration_of_another_space(place, model):
    change(place, space="0123456789abcdef")
    before = (place / manifests.NAME).read_bytes()
    index = bb.Index.open(place, model)
    with pytest.raises(SpaceMismatchError, match=f"space 0123456789abcdef.* {model.card.space}") as caught:
        index.search(QUERY)
    assert "bowerbird calibrate" in caught.value.hint
    assert (place / manifests.NAME).read_bytes() == before
    calibrate(index)
    assert len(index.search(QUERY)) == 10
    # So does any run.
    change(place, space="0123456789abcdef")
    write(place, model, THINGS)
    assert told(place)["space"] == model.card.space


def damage(place: Path, how: str) -> None:
    path = place / told(place)["file"]
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        change(place, **{"pairs": {"pairs": [{"query": "text"}]}, "nothing": {"pairs": None}}[how])


@pytest.mark.parametrize("how", ["missing", "cut", "changed", "pairs", "nothing"])
def test_a_calibration_that_cannot_be_read(place, model, how):
    damage(place, how)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    index = bb.Index.open(place, model)
    with pytest.raises(IndexDamagedError, match=r"calibration of mini in .* cannot be read") as caught:
        index.search(QUERY)
    assert "bowerbird calibrate" in caught.value.hint
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    calibrate(index)
    assert len(bb.Index.open(place, model).search(QUERY)) == 10


def test_measured_now_or_read_from_the_file(place, model):
    kept = bb.Index.open(place, model).search(QUERY, k=100)
    data = json.loads((place / manifests.NAME).read_text())
    data["models"][0]["calibration"] = {}
    (place / manifests.NAME).write_text(json.dumps(data))
    now = bb.Index.open(place, model).search(QUERY, k=100)
    assert now.ids == kept.ids
    # The file has 16 bits of each number.
    np.testing.assert_allclose(now.match, kept.match, atol=2e-3)
    assert kept.match.max() > 1e-4


def test_a_run_whose_model_is_gone_by_then(place, caplog):
    """What was to be written is written; it is measured when the model is there again."""
    data = json.loads((place / manifests.NAME).read_text())
    data["models"][0].update(source=str(place / "no-such-model"), calibration={})
    (place / manifests.NAME).write_text(json.dumps(data))
    index = bb.Index.open(place)
    with index.writing():
        refresh(index)
    assert "mini was not calibrated: " in caplog.text
    assert told(place) == {}


def test_a_run_whose_model_is_another_by_then(place, caplog):
    """It has written its records; that their scores cannot be measured does not make it fail."""
    shutil.copytree(locate("mini").directory, place.parent / "other")
    path = place.parent / "other" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 2}))
    data = json.loads((place / manifests.NAME).read_text())
    data["models"][0].update(source=str(place.parent / "other"), calibration={})
    (place / manifests.NAME).write_text(json.dumps(data))
    index = bb.Index.open(place)
    with index.writing():
        refresh(index)
    assert "mini was not calibrated: The index at " in caplog.text
    assert told(place) == {}


KILLED = """
import os, signal, sys
import bowerbird as bb
from bowerbird.search import background
from bowerbird.search.calibrate import calibrate

background.SAMPLE = 6
index = bb.Index.open(sys.argv[1])
index.write_manifest = lambda **changes: os.kill(os.getpid(), signal.SIGKILL)
calibrate(index)
"""


def test_killed_before_the_manifest_is_written(place, model):
    before = told(place)
    hits = bb.Index.open(place, model).search(QUERY)
    done = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert told(place) == before
    assert len(files(place)) == 2, "the new file was there already"
    index = bb.Index.open(place, model)
    again = index.search(QUERY)
    assert again.ids == hits.ids
    np.testing.assert_array_equal(again.match, hits.match)
    calibrate(index)
    assert files(place) == {told(place)["file"]}, "the next one clears away what was left"
