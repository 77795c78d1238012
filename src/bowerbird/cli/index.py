"""`bowerbird index`: bring an index up to date with folders of pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app, as_options
from bowerbird.cli.records import (
    Address,
    Cpus,
    Delimiter,
    Gpus,
    IdColumn,
    ImageColumn,
    On,
    Root,
    TableOptions,
    TextColumns,
    Workers,
    collection,
    executor,
    is_elsewhere,
    is_table,
    some,
    together,
)
from bowerbird.cli.screen import (
    Display,
    IndexOption,
    native_libraries_silent,
    numerics_line,
    say,
    seconds_,
)

if TYPE_CHECKING:
    from bowerbird.collection.collection import Collection
    from bowerbird.flow.run import Executor
    from bowerbird.models.encoder import Encoder
    from bowerbird.search.index import Index
    from bowerbird.search.report import Report

SHOWN_FAILURES = 10

VERDICT_SECONDS = 5.0
"""Runs that took less do not say what they spent their time on."""


@app.command()
def index(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, globs, files, tables, tars, or addresses. Default: the current folder.",
            show_default=False,
        ),
    ] = None,
    index: IndexOption = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="As in `bowerbird models`; may be given several times. Default: those of the index, or mini.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            envvar="BOWERBIRD_PRECISION",
            help="auto: as fast as keeps cosine 0.999. exact: fp32, full decode. fast: faster, says its cost.",
            show_default="auto",
        ),
    ] = "",
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Keep pictures whose files are gone.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when a file could not be indexed.")
    ] = False,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every file that could not be indexed.")
    ] = False,
    image: ImageColumn = "",
    text: TextColumns = None,
    id: IdColumn = "",
    delimiter: Delimiter = "",
    root: Root = "",
    on: On = "local",
    address: Address = "",
    workers: Workers = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
) -> None:
    """Index pictures, or bring an index up to date. Only what is new or changed is worked on.

    \b
    bowerbird index ~/Pictures
    bowerbird index "photos/**/*.jpg" --index photos.bower
    bowerbird index goods.csv --image photo --text description --id sku
    bowerbird index goods.csv --image photo --text description --model mini --model all-MiniLM-L6-v2

    A model that the index does not have yet is added to it, and its vectors are filled in for all records.
    """
    from bowerbird.flow.files import expand
    from bowerbird.search.entries import split

    wanted = sources or [os.getcwd()]
    options = TableOptions(image, tuple(text or ()), id, delimiter, root)
    tables = [source for source in wanted if is_table(source) or is_elsewhere(source) or options.given]
    folders = [source for source in wanted if source not in tables]
    for source in wanted:
        if not is_elsewhere(source):
            expand(source)  # A source that does not exist stops everything before anything is done.
    records = {source: collection(source, options) for source in tables}
    place = executor(on, address, workers, cpus, gpus)
    models = Models(split(model or ()), precision)
    reports = [
        _one(path, group, models, place, keep_missing=keep_missing, every=failures)
        for path, group in _by_index(folders, index, models.names).items()
    ]
    reports += [
        _records(
            path,
            some(group, together([records[source] for source in group])),
            replace(models, coming=_coming(group, options)),
            place,
            every=failures,
        )
        for path, group in _by_index(tables, index, models.names).items()
    ]
    if any(report.interrupted for report in reports):
        raise SystemExit(130)  # it has said so already
    if strict and any(report.failed for report in reports):
        raise typer.Exit(1)


@dataclass(frozen=True)
class Models:
    """What an index is to hold.

    Attributes:
        names: of models, as they were given.
        precision: that they are loaded with.
        coming: the parts that the sources have: `image`, `text`.
    """

    names: Sequence[str]
    precision: str
    coming: Sequence[str] = ("image",)

    def load(self) -> list[Encoder]:
        """The models that were named."""
        from bowerbird.models.encoder import load

        return [load(name, precision=self.precision) for name in self.names]


def _coming(sources: Sequence[str], options: TableOptions) -> tuple[str, ...]:
    """The parts that the records of tables may have."""
    if not all(is_table(source) for source in sources) or not options.given:
        return ("image", "text")
    return (*(("image",) if options.image else ()), *(("text",) if options.text else ()))


def _by_index(sources: list[str], index: str, models: Sequence[str]) -> dict[str, list[str]]:
    """Which sources go into which index: the one that is given, or that of the folder each belongs to."""
    from bowerbird.errors import BowerbirdError
    from bowerbird.search.places import home, target
    from bowerbird.settings import settings

    given = index or settings().index
    groups: dict[str, list[str]] = {}
    for source in sources:
        if not given and is_elsewhere(source):
            raise BowerbirdError(
                f"{source} is in no folder here.", hint="Say where the index goes: --index PATH."
            )
        groups.setdefault(given or str(target(home(source), models)), []).append(source)
    return groups


def _one(
    path: str, sources: list[str], models: Models, where: Executor, *, keep_missing: bool, every: bool
) -> Report:
    with native_libraries_silent(), Display("indexing") as display:
        opened = _open(path, models, sources)
        report = opened.add(sources, keep_missing=keep_missing, progress=display, executor=where)
    _summary(opened, report, every)
    return report


def _records(path: str, records: Collection[Any], models: Models, where: Executor, *, every: bool) -> Report:
    from bowerbird.search.records import add_records

    with native_libraries_silent(), Display("indexing") as display:
        found = _open(path, models)
        plan = records.plan
        report = add_records(found, plan, where, progress=display, total=plan.source.count() or 0)
    _summary(found, report, every)
    return report


def _open(path: str, models: Models, sources: Sequence[str] | None = None) -> Index:
    """The index, made if it is not there, with all models.

    Args:
        path: of the index.
        models: that it is to hold.
        sources: folders and files whose pictures are indexed: nothing is made for none.
    """
    from bowerbird.errors import StoreError
    from bowerbird.flow.files import FoundFile, expand, walk
    from bowerbird.search.index import Index
    from bowerbird.search.ingest import no_pictures
    from bowerbird.store import manifest as manifests
    from bowerbird.store.location import Location

    encoders = models.load()
    place = Location.of(path)
    if not manifests.exists(place):
        roots = [root for source in sources or () for root in expand(source)]
        if roots and not any(isinstance(entry, FoundFile) for entry in walk(roots)):
            raise no_pictures(roots)  # An empty index would be found instead of that of a folder above.
        try:
            return Index.create(path, encoders, precision=models.precision)
        except StoreError:
            if not manifests.exists(place):
                raise  # Otherwise another process has made it in the meantime.
    opened = Index.open(path, precision=models.precision)
    _add(opened, encoders, models.coming)
    return opened


def _add(opened: Index, encoders: Sequence[Encoder], coming: Sequence[str]) -> None:
    """Add the models that an index does not have yet; their vectors are filled in when the records are there."""
    from bowerbird.search.changing import check_use, include

    have = {entry.space for entry in opened.manifest.models}
    opened.encoders.update((e.card.space, e) for e in encoders if e.card.space in have)
    new = [encoder for encoder in encoders if encoder.card.space not in have]
    if not new:
        return
    with opened.writing():
        for encoder in new:
            check_use(opened, encoder, coming=coming)
        for encoder in new:
            others = ", ".join(entry.name for entry in opened.manifest.models)
            if include(opened, encoder):
                say(f"Adding the model {encoder.card.name} beside {others}.")


def _summary(opened: Index, report: Report, every: bool) -> None:
    counts = {
        "added": report.added,
        "changed": report.changed,
        "moved": report.moved,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "missing but kept": report.missing,
        "failed": len(report.failed),
    }
    copies = f" ({report.copies:,} of them exact copies)" if report.copies else ""
    parts = [
        f"{count:,} {what}{copies if what == 'added' else ''}" for what, count in counts.items() if count
    ]
    if report.filled:
        others = ", ".join(entry.name for entry in opened.manifest.models[1:])
        parts.append(f"{report.filled:,} filled in for {others}")
    say(f"{', '.join(parts) or 'nothing to do'} in {seconds_(report.seconds)}.")
    if report.interrupted:
        say("Stopped early; what was done is kept, and the same command continues from there.")
    shown = report.failed if every else report.failed[:SHOWN_FAILURES]
    for failure in shown:
        say(f"  failed: {failure.reason}")
    if len(report.failed) > len(shown):
        say(f"  ... and {len(report.failed) - len(shown):,} more; list them with --failures.")
    for hint, count in Counter(failure.hint for failure in report.failed if failure.hint).most_common(5):
        say(f"  for {count:,} of these: {as_options(hint)}")
    if report.verdict and report.seconds >= VERDICT_SECONDS:
        say(report.verdict)
    for encoder in opened.encoders.values():
        if encoder.precision == "fast":
            for tower, numerics in encoder.numerics().items():
                say(f"fast: {tower} tower in {numerics_line(numerics)}")
    kind = "records" if any(column.modality == "text" for column in opened.columns) else "pictures"
    if len(opened) == 1:
        kind = kind.removesuffix("s")
    say(f"{len(opened):,} {kind} in {opened.path}")
