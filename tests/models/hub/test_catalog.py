"""The catalogue is data: every entry is whole and of the right form; what is not is refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bowerbird.errors import ModelFormatError
from bowerbird.models.hub.catalog import REPOSITORY, CatalogEntry, catalog, find_entry, read_catalog
from bowerbird.record import Modality

ENTRIES = catalog()
EVERY = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)

FIELD = {
    "all-minilm-l6-v2", "all-minilm-l12-v2", "bge-small-en-v1.5", "bge-base-en-v1.5", "bge-large-en-v1.5",
    "snowflake-arctic-embed-m", "e5-small-v2", "nomic-embed-text-v1.5", "gte-base", "clip-vit-base-patch32",
    "clip-vit-base-patch16", "clip-vit-large-patch14", "fashion-clip", "siglip-base-patch16-224",
    "siglip2-base-patch16-224", "mobileclip-s2", "resnet50", "mobilenet_v2_1.0_224", "convnext-tiny",
    "vit-base-patch16-224", "dinov2-small", "dinov3-vits16", "efficientnet-b0", "remoteclip-vit-b-32", "biomedclip",
}  # fmt: skip

GOOD = """
[[model]]
name = "a-model"
repository = "org/a-model-onnx"
license = "MIT"
megabytes = 12
modalities = ["text"]
dimensions = 384
strengths = "Short."
verified = false
known_from = "its card"
"""


def test_the_models_of_the_field_are_there():
    assert {entry.name for entry in ENTRIES} >= FIELD


@EVERY
def test_every_entry_is_whole(entry: CatalogEntry):
    assert dataclasses.is_dataclass(entry)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]
    assert entry.license.strip() == entry.license != ""
    assert entry.strengths.endswith(".")
    assert "\n" not in entry.strengths
    assert len(entry.strengths) <= 110
    assert 0 < entry.megabytes < 5000
    assert entry.dimensions in (384, 512, 768, 1024, 1280, 2048)
    assert set(entry.modalities) <= set(Modality)
    assert entry.known_from
    assert hash(entry) == hash(dataclasses.replace(entry))


@EVERY
def test_every_entry_says_where_its_graphs_come_from(entry: CatalogEntry):
    assert bool(entry.repository) != bool(entry.export)
    assert not entry.repository or REPOSITORY.fullmatch(entry.repository)
    assert entry.revision
    # A commit may stand here only once it was downloaded; none is made up.
    assert entry.verified or not re.fullmatch("[0-9a-f]{7,40}", entry.revision)


@EVERY
def test_prompts_are_ready_to_be_put_before_a_text(entry: CatalogEntry):
    for role, prompt in entry.prompts:
        assert re.fullmatch("[a-z]+", role)
        assert prompt.endswith(": ")
    if entry.prompts:
        assert Modality.TEXT in entry.modalities
        assert "query" in dict(entry.prompts)


def test_names_are_unique_and_found_in_any_case():
    names = [name.lower() for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in ENTRIES:
        for name in (entry.name, *entry.aliases, entry.repository or entry.name):
            assert find_entry(name) is find_entry(name.upper()) is entry


def test_an_alias_is_never_another_publishers_export():
    exports = {entry.repository.lower() for entry in ENTRIES}
    for entry in ENTRIES:
        for alias in entry.aliases:
            assert alias.lower() == entry.repository.lower() or alias.lower() not in exports
            assert not alias.startswith(("Xenova/", "onnx-community/", "Qdrant/"))


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("intfloat/e5-small-v2", {"query": "query: ", "document": "passage: "}),
        ("bge-base-en-v1.5", {"query": "Represent this sentence for searching relevant passages: "}),
        ("all-minilm-l6-v2", {}),
    ],
)
def test_prompts_are_those_the_models_were_trained_with(name, prompts):
    entry = find_entry(name)
    assert entry
    assert dict(entry.prompts) == prompts


def test_what_is_left_out_has_a_default():
    (entry,) = read_catalog(GOOD)
    assert (entry.aliases, entry.revision, entry.variant, entry.prompts, entry.pooling) == (
        (),
        "main",
        "",
        (),
        "",
    )


def test_unknown_names_are_not_found():
    assert find_entry("nonesuch") is None
    assert find_entry("") is None


@pytest.mark.parametrize(
    ("find", "replace", "words"),
    [
        ('license = "MIT"', "", "license"),
        ('license = "MIT"', 'license = ""', "license"),
        ('license = "MIT"', 'license = "MIT"\nlicence = "MIT"', "licence"),
        ("megabytes = 12", "megabytes = 0", "megabytes"),
        ("megabytes = 12", "megabytes = true", "megabytes"),
        ("megabytes = 12", 'megabytes = "12"', "megabytes"),
        ("dimensions = 384", "dimensions = -1", "dimensions"),
        ("verified = false", 'verified = "no"', "verified"),
        ('["text"]', '["sound"]', "modalities"),
        ('["text"]', "[]", "modalities"),
        ('"a-model"', '"A Model"', "name"),
        ('"org/a-model-onnx"', '"a-model-onnx"', "repository"),
        ('"org/a-model-onnx"', '"org/../x"', "repository"),
        ('repository = "org/a-model-onnx"', "", "repository or an export"),
        ('license = "MIT"', 'license = "MIT"\nexport = "org/a-model"', "repository or an export"),
        ('license = "MIT"', 'license = "MIT"\naliases = "b"', "aliases"),
        ('license = "MIT"', 'license = "MIT"\naliases = ["A-Model"]', "twice"),
        ('license = "MIT"', 'license = "MIT"\nprompts = { query = 1 }', "prompts"),
        ("[[model]]", "[model]", "list"),
        ("[[model]]", "[[models]]", "models"),
        ("[[model]]", "[[model", "TOML"),
    ],
)
def test_an_entry_that_is_wrong_is_named(find, replace, words):
    assert find in GOOD
    with pytest.raises(ModelFormatError, match=words):
        read_catalog(GOOD.replace(find, replace))
