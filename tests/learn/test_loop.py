"""The training loop: what it computes, that it goes on as it would have gone on, and what stops it."""

from __future__ import annotations

import csv
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.learn.runs import child, examples, mlp, regression, rows_of, run, shares, start

from bowerbird.errors import LearnError, MissingExtraError
from bowerbird.learn.heads import Branch, Head, Heads, as_it_is
from bowerbird.learn.log import read_metrics
from bowerbird.learn.loop import History, Progress, Schedule, train
from bowerbird.learn.losses import InfoNCE, Sigmoid
from bowerbird.learn.network import Batches, heads_of, linear, network_of
from bowerbird.origin.packages import has

torch = pytest.importorskip("torch")


def parameters(network) -> list:
    return [weight.detach().clone() for weight in network.parameters()]


def same(one, two) -> bool:
    return all(map(torch.equal, parameters(one), parameters(two)))


def small(**more) -> tuple:
    """A network, its batches and its loss."""
    return network_of(mlp()), Batches(examples(), mlp(), batch_size=10, **more), InfoNCE()


# What it computes


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_it_is_the_loop_that_everybody_writes(optimizer: str) -> None:
    network, batches, loss = small()
    history = train(network, batches, loss, Schedule(epochs=3, lr=1e-2, optimizer=optimizer))
    plain = network_of(mlp())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    steps = kind(plain.parameters(), lr=1e-2, weight_decay=0)
    losses = []
    for epoch in (1, 2, 3):
        for batch in batches(epoch):
            steps.zero_grad()
            embedded = plain(batch)
            value = torch.nn.functional.cross_entropy
            logits = embedded.images @ embedded.texts.T / 0.07
            right = torch.arange(len(batch))
            value = (value(logits, right) + value(logits.T, right)) / 2
            value.backward()
            steps.step()
            losses.append(float(value.detach()))
    assert history.steps == pytest.approx(losses, rel=1e-5)
    assert [epoch.loss for epoch in history.epochs] == pytest.approx(np.reshape(losses, (3, 4)).mean(1))
    assert [epoch.step for epoch in history.epochs] == [4, 8, 12]
    assert (history.best, history.stopped) == (3, "all 3 epochs are done")
    for one, two in zip(parameters(network), parameters(plain), strict=True):
        torch.testing.assert_close(one, two)


def test_it_learns_what_belongs_together() -> None:
    given_examples = examples(60)
    network = network_of(mlp())
    history = train(
        network,
        Batches(given_examples, mlp(), batch_size=20),
        InfoNCE(learned=True),
        Schedule(epochs=60, lr=1e-2),
    )

    def first(heads: Heads) -> float:
        images, texts = heads.image.apply(given_examples.images), heads.text.apply(given_examples.words)
        return float(((images @ texts.T).argmax(1) == np.arange(60)).mean())

    assert first(mlp()) < 0.1
    assert first(heads_of(network)) > 0.6
    assert history.epochs[-1].loss < history.epochs[0].loss / 3
    assert not network.training


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_numbers_alone() -> None:
    before = torch.get_rng_state()
    one, two = run(None), run(None)
    assert one[0].steps == two[0].steps
    assert same(one[1], two[1])
    assert torch.equal(before, torch.get_rng_state())
    # Dropout is drawn from the seed too, and not from what the caller drew.
    network, batches, loss = network_of(mlp(), 0.5), *small()[1:]
    losses = []
    for seed, callers in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(callers)
        network = network_of(mlp(), 0.5)
        losses.append(train(network, batches, loss, Schedule(epochs=2, seed=seed)).steps)
    assert losses[0] == losses[1] != losses[2]


def test_weight_decay_is_for_matrices() -> None:
    network, batches, _ = small()
    loss = Sigmoid().module()
    train(network, batches, loss, Schedule(epochs=1, lr=1e-9, weight_decay=1e8, optimizer="adamw"))
    shrunk = [
        float(now.norm() / then.norm())
        for now, then in zip(parameters(network), parameters(network_of(mlp())), strict=True)
    ]
    assert shrunk == pytest.approx([(1 - 0.1) ** 4, 1] * 3, rel=1e-4)
    assert loss.facts() == pytest.approx({"scale": 10, "bias": -10})


