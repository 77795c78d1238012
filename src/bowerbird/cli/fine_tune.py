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
from bowerbird.cli.learning import (
    Format,
    Labels,
    Pairs,
    Resume,
    Seed,
    TensorBoard,
    Told,
    above_zero,
    check_format,
    vacant,
)
from bowerbird.cli.records import Address, Cpus, Delimiter, Gpus, IdColumn, On, Root, executor
from bowerbird.cli.screen import result, say, seconds_

if TYPE_CHECKING:
    from bowerbird.learn.finetune.lora import LoRA
    from bowerbird.learn.finetune.tune import Tuned


@app.command("fine-tune")
def fine_tune(
    pairs: Pairs,
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
    labels: Labels = "",
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
        float | None,
        typer.Option(
            help="Learning rate. Default: 1e-5, with LoRA 1e-4.", show_default=False, callback=above_zero
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    freeze: Annotated[str, typer.Option(metavar="text|image", help="A tower that stays as it is.")] = "",
    validation: Annotated[float, typer.Option(help="Share of the pictures to choose the epoch by.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the pictures to judge by.")] = 0.1,
    seed: Seed = 0,
    resume: Resume = False,
    format_: Format = "onnx",
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Write the PyTorch weights too, to be tuned further.")
    ] = False,
    tensorboard: TensorBoard = False,
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
    check_format(format_, tensorboard=tensorboard)
    folder = target.with_name(f"{target.name}.training")
    place = executor(on, address, workers, cpus, gpus)
    if workers and not isinstance(place, Ray):
        raise BowerbirdError("--workers is an option of Ray.", hint="Add --on ray.")
    with Told(verbose=True) as told:
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
            lr=lr or 0.0,
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
            progress=told,
        )
    if not tuned.first:
        return
    say("Exporting, and comparing with PyTorch")
    tuned.save(target, format=format_, keep_weights=keep_weights)
    if not tensorboard:
        shutil.rmtree(folder, ignore_errors=True)
    _show(tuned, target, as_json=as_json)


def _target(output: str, model: str) -> Path:
    """Where the model goes.

    Raises:
        BowerbirdError: something is there.
    """
    name = model.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return vacant(Path(output or f"{name}-tuned").expanduser()).absolute()


def _lora(wanted: bool, rank: int, alpha: float, targets: str) -> LoRA | None:
    from bowerbird.errors import BowerbirdError
    from bowerbird.learn.finetune.lora import LoRA

    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    if not wanted:
        if names or rank != 8 or alpha != 16:
            raise BowerbirdError("--rank, --alpha and --targets are options of LoRA.", hint="Add --lora.")
        return None
    return LoRA(rank=rank, alpha=alpha, targets=names)


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
