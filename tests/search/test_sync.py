"""An index after a run says what the folder says: nothing lost, nothing twice, and every count right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import bowerbird as bb
from bowerbird.errors import IndexDamagedError, StoreError, UnreadableError
from bowerbird.record import content_id
from bowerbird.search.report import Report

Picture = Callable[..., bytes]
_clock = count(1_600_000_000)


def write(path: Path, data: bytes) -> Path:
    """A file with a modification time of its own, so that no test depends on the clock's grain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    touch(path)
    return path


def touch(path: Path) -> None:
    os.utime(path, (next(_clock),) * 2)


def counts(report: Report) -> dict[str, int]:
    names = ("added", "changed", "moved", "unchanged", "removed", "missing", "copies")
    found = {name: getattr(report, name) for name in names}
    return {
        name: number for name, number in {**found, "failed": len(report.failed)}.items() if number
    }  # only what happened


def rows(index: bb.Index, *columns: str) -> list[dict]:
    names = columns or ("id", "uri", "content", "name", "folder", "size", "mtime_ns")
    return [row for batch in index.table.scan(names) for row in batch.to_pylist()]


def held(index: bb.Index) -> list[tuple[str, str]]:
    """(path, content) of every record."""
    return sorted((row["uri"], row["content"]) for row in rows(index))


def on_disk(folder: Path) -> list[tuple[str, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted((str(path), content_id(path.read_bytes())) for path in files)


def identity(index: bb.Index) -> dict[str, str]:
    """Name -> id."""
    return {row["name"]: row["id"] for row in rows(index)}


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    for seed, name in enumerate(("a", "b", "c", "d")):
        write(tmp_path / "photos" / f"{name}.png", picture(seed))
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path: Path, folder: Path, model: bb.Encoder) -> bb.Index:
    """The four pictures of `folder`, indexed."""
    made = bb.Index.create(tmp_path / "photos.bower", model)
    assert counts(made.add(folder)) == {"added": 4}
    return made


def test_nothing_new_is_nothing_done(index: bb.Index, folder: Path) -> None:
    before = rows(index)
    assert counts(index.add(folder)) == {"unchanged": 4}
    assert rows(index) == before
    assert len(index) == 4
    reopened = bb.Index.open(index.path)
    assert held(reopened) == on_disk(folder)


def test_added_changed_and_removed(index: bb.Index, folder: Path, picture: Picture) -> None:
    write(folder / "new.png", picture(10))
    write(folder / "a.png", picture(11))
    (folder / "b.png").unlink()
    assert counts(index.add(folder)) == {"added": 1, "changed": 1, "unchanged": 2, "removed": 1}
    assert held(index) == on_disk(folder)
    assert len(index) == 4


def test_a_file_that_is_only_touched_keeps_its_record(index: bb.Index, folder: Path) -> None:
    before = identity(index)
    touch(folder / "a.png")
    assert counts(index.add(folder)) == {"unchanged": 4}
    assert identity(index) == before
    stamps = {row["name"]: row["mtime_ns"] for row in rows(index)}
    assert stamps["a.png"] == (folder / "a.png").stat().st_mtime_ns, "the next run would read it again"


def test_moved_and_renamed_files_keep_their_records(index: bb.Index, folder: Path) -> None:
    before = identity(index)
    (folder / "sub").mkdir()
    (folder / "a.png").rename(folder / "sub" / "a.png")
    (folder / "b.png").rename(folder / "renamed.png")
    assert counts(index.add(folder)) == {"moved": 2, "unchanged": 2}
    assert held(index) == on_disk(folder)
    after = identity(index)
    assert after["a.png"] == before["a.png"]
    assert after["renamed.png"] == before["b.png"]
    where = {row["name"]: row["folder"] for row in rows(index)}
    assert where["a.png"] == str(folder / "sub")


def test_a_moved_folder(index: bb.Index, folder: Path) -> None:
    before = identity(index)
    (folder / "one").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / "one" / name)
    index.add(folder)
    (folder / "one").rename(folder / "two")
    assert counts(index.add(folder)) == {"moved": 2, "unchanged": 2}
    assert held(index) == on_disk(folder)
    assert identity(index) == before


