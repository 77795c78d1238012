"""`bowerbird index`: bring an index up to date with folders of pictures."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.screen import (
    IndexOption,
    ModelOption,
    native_libraries_silent,
    numerics_line,
    say,
    seconds_,
)

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from bowerbird.search.index import Index
    from bowerbird.search.writer import Report

SHOWN_FAILURES = 10


@app.command()
def index(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Folders, globs or files. Default: the current folder.", show_default=False),
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
) -> None:
    """Index pictures, or bring an index up to date. Only what is new or changed is worked on.

    \b
    bowerbird index ~/Pictures
    bowerbird index "photos/**/*.jpg" --index photos.bower
    """
    from bowerbird.flow.files import expand
    from bowerbird.search.places import home, place
    from bowerbird.settings import settings

    wanted = sources or [os.getcwd()]
    for source in wanted:
        expand(source)  # A source that does not exist stops everything before anything is done.
    given = index or settings().index
    groups: dict[Path, list[str]] = {}
    for source in wanted:
        groups.setdefault(Path(given) if given else place(home(source), model), []).append(source)
    reports = [
        _one(path, group, model, precision, keep_missing=keep_missing, every=failures)
        for path, group in groups.items()
    ]
    if any(report.interrupted for report in reports):
        raise SystemExit(130)  # it has said so already
    if strict and any(report.failed for report in reports):
        raise typer.Exit(1)


def _one(
    path: Path, sources: list[str], model: str, precision: str, *, keep_missing: bool, every: bool
) -> Report:
    with native_libraries_silent(), _Display() as display:
        opened = _open(path.expanduser(), model, precision, sources)
        report = opened.add(sources, keep_missing=keep_missing, progress=display)
    _summary(opened, report, every)
    return report


def _open(path: Path, model: str, precision: str, sources: list[str]) -> Index:
    from bowerbird.errors import StoreError
    from bowerbird.flow.files import FoundFile, expand, walk
    from bowerbird.models.encoder import load
    from bowerbird.search.index import Index
    from bowerbird.search.ingest import no_pictures
    from bowerbird.store.manifest import exists

    given = load(model, precision=precision) if model else None
    if exists(path):
        return Index.open(path, given, precision=precision)
    roots = [root for source in sources for root in expand(source)]
    if not any(isinstance(entry, FoundFile) for entry in walk(roots)):
        raise no_pictures(roots)  # An empty index would be found instead of that of a folder above.
    try:
        return Index.create(path, given or load(precision=precision))
    except StoreError:
        if not exists(path):
            raise
        return Index.open(path, given, precision=precision)  # Another process has made it in the meantime.


class _Display:
    """The progress bar, on stderr and only for a person: files, rate, time left."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, total: int) -> None:
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("indexing"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total, rate="")

    def advance(self, count: int) -> None:
        if not self._bar:
            return
        self._bar.advance(self._task, count)
        speed = self._bar.tasks[0].speed
        if speed:
            self._bar.update(self._task, rate=f"{speed:.0f}/s")


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
    if opened.model.precision == "fast":
        for tower, numerics in opened.model.numerics().items():
            say(f"fast: {tower} tower in {numerics_line(numerics)}")
    say(f"{len(opened):,} pictures in {opened.path}")
