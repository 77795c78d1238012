"""Environment variables become settings, or a message that names them."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest

from bowerbird.errors import BowerbirdError
from bowerbird.settings import Settings, settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("BOWERBIRD_")]:
        monkeypatch.delenv(name)


def test_defaults():
    assert settings() == Settings()


EXAMPLES = {str: ("somewhere", "somewhere"), int: ("7", 7), float: ("2.5", 2.5)}


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_its_environment_twin(monkeypatch, field):
    text, value = EXAMPLES[type(field.default)]
    monkeypatch.setenv(f"BOWERBIRD_{field.name.upper()}", f" {text} ")
    assert getattr(settings(), field.name) == value


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field):
    assert f"\n        {field.name}: " in (Settings.__doc__ or "")


def test_read_anew_at_each_call(monkeypatch):
    assert settings().threads == 0
    monkeypatch.setenv("BOWERBIRD_THREADS", "3")
    assert settings().threads == 3


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_is_unset(monkeypatch, text):
    monkeypatch.setenv("BOWERBIRD_MAX_PIXELS", text)
    assert settings().max_pixels == Settings.max_pixels


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("THREADS", "many"),
        ("THREADS", "2.5"),
        ("THREADS", "-1"),
        ("MAX_BYTES", "1e9"),
        ("DECODE_SECONDS", "soon"),
        ("DECODE_SECONDS", "nan"),
        ("COMMIT_SECONDS", "-0.5"),
    ],
)
def test_nonsense_is_refused_and_names_the_variable(monkeypatch, name, text):
    monkeypatch.setenv(f"BOWERBIRD_{name}", text)
    with pytest.raises(BowerbirdError, match=f"BOWERBIRD_{name}='?{text}") as caught:
        settings()
    assert caught.value.hint


def test_unknown_variables_are_left_alone(monkeypatch):
    monkeypatch.setenv("BOWERBIRD_SOMETHING_ELSE", "x")
    assert settings() == Settings()


def test_paths(monkeypatch, tmp_path):
    assert settings().data_path.name == "bowerbird"
    assert settings().cache_path.name == "bowerbird"
    monkeypatch.setenv("BOWERBIRD_DATA_DIR", "~/here")
    monkeypatch.setenv("BOWERBIRD_CACHE_DIR", str(tmp_path))
    assert settings().data_path == Path.home() / "here"
    assert settings().cache_path == tmp_path


def test_worker_threads(monkeypatch):
    assert settings().worker_threads >= 1
    monkeypatch.setenv("BOWERBIRD_THREADS", "5")
    assert settings().worker_threads == 5
