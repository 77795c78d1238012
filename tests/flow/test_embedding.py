"""The step that embeds: the same vectors as the model gives, from wherever the pictures come."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bowerbird as bb
from bowerbird import Collection, DecodePolicy, Failure, Local, Record
from bowerbird.flow.plan import Clock
from bowerbird.flow.recipe import WorkerLocal
from bowerbird.flow.run import simplified
from bowerbird.media.reading import Readable


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, model):
    """Vectors of one test are not found by another."""
    model.warm()
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def records(photographs) -> list[Record]:
    return [Record(name, image=path) for name, path in sorted(photographs.items())]


def vectors(collection: Collection, name: str = "image") -> np.ndarray:
    return np.stack([record.vectors[name] for record in collection.to_list()])


# Against the plain path.


@pytest.mark.parametrize("threads", [1, 2])
def test_bit_equal_to_the_model_itself(records, model, threads):
    plain = model.embed([record.image for record in records])
    found = vectors(Collection.from_items(records).embed(model).on(Local(threads=threads)))
    assert (found == plain).all()
    features = model.embed([record.image for record in records], output="features")
    assert (vectors(Collection.from_items(records).embed(model), "image.features") == features).all()


def test_bit_equal_over_several_batches(picture, model):
    pictures = [picture(2000 + n) for n in range(19)]
    collection = Collection.from_items([Record(str(n), image=data) for n, data in enumerate(pictures)])
    assert (vectors(collection.embed(model, cache=False)) == model.embed(pictures)).all()


def test_texts_are_those_of_the_model(model):
    texts = ["a cat", "", "a much longer description of a red dress with flowers", "Ünïcödé", "a cat"]
    found = vectors(Collection.from_texts(texts).embed(model), "text")
    assert np.allclose(found, model.embed(texts), atol=1e-6)
    assert (found[0] == found[4]).all()


@pytest.mark.parametrize("looked_at", [True, False])
def test_decoding_before_changes_no_bit(records, model, looked_at):
    alone = vectors(Collection.from_items(records).embed(model, cache=False))
    decoded = Collection.from_items(records).decode()
    if looked_at:
        decoded = decoded.map(lambda record: record.with_attributes(width=record.image.width))
    embedded = decoded.embed(model, cache=False)
    assert (vectors(embedded) == alone).all()
    # And where nobody looks at the pictures, they are not decoded for themselves.
    table = embedded.to_arrow()
    found = np.stack([np.array(row, np.float32) for row in table.column("vector:image").to_pylist()])
    assert (found == alone).all()
    assert table.column("content").to_pylist() == [r.content for r in embedded]


def test_pictures_nobody_looks_at_are_not_decoded_for_themselves(model):
    start = Collection.range(0)

    def left(collection, *, pictures=False):
        return [step.label for step in simplified(collection.plan, pictures=pictures).steps]

    assert left(start.decode().embed(model)) == ["embed(mini)"]
    assert left(start.decode().select("id").embed(model)) == ["select(id)", "embed(mini)"]
    # Somebody looks at them: the caller, a function, or nobody embeds.
    assert left(start.decode().embed(model), pictures=True) == ["decode", "embed(mini)"]
    assert left(start.decode().map(str).embed(model)) == ["decode", "map(str)", "embed(mini)"]
    assert left(start.decode().select("width").embed(model)) == ["decode", "select(width)", "embed(mini)"]
    assert left(start.embed(model).decode()) == ["embed(mini)", "decode"]
    assert left(start.decode()) == ["decode"]


def test_what_decoding_found_comes_with_it(photographs, model, tmp_path):
    stamped = tmp_path / "stamped.jpg"
    image = Image.open(photographs["coffee"])
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x9003] = "2021:05:04 03:02:01"
    image.save(stamped, exif=exif)
    for _ in range(2):  # the second time from the cache
        (record,) = Collection.from_items([Record("a", image=stamped)]).embed(model)
        assert (record["format"], record["width"], record["height"]) == ("JPEG", *image.size)
        assert record["taken_at"] == datetime(2021, 5, 4, 3, 2, 1)


# Where pictures come from.


class Stored:
    """A picture somewhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"store://{self.path.name}"

    def read(self, policy: DecodePolicy) -> bytes:
        return self.path.read_bytes()


