"""`Index`: a table, a model, and the manifest that says what the vectors mean."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import (
    IndexBusyError,
    IndexDamagedError,
    IndexReadOnlyError,
    QueryError,
    SpaceMismatchError,
    StorageFullError,
    StoreError,
)
from bowerbird.flow.files import printable
from bowerbird.models.encoder import Encoder, load
from bowerbird.record import Modality
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.lance import LanceTable
from bowerbird.store.manifest import Manifest, ModelEntry
from bowerbird.store.table import Table, VectorColumn, schema

if TYPE_CHECKING:
    from bowerbird.hits import Hits
    from bowerbird.search.ingest import Progress, Report
    from bowerbird.search.query import Query

TABLE = "records.lance"
LOCK = ".lock"


class Index:
    """Pictures that can be searched with words and with pictures.

    Make one with `Index.create`, find one again with `Index.open`. Reading needs no lock and sees the last
    complete commit; writing takes a lock that other processes respect.
    """

    def __init__(self, path: Path, manifest: Manifest, table: Table, model: Encoder) -> None:
        self.path = path
        self.manifest = manifest
        self.table = table
        self.model = model

    @classmethod
    def create(cls, path: str | Path, model: Encoder | str = "") -> Index:
        """Make an empty index.

        Raises:
            StoreError: something is there already, or the place cannot be written to.
            ModelError: the model cannot be loaded.
        """
        directory = Path(path).expanduser().absolute()
        if printable(str(directory)) != str(directory):
            raise StoreError(
                f"{printable(str(directory))} cannot hold an index.", hint="Give a name in valid UTF-8."
            )
        encoder = model if isinstance(model, Encoder) else load(model)
        if manifests.exists(directory):
            raise StoreError(
                f"There is an index at {directory} already.",
                hint="Open it with Index.open, or delete the directory.",
            )
        with writable(directory):
            directory.mkdir(parents=True, exist_ok=True)
            strangers = [entry.name for entry in directory.iterdir() if not _is_ours(entry.name)]
            if strangers:
                raise StoreError(
                    f"{directory} is not empty: it holds {strangers[0]!r}.", hint="Give a new directory."
                )
        with locked(directory, settings().lock_seconds), writable(directory):
            if not manifests.exists(directory):
                _clear_unfinished(directory)
                _initialise(directory, encoder)
        return cls.open(directory, encoder)

    @classmethod
    def open(cls, path: str | Path, model: Encoder | None = None, *, precision: str = "") -> Index:
        """Open an index, with the model it was made with.

        Args:
            path: the directory of the index.
            model: an encoder of the same space, when there is one already; otherwise it is loaded.
            precision: what the model is loaded with; see `load`.

        Raises:
            IndexNotFoundError: there is no index.
            IndexDamagedError: it cannot be read.
            SpaceMismatchError: the model is of another space, or the index of another format version.
        """
        directory = Path(path).expanduser().absolute()
        manifest = manifests.read(directory)
        entry = manifest.models[0]
        encoder = model or load(entry.source, precision=precision, **entry.options)
        if encoder.card.space != entry.space:
            raise _mismatch(directory, entry, encoder)
        table = LanceTable.open(directory / TABLE, manifest.table_version)
        return cls(directory, manifest, table, encoder)

    def __len__(self) -> int:
        return self.manifest.records

    def __repr__(self) -> str:
        return f"<Index {self.path}: {len(self)} records, model {self.manifest.models[0].name}>"

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The vector columns."""
        return self.manifest.models[0].columns

    def column(self, output: str) -> VectorColumn:
        """The column that holds a picture output of the model."""
        for column in self.columns:
            if column.output == output:
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
    ) -> Report:
        """Bring the index up to date with folders, globs or files.

        New and changed pictures are embedded, moved ones keep their vectors, deleted ones leave the index.
        One broken file never stops the run: it is in `Report.failed` with its reason. Ctrl-C ends the run early
        and keeps what was done.

        Args:
            source: a folder, a glob such as `photos/**/*.jpg`, a file, or several of these.
            keep_missing: keep records whose files are gone.
            progress: told about every file; see `ingest.Progress`.

        Raises:
            UnreadableError: a source does not exist, or holds no pictures.
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        from bowerbird.search.ingest import Ingest

        sources: list[str | Path] = [source] if isinstance(source, (str, Path)) else list(source)
        with self.writing():
            return Ingest(self, sources, keep_missing=keep_missing, progress=progress).run()

    def search(
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
        )
        return self.ask(query, k=k, where=where, threshold=threshold)

    def ask(self, query: Query, *, k: int = 10, where: str = "", threshold: float | None = None) -> Hits:
        """Like `search`, with a `Query` already made."""
        from bowerbird.search.query import answer

        return answer(self, query, k=k, where=where, threshold=threshold)

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEG files of records, by id."""
        quoted = ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)
        batches = self.table.scan(["id", "thumbnail"], where=f"id IN ({quoted})") if ids else ()
        return {
            id_: data
            for batch in batches
            for id_, data in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        }

    def refresh(self) -> None:
        """See what other processes have committed since this index was opened."""
        self.manifest = manifests.read(self.path)
        self.table = LanceTable.open(self.path / TABLE, self.manifest.table_version)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, on the newest version of the table; afterwards publish what was committed."""
        with locked(self.path, settings().lock_seconds):
            self.manifest = manifests.read(self.path)
            # The newest version, not the manifest's: a killed writer may have committed rows after its manifest.
            self.table = LanceTable.open(self.path / TABLE)
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
        with writable(self.path):
            manifests.write(self.path, self.manifest)


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
    return name in (LOCK, TABLE, manifests.NAME) or name.startswith(f".{manifests.NAME}.")


def _clear_unfinished(directory: Path) -> None:
    """Remove the empty table that a killed `create` leaves behind; one that holds records is never removed."""
    if not (directory / TABLE).exists():
        return
    try:
        rows = LanceTable.open(directory / TABLE).count()
    except StoreError:
        rows = 0 if not any((directory / TABLE / "data").glob("*")) else -1
    if rows:
        raise IndexDamagedError(
            f"{directory} holds {'records' if rows < 0 else f'{rows:,} records'}, but no {manifests.NAME}.",
            hint=f"Put {manifests.NAME} back, or delete the directory to start anew.",
        )
    shutil.rmtree(directory / TABLE, ignore_errors=True)


def _initialise(directory: Path, encoder: Encoder) -> None:
    card = encoder.card
    side = encoder.image
    slug = _column(card.name).lower() or "model"
    columns = tuple(
        VectorColumn(f"{slug}__{_column(output)}", output, str(Modality.IMAGE), side.dimensions(output))
        for output in side.outputs
    )
    table = LanceTable.create(directory / TABLE, schema(columns))
    entry = ModelEntry(
        card.name, card.source, card.space, card.meaning(), {}, columns, card.options.to_dict()
    )
    now = manifests.now()
    manifests.write(
        directory,
        Manifest(now, now, _version(), table.version, records=0, failed=0, roots=(), models=(entry,)),
    )


def _column(name: str) -> str:
    """A part of a column's name: tensors of a graph may be called anything."""
    return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _mismatch(directory: Path, entry: ModelEntry, encoder: Encoder) -> SpaceMismatchError:
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
            f"The index at {directory} was made with {made} as it was then (space {entry.space}); by its files, or by "
            f"how this version of bowerbird reads them, it is now of space {card.space}: {differ}",
            hint="Put back the files of the model or the version of bowerbird, or index the folder anew at another "
            "place (--index).",
        )
    exact = "" if entry.options else f"--model {shlex.quote(entry.source)} "
    return SpaceMismatchError(
        f"The index at {directory} was made with {made} (space {entry.space}); "
        f"{given} is of space {card.space}: {differ}",
        hint=f"Leave out the model, or give {exact}--index {shlex.quote(str(directory))}; or index the folder anew at "
        "another place (--index).",
    )


