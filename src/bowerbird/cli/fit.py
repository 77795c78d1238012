"""`bowerbird fit`: frozen models aligned on the user's own pairs or classes, in seconds."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.embed import SHOWN_FAILURES
from bowerbird.cli.given import JsonOption
from bowerbird.cli.learning import (
    Format,
    Labels,
    Pairs,
    Resume,
    Seed,
    TensorBoard,
    Told,
    above_zero,
    check_format,
    vacant,
)
from bowerbird.cli.records import Delimiter, IdColumn, ImageColumn, Root, TextColumns
from bowerbird.cli.screen import is_terminal, native_libraries_silent, result, say, seconds_

if TYPE_CHECKING:
    from bowerbird.learn.fit import Run
    from bowerbird.learn.recipes import Recipe


@app.command()
def fit(
    pairs: Pairs,
    model: Annotated[
        str, typer.Option(help="Model for pictures and texts. Default: mini.", show_default=False)
    ] = "",
    image_model: Annotated[str, typer.Option(help="Model for pictures.", show_default=False)] = "",
    text_model: Annotated[str, typer.Option(help="Model for texts.", show_default=False)] = "",
    image: ImageColumn = "",
    text: TextColumns = None,
    labels: Labels = "",
    root: Root = "",
    id_column: IdColumn = "",
    delimiter: Delimiter = "",
    recipe: Annotated[
        str, typer.Option(help="auto, ridge, linear, mlp, adapter, or shared-projection.")
    ] = "auto",
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where the model goes. Default: PAIRS-model, in the current folder.",
            show_default=False,
        ),
    ] = "",
    validation: Annotated[
        str, typer.Option(metavar="SHARE|PAIRS", help="Pictures to stop and choose by, or pairs for it.")
    ] = "0.1",
    test: Annotated[
        str, typer.Option(metavar="SHARE|PAIRS", help="Pictures to judge by at the end, or pairs for it.")
    ] = "0.1",
    seconds: Annotated[float, typer.Option(help="After these, auto begins no other recipe.", min=0)] = 60,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="How often each picture is seen, at most.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Pairs in a batch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", callback=above_zero)] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="Of the shared space.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the loss.", callback=above_zero)] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Of the pictures' network, that is read; may be given several times."
        ),
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    format_: Format = "onnx",
    tensorboard: TensorBoard = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when something had to be left out.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every epoch, and the name of all that was left out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Align models on your own pairs, or teach one your classes; the result is a model like any other.

    \b
    bowerbird fit pairs.csv --image image --text caption --model mini -o my-model/
    bowerbird fit pairs.csv --text-model ./arctic-embed-m --image-model ./mobilenet_v2
    bowerbird fit photos/ --labels folder --recipe ridge
    bowerbird fit pairs.csv --recipe linear --epochs 30 --layer features --seed 1
    bowerbird fit pairs.csv --recipe linear --epochs 30 --layer features --seed 1 --resume
    """
    from bowerbird.learn.fit import fit as learn

    target = _target(output, pairs)
    chosen = _recipe(
        recipe,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        dim=dim,
        temperature=temperature,
        layer=tuple(layer or ()) or None,
    )
    parts = {"validation": _part(validation), "test": _part(test)}
    check_format(format_, tensorboard=tensorboard)
    with _workplace(target, resume=resume) as folder, native_libraries_silent():
        with Told(verbose=verbose) as told:
            run = learn(
                pairs,
                model=model,
                image_model=image_model,
                text_model=text_model,
                recipe=chosen,
                image=image,
                text=text or "",
                labels=labels or None,
                root=root,
                id=id_column,
                delimiter=delimiter or None,
                **parts,
                seconds=seconds,
                seed=seed,
                folder=folder,
                resume=resume,
                tensorboard=tensorboard,
                progress=told,
            )
        say("Writing the model, and proving it")
        run.save(target, format=format_)
        _keep(folder, target / "training", run)
    _show(run, target, verbose=verbose, as_json=as_json)
    if strict and run.account.dropped:
        raise typer.Exit(1)


def _target(output: str, pairs: str) -> Path:
    """Where the model goes.

    Raises:
        BowerbirdError: something is there.
    """
    if output:
        return vacant(Path(output).expanduser())
    name = Path(pairs.rstrip("/")).expanduser().resolve().name
    return vacant(Path(f"{name.split('.')[0] or 'fitted'}-model"))