class Regression(torch.nn.Module):
    """A mean over rows, which knows nothing of the other rows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, output):
        return (output**2).mean()


@pytest.mark.parametrize("cuts", [(4, 8), (3, 8), (8, 10), (1, 2)], ids=str)
def test_accumulated_gradients_are_those_of_one_large_batch(cuts: tuple[int, int]) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 5)).astype(np.float32))
    networks = []
    for parts in (True, False):
        network = torch.nn.Linear(5, 3)
        with torch.no_grad():
            network.weight.fill_(0.1), network.bias.fill_(0.2)
        pieces = [part for whole in rows for part in (whole.tensor_split(cuts) if parts else [whole])]
        # Adam does not see how long a gradient is, but beside a decay it does.
        schedule = Schedule(epochs=2, lr=0.05, weight_decay=0.5, accumulate=3 if parts else 1)
        history = train(network, lambda epoch, pieces=pieces: pieces, Regression(3), schedule)
        networks.append((network, history.steps))
    (one, steps), (two, whole) = networks
    assert len(steps) == len(whole) == 6
    assert steps == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(one.weight, two.weight, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one.bias, two.bias, atol=1e-6, rtol=1e-5)


def test_the_last_group_of_an_epoch_may_be_smaller() -> None:
    network, batches, loss = small()
    history = train(network, batches, loss, Schedule(epochs=2, accumulate=3))
    assert len(history.steps) == 4
    assert [epoch.step for epoch in history.epochs] == [2, 4]


def test_clipping() -> None:
    """With plain steps of a known length, the gradient's length can be read from the weights."""
    lengths = []
    for clip in (0.0, 1e-3):
        network, batches, loss = small()
        start_ = parameters(network)
        # Adam divides by the gradient's own size, unless that is far below its epsilon of 1e-8.
        schedule = Schedule(epochs=1, lr=1e-2, clip=clip * 1e-9 if clip else 0.0, accumulate=4)
        train(network, batches, loss, schedule)
        moved = [now - then for now, then in zip(parameters(network), start_, strict=True)]
        lengths.append(float(torch.cat([one.flatten() for one in moved]).norm()))
    assert lengths[0] > 0.05
    assert lengths[1] == pytest.approx(1e-2 * 1e-12 / 1e-8, rel=1e-2)


# The rate


@given(
    steps=st.integers(1, 400),
    warmup=st.floats(0, 1),
    decay=st.sampled_from(["constant", "cosine"]),
    lr=st.floats(1e-6, 10),
)
def test_rates_rise_and_then_fall(steps: int, warmup: float, decay: str, lr: float) -> None:
    schedule = Schedule(lr=lr, warmup=warmup, decay=decay)
    rates = [schedule.rate(step, steps) for step in range(steps)]
    assert all(0 <= rate <= lr * (1 + 1e-9) for rate in rates)
    assert rates[0] > 0
    peak = math.ceil(warmup * steps)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    if decay == "constant":
        assert rates[peak:] == [lr] * (steps - peak)


