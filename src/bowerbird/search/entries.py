"""The models of an index: found by what people call them, their columns, and what may have changed since."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from bowerbird.errors import BowerbirdError, ModelNotFoundError, QueryError, SpaceMismatchError
from bowerbird.models.hub.fetch import canonical, here
from bowerbird.record import Modality
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import VECTOR_MARK, VectorColumn

if TYPE_CHECKING:
    from bowerbird.models.card import ModelCard
    from bowerbird.models.encoder import Encoder
    from bowerbird.store.location import Location

ALL = ("both", "all")
"""What stands for every model of an index, unless one is called so."""


def chosen(entries: Sequence[ModelEntry], names: str | Sequence[str], where: str) -> tuple[ModelEntry, ...]:
    """The models that some names mean, in the order of the names, each once.

    Args:
        entries: of the index.
        names: as people call them, or several in one text with commas between them; none: the first model; `both`
            or `all`: every one.
        where: the index, for messages.

    Raises:
        QueryError: there is no such model, or several are called that.
    """
    asked = split(names)
    if not asked:
        return (entries[0],)
    found: dict[str, ModelEntry] = {}
    for name in asked:
        several = entries if name in ALL and name not in [e.name for e in entries] else None
        for entry in several or (_named(entries, name, where),):
            found[entry.space] = entry
    return tuple(found.values())


def split(names: str | Sequence[str]) -> list[str]:
    """Names of models, given one by one or with commas between them."""
    listed = [names] if isinstance(names, str) else names
    return [part for name in listed for part in map(str.strip, name.split(",")) if part]


def called(entry: ModelEntry) -> str:
    """What `--model` is given for the model of an index: its short name if that still means it, else its source."""
    return entry.name if canonical(entry.name) == canonical(entry.source) else entry.source


def shown(entry: ModelEntry) -> str:
    """A model and what was asked of it, for people."""
    return labelled(entry.source, entry.options)


def labelled(source: str, options: Mapping[str, Any]) -> str:
    """What a model comes from and what was asked of it, for people."""
    return source + "".join(f", {option} {value}" for option, value in options.items())


def labels(entries: Sequence[ModelEntry], taken: Collection[str] = ()) -> dict[str, str]:
    """By space, what each of some models is called for people; no two alike.

    A short name with the options that were asked for; where several are called that, their sources with them; where
    those are one too, their spaces beside them.

    Args:
        entries: the models.
        taken: what none of them may be called.
    """
    found = {entry.space: labelled(entry.name, entry.options) for entry in entries}
    for more in (shown, lambda entry: f"{shown(entry)} ({entry.space})"):
        several = Counter([*found.values(), *taken])
        found = {e.space: found[e.space] if several[found[e.space]] == 1 else more(e) for e in entries}
    return found


def means(entry: ModelEntry, name: str) -> bool:
    """Whether a name is one of the model of an entry: its own, what it was loaded from, or another spelling."""
    return name in (entry.name, entry.source, entry.space) or canonical(name) == canonical(entry.source)


def lying_at(entries: Sequence[ModelEntry], name: str) -> dict[str, str]:
    """The models that a name means by the files it names: copied or moved since, or pulled under another name.

    Only where none is called that. What would have to be downloaded first is not looked at.

    Returns:
        by space, what `load` is given to get the model from there.
    """
    if name in ALL or any(means(entry, name) for entry in entries):
        return {}
    cards = ((entry.space, _card_here(name, entry.options)) for entry in entries)
    return {space: card.source for space, card in cards if card and card.space == space}


def _card_here(name: str, options: Mapping[str, Any]) -> ModelCard | None:
    from bowerbird.models.card import Options
    from bowerbird.models.directory import read_card

    try:
        asked = Options.of(**options)
        return read_card(name, asked) if here(name, variant=asked.variant) else None
    except BowerbirdError:
        return None  # A folder that is no model, say: what is called that is not in the index.


def is_gone(entry: ModelEntry) -> bool:
    """Whether nothing lies any more where a model was loaded from. No network call."""
    try:
        here(entry.source)
    except ModelNotFoundError:
        return True
    except BowerbirdError:
        return False  # damaged, but there
    return False


def gone(entry: ModelEntry, location: Location, error: ModelNotFoundError) -> ModelNotFoundError:
    """The error for a model of an index that is no longer where the index has it from: it says the way out."""
    if not os.path.isabs(entry.source):
        return error  # of the hub: it says what to do
    return ModelNotFoundError(
        f"The index at {location} was made with the model {shown(entry)}, which is not there any more.",
        hint="Name where it lies now: --model DIRECTORY (`bowerbird index` with it makes the index remember).",
    )


def _named(entries: Sequence[ModelEntry], name: str, where: str) -> ModelEntry:
    """The model that a name means; a space is the last resort, where one model was added under two conditions."""
    for exact in (
        [entry for entry in entries if entry.name == name],
        [entry for entry in entries if means(entry, name)],
    ):
        # `load` would give the one under its own conditions.
        plain = [entry for entry in exact if not entry.options]
        for one in (exact, plain):
            if len(one) == 1:
                return one[0]
        if exact:
            ways = exact if len({e.source for e in exact}) == len(exact) else None
            them = [e.source for e in ways] if ways else [f"{e.space} ({shown(e)})" for e in exact]
            raise QueryError(
                f"{where} holds several models called {name!r}: {', '.join(them)}.",
                hint=f"Say which one: {exact[0].source if ways else exact[0].space}",
                param="models",
            )
    names = [called(entry) for entry in entries]
    several = Counter(names)
    told = [n if several[n] == 1 else f"{e.space} ({shown(e)})" for e, n in zip(entries, names, strict=True)]
    near = get_close_matches(name, {*names, *(entry.name for entry in entries)}, 1, 0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise QueryError(
        f"{where} holds no vectors of the model {name!r}, only of {', '.join(told)}.{meant}",
        hint="Ask one of those, or add it: bowerbird index SOURCES --model "
        f"{shlex.quote(name)} --index {shlex.quote(where)}",
        param="models",
    )


def entry_of(encoder: Encoder, taken: Sequence[VectorColumn] = (), *, texts: bool = False) -> ModelEntry:
    """The entry of a model that is new in an index.

    Args:
        encoder: of the model.
        taken: columns of other models.
        texts: give a model for both a column for texts too, rather than when the first text comes.
    """
    card = encoder.card
    slug = column_part(card.name).lower() or "model"
    if any(column.name.startswith(f"{slug}{VECTOR_MARK}") for column in taken):
        slug = f"{slug}_{card.space[:6]}"  # two directories of one name, or one model under two conditions
    columns = image_columns(encoder, slug) if card.image else ()
    if card.text and (texts or not columns):
        columns = (*columns, text_column(encoder, slug))
    return ModelEntry(card.name, card.source, card.space, card.meaning(), {}, columns, card.options.to_dict())


def image_columns(encoder: Encoder, slug: str) -> tuple[VectorColumn, ...]:
    """A column for each published output of pictures, the one shared with texts first."""
    side = encoder.image
    return tuple(
        VectorColumn(
            f"{slug}{VECTOR_MARK}{column_part(output)}", output, str(Modality.IMAGE), side.dimensions(output)
        )
        for output in side.outputs
    )


def text_column(encoder: Encoder, slug: str) -> VectorColumn:
    """The column for the vectors of texts."""
    tower = encoder.card.text
    assert tower is not None  # asked only of models that take texts
    output = tower.output
    taken = encoder.card.image and output in encoder.image.outputs
    name = f"{slug}{VECTOR_MARK}{column_part(output)}{'_of_text' if taken else ''}"
    return VectorColumn(name, output, str(Modality.TEXT), encoder.text.dimensions)


def slug_of(entry: ModelEntry) -> str:
    """How the names of a model's columns begin."""
    return entry.columns[0].name.partition(VECTOR_MARK)[0]


