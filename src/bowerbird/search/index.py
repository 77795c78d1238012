"""`Index`: a table, a model, and the manifest that says what the vectors mean."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import IndexDamagedError, QueryError, SpaceMismatchError, StoreError
from bowerbird.models.encoder import Encoder, load
from bowerbird.record import Modality
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.lance import LanceTable
from bowerbird.store.location import LOCK, Directory, Held, Location, Place
from bowerbird.store.location import writable as writable  # noqa: PLC0414  for what was written against it here
from bowerbird.store.manifest import Manifest, ModelEntry
from bowerbird.store.table import Table, VectorColumn, among, schema

if TYPE_CHECKING:
    from bowerbird.flow.run import Executor
    from bowerbird.hits import Hits
    from bowerbird.search.query import Query
    from bowerbird.search.report import Progress, Report

TABLE = "records.lance"
ERRORS = "errors.jsonl"


class Index:
    """Pictures that can be searched with words and with pictures.

    Make one with `Index.create`, find one again with `Index.open`. Reading needs no lock and sees the last
    complete commit; writing takes a lock that other processes respect.
    """

    def __init__(self, location: Location, manifest: Manifest, table: Table, model: Encoder) -> None:
        self.location = location
        self.manifest = manifest
        self.table = table
        self.model = model
        self._held = Held()

    @property
    def path(self) -> Path | str:
        """Where it lies: the path of a directory, or an address."""
        return self.location.path if isinstance(self.location, Directory) else str(self.location)

    @classmethod
    def create(cls, path: Place, model: Encoder | str = "") -> Index:
        """Make an empty index, in a directory or at an address such as `s3://bucket/photos.bower`.

        Raises:
            StoreError: something is there already, or the place cannot be written to.
            ModelError: the model cannot be loaded.
        """
        location = Location.of(path)
        encoder = model if isinstance(model, Encoder) else load(model)
        if manifests.exists(location):
            raise StoreError(
                f"There is an index at {location} already.",
                hint="Open it with Index.open, or delete the directory.",
            )
        location.prepare()
        strangers = [name for name in location.names() if not _is_ours(name)]
        if strangers:
            raise StoreError(
                f"{location} is not empty: it holds {strangers[0]!r}.", hint="Give a new directory."
            )
        with location.lock(settings().lock_seconds):
            if not manifests.exists(location):
                _clear_unfinished(location)
                _initialise(location, encoder)
        return cls.open(location, encoder)

    @classmethod
    def open(cls, path: Place, model: Encoder | None = None, *, precision: str = "") -> Index:
        """Open an index, with the model it was made with.

        Args:
            path: the directory of the index, or its address.
            model: an encoder of the same space, when there is one already; otherwise it is loaded.
            precision: what the model is loaded with; see `load`.

        Raises:
            IndexNotFoundError: there is no index.
            IndexDamagedError: it cannot be read.
            SpaceMismatchError: the model is of another space, or the index of another format version.
        """
        location = Location.of(path)
        manifest = manifests.read(location)
        entry = manifest.models[0]
        encoder = model or load(entry.source, precision=precision, **entry.options)
        if encoder.card.space != entry.space:
            raise _mismatch(location, entry, encoder)
        table = LanceTable.open(location.child(TABLE), manifest.table_version)
        return cls(location, manifest, table, encoder)

    def __len__(self) -> int:
        return self.manifest.records

    def __repr__(self) -> str:
        return f"<Index {self.path}: {len(self)} records, model {self.manifest.models[0].name}>"

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The vector columns."""
        return self.manifest.models[0].columns

    def column(self, output: str, modality: Modality = Modality.IMAGE) -> VectorColumn:
        """The column that holds an output of the model, for pictures or for texts."""
        for column in self.columns:
            if column.output == output and column.modality == modality:
                return column
        raise IndexDamagedError(
            f"The manifest of {self.path} names no column for {output!r}.",
            hint="Delete the directory and index the folder again.",
        )

    def add(
        self,
        source: str | Path | Iterable[str | Path],
        *,
        keep_missing: bool = False,
        progress: Progress | None = None,
        executor: Executor | None = None,
    ) -> Report:
        """Bring the index up to date with folders, globs or files.

        New and changed pictures are embedded, moved ones keep their vectors, deleted ones leave the index.
        One broken file never stops the run: it is in `Report.failed` with its reason. Ctrl-C ends the run early
        and keeps what was done.

        Args:
            source: a folder, a glob such as `photos/**/*.jpg`, a file, or several of these.
            keep_missing: keep records whose files are gone.
            progress: told about every file; see `bowerbird.search.report.Progress`.
            executor: where pictures are embedded; None: on this machine.

        Raises:
            UnreadableError: a source does not exist, or holds no pictures.
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        from bowerbird.search.ingest import Ingest

        sources: list[str | Path] = [source] if isinstance(source, (str, Path)) else list(source)
        with self.writing():
            return Ingest(
                self, sources, keep_missing=keep_missing, progress=progress, executor=executor
            ).run()

    def search(  # noqa: PLR0913  what a question may have
        self,
        text: str | Path | Sequence[str] | None = None,
        *,
        k: int = 10,
        image: str | Path | None = None,
        like: str = "",
        weights: Sequence[float] = (),
        without: str | Sequence[str] = (),
        where: str = "",
        threshold: float | None = None,
        among: str = "",
    ) -> Hits:
        """The records most like a question.

        Args:
            text: words (a `str`), or a picture (a `Path`); several strings are blended.
            k: at most this many results.
            image: a picture to blend with the words.
            like: id or path of an indexed record: its neighbours.
            weights: one for each text, then one for the picture; equal by default.
            without: words to move away from.
            where: an SQL filter over the attributes, such as ``width > 1000 and format = 'JPEG'``.
            threshold: leave out results that score less.
            among: what is searched, `image` or `text`; empty: the pictures, and the texts of an index without pictures.

        Raises:
            QueryError: the question is empty or contradicts itself, or the filter cannot be understood.
            InputError: the query picture cannot be read.
        """
        from bowerbird.search.query import Query

        if isinstance(text, Path):
            if image is not None:
                raise QueryError(
                    "Two query pictures were given.",
                    hint="Give one as the query, or blend words with `image`.",
                )
            text, image = None, text
        query = Query(
            texts=(text,) if isinstance(text, str) else tuple(text or ()),
            image=Path(image) if image is not None else None,
            like=like,
            weights=tuple(weights),
            without=(without,) if isinstance(without, str) else tuple(without),
            among=among,
        )
        return self.ask(query, k=k, where=where, threshold=threshold)

    def ask(self, query: Query, *, k: int = 10, where: str = "", threshold: float | None = None) -> Hits:
        """Like `search`, with a `Query` already made."""
        from bowerbird.search.query import answer

        return answer(self, query, k=k, where=where, threshold=threshold)

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEG files of records, by id."""
        batches = self.table.scan(["id", "thumbnail"], where=among("id", ids)) if ids else ()
        return {
            id_: data
            for batch in batches
            for id_, data in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        }

    def parts(self) -> dict[str, str]:
        """By the name of each vector column, the vector of a record that it holds, as `embed` names them."""
        shared = self.model.card.image.output if self.model.card.image else ""
        return {
            column.name: "text"
            if column.modality == Modality.TEXT
            else "image"
            if column.output == shared
            else f"image.{column.output}"
            for column in self.columns
        }

    def make_room_for_texts(self) -> None:
        """Add the column for the vectors of texts, if there is none. The index is locked by the caller."""
        if any(column.modality == Modality.TEXT for column in self.columns):
            return
        column = _text_column(self.model)
        # A run that was killed may have added them, and not said so.
        have = set(self.table.names)
        self.table.extend([field for field in list(schema((column,)))[-2:] if field.name not in have])
        entry = self.manifest.models[0]
        self.manifest = replace(self.manifest, models=(replace(entry, columns=(*entry.columns, column)),))

    def list_errors(self, faults: Sequence[Mapping[str, str]]) -> None:
        """Keep a list of what the last run could not index, beside the manifest, as JSON Lines; none: remove it."""
        if faults:
            lines = "".join(f"{json.dumps(fault, ensure_ascii=False)}\n" for fault in faults)
            self.location.replace(ERRORS, lines.encode("utf-8", "backslashreplace"))
        elif ERRORS in self.location.names():
            self.location.remove(ERRORS)

    def refresh(self) -> None:
        """See what other processes have committed since this index was opened."""
        self.manifest = manifests.read(self.location)
        self.table = LanceTable.open(self.location.child(TABLE), self.manifest.table_version)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, on the newest version of the table; afterwards publish what was committed."""
        with self.location.lock(settings().lock_seconds) as self._held:
            self.manifest = manifests.read(self.location)
            # The newest version, not the manifest's: a killed writer may have committed rows after its manifest.
            self.table = LanceTable.open(self.location.child(TABLE))
            self.table.extend(
                ()
            )  # what an earlier version of the format lacks, or a killed writer left half made
            yield

    def publish(self, *, failed: int, roots: tuple[str, ...], embedded: bool) -> None:
        """Write the manifest for what the table holds now: from here on, readers see it.

        Args:
            failed: how many files could not be indexed.
            roots: the folders indexed so far.
            embedded: whether vectors were written since the last time, in the numerics of this model.
        """
        entry = self.manifest.models[0]
        # A tower that only read queries in this process has written no vectors.
        wrote = {column.modality for column in entry.columns}
        here = {tower: facts for tower, facts in self.model.numerics().items() if tower in wrote}
        numerics = _with_earlier(entry.numerics, here) if embedded else entry.numerics
        self.manifest = self.manifest.updated_to(
            written_by=_version(),
            table_version=self.table.version,
            records=self.table.count(),
            failed=failed,
            roots=roots,
            models=(replace(entry, numerics=numerics),),
        )
        self._held.check()
        manifests.write(self.location, self.manifest)


def _with_earlier(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Numerics by tower; where an index has vectors of several, the others are kept under `earlier`."""
    merged = dict(before)
    for tower, facts in now.items():
        old = {key: value for key, value in before.get(tower, {}).items() if key != "earlier"}
        earlier = [entry for entry in before.get(tower, {}).get("earlier", []) if entry != facts]
        if old and old != facts:
            earlier.append(old)
        merged[tower] = {**facts, "earlier": earlier} if earlier else dict(facts)
    return merged