def test_rates_by_hand() -> None:
    cosine = Schedule(lr=1.0, decay="cosine")
    assert [cosine.rate(step, 4) for step in range(4)] == pytest.approx(
        [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    )
    rising = Schedule(lr=1.0, warmup=0.5)
    assert [rising.rate(step, 8) for step in range(8)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.nan}, {"weight_decay": -1.0}, {"optimizer": "sgd"},
        {"warmup": 1.1}, {"decay": "linear"}, {"accumulate": 0}, {"clip": -1.0}, {"patience": -1}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_schedules_that_cannot_be(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(LearnError, match=f"{name} is {value!r}"):
        Schedule(**wrong)


# Validation, and the best epoch


@pytest.mark.parametrize(
    ("watch", "figures", "patience", "best", "epochs", "stopped"),
    [
        ("R@1", [0.1, 0.5, 0.4, 0.3, 0.9], 2, 2, 4, "no better than epoch 2 for 2 epochs"),
        ("R@1", [0.1, 0.5, 0.4, 0.3, 0.9], 3, 5, 5, "all 5 epochs are done"),
        ("R@1", [0.1, 0.5, 0.4, 0.3, 0.2], 0, 2, 5, "all 5 epochs are done"),
        ("R@1", [0.5, 0.5, 0.5, 0.5, 0.5], 3, 1, 4, "no better than epoch 1 for 3 epochs"),
        ("-R@1", [0.1, 0.5, 0.05, 0.3, 0.9], 2, 3, 5, "no better than epoch 3 for 2 epochs"),
        ("R@1", [math.nan, 0.1, math.nan, 0.05, 0.0], 0, 2, 5, "all 5 epochs are done"),
        ("", [0.1, 0.5, 0.4, 0.3, 0.2], 0, 5, 5, "all 5 epochs are done"),
    ],
)  # fmt: skip
def test_the_best_epoch_is_kept(watch, figures, patience, best, epochs, stopped) -> None:
    network, batches, _ = small()
    loss = InfoNCE(learned=True).module()
    seen = []

    def validate() -> dict[str, float]:
        assert not network.training
        assert not torch.is_grad_enabled()
        seen.append((parameters(network), loss.facts()))
        return {"R@1": figures[len(seen) - 1]}

    history = train(
        network, batches, loss, Schedule(epochs=5, lr=1e-2, patience=patience), validate=validate, watch=watch
    )
    assert (history.best, len(history.epochs), history.stopped) == (best, epochs, stopped)
    assert all(map(torch.equal, parameters(network), seen[best - 1][0]))
    assert loss.facts() == seen[best - 1][1]
    assert [epoch.metrics["R@1"] for epoch in history.epochs] == pytest.approx(figures[:epochs], nan_ok=True)


def test_progress_is_told() -> None:
    network, batches, loss = small()
    told: list[Progress] = []
    train(network, batches, loss, Schedule(epochs=2), validate=lambda: {"R@1": 0.5}, progress=told.append)
    assert [(one.epoch, one.step) for one in told] == [
        (epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4, 4)
    ]
    assert {(one.epochs, one.steps) for one in told} == {(2, 4)}
    assert str(told[-1]) == f"epoch 2 of 2, step 4 of 4, loss {told[-1].loss:.4f}, R@1 0.500"
    assert dict(told[0].metrics) == {}


# Runs that are killed, and go on

KILLED = """
import sys
from pathlib import Path
from tests.learn.runs import run
from bowerbird.origin.packages import has
run(Path(sys.argv[1]), kill_in=int(sys.argv[2]), tensorboard=has("tensorboard"))
"""


def steps_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kill_in", [1, 4])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, kill_in: int) -> None:
    whole, network, loss = run(tmp_path / "whole")
    killed = tmp_path / "killed"
    child(KILLED, killed, kill_in, expect=-9)
    assert len(list((killed / "checkpoints").iterdir())) == min(3, kill_in - 1)
    assert steps_of(killed)[-1]["epoch"] == str(kill_in)
    history, resumed, resumed_loss = run(killed, resume=True, tensorboard=has("tensorboard"))
    assert history.steps == whole.steps
    assert same(resumed, network)
    assert same(resumed_loss, loss)
    assert (history.best, history.stopped) == (2, whole.stopped)
    assert [(one.number, one.loss, one.metrics, one.lr, one.step) for one in history.epochs] == [
        (one.number, one.loss, one.metrics, one.lr, one.step) for one in whole.epochs
    ]
    # The logs are those of one run.
    assert steps_of(killed) == steps_of(tmp_path / "whole")
    assert [float(row["loss"]) for row in steps_of(killed)] == whole.steps
    assert [int(row["step"]) for row in steps_of(killed)] == list(range(1, len(whole.steps) + 1))
    rows = read_metrics(killed)
    assert [row["R@1"] for row in rows] == [0.1, 0.5, 0.2, 0.3, 0.4, 0.45]
    assert [(row["epoch"], row["loss"], row["lr"]) for row in rows] == [
        (one.number, one.loss, one.lr) for one in whole.epochs
    ]
    if has("tensorboard"):
        look_at_events(killed, whole)


def look_at_events(folder: Path, whole: History) -> None:
    """Read them as TensorBoard does, which leaves out what was written of the epoch that was killed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = {"loss/step", "lr", "loss/epoch", "validation/R@1", "validation/fixed"}
    assert set(events.Tags()["scalars"]) == names
    found = events.Scalars("loss/step")
    assert [one.step for one in found] == list(range(1, len(whole.steps) + 1))
    assert [one.value for one in found] == pytest.approx(whole.steps, rel=1e-6)
    figures = events.Scalars("validation/R@1")
    assert [one.value for one in figures] == pytest.approx([0.1, 0.5, 0.2, 0.3, 0.4, 0.45])
    assert [one.step for one in figures] == [one.step for one in whole.epochs]


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    code = KILLED.replace("kill_in=", "resume=True, kill_in=")
    for kill_in in (2, 5):
        child(code, tmp_path, kill_in, expect=-9)
    history, network, _ = run(tmp_path, resume=True)
    whole, other, _ = run(None)
    assert history.steps == whole.steps
    assert same(network, other)
    # A run that is done stays done, and gives the best weights again, also when its log was not finished.
    (tmp_path / "metrics.csv").unlink()
    history, network, _ = run(tmp_path, resume=True)
    assert history.steps == whole.steps
    assert same(network, other)
    assert [row["loss"] for row in read_metrics(tmp_path)] == [one.loss for one in whole.epochs]


def test_without_tensorboard(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    network, batches, loss = small()
    with pytest.raises(MissingExtraError, match=r"'tensorboard'.* pip install 'bowerbird\[train\]'"):
        train(network, batches, loss, Schedule(epochs=1), folder=tmp_path, tensorboard=True)


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path: Path) -> None:
    def go(epochs: int, **more):
        network, batches, loss = small()
        return train(network, batches, loss, Schedule(epochs=epochs), **more).steps

    go(2, folder=tmp_path)
    assert go(5, folder=tmp_path, resume=True) == go(5)
    with pytest.raises(LearnError, match=r"epochs was 6 and is 7"):
        for epochs in (6, 7):
            network, batches, loss = small()
            schedule = Schedule(epochs=epochs, decay="cosine")
            train(network, batches, loss, schedule, folder=tmp_path / "falling", resume=True)


def test_a_damaged_checkpoint_costs_an_epoch_and_no_bit(tmp_path: Path) -> None:
    whole, network, _ = run(tmp_path)
    latest = tmp_path / "checkpoints" / "epoch-0006.pt"
    latest.write_bytes(latest.read_bytes()[:1000])
    history, other, _ = run(tmp_path, resume=True)
    assert history.steps == whole.steps
    assert history.epochs[-1].seconds != whole.epochs[-1].seconds  # it was done again
    assert same(network, other)


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    network, batches, loss = small()
    train(network, batches, loss, Schedule(epochs=1), folder=tmp_path, settings={"pairs": "a"})
    for more, said in [
        ({"schedule": Schedule(epochs=2, lr=0.5), "settings": {"pairs": "a"}}, "lr was 0.001 and is 0.5"),
        ({"schedule": Schedule(epochs=2), "settings": {"pairs": "b"}}, 'pairs was "a" and is "b"'),
        ({"schedule": Schedule(epochs=2), "settings": {"pairs": "a"}, "loss": Sigmoid()}, "loss was"),
    ]:
        with pytest.raises(LearnError, match=said):
            train(
                **{
                    "network": network,
                    "batches": batches,
                    "loss": loss,
                    "folder": tmp_path,
                    "resume": True,
                    **more,
                }
            )
    with pytest.raises(LearnError, match="holds the checkpoints of another run"):
        train(network, batches, loss, Schedule(epochs=1), folder=tmp_path)


def test_a_checkpoint_each_epoch(tmp_path: Path) -> None:
    network, batches, loss = small()
    train(network, batches, loss, Schedule(epochs=5), folder=tmp_path, keep=None)
    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert files == [f"epoch-{number:04d}.pt" for number in range(1, 6)]


def test_what_is_frozen_is_in_no_checkpoint(tmp_path: Path) -> None:
    network, batches, loss = small()
    frozen, *others = network.parameters()
    frozen.requires_grad_(False)
    before = frozen.clone()
    train(network, batches, loss, Schedule(epochs=1), folder=tmp_path)
    assert torch.equal(frozen, before)
    saved = torch.load(tmp_path / "checkpoints" / "epoch-0001.pt", weights_only=True)["weights"]["network"]
    assert len(saved) == len(others)


# What stops it


def test_pictures_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    given_examples = examples()
    given_examples.images["features"][17, 3] = np.nan
    batches = Batches(given_examples, mlp(), batch_size=10)
    place = next(place for place, batch in enumerate(batches(1)) if 17 in batch.pictures.tolist())
    with pytest.raises(LearnError) as caught:
        train(network_of(mlp()), batches, InfoNCE(), Schedule(epochs=3))
    message = str(caught.value)
    assert f"The loss is nan in epoch 1, batch {place + 1}." in message
    assert "Vectors of pictures are not finite. It holds pictures 17 with texts 17." in message


def test_a_run_that_explodes_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    """The weights are driven to infinity in the third epoch."""
    network, batches, loss = small()

    def spoil(told: Progress) -> None:
        if (told.epoch, told.step) == (3, 2):
            with torch.no_grad():
                next(network.parameters()).fill_(math.inf)

    with pytest.raises(LearnError, match=r"The loss is nan in epoch 3, batch 3\. .* and 2 more with texts"):
        train(network, batches, loss, Schedule(epochs=4), folder=tmp_path, progress=spoil)
    assert (tmp_path / "checkpoints" / "epoch-0002.pt").exists()
    again = network_of(mlp())
    history = train(again, batches, loss, Schedule(epochs=4), folder=tmp_path, resume=True)
    other = network_of(mlp())
    assert history.steps == train(other, batches, loss, Schedule(epochs=4)).steps
    assert same(again, other)


def test_a_gradient_that_is_not_finite_is_found_before_it_spoils_the_weights() -> None:
    """The root of a difference of 0: a finite loss without a slope."""

    class Root(torch.nn.Module):
        def forward(self, output):
            return (output.images - output.images.detach()).square().sum().sqrt()

    network, batches, _ = small()
    before = parameters(network)
    with pytest.raises(LearnError, match=r"The length of the gradient is nan in epoch 1, batch 1\."):
        train(network, batches, Root(), Schedule(epochs=1))
    assert all(map(torch.equal, parameters(network), before))


def test_what_cannot_be_run(tmp_path: Path) -> None:
    network, batches, loss = small()
    fine = Schedule(epochs=1)
    with pytest.raises(LearnError, match="Epoch 1 has no batches"):
        train(network, lambda epoch: [], loss, fine)
    with pytest.raises(LearnError, match="no weights that can learn"):
        train(network_of(Heads(as_it_is("features"), as_it_is("sentence"))), batches, loss, fine)
    with pytest.raises(LearnError, match=r"'R@5' is watched, and the validation gives only R@1, R@10\."):
        train(network, batches, loss, fine, validate=lambda: {"R@1": 0, "R@10": 1}, watch="R@5")
    with pytest.raises(LearnError, match="nothing is validated"):
        train(network, batches, loss, fine, watch="R@1")
    with pytest.raises(LearnError, match="none is watched"):
        train(network, batches, loss, Schedule(patience=2), validate=dict)
    with pytest.raises(LearnError, match="without a folder"):
        train(network, batches, loss, fine, resume=True)
    with pytest.raises(LearnError, match="batches with a length"):
        train(network, lambda epoch: iter(batches(epoch)), loss, Schedule(epochs=1, warmup=0.1))
    assert len(train(network, lambda epoch: iter(batches(epoch)), loss, fine).steps) == 4
    (tmp_path / "file").write_text("")
    with pytest.raises(LearnError, match="cannot be written"):
        train(network, batches, loss, fine, folder=tmp_path / "file")


FULL = """
import resource, sys
from pathlib import Path
from bowerbird.errors import StorageFullError
from bowerbird.learn.loop import Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import Batches, network_of
from tests.learn.runs import examples, mlp
def spoil(told):
    if told.epoch == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
batches = Batches(examples(), mlp(), batch_size=10)
try:
    train(network_of(mlp()), batches, InfoNCE(), Schedule(epochs=4), folder=Path(sys.argv[1]), progress=spoil)
except StorageFullError as error:
    print(error)
"""


def test_no_space_for_a_checkpoint(tmp_path: Path) -> None:
    said = child(FULL, tmp_path)
    last = tmp_path / "checkpoints" / "epoch-0002.pt"
    assert f"The last good checkpoint is {last}. Free some space and resume the run." in said
    assert not (tmp_path / "checkpoints" / "epoch-0003.pt").exists()
    network, batches, loss = small()
    history = train(network, batches, loss, Schedule(epochs=4), folder=tmp_path, resume=True)
    assert history.steps == train(*small(), Schedule(epochs=4)).steps


LOGS = """
import subprocess, sys
from pathlib import Path
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", sys.argv[1]], check=True)
from bowerbird.errors import StorageFullError
from bowerbird.learn.log import Log
from bowerbird.learn.loop import Epoch
log = Log(Path(sys.argv[1]), tensorboard=True)
try:
    for epoch in range(1, 1000):
        for step in range(100):
            log.step(epoch, step, 0.1, 0.1)
        log.epoch([Epoch(epoch, 0.1, {}, 0.1, 0.1, 100 * epoch)])
except StorageFullError as error:
    print(error)
finally:
    log.close()
"""


def test_no_space_for_the_logs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    can = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*can, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    program = [*can, sys.executable, "-c", LOGS, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stdout == f"No space is left for {tmp_path}. Free some space and resume the run.\n"
    assert (done.returncode, done.stderr) == (0, "")


# accelerate, and several processes

SHARED = """
import sys, torch
from pathlib import Path
from accelerate import Accelerator
from bowerbird.learn.loop import Schedule, train
from bowerbird.learn.losses import InfoNCE
from bowerbird.learn.network import network_of
from tests.learn.runs import mlp, regression, rows_of, shares
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
for accumulate in (1, 2):
    network, loss = network_of(mlp()), InfoNCE(0.2, learned=True).module()
    history = train(
        network, lambda epoch: shares(epoch, rank), loss, Schedule(epochs=3, lr=1e-2, accumulate=accumulate),
        accelerator=accelerator, folder=Path(sys.argv[1], str(accumulate)),
        validate=lambda: {"R@1": rank}, watch="R@1",
    )
    weights = [weight.detach() for weight in network.parameters()]
    metrics = [epoch.metrics["R@1"] for epoch in history.epochs]
    found = {"weights": weights, "steps": history.steps, "facts": loss.facts(), "metrics": metrics}
    torch.save(found, f"{sys.argv[1]}/{accumulate}-{rank}.pt")
network, loss = regression()
history = train(network, lambda epoch: rows_of(epoch, rank), loss, Schedule(epochs=3, lr=1e-2), accelerator=accelerator)
weights = [weight.detach() for weight in (*network.parameters(), *loss.parameters())]
torch.save({"weights": weights, "steps": history.steps}, f"{sys.argv[1]}/plain-{rank}.pt")
accelerator.end_training()
"""  # fmt: skip


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_with_the_whole_batch(tmp_path: Path) -> None:
    """Negatives of the other process count, and so do their gradients: real processes that talk over gloo."""
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    ranks = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    for process in [start(SHARED, tmp_path, env=env) for env in ranks]:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    for accumulate in (1, 2):
        one, two = (torch.load(tmp_path / f"{accumulate}-{rank}.pt", weights_only=True) for rank in "01")
        alone, _, _ = whole(3, accumulate)
        assert one["steps"] == two["steps"] == pytest.approx(alone.steps, rel=1e-4)
        assert one["metrics"] == two["metrics"] == [0, 0, 0]  # as the first says
        # So the first epoch is the best, in both.
        _, network, loss = whole(1, accumulate)
        assert one["facts"] == two["facts"] == pytest.approx(loss.facts(), rel=1e-4)
        for mine, theirs, expected in zip(one["weights"], two["weights"], parameters(network), strict=True):
            assert torch.equal(mine, theirs)
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-3)
        assert len(list((tmp_path / str(accumulate) / "checkpoints").iterdir())) == 3
    # And so does what is no pair, with a loss that learns too.
    one, two = (torch.load(tmp_path / f"plain-{rank}.pt", weights_only=True) for rank in "01")
    network, loss = regression()
    alone = train(network, lambda epoch: rows_of(epoch, None), loss, Schedule(epochs=3, lr=1e-2))
    assert one["steps"] == two["steps"] == pytest.approx(alone.steps, rel=1e-4)
    expected = parameters(network) + parameters(loss)
    for mine, theirs, right in zip(one["weights"], two["weights"], expected, strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, right, atol=1e-4, rtol=1e-3)


def whole(epochs: int, accumulate: int) -> tuple:
    """What one process learns."""
    network, loss = network_of(mlp()), InfoNCE(0.2, learned=True).module()
    schedule = Schedule(epochs=epochs, lr=1e-2, accumulate=accumulate)
    return train(network, lambda epoch: shares(epoch, None), loss, schedule), network, loss


@pytest.fixture
def accelerator() -> Iterator[Callable[..., object]]:
    """Makes one; what accelerate keeps for the whole process is forgotten before and after."""
    accelerate = pytest.importorskip("accelerate")
    states = (accelerate.state.AcceleratorState, accelerate.state.GradientState)
    for state in states:
        state._reset_state()
    yield lambda **more: accelerate.Accelerator(cpu=True, **more)
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def test_accelerate_in_one_process_changes_no_bit(tmp_path: Path, accelerator) -> None:
    plain, network, loss = run(None)
    found, other, other_loss = run(tmp_path, accelerator=accelerator())
    assert found.steps == plain.steps
    assert same(network, other)
    assert same(loss, other_loss)
    assert not hasattr(other, "_original_forward")


def test_half_precision_learns_too(accelerator) -> None:
    network, batches, loss = small()
    alone = train(network, batches, loss, Schedule(epochs=3))
    half, batches, loss = small()
    found = train(half, batches, loss, Schedule(epochs=3), accelerator=accelerator(mixed_precision="bf16"))
    assert found.steps != alone.steps
    assert found.steps == pytest.approx(alone.steps, rel=0.05)
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}


# How long it takes


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine count their waiting as computing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_linear_head_on_five_thousand_pairs_takes_seconds() -> None:
    """30 epochs have to take less than 20 s on two cores: a third of them, in seconds of computing on one."""
    given_examples = examples(5000, sizes=(1280, 384))
    rng = np.random.default_rng(0)
    heads = Heads(Head((Branch("features", (linear(1280, 384, rng),)),)), as_it_is("sentence"))
    network = network_of(heads)
    batches = Batches(given_examples, heads, batch_size=256)
    began = time.process_time()
    train(network, batches, InfoNCE(learned=True), Schedule(epochs=10))
    assert time.process_time() - began < 2 * 20 / 3
