"""The one training loop: heads and backbones learn in it alike.

Each epoch begins with random numbers of its own, drawn from the seed and the epoch. So a run that was killed and is
resumed goes on exactly as it would have gone on, with as many threads as it began with, and the same seed gives the
same losses, bit for bit, on one machine with one number of threads and on the CPU. On other devices it is as repeatable
as their kernels are. The caller's own random numbers and number of threads are not touched.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.checkpoints import Checkpoints
from bowerbird.learn.learner import Learner
from bowerbird.learn.log import Log
from bowerbird.learn.processes import Processes
from bowerbird.learn.schedule import Schedule
from bowerbird.origin.packages import TRAIN, need

__all__ = ["Epoch", "History", "Progress", "Schedule", "train"]

_LOG = logging.getLogger("bowerbird")


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: from 1.
        loss: mean over its steps.
        metrics: what the validation found.
        seconds: of learning and validation together.
        lr: the learning rate of its last step.
        step: the last step of it, from 1, counted over the whole run.
    """

    number: int
    loss: float
    metrics: Mapping[str, float]
    seconds: float
    lr: float
    step: int


@dataclass
class History:
    """How a run went.

    Attributes:
        epochs: one after the other.
        steps: loss of every step.
        best: number of the epoch whose weights the network has at the end: the best by what was watched, else the last.
        stopped: why there were no more epochs, for people.
    """

    epochs: list[Epoch] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    best: int = 0
    stopped: str = ""


class Progress(NamedTuple):
    """How far a run has come: told after every step, and with new figures after every validation.

    Attributes:
        epoch: from 1.
        epochs: how many there will be at most.
        step: of this epoch, from 1.
        steps: of this epoch; None where the batches have no length.
        loss: of the step.
        metrics: of the last validation; empty before the first.
    """

    epoch: int
    epochs: int
    step: int
    steps: int | None
    loss: float
    metrics: Mapping[str, float]

    def __str__(self) -> str:
        of = f" of {self.steps}" if self.steps else ""
        figures = "".join(f", {name} {value:.3f}" for name, value in self.metrics.items())
        return f"epoch {self.epoch} of {self.epochs}, step {self.step}{of}, loss {self.loss:.4f}{figures}"