def _named(source: str, options: Mapping[str, Any]) -> str:
    """A model and what was asked of it, for people."""
    return source + "".join(f", {option} {value}" for option, value in options.items())


def _version() -> str:
    from bowerbird import __version__

    return __version__


@contextmanager
def writable(directory: Path) -> Iterator[None]:
    """Turn the system's refusals to write into errors that name the place.

    Raises:
        IndexReadOnlyError: no permission, or a read-only file system.
        StorageFullError: no space is left.
    """
    import errno

    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(
                f"No space is left on the device that holds {directory}.",
                hint="Free some space and run the same command again.",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise IndexReadOnlyError(
                f"{directory} cannot be written to.", hint="Check its permissions, or give another place."
            ) from error
        if error.errno in (errno.ENOENT, errno.EISDIR, errno.ENAMETOOLONG):
            raise StoreError(
                f"{directory} cannot be written: {(error.strerror or '').lower()}.",
                hint="Give a path in a folder that exists.",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"{directory} cannot hold an index: there is a file in the way.", hint="Give another --index."
            ) from error
        raise


@contextmanager
def locked(directory: Path, seconds: float) -> Iterator[None]:
    """Hold the write lock of an index; the system frees it when a process dies.

    Raises:
        IndexBusyError: another process kept it for longer than `seconds`.
        IndexReadOnlyError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(directory / LOCK)
    try:
        with writable(directory):
            lock.acquire(timeout=seconds)
    except Timeout as error:
        raise IndexBusyError(
            f"Another process is writing to {directory}; waited {seconds:g} seconds.",
            hint="Try again when it has finished, or wait longer with BOWERBIRD_LOCK_SECONDS.",
        ) from error
    try:
        yield
    finally:
        lock.release()
