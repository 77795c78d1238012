"""`bowerbird golden`: reference arrays, computed by the original PyTorch stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bowerbird.cli import app
from bowerbird.cli.export import AllowPickle, Architecture, Pooling, Processor, Profile
from bowerbird.cli.given import count, counts
from bowerbird.cli.screen import complain, say


@app.command()
def golden(
    model: Annotated[str, typer.Argument(help="A source, as of `export`.", show_default=False)],
    pictures: Annotated[list[Path] | None, typer.Argument(help="Picture files.", show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("golden.npz"),
    text: Annotated[
        list[str] | None, typer.Option("--text", "-t", help="A text; may be given again.", show_default=False)
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", help="A file with a text on each line.", show_default=False)
    ] = None,
    role: Annotated[
        str, typer.Option(help="The prompt to put before texts: query, document or another of the model's.")
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a picture was left out.")] = False,
    allow_pickle: AllowPickle = False,
    profile: Profile = "hf4-pil",
    pooling: Pooling = "mean",
    architecture: Architecture = "",
    processor: Processor = "",
) -> None:
    """Compute reference arrays for your own pictures and texts with the original PyTorch stack.

    \b
    bowerbird golden openai/clip-vit-base-patch32 *.jpg --text "a red dress" -o ref.npz
    bowerbird verify ./clip --golden ref.npz *.jpg
    """
    from bowerbird.origin.export import make_golden
    from bowerbird.origin.request import Request

    request = Request(
        allow_pickle=allow_pickle,
        profile=profile,
        pooling=pooling,
        architecture=architecture,
        processor=processor,
    )
    lines = [*(text or []), *(_lines(texts) if texts else [])]
    made, failures = make_golden(model, pictures or [], [(line, role) for line in lines], request)
    made.write(output)
    for failure in failures:
        complain(f"left out: {failure.error}")
    left = f"; {count(len(failures), 'picture')} left out" if failures else ""
    say(f"{output}: {counts(len(made.pictures), len(made.texts))}{left}.")
    if failures and strict:
        raise typer.Exit(1)


def _lines(path: Path) -> list[str]:
    from bowerbird.errors import UnreadableError

    try:
        return [line for line in path.read_text("utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(
            f"{path} cannot be read as text: {error}.", hint="It should be UTF-8."
        ) from error
