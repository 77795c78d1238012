"""What `fit` and `fine-tune` share: options, where the model goes, and what is told while it learns."""

from __future__ import annotations

import math
import os
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bowerbird.cli.screen import Display, say

if TYPE_CHECKING:
    from bowerbird.learn.loop import Progress

Pairs: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="PAIRS",
        help="CSV, Parquet, JSON Lines, a folder, a tar, COCO, Flickr30k or Karpathy captions.",
        show_default=False,
    ),
]
Labels: TypeAlias = Annotated[
    str, typer.Option(metavar="folder|COLUMN", help="Learn classes: the names of folders, or a column.")
]
Seed: TypeAlias = Annotated[int, typer.Option(min=0, help="Of the split and of all that is drawn.")]
Resume: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch.")]
Format: TypeAlias = Annotated[
    str, typer.Option("--format", help="onnx, or torchscript: that beside ONNX.", show_default="onnx")
]
TensorBoard: TypeAlias = Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard.")]

_STAGES = {
    "reading": "Reading the pairs",
    "embedding": "Embedding",
    "trying": "Trying",
    "training": "Training",
    "judging": "Judging",
}

_OFTEN = 5.0
"""Seconds between two lines about the training, where nobody sees a bar."""


def above_zero(value: float | None) -> float | None:
    """Callback of an option that takes such a number or none.

    Raises:
        typer.BadParameter: it is another.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value:g} is not above 0.")
    return value


def vacant(target: Path) -> Path:
    """Where a model may go; what is taken is refused before anything is done for it.

    Raises:
        BowerbirdError: something is there.
    """
    from bowerbird.errors import BowerbirdError

    if target.is_dir() and (target / "fit.json").is_file():
        raise BowerbirdError(
            f"{target} holds a model that was fitted before.",
            hint="Give another directory (-o), or remove it; nothing is ever overwritten.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BowerbirdError(
            f"{target} exists and is not empty.",
            hint="Give a new directory (-o); nothing is ever overwritten.",
        )
    return target


def check_format(format: str, *, tensorboard: bool) -> None:
    """What is known to be missing is said before the work, not after it.

    Raises:
        BowerbirdError: there is no such format.
        MissingExtraError: PyTorch or TensorBoard is wanted and not installed.
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.learn.export import FORMATS
    from bowerbird.origin.packages import TRAIN, need

    if format not in FORMATS:
        raise BowerbirdError(f"--format {format} is not known.", hint=f"Use {' or '.join(FORMATS)}.")
    if format == "torchscript":
        need("torch", TRAIN)
    if tensorboard:
        need("tensorboard", TRAIN)


class Told:
    """What is being done, on stderr: a line for each stage; in it a bar for a person, or now and then a line.

    Args:
        verbose: a line for every epoch.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._display = Display("")
        self._stage = ""
        self._total = self._done = self._epoch = 0
        self._last = perf_counter()

    def __enter__(self) -> Told:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    def __call__(self, stage: str, told: Progress | None) -> None:
        """A stage begins, or has come so far."""
        if told is None:
            self._begin(stage)
            return
        if stage == "training" and self._stage == "embedding":  # of auto, a line says what is tried
            self._begin(stage)
        if told.metrics and told.step == told.steps and told.epoch != self._epoch:
            self._epoch = told.epoch
            self._epoch_done(told)
        steps = told.steps or 0
        if not self._total and steps:
            self._total = told.epochs * steps
            self._display.start(self._total)
        done = (told.epoch - 1) * steps + told.step
        if done > self._done:
            self._display.advance(done - self._done)
            self._done = done

    def _begin(self, stage: str) -> None:
        self._display.__exit__(None, None, None)
        first = stage.partition(" ")[0]
        line = _STAGES.get(first, first) + stage.removeprefix(first)
        self._display = Display(line)
        self._stage, self._total, self._done, self._epoch = stage, 0, 0, 0
        self._last = perf_counter()
        say(line)

    def _epoch_done(self, told: Progress) -> None:
        now = perf_counter()
        if self._verbose or (now - self._last >= _OFTEN and not os.isatty(2)):
            self._last = now
            watched = list(told.metrics.items())[:1]
            figures = "".join(f", {name} {value:.3f}" for name, value in watched)
            say(f"  epoch {told.epoch} of at most {told.epochs}, loss {told.loss:.4f}{figures}")
