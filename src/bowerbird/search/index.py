"""`Index`: a table, models, and the manifest that says what the vectors mean."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.errors import IndexDamagedError, ModelNotFoundError, QueryError
from bowerbird.models.encoder import Encoder, load
from bowerbird.record import Modality
from bowerbird.search import entries as naming
from bowerbird.search.changing import check_use, clear_away, drop, include
from bowerbird.search.making import ERRORS, make, version
from bowerbird.settings import settings
from bowerbird.store import manifest as manifests
from bowerbird.store.filters import among
from bowerbird.store.location import Directory, Held, Location, Place
from bowerbird.store.location import writable as writable  # noqa: PLC0414  for what was written against it here
from bowerbird.store.manifest import Manifest, ModelEntry
from bowerbird.store.opening import open_table
from bowerbird.store.table import Table, VectorColumn

if TYPE_CHECKING:
    from bowerbird.flow.run import Executor
    from bowerbird.hits import Hits
    from bowerbird.search.background import Background
    from bowerbird.search.query import Query
    from bowerbird.search.report import Progress, Report
    from bowerbird.search.rerank import Reranker


class Index:
    """Pictures that can be searched with words and with pictures.

    Make one with `Index.create`, find one again with `Index.open`. Reading needs no lock and sees the last
    complete commit; writing takes a lock that other processes respect.

    Attributes:
        lock_seconds: for another process that is writing one waits no longer; None: as the settings say.
    """

    def __init__(
        self,
        location: Location,
        manifest: Manifest,
        table: Table,
        encoders: Iterable[Encoder] = (),
        *,
        precision: str = "",
    ) -> None:
        self.location = location
        self.manifest = manifest
        self.table = table
        self.precision = precision
        self.lock_seconds: float | None = None
        self.encoders = {encoder.card.space: encoder for encoder in encoders}
        self._sources: dict[str, str] = {}  # by space, where models lie now, as this process was told
        self._held = Held()
        self._backgrounds: dict[str, tuple[Mapping[str, Any], Background | None]] = {}

    @property
    def path(self) -> Path | str:
        """Where it lies: the path of a directory, or an address."""
        return self.location.path if isinstance(self.location, Directory) else str(self.location)

    @classmethod
    def create(
        cls, path: Place, model: Encoder | str | Sequence[Encoder | str] = "", *, precision: str = ""
    ) -> Index:
        """Make an empty index, in a directory or at an address such as `s3://bucket/photos.bower`.

        Args:
            path: where.
            model: one, or several: the first is the index's own, asked where nobody names one.
            precision: what models are loaded with; see `load`.

        Raises:
            StoreError: something is there already, or the place cannot be written to.
            ModelError: a model cannot be loaded.
        """
        location = Location.of(path)
        encoders = _encoders(model, precision)
        make(location, encoders)
        return cls.open(location, encoders, precision=precision)

    @classmethod
    def open(
        cls, path: Place, model: Encoder | Sequence[Encoder] | None = None, *, precision: str = ""
    ) -> Index:
        """Open an index. Its models are loaded when they are needed.

        Args:
            path: the directory of the index, or its address.
            model: encoders of its models, when there are some already.
            precision: what models are loaded with; see `load`.

        Raises:
            IndexNotFoundError: there is no index.
            IndexDamagedError: it cannot be read.
            SpaceMismatchError: a model is none of the index, or the index is of another format version.
        """
        location = Location.of(path)
        manifest = manifests.read(location)
        given = [model] if isinstance(model, Encoder) else list(model or ())
        spaces = {entry.space for entry in manifest.models}
        for encoder in given:
            if encoder.card.space not in spaces:
                raise naming.mismatch(location, manifest.models, encoder)
        table = open_table(location, manifest.table_version)
        return cls(location, manifest, table, given, precision=precision)

    def __len__(self) -> int:
        return self.manifest.records

    def __repr__(self) -> str:
        names = naming.labels(self.manifest.models).values()
        return f"<Index {self.path}: {len(self)} records, model{'s'[: len(names) > 1]} {', '.join(names)}>"

    def entries(self, names: str | Sequence[str] = ()) -> tuple[ModelEntry, ...]:
        """Models of the index, by name.

        Args:
            names: as people call them; none: the first, which is the index's own; `both` or `all`: every one. What
                is called like none of them is looked at, if it is on this machine: where a model of the index was
                moved or copied to, this process loads it from.

        Raises:
            QueryError: the index has no such model.
        """
        names = naming.split(names)
        for place, name in enumerate(names):
            if found := naming.lying_at(self.manifest.models, name):
                self._sources.update(found)
                meant = [entry for entry in self.manifest.models if entry.space in found]
                names[place] = meant[0].space if len(meant) == 1 else meant[0].source
        return naming.chosen(self.manifest.models, names, str(self.path))

    def encoder(self, name: str = "") -> Encoder:
        """A model of the index, loaded now if it was not; see `entries` for its name.

        Raises:
            QueryError: the index has no such model, or the name means several.
            ModelError: it cannot be loaded.
            SpaceMismatchError: what it is loaded from is another model by now.
        """
        entry, *more = self.entries(name)
        if more:
            raise QueryError(f"{name} are several models.", hint=f"Name one of them, such as {entry.name}.")
        found = self.encoders.get(entry.space)
        if found is None:
            source = self._sources.get(entry.space, entry.source)
            try:
                found = load(source, precision=self.precision, **entry.options)
            except ModelNotFoundError as error:
                raise naming.gone(entry, self.location, error) from error
            if found.card.space != entry.space:
                raise naming.mismatch(self.location, (entry,), found)
            self.encoders[entry.space] = found
        return found

    @property
    def model(self) -> Encoder:
        """The index's own model, the first: it embeds what is new, and is asked where nobody names one."""
        return self.encoder()

    @property
    def columns(self) -> tuple[VectorColumn, ...]:
        """The vector columns of all models."""
        return tuple(column for entry in self.manifest.models for column in entry.columns)

    def column(
        self, output: str, modality: Modality = Modality.IMAGE, entry: ModelEntry | None = None
    ) -> VectorColumn:
        """The column that holds an output of a model, for pictures or for texts; None: of the first model."""
        return (entry or self.manifest.models[0]).column(output, modality)

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
        unlike: str | Sequence[str] = (),
        among: str = "",
        offset: int = 0,
        where: str = "",
        models: str | Sequence[str] = (),
        fusion: str = "calibrated",
        part_weights: Mapping[str, float] | None = None,
        min_match: float | None = None,
        threshold: float | None = None,
        rerank: Reranker | None = None,
    ) -> Hits:
        """The records most like a question.

        Args:
            text: words (a `str`), or a picture (a `Path`); several strings are blended.
            k: as of `ask`.
            image: a picture to blend with the words.
            like: id or path of an indexed record: its neighbours.
            weights: one for each text, then one for the picture; equal by default.
            without: words to move away from.
            unlike: ids or paths of indexed records to move away from.
            among: what is searched: `image`, `text`, `words` (BM25 over the texts), or several with commas between;
                empty: pictures and texts, as far as there are any.
            offset: as of `ask`, like all that follow.
            where: see `ask`.
            models: see `ask`.
            fusion: see `ask`.
            part_weights: see `ask`.
            min_match: see `ask`.
            threshold: see `ask`.
            rerank: see `ask`.

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
            unlike=(unlike,) if isinstance(unlike, str) else tuple(unlike),
            among=among,
        )
        return self.ask(
            query,
            k=k,
            offset=offset,
            where=where,
            models=models,
            fusion=fusion,
            part_weights=part_weights,
            min_match=min_match,
            threshold=threshold,
            rerank=rerank,
        )

    def ask(  # noqa: PLR0913  how a question may be answered
        self,
        query: Query,
        *,
        k: int = 10,
        offset: int = 0,
        where: str = "",
        models: str | Sequence[str] = (),
        fusion: str = "calibrated",
        part_weights: Mapping[str, float] | None = None,
        min_match: float | None = None,
        threshold: float | None = None,
        rerank: Reranker | None = None,
    ) -> Hits:
        """Like `search`, with a `Query` already made.

        Args:
            query: what is asked.
            k: at most this many results.
            offset: so many results are left out first; pages follow one another without gaps or doubles.
            where: a filter over the attributes, such as ``width > 1000 and format = 'JPEG'``; see docs/filters.md.
            models: which of the index's models are asked; none: the first; `both` or `all`: every one.
            fusion: how several parts and models become one list: `calibrated`, by the best match; `rank`, reciprocal
                rank fusion; `weighted`, the mean of the matches by `part_weights`; `raw`, the largest raw score,
                which is what other systems do and is there to compare with.
            part_weights: for `image`, `text` and `words`; those not named count nothing.
            min_match: leave out what matches less, 0 to 1. Where nothing is left, `Hits.below` has the best of it.
            threshold: leave out results whose raw score is less; where one part is searched under one model.
            rerank: puts the first results in another order; see `bowerbird.search.rerank`.

        Raises:
            QueryError: the index has no such part or model, the filter cannot be understood, or numbers are out of
                their range.
            InputError: the query picture cannot be read, or no model takes what is asked.
            StoreError: the store cannot be reached.
        """
        return self.ask_all(
            [query],
            k=k,
            offset=offset,
            where=where,
            models=models,
            fusion=fusion,
            part_weights=part_weights,
            min_match=min_match,
            threshold=threshold,
            rerank=rerank,
        )[0]

    def ask_all(  # noqa: PLR0913  as of `ask`
        self,
        queries: Sequence[Query],
        *,
        k: int = 10,
        offset: int = 0,
        where: str = "",
        models: str | Sequence[str] = (),
        fusion: str = "calibrated",
        part_weights: Mapping[str, float] | None = None,
        min_match: float | None = None,
        threshold: float | None = None,
        rerank: Reranker | None = None,
    ) -> list[Hits]:
        """What `ask` gives for each query; their texts are embedded together.

        Args:
            queries: what is asked.
            k: as of `ask`, like all that follow.
            offset: see `ask`.
            where: see `ask`.
            models: see `ask`.
            fusion: see `ask`.
            part_weights: see `ask`.
            min_match: see `ask`.
            threshold: see `ask`.
            rerank: see `ask`.

        Raises:
            QueryError: as of `ask`, or an argument is of another type.
            InputError: as of `ask`; of any of the queries.
            StoreError: the store cannot be reached.
        """
        from bowerbird.search.answer import answer
        from bowerbird.search.query import check_request
        from bowerbird.search.question import embed_together
        from bowerbird.search.request import Request

        request: dict[str, Any] = {
            "k": k,
            "offset": offset,
            "where": where,
            "models": models,
            "fusion": fusion,
            "part_weights": part_weights,
            "min_match": min_match,
            "threshold": threshold,
            "rerank": rerank,
        }
        check_request(queries, request)
        asked = Request(**{name: value for name, value in request.items() if value is not None})
        embedded = embed_together(self, queries, self.entries(asked.models)) if len(queries) > 1 else None
        return [answer(self, query, asked, embedded) for query in queries]

    def background(self, entry: ModelEntry) -> Background:
        """What unrelated pairs score under a model: as it was measured, or measured now for this process.

        Raises:
            SpaceMismatchError: it was measured under another model.
            IndexDamagedError: it cannot be read.
        """
        from bowerbird.search.background import FORMAT, Background, measure

        if entry.calibration.get("format", FORMAT) != FORMAT:
            entry = replace(
                entry, calibration={}
            )  # of another version: measured now, and kept by the next run
        said = entry.calibration or {"measured at": self.table.version}
        before, known = self._backgrounds.get(entry.space, ({}, None))
        if known is None or before != said:
            try:
                known = Background.load(self.location, entry) if entry.calibration else measure(self, entry)
            except IndexDamagedError:
                # Calibrated twice since this index was opened? Then the file that is named here was cleared away.
                newest = next(
                    (e for e in manifests.read(self.location).models if e.space == entry.space), None
                )
                if newest and newest.calibration == entry.calibration:
                    raise
                # Of a model that was dropped since, this reader's version of the table has the vectors still.
                known = Background.load(self.location, newest) if newest else measure(self, entry)
            self._backgrounds[entry.space] = (said, known)
        return known

    def take_over(self, before: Index) -> None:
        """Use what an earlier version of the same index has read already, as far as it still holds."""
        self._backgrounds = {**before._backgrounds, **self._backgrounds}
        self.table.take_over(before.table)

    def thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEG files of records, by id."""
        batches = self.table.scan(["id", "thumbnail"], where=among("id", ids)) if ids else ()
        return {
            id_: data
            for batch in batches
            for id_, data in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        }

    def parts(self) -> dict[str, str]:
        """By the name of each vector column, the vector of a record that it holds.

        For the first model they are called as `embed` calls them: `image`, `text`, `image.OUTPUT`. Those of the others
        have the fingerprint of their space before that, so that nothing fills them by accident.
        """
        first, *others = self.manifest.models
        found = first.parts()
        for entry in others:
            found.update({column: f"{entry.space}.{part}" for column, part in entry.parts().items()})
        return found

    def add_model(
        self,
        model: Encoder | str,
        *,
        progress: Progress | None = None,
        executor: Executor | None = None,
    ) -> Report:
        """Give the records vectors of one more model, beside those they have.

        What the cache holds for this model is not read again. A run that was stopped is continued by the next one:
        what is missing is looked for in the table.

        Args:
            model: an encoder, or a name as `load` takes it.
            progress: told about every record that lacks vectors.
            executor: where they are embedded; None: on this machine.

        Returns:
            `filled` counts the records that were given vectors; `failed` has those of which the picture cannot be
            read any more.

        Raises:
            UnsupportedInputError: the model takes nothing that the records have.
            ModelError: it cannot be loaded.
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        from bowerbird.search.filling import fill

        (encoder,) = _encoders(model, self.precision)
        with self.writing():
            check_use(self, encoder)
            include(self, encoder)
            return fill(self, spaces=[encoder.card.space], progress=progress, executor=executor)

    def remove(self, ids: Sequence[str]) -> int:
        """Take records out of the index. The cache keeps what it holds of their vectors.

        A record that came from a folder is found there again when the folder is indexed the next time.

        Args:
            ids: of records; those that are none are passed over.

        Returns:
            how many there were.

        Raises:
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self.writing():
            removed = self.table.delete(list(dict.fromkeys(ids)))
            if removed:
                self.publish(failed=self.manifest.failed, roots=self.manifest.roots)
        return removed

    def drop_model(self, name: str) -> ModelEntry:
        """Take a model out of the index, with its vectors. The cache keeps what it holds of them.

        Returns:
            what the manifest said of it.

        Raises:
            QueryError: the index has no such model.
            BowerbirdError: it is the only one.
            IndexBusyError: another process is writing and did not finish in time.
            StoreError: the index cannot be written to.
        """
        with self.writing():
            return drop(self, name)

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
        self.table = open_table(self.location, self.manifest.table_version)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the write lock, on the newest version of the table; afterwards publish what was committed."""
        most = settings().lock_seconds
        seconds = most if self.lock_seconds is None else min(most, self.lock_seconds)
        with self.location.lock(seconds) as self._held:
            self.manifest = manifests.read(self.location)
            # The newest version, not the manifest's: a killed writer may have committed rows after its manifest.
            self.table = open_table(self.location)
            self.table.extend(
                ()
            )  # what an earlier version of the format lacks, or a killed writer left half made
            clear_away(self)
            yield

    def publish(self, *, failed: int, roots: tuple[str, ...], embedded: Iterable[str] = ()) -> None:
        """Write the manifest for what the table holds now: from here on, readers see it.

        A model that is no longer where the index has it from, and was loaded from elsewhere, is of there from now on.

        Args:
            failed: how many files could not be indexed.
            roots: the folders indexed so far.
            embedded: the spaces of the models whose vectors were written since the last time.
        """
        for space in embedded:
            entry = next(entry for entry in self.manifest.models if entry.space == space)
            # A tower that only read queries in this process has written no vectors.
            wrote = {column.modality for column in entry.columns}
            here = {t: facts for t, facts in self.encoder(space).numerics().items() if t in wrote}
            self.change(replace(entry, numerics=naming.with_earlier(entry.numerics, here)))
        for entry in self.manifest.models:
            loaded = self.encoders.get(entry.space)
            if loaded and naming.is_gone(entry):
                self.change(replace(entry, source=loaded.card.source))
        self.write_manifest(failed=failed, roots=roots)

    def change(self, entry: ModelEntry) -> None:
        """Put an entry in the place of the one of the same space; `write_manifest` makes it last."""
        models = tuple(entry if old.space == entry.space else old for old in self.manifest.models)
        self.manifest = replace(self.manifest, models=models)

    def write_manifest(self, **changes: object) -> None:
        """Write the manifest with some fields changed, for what the table holds now; the lock is held by the caller."""
        self.manifest = self.manifest.updated_to(
            written_by=version(),
            table_version=self.table.version,
            records=self.table.count(),
            **changes,
        )
        self._held.check()
        manifests.write(self.location, self.manifest)


def _encoders(model: Encoder | str | Sequence[Encoder | str], precision: str) -> list[Encoder]:
    """Encoders of models that were given in any way, each space once, the first ones first."""
    given = [model] if isinstance(model, (str, Encoder)) else (list(model) or [""])
    found = (one if isinstance(one, Encoder) else load(one, precision=precision) for one in given)
    return list({encoder.card.space: encoder for encoder in found}.values())
