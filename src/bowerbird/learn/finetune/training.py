"""One process that learns: what it is given, the model made ready, and the loop carried out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import LearnError
from bowerbird.learn.examples import Examples, Vectors
from bowerbird.learn.finetune.backbone import Tuning, own_loss, tuning
from bowerbird.learn.finetune.classify import Layer, class_loss, layer_of
from bowerbird.learn.finetune.feeding import Batches, Feeder
from bowerbird.learn.finetune.lora import LoRA
from bowerbird.learn.finetune.sources import open_towers
from bowerbird.learn.loop import History, Progress, train
from bowerbird.learn.losses import Loss
from bowerbird.learn.recall import Figures, aim, figures
from bowerbird.learn.schedule import Schedule
from bowerbird.origin.packages import TRAIN, has, need
from bowerbird.origin.request import Request

PRECISIONS = ("fp32", "bf16", "fp16")

ACCURACY = "accuracy"

CLIP = 1.0
"""Greatest length of a gradient, as is usual for backbones."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that a process needs to learn. It can be pickled; the pictures are read where it runs.

    Attributes:
        source: of the model.
        text_source: of another model for texts; empty: there is none.
        request: how both are opened.
        lora: what learns beside the layers; None: the weights themselves.
        freeze: a tower that stays as it is, or nothing.
        loss: of pairs; None: the model's own.
        schedule: how long and how fast.
        precision: of `PRECISIONS`.
        train: what is learned from.
        validation: what is looked at after each epoch.
        choose: whether the best epoch by that is kept, not the last.
        layer: where that of the classes begins; None: there are no classes.
        bridge: from pictures to texts, where these are of different models; see `sources`.
    """

    source: str
    text_source: str
    request: Request
    lora: LoRA | None
    freeze: str
    loss: Loss | None
    schedule: Schedule
    precision: str
    train: Examples
    validation: Examples
    choose: bool
    layer: Layer | None = None
    bridge: Vectors | None = None


@dataclass(frozen=True, eq=False)
class Ready:
    """A model that is about to learn.

    Attributes:
        tuning: the model.
        loss: a `torch.nn.Module`.
        feeder: prepares pictures and texts for it.
    """

    tuning: Tuning
    loss: Any
    feeder: Feeder


@dataclass(frozen=True, eq=False)
class Learned:
    """What has come of it.

    Attributes:
        history: how it went.
        weights: all that learned, by name, `network` and `loss`: tensors on the CPU. Empty where they are in place.
    """

    history: History
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def ready(job: Job) -> Ready:
    """Open the model and make it ready; the same in every process.

    Raises:
        LearnError: nothing of it can learn.
        ModelError: it cannot be opened.
        MissingExtraError: a package is missing.
    """
    original = open_towers(job.source, job.text_source, job.request, job.bridge)
    tuned = tuning(original, lora=job.lora, freeze=job.freeze, seed=job.schedule.seed)
    contrast = (job.loss or own_loss(original)).module() if original.text else None
    loss = contrast if job.layer is None else class_loss(job.layer, contrast)
    if loss is None:
        raise LearnError(
            f"{original.name} reads no texts, so it cannot learn from pictures and texts.",
            hint="Give a model with two towers, a text_model beside it, or classes (labels).",
        )
    return Ready(tuned, loss, Feeder(original))


def learn(
    job: Job,
    made: Ready,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    tensorboard: bool = False,
) -> Learned:
    """Let it learn, in this process as one of all that take part; then it is on the CPU again.

    Raises:
        LearnError: as of `bowerbird.learn.loop.train`.
    """
    accelerator = accelerator_for(job.precision)
    network = made.tuning.network
    rank, count = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
    batches = Batches(
        job.train,
        made.feeder,
        batch_size=job.schedule.batch_size,
        seed=job.schedule.seed,
        rank=rank,
        count=count,
        texts=made.tuning.original.text is not None,
    )
    watch = (ACCURACY if job.layer else aim(job.validation)) if job.choose else ""
    history = train(
        network,
        batches,
        made.loss,
        job.schedule,
        validate=(lambda: figures_of(made, job.validation)) if len(job.validation) > 1 else None,
        watch=watch,
        folder=folder,
        resume=resume,
        progress=progress,
        accelerator=accelerator,
        tensorboard=tensorboard,
        settings=_told(job),
    )
    network.to("cpu")
    made.loss.to("cpu")
    return Learned(history)


def _told(job: Job) -> dict[str, Any]:
    """What a run that is resumed has to share with the one that began."""
    pairs = hashlib.sha256(repr([picture.content for picture in job.train.pictures]).encode())
    pairs.update(repr(job.train.texts).encode())
    pairs.update(np.ascontiguousarray(job.train.links).tobytes())
    return {
        "model": f"{job.source} {job.text_source}".strip(),
        "lora": repr(job.lora),
        "freeze": job.freeze,
        "precision": job.precision,
        "pairs": pairs.hexdigest()[:16],
    }


def check_precision(precision: str) -> None:
    """Say what is missing before anything is read.

    Raises:
        LearnError: there is no such precision, or not on this machine.
        MissingExtraError: PyTorch or accelerate is not installed.
    """
    need("torch", TRAIN)
    if precision not in PRECISIONS:
        raise LearnError(f"There is no precision {precision!r}.", hint=f"Use {', '.join(PRECISIONS)}.")
    if precision == "fp16" and not _device():
        raise LearnError(
            "fp16 needs a graphics processor, and this machine has none that PyTorch can use.",
            hint="Use bf16 or fp32.",
        )
    if precision != "fp32":
        need("accelerate", TRAIN)


def _device() -> bool:
    """Whether there is another device than the CPU."""
    torch = need("torch", TRAIN)
    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())


def accelerator_for(precision: str) -> Any:
    """accelerate's, where there is something for it to do: another device, precision, or several processes; else None.

    Raises:
        LearnError: the processes that were started do not find each other.
        MissingExtraError: accelerate is not installed.
    """
    torch = need("torch", TRAIN)
    check_precision(precision)
    groups = torch.distributed.is_available()
    made = groups and torch.distributed.is_initialized()
    several = made or (groups and torch.distributed.is_torchelastic_launched())
    if precision == "fp32" and not several and not (_device() and has("accelerate")):
        return None
    accelerate = need("accelerate", TRAIN)
    # It remembers the precision of an earlier run in this process, and would insist on it.
    need("accelerate.state", TRAIN).AcceleratorState._reset_state(reset_partial_state=not several)
    # Without being told, it overlooks a group of processes that have no device but the CPU.
    accelerator = accelerate.Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, cpu=not _device()
    )
    wanted = torch.distributed.get_world_size() if groups and torch.distributed.is_initialized() else 1
    if accelerator.num_processes != wanted:
        raise LearnError(
            f"{wanted} processes were started to learn together, and accelerate finds {accelerator.num_processes}.",
            hint="Start them with `accelerate launch`, with torchrun or on Ray.",
        )
    return accelerator


def vectors(made: Ready, examples: Examples, *, raw: bool = False) -> tuple[Vectors, Vectors | None]:
    """The vectors of examples as the model is now.

    Args:
        made: the model, in evaluation mode.
        examples: pictures and texts.
        raw: of pictures as the tower gives them, not scaled to length 1.

    Returns:
        float32 (n, dim) of the pictures, and (t, dim) of the texts; None without a tower for them.
    """
    torch = need("torch", TRAIN)
    network = made.tuning.network
    network.eval()
    device = network.device

    def rows(embed: Callable[[Any], Any], feeds: Any) -> Vectors:
        parts = [
            embed({name: value.to(device) for name, value in one.items()}).float().cpu().numpy()
            for one in feeds
        ]
        found: Vectors = np.concatenate(parts)
        return found

    with torch.no_grad():
        images = rows(network.pictures, made.feeder.pictures(examples.pictures))
        texts = None
        if made.tuning.original.text:
            texts = unit(rows(network.texts, made.feeder.texts(examples.texts)))
    return images if raw else unit(images), texts


def unit(rows: Vectors) -> Vectors:
    """Rows scaled to length 1."""
    scaled: Vectors = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(
        np.float32
    )
    return scaled


def figures_of(made: Ready, examples: Examples) -> Figures:
    """How good it is on some examples: recall, or of classes the precision and the accuracy of the layer."""
    images, texts = vectors(made, examples, raw=True)
    found = figures(examples, unit(images), texts)
    if examples.labels is not None and hasattr(made.loss, "layer"):
        right = layer_of(made.loss).scores(images).argmax(1) == examples.labels
        return {ACCURACY: float(right.mean()), **found}
    return found