def _is_ours(name: str) -> bool:
    """Whether a name is one of an index: that may be all a killed `create`, or one still running, has made."""
    return name in (LOCK, TABLE, ERRORS, manifests.NAME) or name.startswith(f".{manifests.NAME}.")


def _clear_unfinished(location: Location) -> None:
    """Remove the empty table that a killed `create` leaves behind; one that holds records is never removed."""
    rows = LanceTable.leftover(location.child(TABLE))
    if rows != 0:
        raise IndexDamagedError(
            f"{location} holds {'records' if rows is None else f'{rows:,} records'}, but no {manifests.NAME}.",
            hint=f"Put {manifests.NAME} back, or delete the directory to start anew.",
        )
    location.remove(TABLE)


def _initialise(location: Location, encoder: Encoder) -> None:
    card = encoder.card
    columns = _image_columns(encoder) if card.image else (_text_column(encoder),)
    table = LanceTable.create(location.child(TABLE), schema(columns))
    entry = ModelEntry(
        card.name, card.source, card.space, card.meaning(), {}, columns, card.options.to_dict()
    )
    now = manifests.now()
    manifests.write(
        location,
        Manifest(now, now, _version(), table.version, records=0, failed=0, roots=(), models=(entry,)),
    )


def _image_columns(encoder: Encoder) -> tuple[VectorColumn, ...]:
    side, slug = encoder.image, _slug(encoder)
    return tuple(
        VectorColumn(f"{slug}__{_column(output)}", output, str(Modality.IMAGE), side.dimensions(output))
        for output in side.outputs
    )