def test_paths_bytes_and_readables_give_the_same(photographs, model):
    path = photographs["chelsea"]
    stored = Stored(path)
    assert isinstance(stored, Readable)
    sources = [path, path.read_bytes(), stored]
    found = (
        Collection.from_items([Record(str(n), image=s) for n, s in enumerate(sources)]).embed(model).to_list()
    )
    assert len({record.content for record in found}) == 1
    assert len({record.vector.tobytes() for record in found}) == 1
    assert (found[0].vector == model.embed(path)[0]).all()


def test_pillow_images_and_arrays_are_pixels(photographs, model):
    image = Image.open(photographs["chelsea"]).convert("RGB")
    array = np.asarray(image)
    found = Collection.from_items([Record("pillow", image=image), Record("array", image=array)]).embed(model)
    assert (vectors(found) == model.embed([image, array])).all()
    other = Record("other", image=255 - array)
    assert (
        len({r.content for r in Collection.from_items([Record("a", image=array), other]).embed(model)}) == 2
    )


def test_a_changed_picture_is_embedded_as_changed(photographs, model):
    path = photographs["chelsea"]

    def crop(record):
        return replace(record, image=record.image.crop((0, 0, 100, 100)))

    (original,) = Collection.from_items([Record("a", image=path)]).embed(model)
    (changed,) = Collection.from_items([Record("a", image=path)]).decode().map(crop).embed(model)
    expected = model.embed(bb.load("mini").image.open(path).image.crop((0, 0, 100, 100)))[0]
    assert (changed.vector == expected).all()
    assert not np.allclose(changed.vector, original.vector, atol=0.01)
    assert changed.content != original.content


def test_a_changed_text_has_another_content(model):
    first = Collection.from_texts(["a cat"]).embed(model)
    (old,) = first
    (new,) = first.map(lambda record: replace(record, texts=("a dog",))).embed(model, name="again")
    assert new.content != old.content
    assert (new.vectors["again.text"] == model.embed("a dog")[0]).all()


def test_a_policy_of_ones_own_is_what_the_model_sees(model, photographs):
    stream = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(stream, "PNG")
    data = stream.getvalue()  # black beneath, and all of it transparent
    source = Collection.from_items([Record("a", image=data)])
    white = vectors(source.decode().embed(model))[0]
    dark = source.decode(DecodePolicy(alpha="drop")).embed(model)
    black = model.embed(Image.new("RGB", (64, 64)))[0]
    assert (vectors(dark)[0] == black).all()
    assert not np.allclose(white, black, atol=0.01)
    assert (np.array(dark.to_arrow().column("vector:image").to_pylist(), np.float32) == black).all()
    # Its limits hold as well.
    strict = Collection.from_glob(photographs["coffee"]).decode(DecodePolicy(max_pixels=100)).embed(model)
    assert strict.count() == 0
    assert strict.executor.report.failures[0].step == "decode"


# Parts, names, models.


def test_both_parts_and_several_texts(photographs, model):
    record = Record("a", image=photographs["coffee"], texts=("a cup", "coffee on a table"))
    (found,) = Collection.from_items([record]).embed(model)
    assert {name: vector.shape for name, vector in found.vectors.items()} == {
        "image": (384,),
        "image.features": (1280,),
        "text": (2, 384),
    }
    assert np.allclose(found.vectors["text"], model.embed(list(record.texts)), atol=1e-6)
    assert found.norms["text"].shape == (2,)
    for vector in found.vectors.values():
        assert vector.dtype == np.float32
        assert np.allclose(np.linalg.norm(vector, axis=-1), 1, atol=1e-5)
    assert found.norms["image"] > 0
    assert found.texts == record.texts