@contextmanager
def _workplace(target: Path, *, resume: bool) -> Iterator[Path]:
    """The folder beside the model in which checkpoints and figures lie while it is being made.

    Raises:
        BowerbirdError: a run was interrupted there, and is not to be resumed.
        StoreError: it cannot be made.
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.store.location import writable

    folder = target.with_name(f"{target.name}.training")
    begun = next(folder.rglob("epoch-*.pt"), None) is not None
    if begun and not resume:
        raise BowerbirdError(
            f"{folder} holds a run that was interrupted.",
            hint="Go on with it: the same command with --resume; or remove the folder.",
        )
    if resume and not begun:
        say(f"There is nothing to resume in {folder}: it begins anew.")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except KeyboardInterrupt:
        if next(folder.rglob("epoch-*.pt"), None):
            say(f"What was learned is in {folder}. Go on with the same command and --resume.")
        raise
    finally:
        with suppress(OSError):  # What holds something stays.
            folder.rmdir()


def _keep(folder: Path, place: Path, run: Run) -> None:
    """Move what was written while learning into the model; of recipes that were only tried, figures alone stay."""
    if run.account.choice:
        for checkpoints in folder.glob("*/checkpoints"):
            shutil.rmtree(checkpoints)
    if any(folder.iterdir()):
        shutil.move(folder, place)


def _recipe(name: str, **given: Any) -> Recipe | str:
    """The recipe of a name with the settings that were given.

    Raises:
        LearnError: there is none of that name, or it has no such setting.
    """
    from dataclasses import fields, replace

    from bowerbird.errors import LearnError
    from bowerbird.learn.fit import named

    recipe = named(name)
    wanted = {setting: value for setting, value in given.items() if value is not None}
    if recipe is None:
        if wanted:
            raise LearnError(
                f"auto tries recipes with settings of their own: {_options(wanted)} cannot be given.",
                hint="Name the recipe that it is for, such as --recipe linear.",
            )
        return name
    own = {field.name for field in fields(recipe)}
    names = {setting: "layers" if setting == "layer" and "layers" in own else setting for setting in given}
    able = [setting for setting in given if names[setting] in own]
    lacking = [setting for setting in wanted if setting not in able]
    if lacking:
        raise LearnError(f"{recipe.name} has no {_options(lacking)}.", hint=f"It has {_options(able)}.")
    if names["layer"] == "layer" and "layer" in wanted:
        if len(wanted["layer"]) > 1:
            raise LearnError(f"{recipe.name} reads one layer.", hint="Give --layer once.")
        wanted["layer"] = wanted["layer"][0]
    return replace(recipe, **{names[setting]: value for setting, value in wanted.items()})


def _options(settings: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in settings)


def _part(given: str) -> float | str:
    """A share of the pictures, or a place with pairs.

    Raises:
        BowerbirdError: it is a number, and no share.
    """
    from bowerbird.errors import BowerbirdError

    try:
        share = float(given)
    except ValueError:
        return given
    if not 0 <= share < 1:
        raise BowerbirdError(
            f"{given} is no share of the pictures.", hint="Give a number from 0 to below 1, or a file."
        )
    return share


def _show(run: Run, target: Path, *, verbose: bool, as_json: bool) -> None:
    from bowerbird.learn.run import FACTS

    account = run.account
    if as_json:
        facts = json.loads((target / FACTS).read_text("utf-8"))
        for many in ("held_out_pictures", "held_out_texts"):
            del facts[many]
        result(json.dumps({"directory": str(target), **facts}, indent=1))
        return
    counts = account.counts
    say(
        f"{counts['train']:,} pictures to learn from, {counts['validation']:,} to choose by, "
        f"{counts['test']:,} to judge by."
    )
    shown = account.dropped if verbose else account.dropped[:SHOWN_FAILURES]
    for one in shown:
        say(f"  left out: {one.name}: {one.reason}")
    if len(account.dropped) > len(shown):
        say(f"  ... and {len(account.dropped) - len(shown):,} more; --verbose names all.")
    for problem in account.problems:
        say(f"- {problem}")
    _choice(run)
    _figures(run)
    _end(run, target)


def _choice(run: Run) -> None:
    tries = run.account.choice
    if not tries:
        say(f"Fitted: {run.account.recipe}")
        return
    judged = any(one.figure is not None for one in tries)
    say(f"auto, by {tries[0].measure} on the validation set:" if judged else "auto:")
    width = max(len(one.recipe) for one in tries)
    for one in tries:
        figure = "" if one.figure is None else f"{one.figure:.3f}"
        say(f"  {one.recipe:<{width}}  {figure:>5}  {seconds_(one.seconds):>6}  {one.why}")


def _figures(run: Run) -> None:
    """The measures before and after, with the ends of their intervals."""
    rows = [
        (direction, measure, run.before.get(direction, {}).get(measure), after)
        for direction, measures in run.recall.items()
        for measure, after in measures.items()
    ]
    if not is_terminal():
        for direction, measure, before, after in rows:
            cells = [f"{one[end]:.4f}" if one else "" for one in (before, after) for end in _ENDS]
            result("\t".join((direction, measure, *cells)))
        return
    result(f"{'on ' + run.held_out.part:<24}{'before':>28}{'after':>28}")
    for direction, measure, before, after in rows:
        cells_ = "".join(f"{_told(one) if one else '-':>28}" for one in (before, after))
        result(f"{f'{direction} {measure}':<24}{cells_}")


_ENDS = ("mean", "low", "high")


def _told(one: Mapping[str, float]) -> str:
    if not math.isfinite(one["low"]):
        return f"{one['mean']:.3f}"
    return f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _end(run: Run, target: Path) -> None:
    """The seconds, and what to do next."""
    took, account = run.account.seconds, run.account
    line = f"Embedding took {seconds_(took['embedding'])}, once; learning {seconds_(took['training'])}"
    epochs = len(account.history.epochs) if account.history else 0
    if epochs > 1:
        again = seconds_(took["recomputing"])
        line += f". Embedding again in each of {epochs} epochs would have taken {again}"
    say(f"{line}.")
    place = shlex.quote(_as_typed(target))
    say(f"The model is in {target}. Next:")
    say(f"  bowerbird report {place}")
    say(f"  bowerbird index PHOTOS/ --model {place}")
    texts = run.held_out.examples.texts
    question = next((text for text in texts if len(text) <= 60), "...") if run.text else "photo.jpg"
    say(f"  bowerbird search {shlex.quote(question)} --model {place}")


def _as_typed(target: Path) -> str:
    """A path that cannot be taken for a model's name."""
    return str(target) if target.is_absolute() else f".{os.sep}{target}"
