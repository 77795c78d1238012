"""Runs that are killed, resumed, and shared among processes; and the verb."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import bowerbird as bb
from bowerbird.errors import LearnError
from bowerbird.learn.log import read_metrics
from bowerbird.origin.packages import has

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
pytest.importorskip("transformers", reason="the extra `train` is not installed")
pytest.importorskip("onnxscript", reason="the extra `train` is not installed")

slow = pytest.mark.slow


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads PyTorch has in this process; afterwards it has as many as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


OPTIONS = {"epochs": 4, "lr": 1e-3, "batch_size": 32, "test": 0.2}


@slow
@pytest.mark.skipif(not has("peft"), reason="peft is not installed")
def test_killed_and_resumed_to_the_same_losses(source, captioned, threads, tmp_path):
    """A real process, a real SIGKILL in the middle of an epoch, and the losses of a run that was left alone.

    Sums are made in another order by another number of threads, and what else runs in a process may change it: a run
    goes on with as many as it began with.
    """
    lora = bb.LoRA(rank=4)
    threads(1)
    whole = bb.fine_tune(captioned, model=source("clip-quickgelu"), lora=lora, **OPTIONS)

    folder = tmp_path / "run"
    code = (
        "import sys, time; import bowerbird as bb; import torch; torch.set_num_threads(1)\n"
        "def slowly(stage, told):\n"
        "    if told and told.epoch == 3:\n"
        "        print('here', flush=True); time.sleep(60)\n"
        "lora = bb.LoRA(rank=4)\n"
        f"bb.fine_tune(sys.argv[1], model=sys.argv[2], folder=sys.argv[3], lora=lora, progress=slowly, **{OPTIONS})\n"
    )
    words = [sys.executable, "-c", code, str(captioned), source("clip-quickgelu"), str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["epoch-0001.pt", "epoch-0002.pt"]
    state = torch.load(folder / "checkpoints" / kept[-1], weights_only=True)["weights"]["network"]
    assert all("lora_" in name or name.endswith("position_ids") for name in state), "only what learns is kept"

    threads(2)
    resumed = bb.fine_tune(
        captioned, model=source("clip-quickgelu"), lora=lora, folder=folder, resume=True, **OPTIONS
    )
    assert torch.get_num_threads() == 2, "the caller's number is not touched"
    assert resumed.history.steps == whole.history.steps
    # What was held out is embedded afterwards, by the caller's number of threads: the same weights by the same number.
    threads(1)
    done = bb.fine_tune(
        captioned, model=source("clip-quickgelu"), lora=lora, folder=folder, resume=True, **OPTIONS
    )
    np.testing.assert_array_equal(done.held_out.images, whole.held_out.images)
    assert [row["loss"] for row in read_metrics(folder)] == whole.losses

    with pytest.raises(LearnError, match="other settings: batch_size was 32 and is 16"):
        options = {**OPTIONS, "batch_size": 16}
        bb.fine_tune(
            captioned, model=source("clip-quickgelu"), lora=lora, folder=folder, resume=True, **options
        )


@slow
@pytest.mark.skipif(not has("ray") or not has("accelerate"), reason="ray or accelerate is not installed")
def test_two_workers_on_ray_learn_what_one_process_does(source, captioned, tmp_path):
    """Each embeds half of every batch; negatives are gathered, so the losses are those of the whole batch."""
    options = {**OPTIONS, "epochs": 1}
    one = bb.fine_tune(captioned, model=source("clip-quickgelu"), **options)
    ray = bb.Ray("local", workers=2)
    try:
        folder = tmp_path / "run"
        two = bb.fine_tune(captioned, model=source("clip-quickgelu"), on=ray, folder=folder, **options)
        found = torch.load(next((folder / "checkpoints").glob("*.pt")), weights_only=True)
        assert json.loads(found["settings"])["processes"] == 2
        assert two.history.steps == pytest.approx(one.history.steps, rel=1e-3)
        assert two.history.steps[0] == pytest.approx(one.history.steps[0], rel=1e-6)
        assert (two.held_out.images * one.held_out.images).sum(1).min() > 0.999
        with pytest.raises(LearnError, match="holds the checkpoints of another run"):
            bb.fine_tune(captioned, model=source("clip-quickgelu"), on=ray, folder=folder, **options)
    finally:
        ray.close()


@slow
def test_the_verb(source, classed, run):
    """A model from the command line: figures on stdout, words on stderr, a report beside it."""
    words = ["fine-tune", classed, "--labels", "folder", "--model", source("resnet"), "-o", "mine"]
    done = run(*words, "--epochs", "6", "--lr", "3e-3", "--batch-size", "16", "--test", "0.25")
    rows = {tuple(line.split("\t")[:2]): line.split("\t")[2:] for line in done.out.splitlines()}
    before, after = map(float, rows["image->class", "accuracy"])
    assert after > before
    assert "bowerbird report" in done.err
    names = {path.name for path in (run.cwd / "mine").iterdir()}
    assert {
        "fit.json",
        "fit.npz",
        "golden.npz",
        "metrics.csv",
        "steps.csv",
        "README.md",
        "config.json",
    } <= names
    assert not (run.cwd / "mine.training").exists()
    run("verify", "mine")
    run("report", "mine", "-o", "report.html")
    assert "holds a model that was fitted before" in run(*words, code=2).err
    assert "Add --lora" in run(*words[:-1], "other", "--rank", "4", code=2).err
    assert "Add --on ray" in run(*words[:-1], "other", "--workers", "2", code=2).err
    assert not (run.cwd / "other").exists()


def test_a_model_that_is_nowhere(run, captioned):
    error = run("fine-tune", captioned, "--model", "no-such-model", "-o", "out", code=2).err
    assert "no file or directory 'no-such-model'" in error
    assert not (run.cwd / "out").exists()
