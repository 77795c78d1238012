"""`bowerbird doctor`: a quality report of an index on one's own data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.given import JsonOption
from bowerbird.cli.screen import is_terminal, native_libraries_silent, result, say

if TYPE_CHECKING:
    from bowerbird.judge.doctor import Checkup

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "red"}

_NAMED = 5
"""Examples that are named on a terminal; the page and `--json` have all."""


@app.command()
def doctor(
    index: Annotated[
        str,
        typer.Argument(
            metavar="[INDEX]",
            help="Directory of an index. Default: that of the current folder.",
            show_default=False,
        ),
    ] = "",
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Write a page (HTML).", show_default=False),
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Look at this of the index's models; may be repeated. Default: all.", show_default=False
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CHECK", help="This check alone; may be repeated.", show_default=False),
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Records that are drawn, at most.")] = 5000,
    fresh: Annotated[int, typer.Option(min=0, help="Pictures, and texts, that are embedded again.")] = 100,
    near: Annotated[
        float, typer.Option(help="Cosine from which on two pictures are nearly the same.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Of every choice.")] = 0,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if there is a problem.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at an index from all sides: what is wrong, what could be better, and what to do. Nothing is changed.

    \b
    bowerbird doctor photos.bower
    bowerbird doctor photos.bower -o doctor.html
    bowerbird doctor photos.bower --only files --only copies --json
    """
    from bowerbird.judge.checks.finding import Level
    from bowerbird.judge.doctor import doctor as examine
    from bowerbird.search.index import Index
    from bowerbird.search.places import resolve

    opened = Index.open(resolve(index, Path.cwd()))
    with native_libraries_silent():
        checkup = examine(
            opened,
            models=model or (),
            only=only or (),
            sample=sample,
            fresh=fresh,
            near=near,
            seed=seed,
            watch=_watch if sys.stderr.isatty() else None,
        )
    if sys.stderr.isatty():
        _watch("")
    if as_json:
        result(json.dumps(checkup.to_json(), indent=1, ensure_ascii=False))
    elif is_terminal():
        _screen(checkup)
    else:
        for found in checkup.findings:
            result("\t".join((str(found.level), found.check, found.model, found.what, found.do)))
    if output:
        from bowerbird.judge.doctor_page import doctor_page, pictured
        from bowerbird.search.index import writable

        target = Path(output).expanduser()
        with writable(target):
            target.write_text(doctor_page(checkup, opened.thumbnails(pictured(checkup))), "utf-8")
        say(f"The report is in {target}.")
    if strict and checkup.worst == Level.PROBLEM:
        raise typer.Exit(1)


def _watch(name: str) -> None:
    """Show which check is at work, in a line that the next one replaces."""
    sys.stderr.write(f"\r\x1b[K{name and f'{name} ...'}")
    sys.stderr.flush()


def _screen(checkup: Checkup) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from bowerbird.judge.checks.finding import Level

    console = Console(highlight=False)
    models = ", ".join(checkup.models)
    console.print(Text(f"{checkup.index}: {checkup.looked_at}, {models}", style="bold"))
    for found in checkup.findings:
        level = Text(f"\n{found.level:<8}", _COLOURS[str(found.level)])
        about = f"{found.check} ({found.model})" if found.model else found.check
        console.print(level.append(about, style="bold default"))
        console.print(Padding(Text(found.what), (0, 0, 0, 8)))
        for example in found.examples[:_NAMED]:
            line = Text("\n".join(example.names[:3]), style="dim")
            console.print(Padding(line.append(f"  {example.note}" if example.note else ""), (0, 0, 0, 10)))
        if len(found.examples) > _NAMED:
            more = f"... {len(found.examples) - _NAMED} more, with --json"
            console.print(Padding(Text(more, style="dim"), (0, 0, 0, 10)))
        if found.do:
            console.print(Padding(Text(f"-> {found.do}", style="cyan"), (0, 0, 0, 8)))
    counts = ", ".join(f"{len(checkup.of(level))} {level}" for level in reversed(Level))
    console.print(Text(f"\n{counts}; {checkup.seconds:.1f} s", style="dim"))
