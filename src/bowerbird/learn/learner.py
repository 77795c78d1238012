"""One step of learning: batches in, gradients, new weights; and all of it that a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from bowerbird.errors import LearnError, TrainingError
from bowerbird.learn.losses import Embedded, Loss
from bowerbird.learn.processes import Processes
from bowerbird.learn.schedule import Schedule
from bowerbird.origin.packages import TRAIN, need

_SHOWN = 8
"""Ids that a message names."""


class Learner:
    """A network, its loss and its optimiser.

    Args:
        network: a `torch.nn.Module`.
        loss: of `losses`, or a `torch.nn.Module`.
        schedule: how fast it learns.
        processes: where.

    Raises:
        LearnError: there is nothing that could learn.
        MissingExtraError: PyTorch is not installed.
    """

    def __init__(self, network: Any, loss: Any, schedule: Schedule, processes: Processes) -> None:
        torch = need("torch", TRAIN)
        self.schedule = schedule
        self.processes = processes
        self._network = network
        self._loss = loss.module() if isinstance(loss, Loss) else loss
        self._parameters = [weight for weight in network.parameters() if weight.requires_grad]
        own = [number for number in self._loss.parameters() if number.requires_grad]
        self._of_loss = own
        if not self._parameters + own:
            raise LearnError("The network has no weights that can learn.", hint="Give a head with a layer.")
        kind = torch.optim.Adam if schedule.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(_decayed(self._parameters + own, schedule.weight_decay), lr=schedule.lr)
        self._wrapped, self._optimizer = processes.prepare(network, self._loss, optimizer)

    def begin_epoch(self) -> None:
        """Dropout and the like are on."""
        self._wrapped.train()
        self._loss.train()

    def finish_epoch(self) -> None:
        """Dropout and the like are off."""
        self._wrapped.eval()
        self._loss.eval()

    def finish(self) -> None:
        """The network as it is used."""
        self.finish_epoch()
        self.processes.release(self._wrapped)

    def step(self, group: Sequence[Any], rate: float, where: str) -> float:
        """One step with the gradients of some batches.

        Args:
            group: batches; each counts by its rows.
            rate: the learning rate.
            where: for messages: the epoch, and the first of the batches.

        Returns:
            The loss: the mean over all rows.

        Raises:
            TrainingError: it, or the gradient, is not finite. The weights stay as they were.
        """
        for options in self._optimizer.param_groups:
            options["lr"] = rate
        self._optimizer.zero_grad()
        losses, rows, output = [], [], None
        for place, batch in enumerate(group):
            apart = place < len(group) - 1
            with self.processes.apart(self._wrapped) if apart else nullcontext():
                output = self.processes.join(self._wrapped(self.processes.place(batch)))
                loss = self._loss(output)
                losses.append(self.processes.mean(loss))
                if not math.isfinite(losses[-1]):
                    raise _not_finite(f"The loss is {losses[-1]}", where, place, output)
                rows.append(len(output) if isinstance(output, Sized) else 1)
                # In proportion to the first, so that the scale of mixed precision still fits.
                self.processes.backward(loss if len(group) == 1 else loss * (rows[-1] / rows[0]))
        learning = self._parameters + self._of_loss
        if len(group) > 1:
            for parameter in learning:
                if parameter.grad is not None:
                    parameter.grad.div_(sum(rows) / rows[0])
        self.processes.share(self._of_loss)
        if not math.isfinite(norm := self.processes.clip(learning, self.schedule.clip or math.inf)):
            raise _not_finite(f"The length of the gradient is {norm}", where, len(group) - 1, output)
        self._optimizer.step()
        return math.fsum(map(float.__mul__, losses, map(float, rows))) / sum(rows)

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must share with the one that began."""
        shapes = {
            name: list(weight.shape)
            for name, weight in self._network.named_parameters()
            if weight.requires_grad
        }
        return {
            **asdict(self.schedule),
            "loss": repr(getattr(self._loss, "spec", type(self._loss).__name__)),
            "weights": shapes,
            "processes": self.processes.count,
        }

    def weights(self) -> dict[str, dict[str, Any]]:
        """A copy of all that has been learned, on the CPU."""
        return {
            name: {key: value.detach().cpu().clone() for key, value in part.items()}
            for name, part in self._parts().items()
        }

    def load_weights(self, weights: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what `weights` gave."""
        for name, module in (("network", self._network), ("loss", self._loss)):
            module.load_state_dict(weights[name], strict=False)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        scaler = self.processes.scaler
        return {
            "weights": self._parts(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "threads": need("torch", TRAIN).get_num_threads(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        The number of threads too: sums are made in another order with another number, and other libraries in a process,
        such as numba, change it.
        """
        if state.get("threads"):
            need("torch", TRAIN).set_num_threads(state["threads"])
        self.load_weights(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self.processes.scaler is not None and state["scaler"]:
            self.processes.scaler.load_state_dict(state["scaler"])

    def _parts(self) -> dict[str, dict[str, Any]]:
        return {"network": _learned(self._network), "loss": _learned(self._loss)}


def _learned(module: Any) -> dict[str, Any]:
    """Its state without the parameters that are frozen: these are the caller's, and may be large."""
    named = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in named if not weight.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def _decayed(parameters: Sequence[Any], decay: float) -> list[dict[str, Any]]:
    matrices = [weight for weight in parameters if weight.ndim >= 2]
    others = [weight for weight in parameters if weight.ndim < 2]
    groups = ({"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _not_finite(what: str, where: str, later: int, output: Any) -> TrainingError:
    """The error that names the batch, what of it is not finite, and whose rows these are."""
    more = f" (and the {later} after it)" if later else ""
    return TrainingError(
        f"{what} in {where}{more}.{_culprits(output)}",
        hint="Look at those pictures and texts; if there is nothing wrong with them, take a smaller lr, or clip.",
    )


def _culprits(output: Any) -> str:
    if not isinstance(output, Embedded):
        return ""
    torch = need("torch", TRAIN)
    said = ""
    rows = torch.arange(len(output))
    for name, vectors in (("picture", output.images), ("text", output.texts)):
        wrong = [] if vectors is None else (~vectors.detach().isfinite().all(-1)).nonzero().flatten().cpu()
        if len(wrong):
            said += f" Vectors of {name}s are not finite."
            rows = wrong
    return f"{said} It holds pictures {_ids(output.pictures[rows])} with texts {_ids(output.captions[rows])}."


def _ids(ids: Any) -> str:
    shown = ", ".join(map(str, ids[:_SHOWN].tolist()))
    return f"{shown} and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else shown