def train(  # noqa: PLR0913  a run has as many sides
    network: Any,
    batches: Callable[[int], Iterable[Any]],
    loss: Any,
    schedule: Schedule,
    *,
    validate: Callable[[], Mapping[str, float]] | None = None,
    watch: str = "",
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    accelerator: Any = None,
    keep: int | None = 3,
    tensorboard: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> History:
    """Let a network learn; afterwards it is in evaluation mode, with the weights of the best epoch.

    Args:
        network: a `torch.nn.Module`: called with a batch, gives what the loss takes, such as `Embedded`. Parameters
            that need no gradient stay as they are and are in no checkpoint.
        batches: of an epoch, counted from 1; always the same ones for the same epoch. With several processes, those of
            this one, as many as the others have.
        loss: of `losses`, or a `torch.nn.Module` called with what the network gives; its parameters learn too.
        schedule: how long and how fast.
        validate: figures by name, after each epoch, with the network in evaluation mode and without gradients.
        watch: the figure by which the best epoch is chosen: the greatest, or after a minus sign the least. Without one
            the last epoch is the best.
        folder: for checkpoints and logs; None: neither is written.
        resume: go on after the last whole checkpoint there; where there is none yet, begin.
        progress: told after every step and every validation, in the first process.
        accelerator: an `accelerate.Accelerator`, for other devices, precisions and several processes.
        keep: how many of the latest checkpoints stay; None: all.
        tensorboard: write its events too.
        settings: what else must be the same for a run to be resumed, such as what the pairs are; JSON.

    Raises:
        TrainingError: a loss or gradient is not finite.
        LearnError: there are no batches; the folder holds checkpoints of another run, or another run is using it; or
            what is watched is not among the figures.
        StorageFullError: no space is left for a checkpoint; the ones before stay.
        MissingExtraError: PyTorch, or tensorboard where it is asked for, is not installed.
    """
    torch = need("torch", TRAIN)
    _check(schedule, validate, watch, folder, resume)
    processes = Processes(accelerator)
    learner = Learner(network, loss, schedule, processes)
    checkpoints = None if folder is None else Checkpoints(folder, keep)
    told = {**learner.settings(), "watch": watch, **(settings or {})}
    with ExitStack() as cleaning:
        cleaning.callback(torch.set_num_threads, torch.get_num_threads())
        if checkpoints:
            cleaning.callback(checkpoints.end)
        history, best = _start(checkpoints, learner, told, resume)
        history.stopped = _stopped(history, schedule)
        tell = progress if progress and processes.rank == 0 else _nobody
        log = Log(folder if processes.rank == 0 else None, tensorboard=tensorboard, epochs=history.epochs)
        cleaning.callback(learner.finish)
        cleaning.callback(log.close)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            while not history.stopped:
                began, number = time.perf_counter(), len(history.epochs) + 1
                torch.manual_seed(_seed(schedule.seed, number, processes.rank))
                losses, rate = _learn(learner, batches(number), number, history, log, tell)
                metrics = _validated(learner, validate, watch)
                history.steps += losses
                seconds = time.perf_counter() - began
                mean = math.fsum(losses) / len(losses)
                history.epochs.append(Epoch(number, mean, metrics, seconds, rate, len(history.steps)))
                if _is_best(history, watch):
                    history.best, best = number, learner.weights() if watch else None
                history.stopped = _stopped(history, schedule)
                if checkpoints:
                    state = {**learner.state(), "best": best, "history": _plain(history)}
                    processes.agree(partial(checkpoints.write, number, state, told))
                log.epoch(history.epochs)
                tell(Progress(number, schedule.epochs, len(losses), len(losses), losses[-1], metrics))
    if best is not None:
        learner.load_weights(best)
    return history


def _learn(
    learner: Learner,
    batches: Iterable[Any],
    number: int,
    history: History,
    log: Log,
    tell: Callable[[Progress], None],
) -> tuple[list[float], float]:
    """One epoch: the loss of each step, and the rate of the last."""
    schedule = learner.schedule
    count = len(batches) if isinstance(batches, Sized) else None
    steps = None if count is None else -(-count // schedule.accumulate)
    if steps is None and not schedule.level:
        raise LearnError(
            "A rate that changes needs batches with a length.",
            hint='Give it, or take decay="constant", warmup=0.',
        )
    metrics = history.epochs[-1].metrics if history.epochs else {}
    losses: list[float] = []
    rate = schedule.lr
    learner.begin_epoch()
    for group in _groups(batches, schedule.accumulate):
        if steps:
            rate = schedule.rate((number - 1) * steps + len(losses), schedule.epochs * steps)
        where = f"epoch {number}, batch {len(losses) * schedule.accumulate + 1}"
        losses.append(learner.step(group, rate, where))
        log.step(number, len(history.steps) + len(losses), losses[-1], rate)
        tell(Progress(number, schedule.epochs, len(losses), steps, losses[-1], metrics))
    if not losses:
        raise LearnError(f"Epoch {number} has no batches.", hint="Give pairs to learn from.")
    return losses, rate


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(batches)
    while group := list(islice(rest, size)):
        yield group


def _validated(
    learner: Learner, validate: Callable[[], Mapping[str, float]] | None, watch: str
) -> dict[str, float]:
    if validate is None:
        return {}
    torch = need("torch", TRAIN)
    learner.finish_epoch()
    with torch.no_grad():
        found = {name: float(value) for name, value in validate().items()}
    name = watch.removeprefix("-")
    if name and name not in found:
        raise LearnError(
            f"{name!r} is watched, and the validation gives only {', '.join(found) or 'nothing'}.",
            hint="Watch one of its figures.",
        )
    # Several processes have to stop at the same epoch, whatever the last digits of their figures are.
    return learner.processes.agree(lambda: found)


def _is_best(history: History, watch: str) -> bool:
    """Whether the last epoch is better than all before it; of equals, the first is."""
    if not watch or not history.best:
        return True
    name, sign = watch.removeprefix("-"), -1 if watch.startswith("-") else 1
    former, latest = (
        history.epochs[place - 1].metrics[name] for place in (history.best, len(history.epochs))
    )
    return sign * latest > sign * former or math.isnan(former)


def _stopped(history: History, schedule: Schedule) -> str:
    done = len(history.epochs)
    if schedule.patience and done - history.best >= schedule.patience:
        return f"no better than epoch {history.best} for {schedule.patience} epochs"
    return f"all {schedule.epochs} epochs are done" if done >= schedule.epochs else ""


def _start(
    checkpoints: Checkpoints | None, learner: Learner, settings: Mapping[str, Any], resume: bool
) -> tuple[History, Any]:
    """Where a run begins: its history until now, and the best weights."""
    if checkpoints is None:
        return History(), None
    learner.processes.agree(checkpoints.begin)
    if not resume and checkpoints.all():
        raise LearnError(
            f"{checkpoints.folder} holds the checkpoints of another run.",
            hint="Resume it, or give another folder.",
        )
    # A rate that does not change makes the first epochs of a longer run the same.
    free = ("patience", "epochs") if learner.schedule.level else ("patience",)
    found = checkpoints.latest(settings, free)
    if found is None:
        return History(), None
    learner.load_state(found)
    _LOG.info("Resumed after epoch %d.", found["epoch"])
    said = found["history"]
    history = History([Epoch(**one) for one in said["epochs"]], said["steps"], said["best"])
    return history, found["best"]


def _plain(history: History) -> dict[str, Any]:
    return {
        "epochs": [asdict(epoch) for epoch in history.epochs],
        "steps": list(history.steps),
        "best": history.best,
    }


def _seed(*parts: int) -> int:
    """Of one epoch in one process: the streams of any two have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _check(
    schedule: Schedule,
    validate: Callable[[], Mapping[str, float]] | None,
    watch: str,
    folder: Path | None,
    resume: bool,
) -> None:
    if watch and validate is None:
        raise LearnError(f"{watch!r} is watched, and nothing is validated.", hint="Give validate.")
    if schedule.patience and not watch:
        raise LearnError("patience waits for a better figure, and none is watched.", hint="Give watch.")
    if resume and folder is None:
        raise LearnError(
            "A run without a folder cannot be resumed.", hint="Give the folder it was started with."
        )


def _nobody(progress: Progress) -> None:
    del progress