def test_copies_are_shown_once_and_counted(index: bb.Index, folder: Path) -> None:
    for number in range(30):
        shutil.copy(folder / "a.png", folder / f"copy{number}.png")
    assert counts(index.add(folder)) == {"added": 30, "copies": 30, "unchanged": 4}
    assert held(index) == on_disk(folder)
    for k in (1, 2, 4):
        hits = index.search(folder / "a.png", k=k)
        assert len(hits) == k
        assert [hit.attributes["copies"] for hit in hits] == [31, 1, 1, 1][:k]
        assert hits[0].score == pytest.approx(1, abs=1e-4)
    # A picture and its copies are not its own neighbours, whichever of them is asked about.
    for name in ("a.png", "copy0.png", "copy29.png"):
        hits = index.search(like=str(folder / name), k=3)
        assert sorted(hit.attributes["name"] for hit in hits) == ["b.png", "c.png", "d.png"]


def test_copies_of_a_new_picture_in_one_run(tmp_path: Path, model: bb.Encoder, picture: Picture) -> None:
    for name in ("x", "y", "z"):
        write(tmp_path / "in" / f"{name}.png", picture(1))
    index = bb.Index.create(tmp_path / "i", model)
    assert counts(index.add(tmp_path / "in")) == {"added": 3, "copies": 2}
    assert held(index) == on_disk(tmp_path / "in")
    (tmp_path / "in" / "x.png").unlink()
    assert counts(index.add(tmp_path / "in")) == {"unchanged": 2, "removed": 1}
    write(tmp_path / "in" / "w.png", picture(1))
    assert counts(index.add(tmp_path / "in")) == {"added": 1, "copies": 1, "unchanged": 2}
    assert held(index) == on_disk(tmp_path / "in")