def column_part(name: str) -> str:
    """A part of a column's name: tensors of a graph may be called anything."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def with_earlier(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Numerics by tower; where an index has vectors of several, the others are kept under `earlier`."""
    merged = dict(before)
    for tower, facts in now.items():
        old = {key: value for key, value in before.get(tower, {}).items() if key != "earlier"}
        earlier = [entry for entry in before.get(tower, {}).get("earlier", []) if entry != facts]
        if old and old != facts:
            earlier.append(old)
        merged[tower] = {**facts, "earlier": earlier} if earlier else dict(facts)
    return merged


def mismatch(location: Location, entries: Sequence[ModelEntry], encoder: Encoder) -> SpaceMismatchError:
    """The error for a model that is none of those of an index: it says what differs."""
    card = encoder.card
    entry = next((entry for entry in entries if entry.source == card.source), entries[0])
    have, want = card.meaning(), entry.card
    parts = [
        f"{tower}.{key}"
        for tower in ("text", "image")
        for key in sorted({**(have[tower] or {}), **(want[tower] or {})})
        if (have[tower] or {}).get(key) != (want[tower] or {}).get(key)
    ]
    differ = f"they differ in {', '.join(parts) or 'format'}. Their vectors cannot be compared."
    made, given = shown(entry), labelled(card.source, card.options.to_dict())
    if made == given:
        return SpaceMismatchError(
            f"The index at {location} was made with {made} as it was then (space {entry.space}); by its files, or by "
            f"how this version of bowerbird reads them, it is now of space {card.space}: {differ}",
            hint="Put back the files of the model or the version of bowerbird, or index the folder anew at another "
            "place (--index).",
        )
    exact = "" if entry.options else f"--model {shlex.quote(entry.source)} "
    more = "" if len(entries) == 1 else f" and {len(entries) - 1} more"
    return SpaceMismatchError(
        f"The index at {location} was made with {made} (space {entry.space}){more}; "
        f"{given} is of space {card.space}: {differ}",
        hint=f"Leave out the model, or give {exact}--index {shlex.quote(str(location))}; or add the model to the "
        "index with add_model.",
    )
