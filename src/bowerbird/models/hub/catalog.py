"""Names for the models this field uses: `catalog.toml`, read and checked.

A catalogue entry says where an ONNX export is published and what the published files leave out, such as prompts. It
decides nothing by a model's name: layouts, preprocessing and tokens are read from the files.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.record import Modality

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class CatalogEntry:
    """A model that can be asked for by a short name.

    Attributes:
        name: lower case, without an organisation.
        aliases: other names for it, such as the repository of the original weights.
        repository: where its ONNX graphs are published, `org/name`; empty when no public ones are known.
        export: what `bowerbird export` is given to make the graphs, when `repository` is empty.
        revision: branch, tag or commit of `repository`.
        variant: of the graphs; empty takes the plain ones.
        license: SPDX identifier, or the name its owner gives it.
        megabytes: of the files that are downloaded; approximate.
        modalities: what it takes.
        dimensions: of its vectors.
        strengths: what to take it for, in one line.
        prompts: role -> text put before the input, where the published files name none.
        pooling: of token vectors, where the published files name none; empty otherwise.
        verified: whether it was downloaded and compared with the original for this version of bowerbird.
        known_from: what the fields were taken from.
    """

    name: str
    aliases: tuple[str, ...]
    repository: str
    export: str
    revision: str
    variant: str
    license: str
    megabytes: int
    modalities: tuple[Modality, ...]
    dimensions: int
    strengths: str
    prompts: tuple[tuple[str, str], ...]
    pooling: str
    verified: bool
    known_from: str


_DEFAULTS: Mapping[str, Any] = {
    "aliases": [],
    "repository": "",
    "export": "",
    "revision": "main",
    "variant": "",
    "prompts": {},
    "pooling": "",
}
"""What an entry may leave out."""


@cache
def catalog() -> tuple[CatalogEntry, ...]:
    """All entries, in the order of the file.

    Raises:
        ModelFormatError: an entry is not as `CatalogEntry` says.
    """
    return read_catalog((Path(__file__).parent / "catalog.toml").read_text("utf-8"))


def find_entry(name: str) -> CatalogEntry | None:
    """The entry with this name, alias or repository; upper and lower case are the same."""
    return _index().get(name.lower())


def alike(name: str, *also: str) -> list[str]:
    """Names that may have been meant by one that is none: up to three, the likeliest first.

    Args:
        name: what was written.
        also: names that are not in the catalogue.
    """
    asked = name.lower()
    names = [*also, *(entry.name for entry in catalog())]
    starts: dict[str, list[str]] = {}
    for full in names:
        pieces = full.split("-")
        for count in range(1, len(pieces)):
            starts.setdefault("-".join(pieces[:count]), []).append(full)
    close = difflib.get_close_matches(asked, names, 3)
    holding = [full for full in names if len(asked) > 2 and asked in full]
    starting = [full for start in difflib.get_close_matches(asked, starts, 3, 0.8) for full in starts[start]]
    return list(dict.fromkeys([*holding, *close, *starting]))[:3]


def read_catalog(text: str) -> tuple[CatalogEntry, ...]:
    """Read a catalogue from TOML.

    Raises:
        ModelFormatError: it is no TOML; a key is missing, unknown or of another type; a name is used twice.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelFormatError(f"The catalogue is not TOML: {error}.") from error
    if set(data) - {"model"} or not isinstance(data.get("model", []), list):
        raise ModelFormatError(f"The catalogue holds {sorted(data)}; it is a list of [[model]].")
    entries = tuple(_entry(table) for table in data.get("model", []))
    seen: dict[str, str] = {}
    for entry in entries:
        for name in (key.lower() for key in (entry.name, *entry.aliases)):
            if name in seen:
                raise ModelFormatError(f"The catalogue names {name!r} twice: {seen[name]} and {entry.name}.")
            seen[name] = entry.name
    return entries


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_filled, value))


def _are_modalities(value: Any) -> bool:
    return _are_names(value) and bool(value) and set(value) <= {modality.value for modality in Modality}


def _are_prompts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "name": lambda value: _is_text(value) and bool(_NAME.fullmatch(value)),
    "repository": lambda value: value == "" or (_is_text(value) and bool(REPOSITORY.fullmatch(value))),
    "aliases": _are_names,
    "export": _is_text,
    "variant": _is_text,
    "pooling": _is_text,
    "megabytes": _is_positive,
    "dimensions": _is_positive,
    "modalities": _are_modalities,
    "prompts": _are_prompts,
    "verified": lambda value: isinstance(value, bool),
}
"""Key -> whether a value may stand there; of every other key a text that is not empty."""


@cache
def _index() -> dict[str, CatalogEntry]:
    index = {entry.repository.lower(): entry for entry in catalog() if entry.repository}
    index.update({name.lower(): entry for entry in catalog() for name in (entry.name, *entry.aliases)})
    return index


def _entry(table: Any) -> CatalogEntry:
    if not isinstance(table, dict):
        raise ModelFormatError(f"The catalogue holds {table!r} where a [[model]] belongs.")
    where = f"The catalogue's model {table.get('name', '?')!r}"
    known = {field.name for field in fields(CatalogEntry)}
    if unknown := set(table) - known:
        raise ModelFormatError(f"{where} has keys that are not known: {sorted(unknown)}.")
    values = {**_DEFAULTS, **table}
    if missing := known - set(values):
        raise ModelFormatError(f"{where} lacks {sorted(missing)}.")
    for key, value in values.items():
        if not _RIGHT.get(key, _is_filled)(value):
            raise ModelFormatError(f"{where}: {key} = {value!r} is not what belongs there.")
    if bool(values["repository"]) == bool(values["export"]):
        raise ModelFormatError(f"{where} needs either a repository or an export, not both.")
    values["aliases"] = tuple(values["aliases"])
    values["modalities"] = tuple(Modality(name) for name in values["modalities"])
    values["prompts"] = tuple(values["prompts"].items())
    return CatalogEntry(**values)
