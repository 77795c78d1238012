"""Where pairs come from: which source reads what somebody has, and which columns they are in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bowerbird.collection.collection import Collection
from bowerbird.errors import LearnError
from bowerbird.flow.plan import Source
from bowerbird.flow.sources.addresses import is_remote, located, shown
from bowerbird.flow.sources.captions import caption_file
from bowerbird.flow.sources.folders import FolderSource
from bowerbird.flow.sources.parquet import ParquetSource
from bowerbird.flow.sources.tars import WebDatasetSource
from bowerbird.judge.pairs import (
    IMAGE_NAMES,
    TEXT_NAMES,
    column_names,
    guessed,
    table_columns,
    table_source,
    unclear,
)
from bowerbird.record import Record, name_of

FOLDER = "folder"
"""`labels`: the class of a picture is the name of the folder that it lies in."""

PairSource = Collection[Any] | str | Path | Sequence[Any]
"""A collection of records; the path of a table, a folder or a caption file; or a list of records, or of pairs: a
picture (a path, the bytes of a file, a Pillow image or an array) and a text or several."""

_LOOKED_AT = 1000
"""Records of a folder whose attributes are looked at for one that holds texts."""

_TABLES = (".jsonl", ".ndjson", ".parquet")
_PARQUET = (".parquet", ".parq", ".pq")


def records(
    source: PairSource,
    image: str,
    text: str | Sequence[str],
    labels: str | None,
    root: str | Path,
    id: str,
    delimiter: str | None,
) -> tuple[Iterator[Any], str, bool]:
    """The elements of a source.

    Args:
        source: of pairs.
        image: as all others, of `bowerbird.learn.pairs.read_examples`.
        text: see there.
        labels: see there.
        root: see there.
        id: see there.
        delimiter: see there.

    Returns:
        the elements; what the source is called; and whether their attribute `label` is the name of a folder.

    Raises:
        LearnError: it is a folder of pictures of which nothing is said, or of a type that holds no pairs.
        BowerbirdError: it cannot be read, or which columns are meant is not clear.
    """
    if isinstance(source, Collection):
        # What fails is named, also where the collection would leave it out without a word.
        kept = source.on_error("keep") if source.plan.on_error == "drop" else source
        return iter(kept), source.plan.source.describe(), isinstance(source.plan.source, FolderSource)
    if isinstance(source, list | tuple):
        return iter([_pair(item, place) for place, item in enumerate(source)]), f"{len(source)} pairs", False
    if not isinstance(source, (str, Path)):
        raise LearnError(
            f"Pairs cannot be given as {type(source).__name__}.",
            hint="Give the path of a table or a folder, a list of (picture, text), or a Collection of records.",
        )
    found = _source(source, image, text, labels, root, id, delimiter)
    return iter(found), shown(str(source)), isinstance(found, FolderSource)


def _pair(item: Any, place: int) -> Record:
    """An element of a list.

    Raises:
        LearnError: it is neither a record nor a picture and its texts.
    """
    if isinstance(item, Record):
        return item
    if isinstance(item, list | tuple) and len(item) == 2:
        image, texts = item
        said = (texts,) if isinstance(texts, str) else tuple(texts or ())
        if all(isinstance(text, str) for text in said):
            return Record(
                f"pair:{place}", Path(image) if isinstance(image, str) else image, said, named=False
            )
    raise LearnError(
        f"Element {place} of the pairs, {name_of(item)}, is no pair of a picture and a text.",
        hint="Give (picture, text), or (picture, [text, text]), or a bowerbird.Record.",
    )


def class_name(value: Any) -> str:
    """What a cell says is the class; empty: nothing.

    A column of whole numbers with gaps is often kept as floats with NaN, so 3.0 is class 3 and NaN is none.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _source(
    path: str | Path,
    image: str,
    text: str | Sequence[str],
    labels: str | None,
    root: str | Path,
    id: str,
    delimiter: str | None,
) -> Source:
    table, place = shown(str(path)), located(path)
    ending = place.lower().removesuffix(".gz")
    is_folder = not is_remote(place) and os.path.isdir(place)
    if is_folder:
        folder = _folder(path, table, text, labels)
        if folder:
            return folder
    elif ending.endswith(".tar"):
        return WebDatasetSource([place])
    elif ending.endswith(".json") or not (image or text or ending.endswith(_TABLES)):
        captions = caption_file(path, root)
        if captions:
            return captions

    def given(image: str = "", text: str | Sequence[str] = "") -> Source:
        if is_folder:
            return ParquetSource(path, image, text, id, root)
        return table_source(path, image, text, id=id, root=root, delimiter=delimiter)

    if labels is None and isinstance(text, str):
        return given(*table_columns(given(), table, image, text))
    # Where classes are asked for no text is needed: their own column may well be called `text`.
    have = column_names(given())
    image = image or guessed(have, IMAGE_NAMES, labels or "")
    if not image:
        raise unclear(have, table, "pictures", "image")
    return given(image, text)


def _folder(
    path: str | Path, table: str, text: str | Sequence[str], labels: str | None
) -> FolderSource | None:
    """A folder of pictures; None where it holds tables instead."""
    first = list(islice((item for item in FolderSource(path) if isinstance(item, Record)), _LOOKED_AT))
    if not first and any(name.endswith(_PARQUET) for _, _, names in os.walk(located(path)) for name in names):
        return None
    if labels is not None or text:
        return FolderSource(path, text)
    have = list(dict.fromkeys(name for record in first for name in record.attributes))
    guess = guessed(have, TEXT_NAMES)
    if not guess and set(have) <= {"label", "split"}:
        raise LearnError(
            f"{table} holds {'pictures, and nothing that is said of them' if first else 'no pictures'}.",
            hint="Give labels='folder' (--labels folder) to learn the names of its folders, or add a metadata.csv with "
            "the columns file_name and caption."
            if first
            else "Check the path.",
        )
    if not guess:
        raise unclear(have, table, "texts", "text")
    return FolderSource(path, guess)
