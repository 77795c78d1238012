"""`bowerbird fine-tune`: a model whose own weights learn from the user's pairs or classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bowerbird.cli import app
from bowerbird.cli.export import AllowPickle, Architecture, Pooling, Processor, Profile
from bowerbird.cli.given import JsonOption, count
from bowerbird.cli.records import Address, Cpus, Delimiter, Gpus, IdColumn, On, Root, executor
from bowerbird.cli.screen import Display, result, say, seconds_

if TYPE_CHECKING:
    from bowerbird.learn.finetune.lora import LoRA
    from bowerbird.learn.finetune.tune import Tuned
    from bowerbird.learn.loop import Progress

_STAGES = {
    "reading": "Reading the pairs",
    "embedding": "Embedding everything as the model is",
    "training": "Training",
    "judging": "Judging",
}


@app.command("fine-tune")
def fine_tune(
    pairs: Annotated[
        str,
        typer.Argument(
            help="CSV, Parquet, JSON Lines, a folder, COCO, Flickr30k or Karpathy captions.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="What to tune: ORG/NAME on the hub, a name of `bowerbird models`, a directory of PyTorch weights, or "
            "timm:NAME, open_clip:NAME/TAG, torchvision:NAME.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where the model goes. Default: MODEL-tuned.",
            show_default=False,
        ),
    ] = "",
    text_model: Annotated[
        str, typer.Option(help="Another model for texts, whose space the pictures learn.", show_default=False)
    ] = "",
    image: Annotated[str, typer.Option(metavar="COLUMN", help="Of a table: the pictures.")] = "",
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Of a table: the texts.")] = "",
    labels: Annotated[
        str, typer.Option(metavar="folder|COLUMN", help="Learn classes: the names of folders, or a column.")
    ] = "",
    root: Root = "",
    id_column: IdColumn = "",
    delimiter: Delimiter = "",
    lora: Annotated[bool, typer.Option("--lora", help="Learn small matrices beside the layers.")] = False,
    rank: Annotated[int, typer.Option(min=1, help="Of LoRA.")] = 8,
    alpha: Annotated[float, typer.Option(help="Of LoRA.")] = 16,
    targets: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Layers for LoRA, with commas between. Default: all linear ones."),
    ] = "",
    epochs: Annotated[int, typer.Option(min=1, help="How often each picture is seen.")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="Pairs in a batch.")] = 32,
    lr: Annotated[
        float, typer.Option(help="Learning rate. Default: 1e-5, with LoRA 1e-4.", show_default=False)
    ] = 0,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    freeze: Annotated[str, typer.Option(metavar="text|image", help="A tower that stays as it is.")] = "",
    validation: Annotated[float, typer.Option(help="Share of the pictures to choose the epoch by.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the pictures to judge by.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the split and of all that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch.")] = False,
    format_: Annotated[str, typer.Option("--format", help="onnx or torchscript.")] = "onnx",
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Write the PyTorch weights too, to be tuned further.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard.")] = False,
    on: On = "local",
    address: Address = "",
    workers: Annotated[int, typer.Option(min=0, help="On Ray: how many learn together.")] = 0,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    allow_pickle: AllowPickle = False,
    profile: Profile = "hf4-pil",
    pooling: Pooling = "mean",
    architecture: Architecture = "",
    processor: Processor = "",
    as_json: JsonOption = False,
) -> None:
    """Tune a model on your own pairs, whole or by LoRA, and write it as a model directory.

    \b
    bowerbird fine-tune pairs.csv --model clip-vit-base-patch32 --lora --epochs 3
    bowerbird fine-tune photos/ --labels folder --model timm/resnet50.a1_in1k -o cats-and-dogs/
    bowerbird fine-tune pairs.csv --model timm/resnet50.a1_in1k --text-model all-minilm-l6-v2
    bowerbird fine-tune pairs.csv --model org/clip --resume -o my-model/
    bowerbird fine-tune pairs.csv --model org/clip --on ray --workers 2
    """
    from bowerbird.errors import BowerbirdError
    from bowerbird.flow.cluster import Ray
    from bowerbird.learn.finetune.tune import fine_tune as run
    from bowerbird.origin.request import Request

    target = _target(output, model)
    folder = target.with_name(f"{target.name}.training")
    place = executor(on, address, workers, cpus, gpus)
    if workers and not isinstance(place, Ray):
        raise BowerbirdError("--workers is an option of Ray.", hint="Add --on ray.")
    with Display("Training") as display:
        tuned = run(
            pairs,
            model=model,
            text_model=text_model,
            image=image,
            text=text,
            labels=labels or None,
            root=root,
            id=id_column,
            delimiter=delimiter or None,
            validation=validation,
            test=test,
            lora=_lora(lora, rank, alpha, targets),
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            precision=precision,
            accumulate=accumulate,
            freeze=freeze,
            request=Request(
                allow_pickle=allow_pickle,
                profile=profile,
                pooling=pooling,
                architecture=architecture,
                processor=processor,
            ),
            seed=seed,
            folder=folder,
            resume=resume,
            tensorboard=tensorboard,
            on=place if isinstance(place, Ray) else None,
            progress=_Told(display),
        )
    if not tuned.first:
        return
    say("Exporting, and comparing with PyTorch")
    tuned.save(target, format=format_, keep_weights=keep_weights)
    if not tensorboard:
        shutil.rmtree(folder, ignore_errors=True)
    _show(tuned, target, as_json=as_json)


def _target(output: str, model: str) -> Path:
    """Where the model goes; refused before anything is trained for it.

    Raises:
        BowerbirdError: something is there.
    """
    from bowerbird.errors import BowerbirdError

    name = model.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    target = Path(output or f"{name}-tuned").expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BowerbirdError(
            f"{target} exists and is not empty.", hint="Give a new directory; nothing is ever overwritten."
        )
    return target.absolute()


def _lora(wanted: bool, rank: int, alpha: float, targets: str) -> LoRA | None:
    from bowerbird.errors import BowerbirdError
    from bowerbird.learn.finetune.lora import LoRA

    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    if not wanted:
        if names or rank != 8 or alpha != 16:
            raise BowerbirdError("--rank, --alpha and --targets are options of LoRA.", hint="Add --lora.")
        return None
    return LoRA(rank=rank, alpha=alpha, targets=names)


class _Told:
    """What is being done, on stderr: a line for each stage and epoch, and a bar of all steps."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._steps = self._epoch = 0

    def __call__(self, stage: str, told: Progress | None) -> None:
        if told is None:
            say(_STAGES.get(stage, stage))
            return
        if told.step == told.steps and told.metrics and told.epoch != self._epoch:
            self._epoch = told.epoch
            say(str(told))
        done = (told.epoch - 1) * (told.steps or 0) + told.step
        if not self._steps and told.steps:
            self._display.start(told.epochs * told.steps)
        if done > self._steps:
            self._display.advance(done - self._steps)
            self._steps = done


def _show(tuned: Tuned, target: Path, *, as_json: bool) -> None:
    account = tuned.account
    if as_json:
        facts: dict[str, Any] = {
            "directory": str(target),
            "recipe": account.recipe,
            "losses": tuned.losses,
            "before": tuned.before,
            "after": tuned.recall,
            "problems": list(account.problems),
            "dropped": [{"name": one.name, "reason": one.reason} for one in account.dropped],
            "seconds": dict(account.seconds),
        }
        result(json.dumps(facts, indent=1))
        return
    for direction, measures in tuned.recall.items():
        for measure, figure in measures.items():
            before = tuned.before.get(direction, {}).get(measure)
            said = "" if before is None else f"{before['mean']:.3f}"
            result(f"{direction}\t{measure}\t{said}\t{figure['mean']:.3f}")
    from bowerbird.learn.pairs import counted

    for problem in (*account.problems, *filter(None, [counted(account.dropped)])):
        say(f"- {problem}")
    trained = count(account.counts["train"], "picture")
    say(f"{target}: tuned on {trained} in {seconds_(account.seconds['training'])}.")
    say(f"See it with: bowerbird report {target}")
