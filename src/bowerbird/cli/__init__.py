"""The command line: verbs over the library, and the only place that prints.

Results go to stdout, messages to stderr. Exit codes: 0 done; 1 some inputs failed and `--strict` was given;
2 it could not be done; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Annotated

import typer
from typer import Typer

from bowerbird.cli.screen import complain

app = Typer(
    name="bowerbird",
    help="Search pictures by meaning.\n\n"
    "    bowerbird index ~/Pictures\n\n"
    '    bowerbird search "a cat asleep on a sofa"',
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from bowerbird import __version__

        typer.echo(f"bowerbird {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="BOWERBIRD_DEBUG", help="Show tracebacks.")
    ] = False,
) -> None:
    """Options that every verb takes, before the verb."""
    if debug:
        os.environ["BOWERBIRD_DEBUG"] = "1"


class _OnScreen(logging.Handler):
    """What the library logs, as a message for people."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it."""
        complain(record.getMessage())


def main() -> None:
    """Run the command line and exit with its code."""
    from bowerbird.cli import (  # noqa: F401  they register their verbs
        attention,
        calibrate,
        compare,
        conditions,
        copy,
        demo,
        deploy,
        doctor,
        drop,
        embed,
        evaluate,
        export,
        fine_tune,
        fit,
        gap,
        golden,
        index,
        info,
        inspect,
        map,
        models,
        report,
        search,
        serve,
        verify,
    )

    logging.getLogger("bowerbird").addHandler(_OnScreen(logging.WARNING))
    try:
        code = app(standalone_mode=False)
        if code == 130:  # typer catches Ctrl-C by itself, and says nothing
            complain("Stopped.")
    except KeyboardInterrupt:
        complain("Stopped.")
        code = 130
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except typer.Abort:
        code = 130
    except Exception as error:  # noqa: BLE001  the last place to turn an error into a message
        code = _failed(error)
    sys.exit(code or 0)


def as_options(message: str) -> str:
    """Arguments that a hint of the library names, as the options that they are here."""
    message = message.replace("overwrite=True", "--overwrite")
    message = message.replace(
        "Name their columns with image= and text=, or leave it out with drop_missing.",
        "Name their columns with --image and --text.",
    )
    return re.sub(r"\bdelimiter=('[^']+'|\"[^\"]+\")", r"--delimiter \1", message)


def _failed(error: Exception) -> int:
    from bowerbird.errors import BowerbirdError

    show = getattr(error, "show", None)
    if callable(show):  # A usage error of the command line, which knows how to print itself.
        show()
        return 2
    if os.environ.get("BOWERBIRD_DEBUG"):
        import traceback

        traceback.print_exc()
    elif isinstance(error, BowerbirdError):
        complain(as_options(str(error)))
    elif isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        complain(f"{(error.strerror or str(error)).capitalize()}{where}.")
    else:
        complain(
            f"Unexpected {type(error).__name__}: {error}. This is a defect of bowerbird; "
            "run `bowerbird --debug ...` for the details to report."
        )
    return 2
