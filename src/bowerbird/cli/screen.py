"""What verbs share of talking to people: where messages go, how sizes and times are written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

IndexOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--index",
        envvar="BOWERBIRD_INDEX",
        metavar="PATH|ADDRESS",
        help="Directory of the index, or its address: s3://BUCKET/NAME, postgresql://..., pinecone://... "
        "Default: a directory for each folder, in your data directory.",
        show_default=False,
    ),
]

ModelOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="BOWERBIRD_MODEL",
        help="A name of `bowerbird models`, a directory, or ORG/NAME on the Hugging Face hub. Default: mini.",
        show_default=False,
    ),
]


def complain(message: str) -> None:
    """A message for people, on stderr."""
    print(f"bowerbird: {_safe(message)}", file=sys.stderr)


def say(message: str = "") -> None:
    """A message for people that is not a result, on stderr."""
    print(_safe(message), file=sys.stderr)


def result(line: str) -> None:
    """A line of results, on stdout; file names come out byte for byte as they are on disk."""
    if sys.stdout is None:  # Closed by the caller, who wants no results.
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(line) + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        # What is still buffered must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return  # The reader of a pipe, such as `head`, has seen enough.
        from bowerbird.errors import BowerbirdError

        raise BowerbirdError(
            f"The results cannot be written: {error.strerror}.", hint="Check where the output goes."
        ) from error


@contextmanager
def native_libraries_silent() -> Iterator[None]:
    """Keep C libraries from writing to stderr behind Python's back; Python's own stderr works as before.

    libtiff writes lines about every odd TIFF in a folder. What matters of it is reported with the file's name,
    and the lines would tear the progress bar apart. With `--debug` they are shown.
    """
    if os.environ.get("BOWERBIRD_DEBUG"):
        yield
        return
    sys.stderr.flush()
    saved, python_stderr = os.dup(2), sys.stderr
    quiet = os.open(os.devnull, os.O_WRONLY)
    try:
        with open(
            saved, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
        ) as stream:
            os.dup2(quiet, 2)
            sys.stderr = stream
            yield
    finally:
        os.dup2(saved, 2)
        sys.stderr = python_stderr
        os.close(quiet)
        os.close(saved)


class Display:
    """The progress bar, on stderr and only for a person: how many, rate, time left."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Bar | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def start(self, total: int) -> None:
        """Show the bar; `total` 0 stands for a number that nobody knows."""
        if self._bar:  # of what was done before in the same run
            self._bar.stop()
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn(self._what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=total or None, rate="")

    def advance(self, count: int) -> None:
        """So many more are done."""
        if not self._bar:
            return
        self._bar.advance(self._task, count)
        speed = self._bar.tasks[0].speed
        if speed:
            self._bar.update(self._task, rate=f"{speed:.0f}/s")


def is_terminal() -> bool:
    """Whether results are read by a person."""
    return sys.stdout is not None and sys.stdout.isatty()


def bytes_(count: int) -> str:
    """A size for people: 1.2 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""


def seconds_(duration: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3 min 20 s."""
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 120:
        return f"{duration:.0f} s"
    return f"{int(duration // 60)} min {int(duration % 60)} s"


def numerics_line(numerics: Mapping[str, Any]) -> str:
    """What a tower runs in, why, and what it costs."""
    line = f"{numerics['engine']}, {numerics['precision']} ({numerics['reason']})"
    if numerics.get("scaled"):
        line += (
            f"; JPEG at reduced scale from {numerics['scaled']:g}x the wanted size, "
            f"least cosine measured {numerics['scaled_cosine']:g}"
        )
    return line


def _safe(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
