"""`bowerbird index`: bring an index up to date with folders of pictures."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app
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
    ModelOption,
    native_libraries_silent,
    numerics_line,
    say,
    seconds_,
)

if TYPE_CHECKING:
    from bowerbird.collection.collection import Collection
    from bowerbird.flow.run import Executor
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
    model: ModelOption = "",
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
    """
    from bowerbird.flow.files import expand

    wanted = sources or [os.getcwd()]
    options = TableOptions(image, tuple(text or ()), id, delimiter, root)
    tables = [source for source in wanted if is_table(source) or is_elsewhere(source) or options.given]
    folders = [source for source in wanted if source not in tables]
    for source in wanted:
        if not is_elsewhere(source):
            expand(source)  # A source that does not exist stops everything before anything is done.
    records = {source: collection(source, options) for source in tables}
    place = executor(on, address, workers, cpus, gpus)
    reports = [
        _one(path, group, model, precision, place, keep_missing=keep_missing, every=failures)
        for path, group in _by_index(folders, index, model).items()
    ]
    reports += [
        _records(
            path,
            some(group, together([records[source] for source in group])),
            model,
            precision,
            place,
            every=failures,
        )
        for path, group in _by_index(tables, index, model).items()
    ]
    if any(report.interrupted for report in reports):
        raise SystemExit(130)  # it has said so already
    if strict and any(report.failed for report in reports):
        raise typer.Exit(1)


def _by_index(sources: list[str], index: str, model: str) -> dict[str, list[str]]:
    """Which sources go into which index: the one that is given, or that of the folder each belongs to."""
    from bowerbird.errors import BowerbirdError
    from bowerbird.search.places import home, place
    from bowerbird.settings import settings

    given = index or settings().index
    groups: dict[str, list[str]] = {}
    for source in sources:
        if not given and is_elsewhere(source):
            raise BowerbirdError(
                f"{source} is in no folder here.", hint="Say where the index goes: --index PATH."
            )
        groups.setdefault(given or str(place(home(source), model)), []).append(source)
    return groups


def _one(
    path: str,
    sources: list[str],
    model: str,
    precision: str,
    where: Executor,
    *,
    keep_missing: bool,
    every: bool,
) -> Report:
    with native_libraries_silent(), Display("indexing") as display:
        opened = _open(path, model, precision, sources)
        report = opened.add(sources, keep_missing=keep_missing, progress=display, executor=where)
    _summary(opened, report, every)
    return report


def _records(
    path: str, records: Collection[Any], model: str, precision: str, where: Executor, *, every: bool
) -> Report:
    from bowerbird.models.encoder import load
    from bowerbird.search.records import add_records, opened

    with native_libraries_silent(), Display("indexing") as display:
        plan = records.plan
        if model:
            plan = records.embed(load(model, precision=precision)).plan
        found = opened(plan, path, precision=precision)
        report = add_records(found, plan, where, progress=display, total=plan.source.count() or 0)
    _summary(found, report, every)
    return report


def _open(path: str, model: str, precision: str, sources: list[str]) -> Index:
    from bowerbird.errors import StoreError
    from bowerbird.flow.files import FoundFile, expand, walk
    from bowerbird.models.encoder import load
    from bowerbird.search.index import Index
    from bowerbird.search.ingest import no_pictures
    from bowerbird.store import manifest as manifests
    from bowerbird.store.location import Location

    given = load(model, precision=precision) if model else None
    place = Location.of(path)
    if manifests.exists(place):
        return Index.open(path, given, precision=precision)
    roots = [root for source in sources for root in expand(source)]
    if not any(isinstance(entry, FoundFile) for entry in walk(roots)):
        raise no_pictures(roots)  # An empty index would be found instead of that of a folder above.
    try:
        return Index.create(path, given or load(precision=precision))
    except StoreError:
        if not manifests.exists(place):
            raise
        return Index.open(path, given, precision=precision)  # Another process has made it in the meantime.


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
    say(f"{', '.join(parts) or 'nothing to do'} in {seconds_(report.seconds)}.")
    if report.interrupted:
        say("Stopped early; what was done is kept, and the same command continues from there.")
    shown = report.failed if every else report.failed[:SHOWN_FAILURES]
    for failure in shown:
        say(f"  failed: {failure.reason}")
    if len(report.failed) > len(shown):
        say(f"  ... and {len(report.failed) - len(shown):,} more; list them with --failures.")
    for hint, count in Counter(failure.hint for failure in report.failed if failure.hint).most_common(5):
        say(f"  for {count:,} of these: {hint}")
    if report.verdict and report.seconds >= VERDICT_SECONDS:
        say(report.verdict)
    if opened.model.precision == "fast":
        for tower, numerics in opened.model.numerics().items():
            say(f"fast: {tower} tower in {numerics_line(numerics)}")
    kind = "records" if any(column.modality == "text" for column in opened.columns) else "pictures"
    if len(opened) == 1:
        kind = kind.removesuffix("s")
    say(f"{len(opened):,} {kind} in {opened.path}")
