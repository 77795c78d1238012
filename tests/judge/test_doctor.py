"""The doctor on real indexes: each planted fault is found, and a sound index is said to be sound."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import bowerbird as bb
from bowerbird import Collection, Record
from bowerbird.errors import QueryError
from bowerbird.judge.checks.costs import axes, bf16, costs, int8, unit
from bowerbird.judge.checks.finding import Finding, Level
from bowerbird.judge.checks.neighbours import nearest, skewness
from bowerbird.judge.doctor import CHECKS, Checkup, doctor
from bowerbird.judge.doctor_page import doctor_page, pictured

SCENES = 36


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, Path]) -> Path:
    """Different pictures: parts of photographs, large and small."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(4)
    whole = [Image.open(path).convert("RGB") for _, path in sorted(photographs.items())]
    for number in range(SCENES):
        source = whole[number % len(whole)]
        side = int(rng.integers(100, 180))
        left = int(rng.integers(0, source.width - side))
        top = int(rng.integers(0, source.height - side))
        part = source.crop((left, top, left + side, top + side)).rotate(90 * (number // 6 % 4))
        part.save(folder / f"{number:02}.jpg", quality=92)
    return folder


@pytest.fixture
def photos(tmp_path: Path, scenes: Path) -> Path:
    """A folder of one's own to spoil."""
    return Path(shutil.copytree(scenes, tmp_path / "photos"))


@pytest.fixture
def indexed(tmp_path: Path, photos: Path, model: bb.Encoder) -> Callable[[], bb.Index]:
    """Index the folder; opened as a reader does."""

    def indexed() -> bb.Index:
        path = tmp_path / "photos.bower"
        if not path.exists():
            bb.Index.create(path, model).add(photos)
        return bb.Index.open(path, model)

    return indexed


def of(checkup: Checkup, check: str) -> Finding:
    (found,) = [finding for finding in checkup.findings if finding.check == check]
    return found


def names(finding: Finding) -> list[str]:
    return [os.path.basename(name) for example in finding.examples for name in example.names]


def change(index: bb.Index, name: str, **columns: object) -> bb.Index:
    """Write into the row of a picture behind the library's back, and open what came of it."""
    rows = pa.concat_tables(
        [pa.Table.from_batches([b]) for b in index.table.scan(["id", "name"])]
    ).to_pylist()
    (id_,) = [row["id"] for row in rows if row["name"] == name]
    with index.writing():
        types = {field.name: field.type for field in index.table.fields}
        values = {"id": pa.array([id_])}
        values |= {key: pa.array([value], types[key]) for key, value in columns.items()}
        index.table.update(pa.table(values))
        index.publish(failed=0, roots=index.manifest.roots)
    return bb.Index.open(index.path, index.model)


def test_a_sound_index_is_said_to_be_sound(indexed, photos: Path) -> None:
    index = indexed()
    before = {path: path.read_bytes() for path in Path(index.path).rglob("*") if path.is_file()}
    checkup = doctor(index, near=0.995)
    assert checkup.worst in (Level.OK, Level.NOTE)
    assert {finding.check for finding in checkup.of(Level.NOTE)} <= {"outliers", "hubs"}
    assert of(checkup, "files").figures == {"looked_at": SCENES, "changed": 0, "gone": 0}
    again = of(checkup, "self-retrieval, pictures")
    assert again.figures["first"] == 1.0
    assert again.figures["least_cosine"] > 0.9999
    recalls = [finding for finding in checkup.findings if finding.check == "recall of the index"]
    assert [finding.figures["recall@10"] for finding in recalls] == [1.0, 1.0]
    assert checkup.looked_at == f"all {SCENES} records"
    assert {path: path.read_bytes() for path in Path(index.path).rglob("*") if path.is_file()} == before


def test_files_that_changed_or_went(indexed, photos: Path) -> None:
    index = indexed()
    Image.open(photos / "03.jpg").rotate(180).save(photos / "03.jpg", quality=92)
    os.utime(photos / "04.jpg")
    (photos / "05.jpg").unlink()
    checkup = doctor(index)
    assert sorted(names(of(checkup, "files changed"))) == ["03.jpg", "04.jpg"]
    assert names(of(checkup, "files gone")) == ["05.jpg"]
    # Touched alone is not changed in its contents, which the check that reads files again tells.
    assert names(of(checkup, "contents changed")) == ["03.jpg"]
    assert of(checkup, "self-retrieval, pictures").level == Level.OK
    assert str(photos) in of(checkup, "files gone").do


def test_a_folder_out_of_reach_is_one_problem_and_not_one_for_each_file(indexed, photos: Path) -> None:
    index = indexed()
    photos.rename(photos.parent / "away")
    checkup = doctor(index)
    found = of(checkup, "folders")
    assert found.level == Level.PROBLEM
    assert found.figures["records"] == SCENES
    assert not [finding for finding in checkup.findings if finding.check in ("files gone", "files changed")]
    assert not [finding for finding in checkup.findings if finding.check.startswith("self-retrieval")]


def test_a_vector_that_is_not_of_its_picture(indexed) -> None:
    index = indexed()
    column = index.columns[-1]
    wrong = unit(np.random.default_rng(0).normal(size=(1, column.dimensions)))[0].astype(np.float32)
    checkup = doctor(change(index, "07.jpg", **{column.name: wrong.tolist()}))
    found = of(checkup, "self-retrieval, pictures")
    assert found.level == Level.PROBLEM
    assert names(found) == ["07.jpg"]
    assert found.figures["first"] == pytest.approx(1 - 1 / SCENES)
    assert of(checkup, "vectors").level == Level.OK
    assert "07.jpg" in names(of(checkup, "outliers"))


@pytest.mark.parametrize(
    "scale", [3.0, 0.0, float("nan"), float("inf")], ids=["long", "zero", "nan", "infinite"]
)
def test_a_vector_that_is_no_unit_vector(indexed, scale: float) -> None:
    index = indexed()
    column = index.columns[0]
    checkup = doctor(change(index, "08.jpg", **{column.name: [scale] * column.dimensions}), only=["broken"])
    (found,) = checkup.findings
    assert found.level == Level.PROBLEM
    assert names(found) == ["08.jpg"]
    assert column.name in found.examples[0].note


@pytest.mark.parametrize("length", [0.0, float("nan"), 1e9])
def test_a_raw_length_that_cannot_be(indexed, length: float) -> None:
    index = indexed()
    checkup = doctor(change(index, "09.jpg", **{index.columns[0].norm: length}), only=["broken"], sample=5)
    (found,) = checkup.findings
    assert names(found) == ["09.jpg"]
    assert found.level == Level.PROBLEM


def test_copies_and_near_duplicates(indexed, photos: Path) -> None:
    shutil.copy(photos / "10.jpg", photos / "copy-of-10.jpg")
    Image.open(photos / "08.jpg").save(photos / "again-08.jpg", quality=85)
    checkup = doctor(indexed())
    copied = of(checkup, "copies")
    assert copied.level == Level.NOTE
    assert copied.figures == {"copies": 1, "groups": 1}
    assert sorted(names(copied)) == ["10.jpg", "copy-of-10.jpg"]
    near = of(checkup, "near duplicates")
    pairs = [sorted(map(os.path.basename, example.names)) for example in near.examples]
    assert ["08.jpg", "again-08.jpg"] in pairs
    assert not [pair for pair in pairs if "10.jpg" in pair]
    sampled = doctor(indexed(), sample=30, only=["neighbours"])
    assert of(sampled, "near duplicates").figures["looked_at"] <= 30


def test_a_picture_that_strayed_in(indexed, photos: Path) -> None:
    Image.new("RGB", (200, 200), (255, 0, 255)).save(photos / "blank.png")
    found = of(doctor(indexed(), only=["neighbours"]), "outliers")
    assert names(found)[0] == "blank.png"


def test_what_the_last_run_left_out(indexed, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    found = of(doctor(indexed(), only=["left-out"]), "left out")
    assert found.figures["failed"] == 1
    assert names(found) == ["broken.jpg"]
    assert found.level == Level.WARNING


def test_records_without_a_vector(indexed) -> None:
    index = indexed()
    gone = {key: None for column in index.columns for key in (column.name, column.norm)}
    index = change(index, "12.jpg", **gone)
    checkup = doctor(change(index, "13.jpg", **dict(list(gone.items())[:2])), only=["missing"])
    whole, part = checkup.findings
    assert (names(whole), whole.figures) == (["12.jpg"], {"records": 1})
    assert (names(part), part.figures) == (["13.jpg"], {"pictures": 1})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder, scenes: Path) -> bb.Index:
    """Pictures with texts; three texts are the same, and one is blank."""
    files = sorted(scenes.glob("*.jpg"))
    texts = [f"a scene with the number {number}" for number in range(len(files))]
    texts[1:4] = ["one and the same"] * 3
    texts[4] = "   "
    records = [Record(path.stem, path, (text,)) for path, text in zip(files, texts, strict=True)]
    path = tmp_path_factory.mktemp("shop") / "shop.bower"
    Collection.from_items(records).embed(model).write(path)
    return bb.Index.open(path, model)


def test_texts(shop: bb.Index) -> None:
    checkup = doctor(shop)
    shared = of(checkup, "texts shared")
    assert shared.figures == {"texts": SCENES, "shared": 3}
    assert "3 times: one and the same" in shared.examples[0].note
    assert of(checkup, "texts empty").figures["empty"] == 1
    again = of(checkup, "self-retrieval, texts")
    assert again.figures["first"] == 1.0
    assert again.figures["least_cosine"] > 0.9999
    recall = of(checkup, "caption recall")
    assert recall.figures["pairs"] == SCENES
    assert set(recall.figures["stored"]) == {f"R@{k} {way}" for k in (1, 10) for way in WAYS}
    queries = {f.figures["from"] for f in checkup.findings if f.check == "recall of the index"}
    assert queries == {"image", "text"}


WAYS = ("text->image", "image->text")


def test_caption_recall_is_what_a_search_by_hand_finds(shop: bb.Index) -> None:
    found = of(doctor(shop, only=["captions"]), "caption recall").figures["stored"]
    image, text = shop.columns[0], shop.columns[-1]
    rows = [row for b in shop.table.scan(["id", "text", image.name, text.name]) for row in b.to_pylist()]
    right = 0
    for row in rows:
        query = np.array(row[text.name], np.float32)
        best = shop.table.nearest(image.name, query, 1, columns=["id", "text"]).to_pylist()[0]
        right += best["id"] == row["id"] or best["text"] == row["text"]
    assert found["R@1 text->image"] == pytest.approx(right / len(rows), abs=1e-6)


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory, model: bb.Encoder) -> bb.Index:
    """Texts alone, under a model that takes pictures too; two of them are nearly the same."""
    path = tmp_path_factory.mktemp("notes") / "notes.bower"
    said = [f"{what} on {where}" for what in ("a cup", "a cat", "boots") for where in NUMBERS]
    texts = [*said, "a rocket at its launch pad, ready", "a rocket at its launch pad, ready!"]
    Collection.from_texts(texts).embed(model).write(path)
    return bb.Index.open(path, model)


NUMBERS = [f"shelf {number} of the {kind}" for number in range(1, 11) for kind in ("shop", "garden")]


def test_an_index_of_texts_is_judged_by_its_texts(notes: bb.Index) -> None:
    """Nothing is said in favour of pictures that are not there."""
    checkup = doctor(notes, near=0.98)
    recalls = [found for found in checkup.findings if found.check == "recall of the index"]
    (text,) = [column for column in notes.columns if column.modality == "text"]
    assert [found.figures["column"] for found in recalls] == [text.name]
    assert of(checkup, "smaller vectors").figures["column"] == text.name
    assert of(checkup, "outliers").figures["records"] == 62
    assert "texts" in of(checkup, "near duplicates").what
    pairs = [example.names for example in of(checkup, "near duplicates").examples]
    assert all("rocket" in name for names in pairs for name in names)
    assert "copies" not in {found.check for found in checkup.findings}
    sampled = of(doctor(notes, sample=61, near=0.9, only=["neighbours"]), "near duplicates")
    assert sampled.figures["pairs"] > 0
    assert "picture" not in sampled.what


def test_two_models_of_one_name_are_told_apart(twins: bb.Index) -> None:
    checkup = doctor(twins, fresh=0, only=["broken", "calibration"])
    sources = tuple(entry.source for entry in twins.manifest.models)
    assert checkup.models == sources
    assert [found.model for found in checkup.findings] == [*sources, *sources]
    assert all(source in doctor_page(checkup, {}) for source in sources)


def test_one_check_alone_and_bounds_that_cannot_be(shop: bb.Index) -> None:
    seen: list[str] = []
    assert {f.check for f in doctor(shop, only=["copies"], watch=seen.append).findings} == {"copies"}
    assert seen == ["copies"]
    with pytest.raises(QueryError, match="no check 'copy'"):
        doctor(shop, only=["copy"])
    with pytest.raises(QueryError, match="sample=0"):
        doctor(shop, sample=0)
    with pytest.raises(QueryError, match="nothing-like-it"):
        doctor(shop, models=["nothing-like-it"])
    assert set(CHECKS) >= {"files", "self-retrieval", "smaller"}


def test_the_same_twice(shop: bb.Index) -> None:
    def told() -> Sequence[dict[str, object]]:
        findings = doctor(shop, sample=20, fresh=5).findings
        return [f.to_json() for f in findings if f.check != "recall of the index"]

    assert told() == told()


def test_an_empty_index(tmp_path: Path, model: bb.Encoder) -> None:
    index = bb.Index.create(tmp_path / "empty.bower", model)
    (found,) = doctor(index).findings
    assert found.what == "The index is empty."


def test_one_model_under_two_conditions(indexed) -> None:
    index = indexed()
    index.add_model(bb.load("mini", dimensions=32))
    found = doctor(index, fresh=3, only=["self-retrieval", "broken"])
    assert {(f.check, f.model, f.level) for f in found.findings} == {
        (check, model, Level.OK)
        for check in ("self-retrieval, pictures", "vectors")
        for model in ("mini", "mini, dimensions 32")
    }
    space = index.entries("all")[1].space
    assert doctor(index, models=[space], only=["broken"]).models == ("mini, dimensions 32",)


def test_a_model_that_is_gone_is_a_problem_of_its_own(tmp_path: Path, photographs: dict[str, Path]) -> None:
    own = Path(shutil.copytree(Path(bb.__file__).parent / "models" / "mini", tmp_path / "own"))
    bb.Index.create(tmp_path / "photos.bower", str(own)).add(list(photographs.values()))
    shutil.rmtree(own)
    checkup = doctor(bb.Index.open(tmp_path / "photos.bower"))
    found = of(checkup, "model")
    assert found.level == Level.PROBLEM
    assert "own" in found.what
    assert of(checkup, "files").level == Level.OK


def test_the_page_shows_the_gravest_first_and_escapes(indexed, photos: Path) -> None:
    (photos / "<b>14.jpg").write_bytes((photos / "14.jpg").read_bytes())
    index = indexed()
    (photos / "<b>14.jpg").unlink()
    column = index.columns[0]
    index = change(index, "15.jpg", **{column.name: [2.0] * column.dimensions})
    checkup = doctor(index)
    page = doctor_page(checkup, index.thumbnails(pictured(checkup)))
    assert page.index("Problems") < page.index("Warnings") < page.index("In order")
    assert "<b>14.jpg" not in page
    assert "&lt;b&gt;14.jpg" in page
    assert "data:image/jpeg;base64," in page
    assert checkup.to_json()["worst"] == "problem"


# Arithmetic


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_bf16_rounds_to_the_nearest(values: list[float]) -> None:
    x = np.array([values], np.float32)
    found = bf16(x)
    assert np.all(found.view(np.uint32) & 0xFFFF == 0)
    np.testing.assert_array_equal(bf16(found), found)
    # 8 bits of mantissa with the implicit one: half a unit in the last place is 2**-9 of the value.
    assert np.all(np.abs(found - x) <= np.abs(x) * 2.0**-8 + 1e-38)


def test_bf16_is_that_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    x[0, :4] = [1.00390625, 1.01171875, -1.00390625, 0]  # halfway between two, and zero
    np.testing.assert_array_equal(bf16(x), torch.tensor(x).to(torch.bfloat16).float().numpy())


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_int8_is_off_by_half_a_step_at_most(values: list[float]) -> None:
    x = np.array([values], np.float32)
    step = np.abs(x).max() / 127
    assert np.all(np.abs(int8(x) - x) <= step * 0.501 + 1e-9)


def test_costs_on_vectors_of_known_rank() -> None:
    """All that these vectors are lies in 8 of 32 dimensions: PCA finds them, cutting off the last ones does not."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(32, 32)))[0][:8]
    vectors = unit(rng.normal(size=(400, 8)) @ basis).astype(np.float32)
    found = {cost.name: cost for cost in costs(vectors, rows=1000)}
    assert found["PCA to 8 of 32 dimensions"].overlap > 0.999
    assert found["PCA to 8 of 32 dimensions"].least_cosine == pytest.approx(1, abs=1e-4)
    assert found["the first 8 of 32 dimensions"].overlap < 0.9
    assert found["the first 8 of 32 dimensions"].mean_cosine == pytest.approx(0.5, abs=0.1)
    assert found["bf16"].overlap > 0.97
    assert (found["bf16"].bytes, found["bf16"].saved) == (64, 64_000)
    assert (found["int8"].bytes, found["int8"].saved) == (36, 92_000)
    assert axes(vectors, 4).shape == (32, 4)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.integers(0, 99))
def test_neighbours_are_those_of_a_full_sort(rows: int, k: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(rows, 5))).astype(np.float32)
    found = nearest(vectors, k)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    expected = -np.sort(-scores, axis=1)[:, : min(k, rows - 1)]
    np.testing.assert_allclose(found.cosines, expected, atol=1e-6)
    assert not np.any(found.neighbours == np.arange(rows)[:, None])


def test_skewness() -> None:
    assert skewness(np.array([1.0, 2, 3])) == pytest.approx(0)
    assert skewness(np.array([4.0] * 5)) == 0
    # Of a Bernoulli variable: (1 - 2p) / sqrt(p (1 - p)).
    assert skewness(np.array([1.0] + [0.0] * 9)) == pytest.approx(0.8 / 0.3)
