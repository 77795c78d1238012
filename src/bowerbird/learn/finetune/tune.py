"""`bowerbird.fine_tune`: pairs or classes in, a tuned model out. Everything on the way is a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from bowerbird.learn.calibration import measured
from bowerbird.learn.finetune.backbone import keep_numbers
from bowerbird.learn.finetune.classify import (
    HeldOutClasses,
    Layer,
    layer_of,
)
from bowerbird.learn.finetune.lora import LoRA
from bowerbird.learn.finetune.start import Start, begin
from bowerbird.learn.finetune.training import (
    CLIP,
    Job,
    Ready,
    check_precision,
    learn,
    unit,
    vectors,
)
from bowerbird.learn.fit import versions
from bowerbird.learn.loop import History, Progress
from bowerbird.learn.losses import Loss
from bowerbird.learn.pairs import decodable, read_examples
from bowerbird.learn.run import Account, HeldOut, Told
from bowerbird.learn.schedule import Schedule
from bowerbird.models.card import Calibration
from bowerbird.origin.original import Original
from bowerbird.origin.packages import TRAIN, need
from bowerbird.origin.request import Request

if TYPE_CHECKING:
    from bowerbird.flow.cluster import Ray
    from bowerbird.learn.sources import PairSource
    from bowerbird.origin.export import Exported

LR, LR_LORA = 1e-5, 1e-4
"""The learning rate of weights that have learned much already, and of LoRA, which begins at nothing."""

WEIGHT_DECAY = 0.01
WARMUP = 0.1

Say = Callable[[str, Progress | None], None]


@dataclass(frozen=True, eq=False)
class Tuned:
    """A model that was tuned: how that went, and how good it is.

    Attributes:
        original: the model in its own stack, with the new weights.
        held_out: pictures that took no part, before and after.
        account: how it went.
        history: of the training.
        layer: the scores of the classes, where classes were learned.
        classes: their names.
        scores: how many classes the model's own final layer told apart before; 0: it had none.
        calibration: what new indexes of the model begin with; None for one tower.
        folder: of checkpoints and metrics; None: they were not kept.
        first: whether this is the first of several processes: the one that writes.
    """

    original: Original
    held_out: HeldOut
    account: Account
    history: History
    layer: Layer | None
    classes: tuple[str, ...]
    scores: int
    calibration: Calibration | None
    folder: Path | None = None
    first: bool = True

    @property
    def losses(self) -> list[float]:
        """The mean loss of each epoch."""
        return [epoch.loss for epoch in self.history.epochs]

    @property
    def before(self) -> Told:
        """Figures of the model as it was, as `recall`."""
        return self.held_out.before

    @property
    def recall(self) -> Told:
        """By direction, such as `text->image`, and measure, such as `R@10`: `mean`, and the ends of its 95 % interval.

        Of classes: `class->image`, or `image->image` without texts, with P@10 and AP; and `image->class`, `accuracy`.
        """
        return self.held_out.after

    def save(self, directory: str | Path, *, format: str = "onnx", keep_weights: bool = False) -> Exported:
        """Write it as a model directory: a model like any other, with what a report needs beside it.

        Args:
            directory: to be made; it must not hold anything yet.
            format: `onnx`; or `torchscript`: `image.pt` and `text.pt` instead of graphs, for other programs.
            keep_weights: write the weights for PyTorch too, as the stack publishes them, to be tuned further.

        Raises:
            ModelFormatError: a graph does not compute what PyTorch does; nothing is left behind.
            BowerbirdError: `directory` is in use or cannot be written, or there is no such format.
        """
        from bowerbird.learn.finetune.saving import save

        return save(self, directory, format=format, keep_weights=keep_weights)


def fine_tune(  # noqa: PLR0913  what pairs, which model, how it learns: nearly all of it optional
    pairs: PairSource,
    *,
    model: str,
    text_model: str = "",
    image: str = "",
    text: str = "",
    labels: str | None = None,
    root: str | Path = "",
    id: str = "",
    delimiter: str | None = None,
    validation: float | PairSource = 0.1,
    test: float | PairSource = 0.1,
    lora: LoRA | None = None,
    epochs: int = 3,
    batch_size: int = 32,
    lr: float = 0.0,
    precision: str = "fp32",
    accumulate: int = 1,
    freeze: str = "",
    loss: Loss | None = None,
    request: Request | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    on: Ray | None = None,
    progress: Say | None = None,
) -> Tuned:
    """Tune the towers of a model on pairs of the user's own, or on classes.

    Args:
        pairs: see `bowerbird.learn.pairs.read_examples`, which also takes `image`, `text`, `labels`, `root`, `id` and
            `delimiter`.
        model: a source in PyTorch: hub id, directory, file, or `timm:`, `open_clip:`, `torchvision:` and a name.
        text_model: another one for texts; then the tower for pictures of `model` learns to speak its space.
        image: column of the pictures.
        text: column of the texts.
        labels: `folder`, or the column with the class: a layer on the pictures' embedding learns to tell them apart.
        root: folder of the pictures.
        id: column of the ids.
        delimiter: of a CSV file.
        validation: share of the pictures to choose the best epoch by, or pairs of the user's own for it.
        test: share to judge by, once, before and after; likewise.
        lora: learn small matrices beside the layers instead of the weights.
        epochs: how often each picture is seen.
        batch_size: pairs in a batch, of all processes together.
        lr: the learning rate; 0: `LR`, or `LR_LORA` with LoRA.
        precision: `fp32`, `bf16` or `fp16`, in which networks run while they learn.
        accumulate: batches whose gradients make one step.
        freeze: `text` or `image`: a tower that stays as it is.
        loss: of pairs; None: that which the model was trained with.
        request: how the model is opened.
        seed: of the split and of everything that is drawn.
        folder: for checkpoints and metrics; None: they are not kept.
        resume: go on from the last checkpoint there.
        tensorboard: write events for it, too.
        on: a Ray cluster whose workers learn together.
        progress: is told what is being done, and how far it is.

    Raises:
        LearnError: there is nothing to learn from, or the model cannot learn from it.
        BowerbirdError: the pairs cannot be read.
        ModelError: the model cannot be opened.
        MissingExtraError: a package is not installed.
    """
    began = perf_counter()
    if on is None:
        check_precision(precision)
    need("torch", TRAIN)
    say = progress or _nobody
    say("reading", None)
    reading = read_examples(
        pairs,
        image=image,
        text=text,
        labels=labels,
        root=root,
        id=id,
        delimiter=delimiter,
        validation=None if isinstance(validation, float | int) else validation,
        test=None if isinstance(test, float | int) else test,
    )
    examples, undecodable = decodable(reading.examples)
    job = Job(
        source=model,
        text_source=text_model,
        request=request or Request(),
        lora=lora,
        freeze=freeze,
        loss=loss,
        schedule=Schedule(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr or (LR_LORA if lora else LR),
            weight_decay=WEIGHT_DECAY,
            optimizer="adamw",
            warmup=WARMUP,
            decay="cosine",
            accumulate=accumulate,
            clip=CLIP,
            seed=seed,
        ),
        precision=precision,
        train=examples,
        validation=examples,
        choose=False,
    )
    say("embedding", None)
    start = begin(job, examples, validation, test)
    embedding = perf_counter() - began
    say("training", None)
    at = perf_counter()
    where = Path(folder).expanduser() if folder else None
    history = _learned(start, where, resume, tensorboard, on, lambda told: say("training", told))
    training = perf_counter() - at
    say("judging", None)
    tuned = _finished(start, history, where)
    account = replace(
        tuned.account,
        source=reading.source,
        dropped=[*reading.dropped, *undecodable],
        problems=[*reading.problems, *start.problems],
        settings={**tuned.account.settings, "labels": labels or ""},
        seconds={"embedding": embedding, "training": training, "total": perf_counter() - began},
    )
    return replace(tuned, account=account)


def _learned(
    start: Start,
    folder: Path | None,
    resume: bool,
    tensorboard: bool,
    on: Ray | None,
    progress: Callable[[Progress], None],
) -> History:
    if on is None:
        return learn(
            start.job, start.made, folder=folder, resume=resume, progress=progress, tensorboard=tensorboard
        ).history
    from bowerbird.learn.finetune.cluster import learn_on

    learned = learn_on(on, start.job, folder=folder, resume=resume)
    start.made.tuning.network.load_state_dict(learned.weights["network"], strict=False)
    start.made.loss.load_state_dict(learned.weights["loss"], strict=False)
    return learned.history


def _finished(start: Start, history: History, folder: Path | None) -> Tuned:
    job, made = start.job, start.made
    made.tuning.merge()
    made.tuning.network.eval()
    if made.tuning.original.text:
        keep_numbers(made.tuning.original, made.loss)
    original = _with_sigmoid(made)
    raw, words = vectors(made, start.held, raw=True)
    layer = layer_of(made.loss) if job.layer else None
    before = None if start.images is None else unit(start.images)
    shown = (start.part, start.held, before, start.texts, unit(raw), words)
    held: HeldOut = HeldOut(*shown)
    if layer and job.layer and start.images is not None and start.held.labels is not None:
        right = [
            one.scores(rows).argmax(1) == start.held.labels
            for one, rows in ((job.layer, start.images), (layer, raw))
        ]
        held = HeldOutClasses(*shown, right_before=right[0], right=right[1])
    images, texts = vectors(made, job.train)
    calibration = None
    if texts is not None and words is not None:
        calibration = measured(images, texts, unit(raw), words, start.held.links, job.schedule.seed)
    torch = need("torch", TRAIN)
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    return Tuned(
        original=original,
        held_out=held,
        account=_account(start, history),
        history=history,
        layer=layer,
        classes=job.train.classes,
        scores=start.scores,
        calibration=calibration,
        folder=folder,
        first=not group or torch.distributed.get_rank() == 0,
    )


def _with_sigmoid(made: Ready) -> Original:
    """The model, which says the scale and bias of its sigmoid as they are now."""
    original = made.tuning.original
    learned = made.loss.scale_and_bias()
    notes = {key: value for key, value in original.notes.items() if key != "sigmoid"}
    return replace(original, notes={**notes, **({"sigmoid": list(learned)} if learned else {})})


def _account(start: Start, history: History) -> Account:
    job, tuning = start.job, start.made.tuning
    schedule = job.schedule
    how = f"lora={job.lora!r}" if job.lora else "all weights"
    return Account(
        recipe=f"fine_tune({how}, epochs={schedule.epochs}, batch_size={schedule.batch_size}, lr={schedule.lr:g})",
        source="",
        models={"image": job.source}
        | ({"text": job.text_source or job.source} if tuning.original.text else {}),
        counts={
            "pictures": len(start.parts.train) + len(start.parts.validation) + len(start.parts.test),
            "texts": len(job.train.texts),
            "pairs": len(job.train.links),
            "train": len(start.parts.train),
            "validation": len(start.parts.validation),
            "test": len(start.parts.test),
        },
        copies=start.parts.copies,
        history=history,
        settings={
            **asdict(schedule),
            "precision": job.precision,
            "freeze": job.freeze,
            "lora": repr(job.lora) if job.lora else "",
            "weights that learn": tuning.learning,
            "weights": tuning.numbers,
        },
        versions=versions(),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _nobody(_: str, __: Progress | None) -> None:
    pass
