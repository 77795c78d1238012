"""What a run writes down while it learns: two CSV files, and TensorBoard's events for those who ask.

`steps.csv` has a row for each step, on the disk as soon as it is taken. `metrics.csv` has one for each epoch, with what
the validation found. Numbers are written so that they can be read back exactly. Both go on where a run is resumed; rows
of an epoch that was not finished are cut off.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
            if epochs:
                replace_file(folder / METRICS, _table(epochs).encode())
            if tensorboard:
                self._begin_events(folder / TENSORBOARD, rows, epochs)
            self._steps = (folder / STEPS).open("a", buffering=1, newline="", encoding="utf-8")

    def _begin_events(self, folder: Path, rows: Sequence[str], epochs: Sequence[Epoch]) -> None:
        """Write the events of a run that goes on anew.

        TensorBoard orders the files of a run by the second in which they were made, and the end of a file that a killed
        process wrote may be missing.
        """
        folder.mkdir(exist_ok=True)
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self._events = _Events(folder / f"events.out.tfevents.{time.time():.0f}.{os.getpid()}")
        for row in rows:
            _, step, loss, lr = row.split(",")
            self._events.add(int(step), {"loss/step": float(loss), "lr": float(lr)})
        for epoch in epochs:
            self._events.add(epoch.step, _figures(epoch))
        self._events.flush()

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
                self._events.add(step, {"loss/step": loss, "lr": lr})

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
                self._events.add(epochs[-1].step, _figures(epochs[-1]))
                self._events.flush()

    def close(self) -> None:
        """Close the files. What could not be written was said when it was."""
        for file in (self._steps, self._events):
            if file:
                with suppress(OSError):
                    file.close()


class _Events:
    """A file of TensorBoard's events. (Its own writer has a thread, which prints when a disk is full.)"""

    def __init__(self, path: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        self._file = path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in figures.items()]
        self._write(step=step, summary={"value": values})

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _figures(epoch: Epoch) -> dict[str, float]:
    return {
        "loss/epoch": epoch.loss,
        **{f"validation/{name}": value for name, value in epoch.metrics.items()},
    }


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
