"""One reader for every JSON file of a model."""

from __future__ import annotations

import pytest

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import member, only, read_list, read_object, whole_number

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


def test_what_is_there_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"b": 1}, "c": null}', "utf-8")
    (tmp_path / "b.json").write_text("[1]", "utf-8")
    found = read_object(tmp_path / "a.json")
    assert (member(found, "a", tmp_path), member(found, "c", tmp_path)) == ({"b": 1}, {})
    assert read_list(tmp_path / "b.json") == [1]


def test_a_missing_file(tmp_path):
    assert read_object(tmp_path / "a.json", missing_ok=True) == {}
    with pytest.raises(ModelFormatError, match=r"a\.json is missing"):
        read_object(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        (b"", "cannot be read", "Fetch"),
        (b"\xff\xfe", "cannot be read", "Fetch"),
        (b"[" * 100_000, "cannot be read", "Fetch"),
        (b"\n<!doctype html><html>Sign in</html>", "web page", "Fetch"),
        (POINTER, "is a pointer of Git LFS, not the file itself", "git lfs pull"),
        (b'"x"', "does not hold a JSON object", "Fetch"),
        (b"[]", "does not hold a JSON object", "Fetch"),
    ],
    ids=["empty", "binary", "deep", "page", "pointer", "text", "list"],
)
def test_a_damaged_file_is_named_on_one_line(tmp_path, content, said, hint):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=said) as caught:
        read_object(path)
    assert str(path) in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    with pytest.raises(ModelFormatError, match="cannot be read"):
        read_object(tmp_path, missing_ok=True)


def test_values_of_another_kind_are_named_with_their_key(tmp_path):
    with pytest.raises(ModelFormatError, match="text_config is not a JSON object"):
        member({"text_config": [1]}, "text_config", tmp_path)
    with pytest.raises(ModelFormatError, match="'colour' is not understood") as caught:
        only({"colour": 1}, {"size"}, "a.json")
    assert "size" in caught.value.hint
    for value in (True, 0, 1.0, "1", None):
        with pytest.raises(ModelFormatError, match=r"count .* is not a whole number from 1 on"):
            whole_number(value, "count", tmp_path)
    assert whole_number(0, "count", tmp_path, least=0) == 0
