"""What a run writes down while it learns: two CSV files, and TensorBoard's events for those who ask.

`steps.csv` has a row for each step, on the disk as soon as it is taken. `metrics.csv` has one for each epoch, with what
the validation found. Numbers are written so that they can be read back exactly. Both go on where a run is resumed; rows
of an epoch that was not finished are cut off.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.learn.checkpoints import replace_file, writing
from bowerbird.origin.packages import TRAIN, need

if TYPE_CHECKING:
    from bowerbird.learn.loop import Epoch

STEPS = "steps.csv"
METRICS = "metrics.csv"
TENSORBOARD = "tensorboard"

_STEP_COLUMNS = ("epoch", "step", "loss", "lr")
_EPOCH_COLUMNS = ("epoch", "step", "loss", "lr", "seconds")


class Log:
    """The files of one run, in one folder.

    Args:
        folder: where they go; None: nowhere.
        tensorboard: whether TensorBoard's events are written too.
        epochs: those that are finished: none at the beginning, some where a run is resumed.

    Raises:
        MissingExtraError: tensorboard is asked for and not installed.
        StorageFullError: no space is left.
        LearnError: the folder cannot be written to.
    """

    def __init__(
        self, folder: Path | None, *, tensorboard: bool = False, epochs: Sequence[Epoch] = ()
    ) -> None:
        self._folder = folder
        self._steps: Any = None
        self._events: Any = None
        if folder is None:
            return
        if tensorboard:
            need("tensorboard", TRAIN)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            rows = _until(folder / STEPS, epochs[-1].number if epochs else 0)
            replace_file(folder / STEPS, "".join([",".join(_STEP_COLUMNS) + "\n", *rows]).encode())
            if tensorboard:
                self._begin_events(folder / TENSORBOARD, rows, epochs)
            self._steps = (folder / STEPS).open("a", buffering=1, newline="", encoding="utf-8")

    def _begin_events(self, folder: Path, rows: Sequence[str], epochs: Sequence[Epoch]) -> None:
        """Write the events of a run that goes on anew.

        TensorBoard orders the files of a run by the second in which they were made, and the processes of one second by
        their numbers; the end of a file that a killed process wrote may be missing.
        """
        from torch.utils.tensorboard import SummaryWriter

        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._events = SummaryWriter(str(folder))
        for row in rows:
            _, step, loss, lr = row.split(",")
            self._add_step(int(step), float(loss), float(lr))
        for epoch in epochs:
            self._add_epoch(epoch)

    def _add_step(self, step: int, loss: float, lr: float) -> None:
        self._events.add_scalar("loss/step", loss, step)
        self._events.add_scalar("lr", lr, step)

    def _add_epoch(self, epoch: Epoch) -> None:
        self._events.add_scalar("loss/epoch", epoch.loss, epoch.step)
        for name, value in epoch.metrics.items():
            self._events.add_scalar(f"validation/{name}", value, epoch.step)

    def step(self, epoch: int, step: int, loss: float, lr: float) -> None:
        """Write down a step.

        Args:
            epoch: from 1.
            step: of the whole run, from 1.
            loss: of its batch.
            lr: the learning rate it was taken with.

        Raises:
            StorageFullError: no space is left.
        """
        if self._folder is None:
            return
        with writing(self._folder):
            self._steps.write(f"{epoch},{step},{loss!r},{lr!r}\n")
            if self._events:
                self._add_step(step, loss, lr)

    def epoch(self, epochs: Sequence[Epoch]) -> None:
        """Write down the epoch that was just finished.

        Args:
            epochs: all until now.

        Raises:
            StorageFullError: no space is left.
        """
        if self._folder is None:
            return
        with writing(self._folder):
            replace_file(self._folder / METRICS, _table(epochs).encode())
            if self._events:
                self._add_epoch(epochs[-1])
                self._events.flush()

    def close(self) -> None:
        """Close the files."""
        if self._steps:
            self._steps.close()
        if self._events:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of `metrics.csv`, by column; a figure that an epoch does not have is left out."""
    with (folder / METRICS).open(newline="", encoding="utf-8") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def _table(epochs: Sequence[Epoch]) -> str:
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_EPOCH_COLUMNS, *names])
    for epoch in epochs:
        figures = [_cell(epoch.metrics, name) for name in names]
        writer.writerow(
            [epoch.number, epoch.step, repr(epoch.loss), repr(epoch.lr), repr(epoch.seconds), *figures]
        )
    return text.getvalue()


def _cell(metrics: Mapping[str, float], name: str) -> str:
    return repr(metrics[name]) if name in metrics else ""


def _until(path: Path, epoch: int) -> list[str]:
    """The whole rows of `steps.csv` up to an epoch."""
    if not epoch or not path.is_file():
        return []
    rows = path.read_text("utf-8", "replace").splitlines(keepends=True)[1:]
    whole = [row for row in rows if row.endswith("\n") and row.count(",") == len(_STEP_COLUMNS) - 1]
    return [row for row in whole if 1 <= _number(row) <= epoch]


def _number(row: str) -> int:
    first = row.partition(",")[0]
    return int(first) if first.isdecimal() else 0
