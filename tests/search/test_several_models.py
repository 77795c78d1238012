"""Several models in one index: columns for each, filled in from the cache or read again, never stale."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.search.executors import Distributed

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import (
    BowerbirdError,
    IndexDamagedError,
    QueryError,
    SpaceMismatchError,
    UnsupportedInputError,
)
from bowerbird.store import manifest as manifests
from bowerbird.store.lance import LanceTable
from bowerbird.store.location import Location

Picture = Callable[..., bytes]


@pytest.fixture(scope="module")
def mini(private_places: Path) -> bb.Encoder:
    """Takes both."""
    return bb.load("mini", threads=2)


@pytest.fixture(scope="module")
def small(private_places: Path) -> bb.Encoder:
    """Takes both; another space of the same name."""
    return bb.load("mini", threads=2, dimensions=64)


@pytest.fixture(scope="module")
def pictures_only(private_places: Path) -> bb.Encoder:
    return bb.load("mini", threads=2, layer="penultimate")


@pytest.fixture(scope="module")
def texts_only(private_places: Path) -> bb.Encoder:
    return bb.load("mini", threads=2, layer=-1, pooling="lasttoken")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private_places: Path) -> Path:
    """A cache of vectors of its own; what the engines are probed for is shared."""
    place = tmp_path / "cache"
    shutil.copytree(private_places / "cache", place, ignore=shutil.ignore_patterns("vectors"))
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(place))
    return place


@pytest.fixture
def folder(tmp_path: Path, picture: Picture, cache: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for seed in range(5):
        (root / f"{seed}.png").write_bytes(picture(seed))
    return root


def rows(index: bb.Index, *names: str) -> list[dict[str, Any]]:
    """Rows that a reader sees, in the order of what they hold."""
    opened = bb.Index.open(index.path)
    table = opened.table
    found = [row for batch in table.scan(names or table.names) for row in batch.to_pylist()]
    assert len(found) == len(opened)
    return sorted(found, key=lambda row: [str(row[name]) for name in names or ("uri", "id")])


def vectors(index: bb.Index, model: bb.Encoder, modality: str = "image") -> dict[str, NDArray[np.float32]]:
    """By id, the raw vectors of the shared output; records without one are left out."""
    opened = bb.Index.open(index.path)
    (entry,) = (entry for entry in opened.manifest.models if entry.space == model.card.space)
    column = next(column for column in entry.columns if column.modality == modality)
    return {
        row["id"]: np.asarray(row[column.name], np.float32) * row[column.norm]
        for batch in opened.table.scan(["id", column.name, column.norm])
        for row in batch.to_pylist()
        if row[column.name] is not None
    }


def assert_like_alone(index: bb.Index, model: bb.Encoder, sources: Iterable[Path], tmp_path: Path) -> None:
    """Its vectors are those of an index that has this model alone, bit for bit."""
    alone = bb.Index.create(tmp_path / "alone.bower", model)
    alone.add(list(sources))
    want, have = vectors(alone, model), vectors(index, model)
    assert want.keys() == have.keys()
    assert all(np.array_equal(want[id_], have[id_]) for id_ in want)
    shutil.rmtree(tmp_path / "alone.bower")


# Names and columns


class TestEntries:
    @pytest.fixture
    def index(self, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, texts_only: bb.Encoder) -> bb.Index:
        return bb.Index.create(tmp_path / "a.bower", [mini, small, texts_only])

    def test_the_first_is_the_index_s_own(self, index: bb.Index, mini: bb.Encoder) -> None:
        assert [entry.space for entry in index.entries()] == [mini.card.space]
        assert index.model is mini
        assert index.encoder() is mini

    def test_all_of_them(self, index: bb.Index, mini: bb.Encoder) -> None:
        for name in ("both", "all", f"all,{mini.card.space}"):
            assert [entry.name for entry in index.entries(name)] == ["mini"] * 3

    def test_by_name_and_by_space(
        self, index: bb.Index, mini: bb.Encoder, small: bb.Encoder, texts_only: bb.Encoder
    ) -> None:
        assert [entry.space for entry in index.entries("mini")] == [mini.card.space]
        spaces = [texts_only.card.space, small.card.space]
        assert [entry.space for entry in index.entries(spaces)] == spaces
        assert [entry.space for entry in index.entries(", ".join(spaces))] == spaces

    def test_names_that_mean_nothing(self, index: bb.Index) -> None:
        with pytest.raises(QueryError, match=r"no vectors of the model 'minni'.*Did you mean mini\?"):
            index.entries("minni")
        with pytest.raises(QueryError, match="several models"):
            index.encoder("all")

    def test_names_that_mean_several(self, tmp_path: Path, small: bb.Encoder, texts_only: bb.Encoder) -> None:
        index = bb.Index.create(tmp_path / "b.bower", [small, texts_only])
        with pytest.raises(QueryError, match="several models called 'mini'") as caught:
            index.entries("mini")
        assert small.card.space in str(caught.value)
        assert "dimensions 64" in str(caught.value)

    def test_columns_of_the_same_name_are_told_apart(self, index: bb.Index, small: bb.Encoder) -> None:
        names = [column.name for column in index.columns]
        assert len(set(names)) == len(names)
        assert f"mini_{small.card.space[:6]}__image_embeds" in names
        assert {*names} <= {*index.table.names}
        assert set(index.parts()) == set(names)
        assert list(index.parts().values())[:2] == ["image", "image.features"]
        assert f"{small.card.space}.image" in index.parts().values()

    def test_one_column_by_output(self, index: bb.Index, small: bb.Encoder) -> None:
        entry = index.entries(small.card.space)[0]
        assert entry.column("image_embeds").dimensions == 64
        assert index.column("image_embeds").dimensions == 384
        assert index.column("image_embeds", entry=entry) == entry.column("image_embeds")
        assert entry.outputs == ("image_embeds", "features")
        with pytest.raises(IndexDamagedError, match="no column for the text output 'nothing'"):
            entry.column("nothing", "text")

    def test_twice_the_same_model_is_one(self, tmp_path: Path, mini: bb.Encoder) -> None:
        index = bb.Index.create(tmp_path / "b.bower", [mini, "mini"])
        assert len(index.manifest.models) == 1

    def test_opening_loads_nothing(self, tmp_path: Path, private_places: Path, mini: bb.Encoder) -> None:
        copy = tmp_path / "model"
        shutil.copytree(mini.card.directory, copy)
        path = tmp_path / "photos.bower"
        bb.Index.create(path, [mini, str(copy)])
        assert [entry.space for entry in bb.Index.open(path).manifest.models] == [mini.card.space]
        (copy / "preprocessor_config.json").write_text(
            json.dumps({**json.loads((copy / "preprocessor_config.json").read_text()), "resample": 2})
        )
        shutil.rmtree(path)
        bb.Index.create(path, [mini, str(copy)])
        shutil.rmtree(copy)
        opened = bb.Index.open(path)
        assert opened.encoder("mini").card.space == mini.card.space
        with pytest.raises(BowerbirdError, match="model"):
            opened.encoder(str(copy))

    def test_a_model_that_the_index_does_not_have(self, index: bb.Index, pictures_only: bb.Encoder) -> None:
        with pytest.raises(SpaceMismatchError, match="and 2 more"):
            bb.Index.open(index.path, pictures_only)
        assert bb.Index.open(index.path, index.encoder()).model is index.encoder()


class TestManifest:
    def test_format_1_is_read(self, tmp_path: Path, mini: bb.Encoder) -> None:
        index = bb.Index.create(tmp_path / "a.bower", mini)
        path = tmp_path / "a.bower" / manifests.NAME
        data = json.loads(path.read_text())
        assert data["format"] == 2
        data["format"] = 1
        for entry in data["models"]:
            del entry["calibration"]
        path.write_text(json.dumps(data))
        assert bb.Index.open(index.path).manifest == index.manifest

    def test_calibration_is_plain_data_that_is_kept(
        self, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder
    ) -> None:
        index = bb.Index.create(tmp_path / "a.bower", [mini, small])
        told = {"slope": [1.5, None], "on": True}
        with index.writing():
            index.change(replace(index.manifest.models[1], calibration=told))
            index.publish(failed=0, roots=())
        assert [entry.calibration for entry in bb.Index.open(index.path).manifest.models] == [{}, told]


# Adding one


def test_a_folder_under_two_models(folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder) -> None:
    index = bb.Index.create(tmp_path / "a.bower", [mini, small])
    report = index.add(folder)
    assert (report.added, report.filled, report.failed) == (5, 5, [])
    for model in (mini, small):
        assert_like_alone(index, model, [folder], tmp_path)
    numerics = [entry.numerics for entry in bb.Index.open(index.path).manifest.models]
    assert all(told["image"]["engine"] for told in numerics)
    again = index.add(folder)
    assert (again.unchanged, again.filled) == (5, 0)


def test_one_more_model(folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder) -> None:
    index = bb.Index.create(tmp_path / "a.bower", mini)
    index.add(folder)
    before = rows(index, "id", "uri", "content", "thumbnail", "mini__image_embeds")
    report = index.add_model(small)
    assert (report.added, report.filled) == (0, 5)
    assert rows(index, "id", "uri", "content", "thumbnail", "mini__image_embeds") == before
    assert_like_alone(index, small, [folder], tmp_path)
    assert index.add_model(small).filled == 0


def test_what_the_cache_holds_is_not_read_again(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder
) -> None:
    index = bb.Index.create(tmp_path / "a.bower", mini)
    index.add(folder)
    Collection.from_glob(str(folder)).embed(small).to_list()
    wanted = vectors(index, mini)
    shutil.rmtree(folder)
    report = index.add_model(small)
    assert (report.filled, report.failed) == (5, [])
    assert vectors(index, small).keys() == wanted.keys()
    # And what is dropped comes back from there.
    index.drop_model(small.card.space)
    assert index.add_model(small).filled == 5


def test_files_that_are_gone_and_not_cached(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, picture: Picture
) -> None:
    index = bb.Index.create(tmp_path / "a.bower", mini)
    index.add(folder)
    (folder / "1.png").unlink()
    (folder / "2.png").write_bytes(picture(99))
    report = index.add_model(small)
    assert report.filled == 3
    reasons = sorted(failure.reason for failure in report.failed)
    assert [str(folder / name) in reason for name, reason in zip(("1.png", "2.png"), reasons, strict=True)]
    assert "does not exist" in reasons[0]
    assert "has changed since it was indexed" in reasons[1]
    errors = (tmp_path / "a.bower" / "errors.jsonl").read_text().splitlines()
    assert len(errors) == 2 == bb.Index.open(index.path).manifest.failed
    # The next run finds both as they are now.
    done = index.add(folder)
    assert (done.changed, done.removed, done.filled, done.failed) == (1, 1, 1, [])
    assert len(vectors(index, small)) == 4


def test_pictures_that_lie_nowhere(
    tmp_path: Path, cache: Path, mini: bb.Encoder, small: bb.Encoder, picture: Picture
) -> None:
    records = [Record(f"r{seed}", picture(seed), ("words",) * (seed % 2)) for seed in range(4)]
    path = tmp_path / "a.bower"
    Collection.from_items(records).embed(mini).write(path)
    Collection.from_items(records[:2]).embed(small).to_list()  # these two are cached
    index = bb.Index.open(path)
    report = index.add_model(small)
    assert report.filled == 2
    assert sorted(failure.path for failure in report.failed) == ["r2", "r3"]
    assert all("lies nowhere" in failure.reason for failure in report.failed)
    assert vectors(index, small).keys() == {"r0", "r1"}
    assert vectors(index, small, "text").keys() == {"r1"}


@pytest.mark.parametrize(
    "texts",
    [("one",), ("one", "two"), ("one\ntwo",), ("a\nb", "c"), ("a", "b\nc\n", "", "d"), ("\n", "x")],
    ids=["one", "two", "two lines", "mixed", "empty among them", "a blank one"],
)
@pytest.mark.parametrize("with_picture", [True, False], ids=["picture", "text"])
def test_texts_are_told_apart_again(
    tmp_path: Path,
    mini: bb.Encoder,
    small: bb.Encoder,
    picture: Picture,
    cache: Path,
    texts: tuple[str, ...],
    with_picture: bool,
) -> None:
    """The table has all texts of a record in one; each line by itself would give another vector."""
    (tmp_path / "a.png").write_bytes(picture(1))
    record = Record("r", tmp_path / "a.png" if with_picture else None, texts)
    Collection.from_items([record]).embed(mini).write(tmp_path / "a.bower")
    index = bb.Index.open(tmp_path / "a.bower")
    assert index.add_model(small).filled == 1
    Collection.from_items([record]).embed(small, cache=False).write(tmp_path / "b.bower")
    alone = bb.Index.open(tmp_path / "b.bower")
    np.testing.assert_array_equal(vectors(index, small, "text")["r"], vectors(alone, small, "text")["r"])


def test_a_model_that_takes_nothing_of_it(
    folder: Path, tmp_path: Path, mini: bb.Encoder, texts_only: bb.Encoder, pictures_only: bb.Encoder
) -> None:
    index = bb.Index.create(tmp_path / "a.bower", mini)
    index.add(folder)
    before = index.manifest
    with pytest.raises(UnsupportedInputError, match="takes texts only"):
        index.add_model(texts_only)
    assert bb.Index.open(index.path).manifest == before
    words = bb.Index.create(tmp_path / "b.bower", mini)
    Collection.from_texts(["a cat"]).embed(mini).write(words.path)
    with pytest.raises(UnsupportedInputError, match="takes pictures only"):
        bb.Index.open(words.path).add_model(pictures_only)


def test_records_without_a_part_for_a_model_are_left_alone(
    folder: Path, tmp_path: Path, mini: bb.Encoder, texts_only: bb.Encoder
) -> None:
    records = [Record("both", folder / "0.png", ("a cat",)), Record("picture", folder / "1.png")]
    Collection.from_items(records).embed(mini).write(tmp_path / "a.bower")
    index = bb.Index.open(tmp_path / "a.bower")
    report = index.add_model(texts_only)
    assert (report.filled, report.failed) == (1, [])
    assert vectors(index, texts_only, "text").keys() == {"both"}
    again = index.add_model(texts_only)
    assert (again.filled, again.failed) == (0, [])


def test_texts_that_come_later(folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder) -> None:
    index = bb.Index.create(tmp_path / "a.bower", [mini, small])
    index.add(folder)
    assert not any(column.modality == "text" for column in index.columns)
    Collection.from_items([Record("words", texts=("a cat",))]).write(index.path)
    assert [vectors(index, model, "text").keys() for model in (mini, small)] == [{"words"}] * 2


# Halves of one: a model for texts, and one for pictures


@pytest.mark.parametrize("first", ["texts", "pictures"])
@pytest.mark.parametrize("where", ["local", "distributed"])
def test_two_halves(
    folder: Path,
    tmp_path: Path,
    texts_only: bb.Encoder,
    pictures_only: bb.Encoder,
    first: str,
    where: str,
) -> None:
    """Each record has what the models take of it, and two pictures with the same words are not the same record."""
    if where == "distributed":
        pytest.importorskip("lance_ray", reason="needs lance-ray")
    order = [texts_only, pictures_only] if first == "texts" else [pictures_only, texts_only]
    records = [
        Record("both", folder / "0.png", ("a cat",)),
        Record("same words", folder / "1.png", ("a cat",)),
        Record("picture", folder / "2.png"),
        Record("text", texts=("a dog",)),
        Record("neither"),
        Record("broken", tmp_path / "nothing.png"),
    ]
    index = bb.Index.create(tmp_path / "a.bower", order)
    executor = Distributed(threads=2) if where == "distributed" else bb.Local(threads=2)
    done = Collection.from_items(records).on(executor).write(index.path)
    assert sorted(failure.id for failure in done.failures) == ["broken", "neither"]
    assert done.counts["added"] == 4
    assert [row["id"] for row in rows(index, "id")] == ["both", "picture", "same words", "text"]
    assert vectors(index, texts_only, "text").keys() == {"both", "same words", "text"}
    images = vectors(index, pictures_only)
    assert images.keys() == {"both", "same words", "picture"}
    assert not np.allclose(images["both"], images["same words"])
    # What decoding tells of a picture is there whichever model came first.
    told = {
        row["id"]: (row["width"], bool(row["thumbnail"])) for row in rows(index, "id", "width", "thumbnail")
    }
    assert told == {
        "both": (64, True),
        "same words": (64, True),
        "picture": (64, True),
        "text": (None, False),
    }
    again = Collection.from_items(records[:4]).on(executor).write(index.path)
    assert (again.counts["unchanged"], again.counts["filled"]) == (4, 0)


def test_a_folder_of_pictures_under_a_model_for_texts_first(
    folder: Path, tmp_path: Path, texts_only: bb.Encoder, pictures_only: bb.Encoder
) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    index = bb.Index.create(tmp_path / "a.bower", [texts_only, pictures_only])
    report = index.add(folder)
    assert (report.added, report.filled, len(report.failed)) == (5, 5, 1)
    assert len(bb.Index.open(index.path)) == 5
    again = index.add(folder)
    assert (again.added, again.unchanged, again.filled, len(again.failed)) == (0, 5, 0, 1)


# What changes later


def test_bytes_that_change_leave_nothing_stale(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, picture: Picture
) -> None:
    index = bb.Index.create(tmp_path / "a.bower", [mini, small])
    index.add(folder)
    (folder / "0.png").write_bytes(picture(50))
    (folder / "1.png").rename(folder / "moved.png")
    shutil.copy(folder / "2.png", folder / "copy.png")
    (folder / "3.png").touch()
    report = index.add(folder)
    assert (report.changed, report.moved, report.copies, report.unchanged) == (1, 1, 1, 3)
    assert report.filled == 1  # only what changed; the others kept the vectors of both
    for model in (mini, small):
        assert len(vectors(index, model)) == 6
        assert_like_alone(index, model, [folder], tmp_path)


def test_between_the_run_and_the_filling_nothing_is_stale(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, picture: Picture
) -> None:
    """Whoever reads while a file has changed sees no vector of its old bytes, of either model."""
    index = bb.Index.create(tmp_path / "a.bower", [mini, small])
    index.add(folder)
    (folder / "0.png").write_bytes(picture(50))
    seen: list[tuple[int, int]] = []

    class Looks:
        def start(self, total: int) -> None:
            seen.append((len(vectors(index, mini)), len(vectors(index, small))))

        def advance(self, count: int) -> None:
            pass

    index.add(folder, progress=Looks())
    assert seen == [(5, 5), (5, 4)]  # as it begins; as the filling begins
    assert len(vectors(index, small)) == 5


def test_several_models_in_one_plan(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, pictures_only: bb.Encoder
) -> None:
    path = tmp_path / "a.bower"
    records = [Record(f"r{seed}", folder / f"{seed}.png", ("a cat",)) for seed in range(3)]
    plan = Collection.from_items(records).embed(small).embed(mini, name="second")
    done = plan.write(path)
    assert (done.counts["added"], done.counts["filled"]) == (3, 0)
    index = bb.Index.open(path)
    assert [entry.space for entry in index.manifest.models] == [small.card.space, mini.card.space]
    for model in (small, mini):
        assert len(vectors(index, model)) == len(vectors(index, model, "text")) == 3
    assert plan.write(path).counts["unchanged"] == 3
    # One of the two alone is as good: the other is filled in.
    more = [Record("r3", folder / "3.png"), *records]
    done = Collection.from_items(more).embed(mini).write(path)
    assert (done.counts["added"], done.counts["unchanged"], done.counts["filled"]) == (1, 3, 1)
    assert len(vectors(index, small)) == 4
    with pytest.raises(SpaceMismatchError):
        Collection.from_items(more).embed(pictures_only).write(path)


# Dropping one


def test_dropping_leaves_the_others(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder
) -> None:
    index = bb.Index.create(tmp_path / "a.bower", [mini, small])
    index.add(folder)
    kept = vectors(index, small)
    gone = index.drop_model("mini")
    assert gone.space == mini.card.space
    opened = bb.Index.open(index.path)
    assert [entry.space for entry in opened.manifest.models] == [small.card.space]
    assert not any(name.startswith("mini__") for name in opened.table.names)
    assert all(np.array_equal(kept[id_], vector) for id_, vector in vectors(opened, small).items())
    report = opened.add(folder)
    assert (report.unchanged, report.filled) == (5, 0)
    with pytest.raises(BowerbirdError, match="left without a model"):
        opened.drop_model(small.card.space)
    with pytest.raises(QueryError, match="no vectors of the model"):
        opened.drop_model("clip")
    assert opened.add_model(mini).filled == 5
    assert_like_alone(opened, mini, [folder], tmp_path)


def test_a_half_dropped_model_is_cleared_away(
    folder: Path, tmp_path: Path, mini: bb.Encoder, small: bb.Encoder, picture: Picture
) -> None:
    """As a process leaves it that is killed after the manifest: its vectors must not come back with the model."""
    path = tmp_path / "a.bower"
    index = bb.Index.create(path, [mini, small])
    index.add(folder)
    location = Location.of(path)
    whole = manifests.read(location)
    manifests.write(location, whole.updated_to(models=whole.models[:1]))
    assert len(bb.Index.open(path)) == 5
    (folder / "0.png").write_bytes(picture(70))
    index = bb.Index.open(path, mini)
    assert index.add(folder).changed == 1
    assert not any(small.card.space[:6] in name for name in LanceTable.open(path / "records.lance").names)
    assert index.add_model(small).filled == 5
    assert_like_alone(index, small, [folder], tmp_path)
