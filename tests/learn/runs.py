"""Small runs that tests share, and start again in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.learn.examples import Examples, Picture
from bowerbird.learn.heads import Branch, Head, Heads, Relu
from bowerbird.learn.loop import History, Progress, Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import Batch, Batches, linear, network_of

ROOT = Path(__file__).resolve().parents[2]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def examples(
    pictures: int = 40, captions: int = 1, seed: int = 0, sizes: tuple[int, int] = (12, 10)
) -> Examples:
    """Pictures with so many texts each, whose vectors have something in common."""
    rng = np.random.default_rng(seed)
    meaning = rng.normal(size=(pictures, 4))
    owner = np.repeat(np.arange(pictures), captions)
    images, words = (
        unit(what @ rng.normal(size=(4, size)) + 0.3 * rng.normal(size=(len(what), size)))
        for what, size in zip((meaning, meaning[owner]), sizes, strict=True)
    )
    return Examples(
        tuple(Picture(f"p{place}", f"p{place}.jpg", b"", f"c{place}") for place in range(pictures)),
        tuple(f"text {place}" for place in range(len(owner))),
        np.stack([owner, np.arange(len(owner))], 1),
        images={"features": images},
        words={"sentence": words},
    )


def mlp(seed: int = 0, sizes: tuple[int, int] = (12, 10), dim: int = 8) -> Heads:
    """Two layers for pictures, one for texts."""
    rng = np.random.default_rng(seed)
    return Heads(
        Head((Branch("features", (linear(sizes[0], 16, rng), Relu(), linear(16, dim, rng))),)),
        Head((Branch("sentence", (linear(sizes[1], dim, rng),)),)),
    )


SCHEDULE = Schedule(
    epochs=6,
    batch_size=8,
    lr=3e-3,
    weight_decay=0.01,
    optimizer="adamw",
    warmup=0.1,
    decay="cosine",
    accumulate=2,
    clip=1.0,
    seed=5,
)
"""All that a resumed run has to go on with: dropout, moments, a rate that changes, groups of batches."""


def run(folder: Path | None, kill_in: int = 0, **more: Any) -> tuple[History, Any, Any]:
    """A run of six epochs; it may kill its own process in the middle of one, as the system kills: at once."""
    network = network_of(mlp(), dropout=0.2)
    loss = InfoNCE(0.1, learned=True).module()
    batches = Batches(examples(captions=2), mlp(), batch_size=8, seed=5)

    now: list[Progress] = []

    def progress(told: Progress) -> None:
        now.append(told)
        if (told.epoch, told.step) == (kill_in, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    def validate() -> dict[str, float]:
        # The best epoch is neither the last before the kill nor the last of all.
        return {"R@1": [0.1, 0.5, 0.2, 0.3, 0.4, 0.45][now[-1].epoch - 1], "fixed": 0.25}

    history = train(
        network,
        batches,
        loss,
        SCHEDULE,
        validate=validate,
        watch="R@1",
        folder=folder,
        progress=progress,
        **more,
    )
    return history, network, loss


def shares(epoch: int, rank: int | None) -> list[Batch]:
    """Batches of 10 in shares of 6 and 4 rows; None: whole, in the order in which two processes have them."""
    whole = list(Batches(examples(), mlp(), batch_size=10)(epoch))
    if rank is None:
        return whole
    cut = slice(0, 6) if rank == 0 else slice(6, 10)
    for batch in whole:
        batch.images = {name: rows[cut] for name, rows in batch.images.items()}
        batch.texts = {name: rows[cut] for name, rows in batch.texts.items()}
        batch.pictures, batch.captions = batch.pictures[cut], batch.captions[cut]
    return whole


def rows_of(epoch: int, rank: int | None) -> list[Any]:
    """Batches of 6 rows with their right answers, which are no pairs; one process's half, or the whole."""
    import torch

    whole = torch.from_numpy(np.random.default_rng([7, epoch]).normal(size=(3, 6, 5)).astype(np.float32))
    return list(whole if rank is None else whole[:, 3 * rank : 3 * rank + 3])


def regression() -> tuple[Any, Any]:
    """A network and a loss with a weight of its own, a mean over rows."""
    import torch

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.full((1, 3), 0.5))

        def forward(self, output: Any) -> Any:
            return ((output @ self.slope.T - 1) ** 2).mean()

    network = torch.nn.Linear(5, 3)
    with torch.no_grad():
        network.weight.copy_(torch.arange(15).reshape(3, 5) / 10)
        network.bias.fill_(0.2)
    return network, Loss()


CHECKED = {"lr": 0.1, "weights": {"a": [2, 3]}, "epochs": 5}


def state(number: int, size: int = 1000) -> dict[str, Any]:
    """What a checkpoint holds, all of it told by a number."""
    import torch

    options = [{"lr": 0.1, "betas": (0.9, 0.9)}]
    return {
        "weights": {"a": torch.full((size,), float(number))},
        "history": {"steps": [0.1 * number, float("inf")], "best": number},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": options},
    }


def child(code: str, *words: object, expect: int = 0, env: dict[str, str] | None = None) -> str:
    """Run Python code in a process of its own; what it wrote to stdout."""
    process = start(code, *words, env=env)
    out, err = process.communicate(timeout=120)
    assert process.returncode == expect, err
    return out


def start(code: str, *words: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
