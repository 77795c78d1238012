"""`bowerbird embed`: pictures and texts to vectors in files."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import PrecisionOption
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
    some,
    together,
)
from bowerbird.cli.screen import Display, ModelOption, native_libraries_silent, say, seconds_

if TYPE_CHECKING:
    from bowerbird.flow.order import Progress
    from bowerbird.flow.report import RunReport

FORMATS = ("npy", "parquet", "lance", "clip-retrieval")
SHOWN_FAILURES = 10


@app.command()
def embed(
    sources: Annotated[list[str], typer.Argument(help="Folders, globs, files, tables, tars, or addresses.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="What is written.")],
    format: Annotated[
        str,
        typer.Option(
            "--format", help=f"{', '.join(FORMATS)}. Default: by the suffix of the output, else npy."
        ),
    ] = "",
    model: ModelOption = "",
    precision: PrecisionOption = "",
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that is there.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when something could not be embedded.")
    ] = False,
) -> None:
    """Embed pictures and texts into files. What was embedded before comes from the cache.

    \b
    bowerbird embed photos/ -o vectors/
    bowerbird embed annotations.csv --image path --text caption -o captions.parquet
    """
    from bowerbird.collection.sinks import write
    from bowerbird.models.encoder import load

    chosen = _format(format, output)
    options = TableOptions(image, tuple(text or ()), id, delimiter, root)
    place = executor(on, address, workers, cpus, gpus)
    records = some(sources, together([collection(source, options) for source in sources]))
    encoder = load(model, precision=precision)
    with native_libraries_silent(), Display("embedding") as display:
        display.start(records.plan.source.count() or 0)
        seen, stopped = 0, False

        def advance(progress: Progress) -> None:
            nonlocal seen
            now = progress.done + progress.failed
            display.advance(now - seen)
            seen = now

        steps = records.embed(encoder).progress(advance)
        try:
            report = write(steps.plan, place, output, chosen, overwrite=overwrite)
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        say("Stopped early; what was embedded is in the cache, and the same command continues from there.")
        raise SystemExit(130)
    _summary(report, output)
    if strict and report.failed:
        raise typer.Exit(1)


def _format(format: str, output: str) -> str:
    """What is written: as asked for, or by the suffix of the output."""
    from bowerbird.errors import BowerbirdError

    if format:
        if format not in FORMATS:
            raise BowerbirdError(f"--format {format} is not known.", hint=f"Use {', '.join(FORMATS)}.")
        return format
    suffix = os.path.splitext(os.path.basename(output.rstrip("/")))[1].lower().removeprefix(".")
    if suffix in ("parquet", "lance"):
        return suffix
    if suffix == "bower":
        raise BowerbirdError(f"{output} would be an index.", hint="bowerbird index makes it: --index PATH.")
    if suffix not in ("", "npy"):
        raise BowerbirdError(
            f"What to write cannot be told from {output}.",
            hint=f"Name a folder, or .parquet or .lance; or give --format, one of {', '.join(FORMATS)}.",
        )
    return "npy"


def _summary(report: RunReport, output: str) -> None:
    from bowerbird.search.report import fault

    say(f"{report.summary()} in {seconds_(report.seconds)}.")
    for failure in report.failures[:SHOWN_FAILURES]:
        say(f"  failed: {fault(failure).reason}")
    if (more := report.failed.total() - SHOWN_FAILURES) > 0:
        say(f"  ... and {more:,} more, in the errors file beside the output.")
    for what, number in report.counts.items():
        # The first word is what is counted.
        say(f"  {number:,} {re.sub(r's ', ' ', what, count=1) if number == 1 else what}")
    for note in report.notes:
        say(f"  {note}")
    if report.verdict:
        say(report.verdict)
    say(output)
