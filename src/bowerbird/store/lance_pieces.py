"""Pieces of a Lance table, written by many workers at once and made visible in one commit.

A worker writes rows into data files of the table, which no reader sees, and hands back a piece: what Lance has to know
of them. The process that started the run commits the pieces, and all their rows appear in one version. Pieces that are
never committed leave files behind; Lance removes them when it cleans up, once they are a week old.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bowerbird.errors import MissingExtraError, SpaceMismatchError, StoreError
from bowerbird.store.lance import storage_options as options_of
from bowerbird.store.lance_errors import translated

if TYPE_CHECKING:
    import pyarrow as pa


def write_piece(
    place: str, schema: pa.Schema, rows: pa.Table, storage_options: Mapping[str, str] | None = None
) -> bytes:
    """Write rows beside a table, on any machine that can reach it.

    Args:
        place: of the table, which exists.
        schema: of the table; Lance would accept rows that lack columns.
        rows: any number; none give an empty piece, and only import what writing needs, which takes a second.
        storage_options: as Lance takes them; None: those of the place.

    Returns:
        the piece, for `commit_pieces`: JSON, a few hundred bytes.

    Raises:
        MissingExtraError: lance-ray is not installed.
        SpaceMismatchError: the rows are of another schema.
        StoreError: the place cannot be written to.
    """
    if not rows.schema.equals(schema):
        raise SpaceMismatchError(f"The rows for {place} are not of its columns.")
    kind = _writer()
    if not rows.num_rows:
        return b"[]"
    import pickle

    writer = kind(
        place, schema=schema, use_legacy_format=None, storage_options=_options(place, storage_options)
    )
    with translated(place):
        written = writer(rows)
    # lance-ray hands pickles over; what is stored or sent on is Lance's own JSON of them.
    return json.dumps([pickle.loads(one).to_json() for one in written["fragment"].to_pylist()]).encode()


def commit_pieces(
    place: str, pieces: Sequence[bytes], version: int, storage_options: Mapping[str, str] | None = None
) -> int:
    """Append all rows of some pieces to a table, in the order given, in one version.

    Other writers may have appended, changed, deleted or compacted rows since: their changes stay. A piece that the
    table has already, because a commit was repeated, is left out; after a compaction that cannot be seen.

    Args:
        place: of the table.
        pieces: of `write_piece`.
        version: of the table before the first piece was written.
        storage_options: as for `write_piece`.

    Returns:
        the version that has the rows; the newest one when there are none to append.

    Raises:
        StoreError: the table was made anew since that version, or the place cannot be written to.
    """
    import lance
    from lance.fragment import FragmentMetadata

    options = _options(place, storage_options)
    with translated(place):
        dataset = lance.dataset(place, storage_options=options)
        known = {file.path for fragment in dataset.get_fragments() for file in fragment.data_files()}
        fragments = []
        for fragment in (one for piece in pieces for one in json.loads(piece)):
            files = {file["path"] for file in fragment["files"]}
            if known.isdisjoint(files):
                fragments.append(FragmentMetadata.from_json(json.dumps(fragment)))
                known |= files
        if not fragments:
            return int(dataset.version)
        try:
            committed = lance.LanceDataset.commit(
                place,
                lance.LanceOperation.Append(fragments),
                read_version=version,
                storage_options=options,
            )
        except Exception as error:
            if "ncompatible transaction" not in str(error):
                raise
            raise StoreError(
                f"The table at {place} was made anew while rows for it were being written.",
                hint="Run the same command again.",
            ) from error
        return int(committed.version)


def _writer() -> Any:
    try:
        from lance_ray import LanceFragmentWriter
    except ImportError as error:
        raise MissingExtraError("lance-ray", "ray") from error
    return LanceFragmentWriter


def _options(place: str, given: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(given) if given is not None else options_of(place)
