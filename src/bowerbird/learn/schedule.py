"""How long and how fast a network learns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from bowerbird.errors import LearnError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        epochs: how often it sees every pair.
        batch_size: pairs in a batch; the loop takes the batches as they come, it is here for those who make them.
        lr: the learning rate after the warm-up.
        weight_decay: of matrices alone; biases, norms and a loss's own numbers are left as they are.
        optimizer: "adam" (the decay is part of the gradient) or "adamw" (it is not; arXiv 1711.05101).
        warmup: share of the steps over which the rate rises from 0, 0 to 1.
        decay: "constant", or "cosine" down to 0 at the last step.
        accumulate: batches whose gradients make one step. That is the gradient of one large batch where a loss is a
            mean over rows; losses of pairs find their negatives within each small batch alone.
        clip: greatest length of the gradient; 0: as long as it is.
        patience: epochs without a better figure after which to stop; 0: none.
        seed: of all that is random in the loop.
    """

    epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    warmup: float = 0.0
    decay: Literal["constant", "cosine"] = "constant"
    accumulate: int = 1
    clip: float = 0.0
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            LearnError: a value is out of its range.
        """
        fits = {
            "epochs": self.epochs >= 1,
            "batch_size": self.batch_size >= 1,
            "lr": math.isfinite(self.lr) and self.lr > 0,
            "weight_decay": math.isfinite(self.weight_decay) and self.weight_decay >= 0,
            "optimizer": self.optimizer in ("adam", "adamw"),
            "warmup": 0 <= self.warmup <= 1,
            "decay": self.decay in ("constant", "cosine"),
            "accumulate": self.accumulate >= 1,
            "clip": math.isfinite(self.clip) and self.clip >= 0,
            "patience": self.patience >= 0,
            "seed": self.seed >= 0,
        }
        for name, holds in fits.items():
            if not holds:
                raise LearnError(f"{name} is {getattr(self, name)!r}.", hint=f"Give a {name} that can be.")

    @property
    def level(self) -> bool:
        """Whether the rate is the same at every step."""
        return self.decay == "constant" and not self.warmup

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step.

        Args:
            step: from 0.
            steps: of the whole run.
        """
        rising = self.warmup * steps
        if step < rising:
            return self.lr * (step + 1) / (math.floor(rising) + 1)
        if self.decay == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