def test_several_models_have_names(photographs, model):
    small = bb.load("mini", dimensions=64)
    chain = (
        Collection.from_items([Record("a", image=photographs["coffee"], texts=("a cup",))])
        .embed(model)
        .embed(small, name="small")
    )
    (found,) = chain
    assert set(found.vectors) == {"image", "image.features", "text", "small.image", "small.text"} | (
        {"small.image.features"} & set(found.vectors)
    )
    assert found.vectors["small.image"].shape == (64,)
    assert np.allclose(found.vectors["small.image"], small.embed(photographs["coffee"])[0], atol=1e-6)
    assert (found.vectors["image"] == model.embed(photographs["coffee"])[0]).all()


def test_a_record_keeps_the_vectors_it_has(model):
    other = np.ones(3, np.float32)
    (found,) = Collection.from_items([Record("a", texts=("x",), vectors={"own": other})]).embed(model)
    assert found.vectors["own"] is other
    assert "text" in found.vectors


def test_a_part_the_model_does_not_take_is_left_alone_if_there_is_another(photographs, model):
    image_only = bb.Encoder(replace(model.card, text=None))
    text_only = bb.Encoder(replace(model.card, image=None))
    records = [
        Record("both", image=photographs["coffee"], texts=("a cup",)),
        Record("picture", image=photographs["coffee"]),
        Record("text", texts=("a cup",)),
    ]
    for encoder, names, lacking in (
        (image_only, {"image", "image.features"}, "text"),
        (text_only, {"text"}, "picture"),
    ):
        # An encoder whose card was changed by hand has no recipe that a worker could follow: the step is given it.
        step = replace(Collection.range(0).embed(model).plan.steps[0], local=WorkerLocal())
        step.local.get("model", lambda encoder=encoder: encoder)
        results = step.run(list(records), Clock())
        assert set(results[0].vectors) == names
        (failure,) = [r for r in results if isinstance(r, Failure)]
        assert (failure.id, failure.step, failure.kind) == (lacking, "embed(mini)", "UnsupportedInputError")
        assert f"{lacking} has a {lacking}, which mini does not take" in str(failure.error)


# The cache.


def test_vectors_come_bit_equal_from_the_cache_and_are_counted(records, model):
    captioned = [replace(record, texts=(f"a photo of {record.id}",)) for record in records]
    here = Local(threads=1)
    chain = Collection.from_items(captioned).embed(model).on(here)
    first = chain.to_list()
    assert here.report.counts["vectors from the cache"] == 0
    second = chain.to_list()
    assert here.report.counts["vectors from the cache"] == 2 * len(records)
    assert "network" not in here.report.stages
    assert "decode" not in here.report.stages
    for one, other in zip(first, second, strict=True):
        assert one.vectors.keys() == other.vectors.keys()
        assert all((one.vectors[name] == other.vectors[name]).all() for name in one.vectors)
        assert one.norms == other.norms
        assert (one.facts, one.content) == (other.facts, other.content)
    without = Collection.from_items(captioned).embed(model, cache=False).on(here).to_list()
    assert here.report.counts["vectors from the cache"] == 0
    assert here.report.stages["network"] > 0
    assert all((one.vector == other.vector).all() for one, other in zip(first, without, strict=True))


def test_copies_in_one_run_go_through_the_network_once(picture, model):
    data = picture(7)
    here = Local(threads=1)
    records = [Record(str(n), image=data) for n in range(8)]
    found = Collection.from_items(records).embed(model, cache=False).on(here).to_list()
    assert len({r.vector.tobytes() for r in found}) == 1
    assert [r.id for r in found] == [str(n) for n in range(8)]
    assert (found[0].vector == model.embed([data])[0]).all()


