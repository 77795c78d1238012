"""`bowerbird export`: from a PyTorch stack to a model directory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bowerbird.cli import app
from bowerbird.cli.given import counts
from bowerbird.cli.screen import result, say, seconds_

if TYPE_CHECKING:
    from bowerbird.origin.export import Exported

AllowPickle: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read weights from a pickle (tensors only), or run a TorchScript file. Only for files that you trust.",
    ),
]
Profile: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Whose arithmetic the picture processor of transformers has: hf4-pil, or hf5-tv (torchvision)."
    ),
]
Pooling: TypeAlias = Annotated[
    str, typer.Option(help="mean or cls: for a text model that comes without a pooling of its own.")
]
Architecture: TypeAlias = Annotated[
    str, typer.Option(help="For a file of weights: the source that says which network they belong to.")
]
Processor: TypeAlias = Annotated[
    str, typer.Option(help="For a TorchScript file: a directory with the configuration of its processor.")
]


@app.command()
def export(
    source: Annotated[
        str,
        typer.Argument(
            help="Hub id, directory, file, or timm:NAME, open_clip:NAME/TAG, torchvision:NAME.",
            show_default=False,
        ),
    ],
    directory: Annotated[
        Path, typer.Argument(help="Where to write; must be new or empty.", show_default=False)
    ],
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators.")] = 18,
    allow_pickle: AllowPickle = False,
    profile: Profile = "hf4-pil",
    pooling: Pooling = "mean",
    architecture: Architecture = "",
    processor: Processor = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Export a model from its PyTorch stack, check it, and write the proof beside it.

    \b
    bowerbird export openai/clip-vit-base-patch32 ./clip
    bowerbird export timm/resnet50.a1_in1k ./resnet50
    bowerbird export open_clip:ViT-B-32/laion2b_s34b_b79k ./laion
    bowerbird export weights.safetensors ./mine --architecture timm:resnet50
    """
    from bowerbird.origin.export import export as run
    from bowerbird.origin.request import Request

    request = Request(
        allow_pickle=allow_pickle,
        profile=profile,
        pooling=pooling,
        architecture=architecture,
        processor=processor,
    )
    exported = run(source, directory, request, opset=opset)
    if as_json:
        result(json.dumps(_plain(exported), indent=1))
    else:
        _show(exported)


def _plain(exported: Exported) -> dict[str, object]:
    return {
        "directory": str(exported.directory),
        "stack": exported.stack,
        "made_with": exported.made_with,
        "seconds": round(exported.seconds, 2),
        "outputs": [asdict(agreement) for agreement in exported.agreements],
        "golden": "" if exported.golden is None else "golden.npz",
        "no_golden": exported.no_golden,
    }


def _show(exported: Exported) -> None:
    for agreement in exported.agreements:
        result(
            f"{agreement.graph}\t{agreement.output}\tlargest error {agreement.max_error:.1e}\t"
            f"least cosine {agreement.cosine:.8f}"
        )
    say(
        f"{exported.directory}: exported from {exported.stack} in {seconds_(exported.seconds)}, and compared with "
        "PyTorch in ONNX Runtime."
    )
    if exported.golden is not None:
        counted = counts(len(exported.golden.pictures), len(exported.golden.texts))
        say(
            f"Reference arrays of {counted} lie in golden.npz. Check them with: bowerbird verify {exported.directory}"
        )
    else:
        say(f"There are no reference arrays: {exported.no_golden}")
