"""A model directory becomes a card, or an error that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import bowerbird as bb
from bowerbird.errors import BowerbirdError, ModelError, ModelFormatError, ModelNotFoundError
from bowerbird.models.artifact import artifact
from bowerbird.models.directory import read_card
from bowerbird.models.hub.fetch import locate
from bowerbird.settings import settings

FILES = (
    "preprocessor_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config.json",
    "tokenizer.json",
)


@pytest.mark.parametrize(
    "file", [file for file in FILES if file not in ("sentence_bert_config.json", "config.json")]
)
def test_a_missing_file_is_named(mini_copy, file):
    directory = mini_copy()
    (directory / file).unlink()
    with pytest.raises(ModelFormatError) as caught:
        read_card(str(directory))
    assert str(directory) in str(caught.value)
    assert Path(file).name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"7", b'"x"'], ids=repr)
@pytest.mark.parametrize("file", [*FILES, "config_sentence_transformers.json", "bowerbird.json"])
def test_a_damaged_file_is_named(mini_copy, file, content):
    directory = mini_copy()
    (directory / file).write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        bb.load(str(directory)).text  # noqa: B018  the tokenizer is read when the tower loads
    assert str(directory / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["onnx/text_model.onnx", "onnx/vision_model.onnx"])
def test_a_damaged_graph_is_named_when_its_tower_loads(mini_copy, file):
    directory = mini_copy()
    (directory / file).unlink()
    (directory / file).write_bytes(b"\x08\x09")
    with pytest.raises(ModelError, match=Path(file).name):
        bb.load(str(directory)).warm()


@pytest.mark.parametrize(
    "notes",
    [
        {"format": 2},
        {},
        {"format": 1, "text": []},
        {"format": 1, "image": "features"},
        {"format": 1, "image": {"scaled_decode": "three"}},
        {"format": 1, "image": {"scaled_decode": 0.5}},
    ],
    ids=str,
)
def test_annotations_that_are_not_understood(mini_copy, notes):
    directory = mini_copy()
    (directory / "bowerbird.json").write_text(json.dumps(notes))
    with pytest.raises(ModelFormatError, match=r"bowerbird\.json"):
        read_card(str(directory))


def test_annotations_are_optional(mini_copy):
    directory = mini_copy()
    (directory / "bowerbird.json").unlink()
    card = read_card(str(directory))
    assert (card.license, card.image.output, card.image.decode.scaled) == ("apache-2.0", "image_embeds", None)
    assert bb.load(str(directory)).embed("a cat").shape == (1, 384)


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/place", "~/no such place", "\x00"])
def test_an_unknown_model(name):
    with pytest.raises(ModelNotFoundError) as caught:
        locate(name)
    assert caught.value.hint


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ModelNotFoundError):
        read_card(str(tmp_path / "model.onnx"))


def test_a_directory_without_a_graph_says_what_is_wanted(tmp_path):
    with pytest.raises(ModelFormatError, match=r"onnx/text_model\.onnx"):
        read_card(str(tmp_path))


def test_the_environment_names_the_model(monkeypatch, mini_copy):
    monkeypatch.setenv("BOWERBIRD_MODEL", str(mini_copy()))
    assert bb.load().card.name == "copied"
    monkeypatch.setenv("BOWERBIRD_MODEL", "no-such-model")
    with pytest.raises(BowerbirdError, match="no-such-model"):
        bb.load()


def test_what_load_is_given_to_get_it_again(mini_copy, model):
    assert model.card.source == "mini"
    assert read_card(str(locate("mini").directory)).source == "mini"
    directory = mini_copy("mini")  # another model that happens to be in a directory of that name
    card = read_card(str(directory))
    assert card.name == "mini"
    assert card.source == str(directory)


def test_size_is_that_of_the_weights(model):
    expected = sum(path.stat().st_size for path in locate("mini").directory.glob("onnx/*.onnx"))
    assert model.card.size == expected


class TestArtifact:
    @pytest.fixture(autouse=True)
    def cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path / "cache"))

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"one")
        return path

    def memos(self) -> list[Path]:
        return list((settings().cache_path / "sha256").iterdir())

    def test_hash(self, file):
        assert artifact(file).sha256 == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        assert artifact(file) == artifact(file)
        assert len(self.memos()) == 1

    def test_a_changed_file_is_hashed_again(self, file):
        before = artifact(file).sha256
        file.write_bytes(b"two")
        os.utime(file, ns=(1, 1))
        assert artifact(file).sha256 != before

    @pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"x" * 64, b"A" * 63])
    def test_a_damaged_memo_is_not_believed(self, file, content):
        expected = artifact(file)
        self.memos()[0].write_bytes(content)
        assert artifact(file) == expected

    def test_a_cache_that_cannot_be_written(self, file, monkeypatch, tmp_path):
        expected = artifact(file)
        monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(file / "cache"))
        assert artifact(file) == expected

    def test_missing(self, tmp_path):
        with pytest.raises(ModelFormatError, match="gone"):
            artifact(tmp_path / "gone")