def test_another_space_does_not_get_the_same_vectors(picture, model):
    records = Collection.from_items([Record("a", image=picture(8))])
    records.embed(model).count()
    here = Local()
    (found,) = records.embed(bb.load("mini", dimensions=64)).on(here)
    assert found.vector.shape == (64,)
    assert here.report.counts["vectors from the cache"] == 0


def test_a_changed_file_is_embedded_again(tmp_path, picture, model):
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    chain = Collection.from_items([Record("a", image=path)]).embed(model)
    (first,) = chain
    path.write_bytes(picture(2))
    (second,) = chain
    assert (second.vector == model.embed(path)[0]).all()
    assert first.content != second.content


def test_broken_pictures_do_not_reach_the_cache(tmp_path, picture, model):
    path = tmp_path / "a.png"
    path.write_bytes(picture(1)[:40])
    chain = Collection.from_items([Record("a", image=path), Record("b", image=path)]).embed(model)
    for _ in range(2):
        assert [(r.id, r.step, r.kind) for r in chain] == [
            ("a", "decode", "DecodeError"),
            ("b", "decode", "DecodeError"),
        ]
    path.write_bytes(picture(1))
    assert chain.count() == 2


def test_texts_that_were_cut_are_counted(model):
    here = Local()
    Collection.from_texts(["word " * 5000, "short"]).embed(model).on(here).count()
    assert here.report.counts["texts cut to the model's length"] == 1


def test_decode_takes_what_embed_takes(photographs, tmp_path, picture):
    array = np.zeros((5, 6, 3), np.uint8)
    records = [
        Record("path", image=photographs["coffee"]),
        Record("array", image=array),
        Record("gray", image=Image.new("L", (4, 4))),
        Record("none", texts=("x",)),
        Record("broken", image=b"nothing"),
        Record("gone", image=tmp_path / "gone"),
        7,
    ]
    found = Collection.from_items(records).decode().to_list()
    assert [r.image.mode for r in found[:3]] == ["RGB"] * 3
    assert found[1]["width"] == 6
    assert found[3] == records[3]
    assert [(r.id, r.step) for r in found[4:]] == [
        ("broken", "decode"),
        ("gone", "read"),
        ("7", "decode"),
    ]


def test_pillow_pictures_that_look_different_are_not_taken_for_each_other(model):
    indices = Image.effect_noise((64, 64), 80)

    def colored(*palette):
        picture = Image.new("P", (64, 64))
        picture.putdata(
            [value % 2 for value in indices.getdata()]
            if not hasattr(indices, "get_flattened_data")
            else [value % 2 for value in indices.get_flattened_data()]
        )
        picture.putpalette(list(palette))
        return picture

    pictures = [colored(255, 0, 0, 0, 255, 0), colored(0, 0, 255, 255, 255, 0)]
    turned = pictures[0].convert("RGB")
    turned.getexif()[0x0112] = 6
    records = [Record(str(n), image=picture) for n, picture in enumerate([*pictures, turned])]
    found = Collection.from_items(records).embed(model).to_list()
    alone = [model.embed(picture)[0] for picture in (*pictures, turned)]
    for record, vector in zip(found, alone, strict=True):
        assert np.abs(record.vector - vector).max() < 1e-6
    assert len({record.content for record in found}) == 3


def test_paths_and_words_are_parts_by_themselves(photographs, model):
    found = Collection.from_items([photographs["coffee"], "a cup of coffee"]).embed(model).to_list()
    assert [sorted(record.vectors)[0] for record in found] == ["image", "text"]


def test_a_model_is_loaded_once_for_all_runs_of_a_collection(photographs):
    made = Collection.from_glob(photographs["coffee"]).embed("mini", cache=False)
    here = bb.Local()
    made.on(here).count()
    made.on(here).count()
    assert "load" not in here.report.stages


def test_a_role_the_model_does_not_have_is_an_error_at_once(model):
    with pytest.raises(bb.BowerbirdError, match="no prompt 'nonsense'"):
        Collection.from_texts(["a"]).embed(model, role="nonsense")