def _text_column(encoder: Encoder) -> VectorColumn:
    tower = encoder.card.text
    assert tower is not None  # asked only of models that take texts
    output = tower.output
    taken = encoder.card.image and output in encoder.image.outputs
    name = f"{_slug(encoder)}__{_column(output)}{'_of_text' if taken else ''}"
    return VectorColumn(name, output, str(Modality.TEXT), encoder.text.dimensions)


def _slug(encoder: Encoder) -> str:
    return _column(encoder.card.name).lower() or "model"


def _column(name: str) -> str:
    """A part of a column's name: tensors of a graph may be called anything."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _mismatch(location: Location, entry: ModelEntry, encoder: Encoder) -> SpaceMismatchError:
    card = encoder.card
    have, want = card.meaning(), entry.card
    parts = [
        f"{tower}.{key}"
        for tower in ("text", "image")
        for key in sorted({**(have[tower] or {}), **(want[tower] or {})})
        if (have[tower] or {}).get(key) != (want[tower] or {}).get(key)
    ]
    differ = f"they differ in {', '.join(parts) or 'format'}. Their vectors cannot be compared."
    made, given = _named(entry.source, entry.options), _named(card.source, card.options.to_dict())
    if made == given:
        return SpaceMismatchError(
            f"The index at {location} was made with {made} as it was then (space {entry.space}); by its files, or by "
            f"how this version of bowerbird reads them, it is now of space {card.space}: {differ}",
            hint="Put back the files of the model or the version of bowerbird, or index the folder anew at another "
            "place (--index).",
        )
    exact = "" if entry.options else f"--model {shlex.quote(entry.source)} "
    return SpaceMismatchError(
        f"The index at {location} was made with {made} (space {entry.space}); "
        f"{given} is of space {card.space}: {differ}",
        hint=f"Leave out the model, or give {exact}--index {shlex.quote(str(location))}; or index the folder anew at "
        "another place (--index).",
    )


def _named(source: str, options: Mapping[str, Any]) -> str:
    """A model and what was asked of it, for people."""
    return source + "".join(f", {option} {value}" for option, value in options.items())


def _version() -> str:
    from bowerbird import __version__

    return __version__