@pytest.mark.parametrize("commit", ["0", "5"], ids=["commit after each file", "one commit"])
def test_copies_far_apart_are_embedded_once(
    tmp_path: Path, model: bb.Encoder, picture: Picture, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them is committed, or waits for the network, when the others come."""
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", commit)
    for seed in range(40):
        write(tmp_path / "in" / f"{seed:02}.png", picture(seed % 3 if seed % 2 else 100 + seed))
    index = bb.Index.create(tmp_path / "i", model)
    assert counts(index.add(tmp_path / "in")) == {"added": 40, "copies": 17}
    assert held(index) == on_disk(tmp_path / "in")


def test_two_files_swap_contents(index: bb.Index, folder: Path) -> None:
    a, b = (folder / "a.png").read_bytes(), (folder / "b.png").read_bytes()
    write(folder / "a.png", b)
    write(folder / "b.png", a)
    assert counts(index.add(folder)) == {"moved": 2, "unchanged": 2}
    assert held(index) == on_disk(folder)
    assert index.search(folder / "b.png", k=1)[0].attributes["name"] == "b.png"


def test_a_file_is_moved_over_another(index: bb.Index, folder: Path) -> None:
    before = identity(index)
    (folder / "b.png").rename(folder / "a.png")
    assert counts(index.add(folder)) == {"moved": 1, "unchanged": 2}
    assert held(index) == on_disk(folder)
    assert identity(index)["a.png"] == before["b.png"]


@pytest.mark.parametrize("commit", ["0", "5"], ids=["commit after each file", "one commit"])
@pytest.mark.parametrize("new", ["0.png", "z.png"], ids=["to a name before", "to a name behind"])
def test_a_file_moves_away_and_another_takes_its_name(
    index: bb.Index,
    folder: Path,
    picture: Picture,
    new: str,
    commit: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BOWERBIRD_COMMIT_SECONDS", commit)
    (folder / "a.png").rename(folder / new)
    write(folder / "a.png", picture(50))
    report = index.add(folder)
    assert held(index) == on_disk(folder)
    assert report.changed == 1
    assert report.moved + report.added == 1
    if commit == "5":
        assert counts(report) == {"changed": 1, "moved": 1, "unchanged": 3}


@pytest.mark.parametrize("names", ["abcd", "dcba"])
def test_names_rotate(index: bb.Index, folder: Path, names: str) -> None:
    """a takes b's name, b takes c's, ...; and then one of a chain falls away."""
    first, *others = [folder / f"{name}.png" for name in names]
    first.rename(folder / "aside")
    for old, new in zip(others, [first, *others], strict=False):
        old.rename(new)
    (folder / "aside").rename(others[-1])
    assert counts(index.add(folder)) == {"moved": 4}
    assert held(index) == on_disk(folder)
    for old, new in zip(others, [first, *others], strict=False):
        old.replace(new)
    assert counts(index.add(folder)) == {"moved": 3}
    assert held(index) == on_disk(folder)


def test_gone_files_may_be_kept(index: bb.Index, folder: Path) -> None:
    (folder / "a.png").rename(folder.parent / "outside.png")
    assert counts(index.add(folder, keep_missing=True)) == {"unchanged": 3, "missing": 1}
    assert len(index) == 4
    assert str(folder / "a.png") in index.search("anything", k=4).uris
    (folder.parent / "outside.png").rename(folder / "back.png")
    assert counts(index.add(folder, keep_missing=True)) == {"unchanged": 3, "moved": 1}
    (folder / "back.png").unlink()
    assert counts(index.add(folder)) == {"unchanged": 3, "removed": 1}
    assert held(index) == on_disk(folder)


def test_another_folder_removes_nothing_of_the_first(
    index: bb.Index, folder: Path, tmp_path: Path, picture: Picture
) -> None:
    write(tmp_path / "others" / "e.png", picture(20))
    (folder / "a.png").unlink()
    assert counts(index.add(tmp_path / "others")) == {"added": 1}
    assert len(index) == 5
    assert index.manifest.roots == (str(tmp_path / "others"), str(folder))
    (tmp_path / "others" / "e.png").rename(folder / "e.png")
    assert counts(index.add(folder)) == {"moved": 1, "unchanged": 3, "removed": 1}


def test_a_file_given_several_times_is_one_file(
    index: bb.Index, folder: Path, tmp_path: Path, picture: Picture
) -> None:
    """A folder, a folder in it, a glob and the file itself: one record, counted once."""
    (folder / "sub").mkdir()
    shutil.copy(folder / "a.png", folder / "sub" / "copy.png")
    write(folder / "sub" / "new.png", picture(30))
    sources = [
        folder / "sub" / "copy.png",
        folder,
        folder / "sub",
        folder / "sub" / "*.png",
        folder / "sub" / "new.png",
        folder / "sub" / "new.png",
    ]
    assert counts(index.add(sources)) == {"added": 2, "copies": 1, "unchanged": 4}
    assert held(index) == on_disk(folder)
    write(folder / "sub" / "new.png", (folder / "b.png").read_bytes())
    assert counts(index.add(sources)) == {"changed": 1, "unchanged": 5}
    assert held(index) == on_disk(folder)


def test_links_lead_to_pictures_and_loops_end(index: bb.Index, folder: Path, tmp_path: Path) -> None:
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.png").symlink_to(folder / "self.png")
    (tmp_path / "elsewhere").mkdir()
    (folder / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    report = index.add(folder)
    assert counts(report) == {"moved": 1, "unchanged": 3, "failed": 1}
    assert "self.png" in report.failed[0][0]
    assert str(folder / "linked" / "a.png") in dict(held(index))


def test_broken_files_are_reported_and_stop_nothing(index: bb.Index, folder: Path, picture: Picture) -> None:
    write(folder / "text.jpg", b"I am not a picture")
    write(folder / "half.png", picture(3)[:60])
    write(folder / "nothing.png", b"")
    write(folder / "a.png", b"overwritten by something else")
    write(folder / "good.png", picture(40))
    report = index.add(folder)
    assert counts(report) == {"added": 1, "unchanged": 3, "failed": 4}
    assert sorted(Path(path).name for path, *_ in report.failed) == [
        "a.png",
        "half.png",
        "nothing.png",
        "text.jpg",
    ]
    assert all(path in reason and hint for path, reason, hint, _ in report.failed)
    assert index.manifest.failed == 4


def test_attributes_and_filters(tmp_path: Path, model: bb.Encoder, picture: Picture) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2021:07:14 10:20:30"
    exif[0x0112] = 6  # lies on its side: width and height are those of the picture as it is looked at
    root = tmp_path / "in"
    write(root / "wide" / "Größe's.png", picture(1, size=(90, 30)))
    write(root / "turned.jpg", picture(2, "JPEG", size=(80, 40), exif=exif))
    write(root / "small.webp", picture(3, "WEBP", size=(16, 16), lossless=True))
    index = bb.Index.create(tmp_path / "i", model)
    index.add(root)
    by_name = {
        row["name"]: row for row in index.search("anything").to_dicts()
    }  # what a person gets to see of a record
    assert set(by_name) == {"Größe's.png", "turned.jpg", "small.webp"}
    facts = ("format", "width", "height", "taken_at")
    assert [by_name["Größe's.png"][fact] for fact in facts] == ["PNG", 90, 30, None]
    taken = datetime(2021, 7, 14, 10, 20, 30)
    assert [by_name["turned.jpg"][fact] for fact in facts] == ["JPEG", 40, 80, taken]
    assert [by_name["small.webp"][fact] for fact in facts] == ["WEBP", 16, 16, None]
    assert by_name["Größe's.png"]["folder"] == str(root / "wide")
    assert by_name["turned.jpg"]["size"] == (root / "turned.jpg").stat().st_size
    for where, names in {
        "width > 50": {"Größe's.png"},
        "width <= 50 and format = 'JPEG'": {"turned.jpg"},
        "taken_at is not null": {"turned.jpg"},
        "taken_at >= timestamp '2021-07-01 00:00:00'": {"turned.jpg"},
        "name like '%ß%'": {"Größe's.png"},
        f"folder = '{root}'": {"turned.jpg", "small.webp"},
        "width > 100000": set(),
    }.items():
        assert {hit.attributes["name"] for hit in index.search("anything", where=where)} == names, where
    name = "Größe's.png"
    assert index.search(like=str(root / "wide" / name), k=1)[0].attributes["name"] != name


def test_a_name_that_is_not_utf8(index: bb.Index, folder: Path, picture: Picture) -> None:
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    try:
        write(odd, picture(60))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    assert counts(index.add(folder)) == {"added": 1, "unchanged": 4}
    assert counts(index.add(folder)) == {"unchanged": 5}
    best = index.search(odd, k=1)[0]
    assert best.uri == odd.as_uri()
    assert best.attributes["name"] == "caf\\xe9.png"
    assert len(index.search(like=str(odd), k=10)) == 4
    odd.rename(folder / "cafe.png")
    assert counts(index.add(folder)) == {"moved": 1, "unchanged": 4}


def test_what_is_not_there_or_holds_nothing_is_refused(index: bb.Index, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "absent", tmp_path / "empty", tmp_path / "photos" / "*.gif"):
        with pytest.raises(UnreadableError):
            index.add(source)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UnreadableError, match=r"4 records .* are kept"):
        index.add(folder)
    assert len(bb.Index.open(index.path)) == 4


def test_an_unfinished_create_is_no_obstacle(tmp_path: Path, model: bb.Encoder) -> None:
    """What a process that was killed in the middle of `create` leaves behind."""
    place = tmp_path / "i"
    made = bb.Index.create(place, model)
    (place / "manifest.json").rename(place / ".manifest.json.4711")
    assert len(bb.Index.create(place, model)) == 0
    assert made.columns
    with pytest.raises(StoreError, match="already"):
        bb.Index.create(place, model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("keep me")
    with pytest.raises(StoreError, match=r"letter\.txt"):
        bb.Index.create(tmp_path / "other", model)


def test_damage_is_not_blamed_on_the_filter(index: bb.Index) -> None:
    for file in index.path.rglob("*.lance"):
        if file.is_file():
            file.unlink()
    damaged = bb.Index.open(index.path)
    for ask in ({"where": "width > 10"}, {}):
        with pytest.raises(IndexDamagedError, match="index the folder anew"):
            damaged.search("anything", **ask)
    with pytest.raises(IndexDamagedError):
        damaged.search(like="0" * 32)


# Anything at all may happen to a folder between two runs.

NAMES = ("a.png", "b.png", "c.png", "sub/a.png", "sub/d.png", "é b/e.png")
names = st.sampled_from(NAMES)
seeds = st.integers(0, 7)
operations = st.one_of(
    st.tuples(st.just("write"), names, seeds),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("touch"), names),
    st.tuples(st.sampled_from(["move", "copy", "swap"]), names, names),
)


def apply(folder: Path, picture: Picture, kind: str, name: str, *more: str | int) -> None:
    path = folder / name
    if kind == "write":
        write(path, picture(more[0]))
        return
    if not path.exists():
        return
    if kind == "delete":
        path.unlink()
    elif kind == "touch":
        touch(path)
    else:
        other = folder / str(more[0])
        other.parent.mkdir(parents=True, exist_ok=True)
        if kind == "move":
            path.replace(other)
        elif kind == "copy" and path != other:
            shutil.copy2(path, other)
        elif kind == "swap" and other.exists() and path != other:
            path.rename(folder / "aside")
            other.rename(path)
            (folder / "aside").rename(other)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs=st.lists(st.lists(operations, max_size=6), min_size=1, max_size=4), commit=st.sampled_from("05"))
@example(runs=[[("write", "a.png", 1)], [("move", "a.png", "c.png"), ("write", "a.png", 2)]], commit="5")
@example(runs=[[("write", "a.png", 1)], [("move", "a.png", "c.png"), ("write", "a.png", 2)]], commit="0")
def test_the_index_equals_the_folder(
    runs: list[list[tuple]],
    commit: str,
    model: bb.Encoder,
    picture: Picture,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("sync")
    folder = place / "in"
    write(folder / "always here.png", picture(99))
    index = bb.Index.create(place / "i", model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOWERBIRD_COMMIT_SECONDS", commit)
        for changes in runs:
            for change in changes:
                apply(folder, picture, *change)
            report = index.add(folder)
            check(index, folder, model, report)
    assert held(bb.Index.open(index.path)) == on_disk(folder)
    shutil.rmtree(place)


_fresh: dict[str, np.ndarray] = {}


def check(index: bb.Index, folder: Path, model: bb.Encoder, report: Report) -> None:
    expected = on_disk(folder)
    assert held(index) == expected
    assert len(index) == len(expected)
    assert report.failed == []
    assert report.added + report.changed + report.moved + report.unchanged == len(expected)
    assert report.copies <= report.added
    found = rows(
        index, "id", "uri", "content", "name", "folder", "size", "mtime_ns", *(c.name for c in index.columns)
    )
    assert len({row["id"] for row in found}) == len(found)
    for row in found:
        path = Path(row["uri"])
        assert row["id"].split("-")[0] == row["content"]
        assert (row["name"], row["folder"]) == (path.name, str(path.parent))
        assert (row["size"], row["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)
        for column in index.columns:
            key = f"{column.output} {row['content']}"
            if key not in _fresh:
                _fresh[key] = model.embed(path, output=column.output)[0]
            np.testing.assert_allclose(row[column.name], _fresh[key], atol=2e-5)


def test_a_glob_forgets_what_is_gone_below_it(model, picture, tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.png", "deep/c.png"]):
        (folder / name).write_bytes(picture(900 + seed))
    index = bb.Index.create(tmp_path / "glob.bower", model)
    pattern = f"{folder}/**/*.png"
    assert index.add(pattern).added == 3
    (folder / "deep" / "c.png").unlink()
    report = index.add(pattern)
    assert (report.removed, report.unchanged, len(index)) == (1, 2, 2)
