"""Arguments that are pictures or texts, how they are counted, and options that the judging verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

PrecisionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        envvar="BOWERBIRD_PRECISION",
        help="auto, exact or fast: what the model runs in for you.",
        show_default="auto",
    ),
]

EngineOption: TypeAlias = Annotated[
    str,
    typer.Option(envvar="BOWERBIRD_ENGINE", help="auto, onnxruntime or openvino.", show_default="auto"),
]

JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="As JSON, with everything.")]


def pictures(words: Sequence[str]) -> list[Path]:
    """Picture files that folders, globs and names stand for; what cannot be reached fails when it is read.

    Raises:
        UnreadableError: nothing is there.
    """
    from bowerbird.flow.files import expand, walk

    return [Path(found.path) for found in walk(root for word in words for root in expand(word))]


def pictures_and_texts(words: Sequence[str]) -> list[str | Path]:
    """A word that names something on disk, or looks like a picture's path, is that; any other is a text."""
    from bowerbird.errors import UnreadableError
    from bowerbird.media.image import IMAGE_SUFFIXES

    found: list[str | Path] = []
    for word in words:
        try:
            found.extend(pictures([word]))
        except UnreadableError:
            found.append(Path(word) if Path(word).suffix.lower() in IMAGE_SUFFIXES else word)
    return found


def count(number: int, what: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def counts(pictures: int, texts: int) -> str:
    """`1 picture and 2 texts`; what there is none of is left out."""
    found = [count(number, what) for number, what in ((pictures, "picture"), (texts, "text")) if number]
    return " and ".join(found) or "nothing"


def base_name(name: str) -> str:
    """The last part of a picture's path; a text, which comes in quotation marks, stays as it is."""
    return name if name.startswith('"') else Path(name).name
