"""The command line within this process: what its verbs may be told, say, and refuse."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bowerbird.cli import app, deploy, serve
from bowerbird.errors import BowerbirdError

VERBS = (serve, deploy)
"""Modules that have registered the verbs that are asked here."""


def options(verb: str) -> Mapping[str, str]:
    """The options of a verb, and the variable that each is read from; empty: none."""
    found: dict[str, str] = {}
    for one in get_command(app).commands[verb].params:  # type: ignore[attr-defined]
        variable = one.envvar if isinstance(one.envvar, str) else ""
        found |= dict.fromkeys((*one.opts, *one.secondary_opts), variable)
    return found


def told(*words: object) -> tuple[str, str]:
    """What a command that is carried out writes to stdout, and to stderr."""
    done = CliRunner().invoke(app, [str(word) for word in words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout, done.stderr


def refused(*words: object) -> str:
    """What is said of a command that cannot be carried out, which ends with code 2."""
    with pytest.raises(BowerbirdError) as caught:
        told(*words)
    return f"{caught.value.message} {caught.value.hint or ''}"
