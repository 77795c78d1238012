"""Models come and go: columns are added and dropped, and the manifest is written in the right order.

A process may be killed between any two lines of this module. Columns that the manifest does not name are garbage that
the next writer clears away; so they are named before anything is written to them, and until nobody asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bowerbird.errors import BowerbirdError, UnsupportedInputError
from bowerbird.record import Modality
from bowerbird.search.background import unused
from bowerbird.search.entries import entry_of, mismatch, slug_of, text_column
from bowerbird.store.filters import Filter, IsNull, Not, Or
from bowerbird.store.manifest import ModelEntry
from bowerbird.store.table import VECTOR_MARK, VectorColumn, schema

if TYPE_CHECKING:
    from bowerbird.models.encoder import Encoder
    from bowerbird.search.index import Index

HAVING: Mapping[str, Filter] = {
    # By what its content is, where it lies, or what was found as it was decoded: earlier versions kept less.
    "image": Or((Not(IsNull("picture")), Not(IsNull("uri")), Not(IsNull("width")))),
    "text": Not(IsNull("text")),
}
"""By part, which records have it."""


def include(index: Index, model: Encoder) -> bool:
    """Add the columns of a model, empty in all records, if they are not there; the lock is held by the caller.

    Returns:
        whether they are new.
    """
    if any(entry.space == model.card.space for entry in index.manifest.models):
        index.encoders[model.card.space] = model
        return False
    texts = any(column.modality == Modality.TEXT for column in index.columns)
    entry = entry_of(model, index.columns, texts=texts)
    _extend(index, entry.columns)
    index.manifest = replace(index.manifest, models=(*index.manifest.models, entry))
    index.encoders[entry.space] = model
    index.write_manifest()
    return True


def check_use(index: Index, model: Encoder, *, coming: Iterable[str] = ()) -> None:
    """See that a model takes something that the records have, and is what it was, before anything is changed for it.

    Args:
        index: to which it is to be added.
        model: that is to be added.
        coming: what else the records will have: `image`, `text`.

    Raises:
        UnsupportedInputError: it takes nothing that they have.
        SpaceMismatchError: the index has it as it was before its files changed.
    """
    asked = (model.card.source, model.card.options.to_dict())
    for entry in index.manifest.models:
        if (entry.source, entry.options) == asked and entry.space != model.card.space:
            raise mismatch(index.location, (entry,), model)
    takes = set(map(str, model.card.modalities))
    if not len(index) or takes & set(coming) or any(index.table.count(HAVING[part]) for part in takes):
        return
    what = "texts" if takes == {"text"} else "pictures"
    raise UnsupportedInputError(
        f"{model.card.name} takes {what} only, and the records at {index.path} have none.",
        hint="Use a model that takes what they have.",
    )


def drop(index: Index, name: str) -> ModelEntry:
    """Take a model out; see `Index.drop_model`. The lock is held by the caller."""
    entry, *more = index.entries(name)
    if more or len(index.manifest.models) == 1:
        raise BowerbirdError(
            f"{index.path} would be left without a model.",
            hint="Drop one of several models, or delete the index.",
        )
    kept = tuple(other for other in index.manifest.models if other.space != entry.space)
    # From here on nobody asks for these columns, whether this process lives to drop them or not.
    index.manifest = replace(index.manifest, models=kept)
    index.write_manifest()
    index.encoders.pop(entry.space, None)
    index.table.drop([name for column in entry.columns for name in (column.name, column.norm)])
    index.write_manifest()
    for file in unused(index.location.names(), kept):
        index.location.remove(file)
    return entry


def make_room_for_texts(index: Index, space: str = "") -> None:
    """Add the column for the vectors of texts, if there is none. The index is locked by the caller.

    Args:
        index: that gets it.
        space: of the model; empty: the first.
    """
    models = index.manifest.models
    entry = next(entry for entry in models if entry.space == (space or models[0].space))
    if any(column.modality == Modality.TEXT for column in entry.columns):
        return
    column = text_column(index.encoder(entry.space), slug_of(entry))
    _extend(index, (column,))
    index.change(replace(entry, columns=(*entry.columns, column)))
    # Named before it holds anything: columns that no manifest names are cleared away.
    index.write_manifest()


def clear_away(index: Index) -> None:
    """Drop vector columns that the manifest does not name: a writer was killed as it added or dropped a model."""
    named = {name for column in index.columns for name in (column.name, column.norm)}
    left = [name for name in index.table.names if VECTOR_MARK in name and name not in named]
    # Earlier versions named the column of texts only when it was filled. It is taken over by `_extend`.
    slugs = {
        slug_of(entry)
        for entry in index.manifest.models
        if entry.takes("text") and all(column.modality != Modality.TEXT for column in entry.columns)
    }
    left = [name for name in left if name.partition(VECTOR_MARK)[0] not in slugs]
    if left:
        index.table.drop(left)


def _extend(index: Index, columns: Iterable[VectorColumn]) -> None:
    """Add vector columns to the table, without those that it has."""
    have = {*index.table.names, *schema(()).names}
    index.table.extend([field for field in schema(tuple(columns)) if field.name not in have])
