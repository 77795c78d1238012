"""One process or several that train together: what accelerate does for the loop, and plain PyTorch without it.

Several processes compute the loss of one large batch: each embeds its own share and is given the vectors of all the
others, so that negatives come from everywhere. Each computes the whole loss and the gradient of its own rows; the sum
over the processes is the gradient that one process would have found with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from bowerbird.errors import BowerbirdError
from bowerbird.learn.losses import Embedded
from bowerbird.origin.packages import TRAIN, need

T = TypeVar("T")


class Processes:
    """Where the loop runs.

    Args:
        accelerator: an `accelerate.Accelerator`; None: this process alone, where the network is.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self._accelerator is None else int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        """Which of them this is; 0 is the one that writes."""
        return 0 if self._accelerator is None else int(self._accelerator.process_index)

    def prepare(self, network: Any, loss: Any, optimizer: Any) -> tuple[Any, Any]:
        """Put all on the device; the network and the optimiser to train with."""
        if self._accelerator is None:
            return network, optimizer
        loss.to(self._accelerator.device)
        wrapped, optimizer = self._accelerator.prepare(network, optimizer)
        return wrapped, optimizer

    def release(self, wrapped: Any) -> None:
        """Take from the network again what `prepare` did to its way of being called."""
        if self._accelerator is not None:
            self._accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)

    def place(self, batch: Any) -> Any:
        """A batch where the network is, if accelerate knows how to move what it is."""
        if self._accelerator is None:
            return batch
        from accelerate.utils import send_to_device

        return send_to_device(batch, self._accelerator.device)

    def join(self, output: Any) -> Any:
        """The rows of all processes, in their order, in fp32; only this one's have a gradient.

        What is not `Embedded` stays as it is: its loss is a mean over rows, and the mean over the processes is that of
        all.
        """
        if not isinstance(output, Embedded):
            return output
        output = output.float()
        if self.count == 1:
            return output
        fields = {name: value for name, value in vars(output).items() if value is not None}
        return replace(output, **{name: self._all_rows(value) for name, value in fields.items()})

    def _all_rows(self, own: Any) -> Any:
        torch = need("torch", TRAIN)
        counts = self._accelerator.gather(torch.tensor([len(own)], device=own.device)).tolist()
        padded = own.detach().new_zeros((max(counts), *own.shape[1:]))
        padded[: len(own)] = own.detach()
        parts = list(self._accelerator.gather(padded).split(max(counts)))
        parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
        parts[self.rank] = own
        if own.requires_grad:
            # DistributedDataParallel takes the mean of the gradients; what is wanted is their sum.
            own.register_hook(lambda gradient: gradient * self.count)
        return torch.cat(parts)

    def backward(self, loss: Any) -> None:
        """Gradients of a loss, scaled as mixed precision needs it."""
        if self._accelerator is None:
            loss.backward()
        else:
            self._accelerator.backward(loss)

    def apart(self, wrapped: Any) -> Any:
        """A context in which gradients stay in this process: there are more batches before the step."""
        return nullcontext() if self._accelerator is None else self._accelerator.no_sync(wrapped)

    def share(self, parameters: Sequence[Any]) -> None:
        """Take the mean of the gradients of parameters that are not the network's, such as a loss's."""
        if self.count > 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = self._accelerator.reduce(parameter.grad, "mean")

    def clip(self, parameters: Sequence[Any], limit: float) -> float:
        """Cut the gradients down to a length; that which they had.

        0 where mixed precision may overflow and repeats the step with another scale by itself.
        """
        torch = need("torch", TRAIN)
        if self._accelerator is None:
            return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
        norm = self._accelerator.clip_grad_norm_(parameters, limit)
        return 0.0 if self.scaler is not None else float(norm)

    @property
    def scaler(self) -> Any:
        """That of fp16; None with other precisions."""
        return None if self._accelerator is None else self._accelerator.scaler

    def mean(self, value: Any) -> float:
        """Of a number that each process has."""
        value = value.detach()
        return float(value if self.count == 1 else self._accelerator.reduce(value, "mean"))

    def agree(self, work: Callable[[], T]) -> T:
        """What the first process found; a failure there is one of all, so that none waits for ever.

        Args:
            work: done by the first alone. What it gives can be pickled.
        """
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = work()
            except BowerbirdError as error:
                said[1] = error
        broadcast_object_list(said)
        if said[1] is not None:
            raise said[1]
        found: T = said[0]
        return found
