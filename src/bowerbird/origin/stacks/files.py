"""Single files: weights without a network, and TorchScript, a network without conditions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from bowerbird.errors import ModelFormatError
from bowerbird.origin.original import Feeds, Original, Tower
from bowerbird.origin.packages import need, quiet, versions
from bowerbird.origin.request import Request
from bowerbird.origin.stacks.timm import transform_feeds
from bowerbird.origin.stacks.transformers import open_processor, picture_feeds
from bowerbird.origin.weights import refuse_pickle, refuse_script


def open_weights(path: Path, request: Request) -> Original:
    """Open a file of weights as the network that `request.architecture` names.

    Raises:
        ModelFormatError: no architecture was named, the weights do not fit it, or they are a pickle and that is not
            allowed.
    """
    from bowerbird.origin.source import open_source

    if path.suffix != ".safetensors":
        refuse_pickle(str(path), request.allow_pickle)
    if not request.architecture:
        raise ModelFormatError(
            f"{path} holds weights, which do not say what network they belong to.",
            hint="Name it: --architecture timm:resnet50, torchvision:resnet50, open_clip:ViT-B-32, or a directory with "
            "its configuration.",
        )
    return open_source(request.architecture, replace(request, architecture="", weights=path))


def open_script(path: Path, request: Request) -> Original:
    """Open a TorchScript file: a network that takes pictures (n, 3, H, W) and gives vectors (n, d).

    Raises:
        ModelFormatError: it is not allowed, cannot be loaded, has no processor, or gives something else than vectors.
    """
    refuse_script(path, request.allow_pickle)
    if not request.processor:
        raise ModelFormatError(
            f"{path} does not say how its pictures are prepared.",
            hint="Give --processor with a directory that holds a preprocessor_config.json, or timm's config.json.",
        )
    torch = need("torch")
    try:
        with quiet():
            module = torch.jit.load(str(path), map_location="cpu").eval().float()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFormatError(f"{path} cannot be loaded as TorchScript: {reason[:300]}") from error
    prepare, profile, write = _processor(Path(request.processor).expanduser(), request)
    # The module's own vector, whatever it is: a TorchScript file does not tell a classifier from an embedder.
    output = "image_embeds"
    tower = Tower("onnx/model.onnx", ("pixel_values",), (output,), output, module, prepare)
    _try(tower, path)
    made_with = versions("torch", "transformers" if profile.startswith("hf") else "timm", "pillow")
    return Original(
        request.name,
        "torchscript",
        profile,
        made_with,
        write,
        image=tower,
        save_weights=lambda out: module.save(str(out / "model.pt")),
    )


def _try(tower: Tower, path: Path) -> None:
    feeds = tower.prepare(Image.new("RGB", (64, 48)), "")
    torch = need("torch")
    try:
        with torch.inference_mode():
            given = tower.module(torch.from_numpy(feeds["pixel_values"]))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ModelFormatError(
            f"{path} does not take pictures of shape {feeds['pixel_values'].shape}: {reason[:300]}",
            hint="Check that --processor belongs to it.",
        ) from error
    if not isinstance(given, torch.Tensor) or given.ndim != 2:
        shape = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise ModelFormatError(
            f"{path} gives {shape} for one picture, not one vector.",
            hint="Script a module whose forward returns a tensor (n, d).",
        )


def _processor(
    directory: Path, request: Request
) -> tuple[Callable[[Any, str], Feeds], str, Callable[[Path], None]]:
    """How pictures are prepared, whose arithmetic it is, and what writes it down."""
    if (directory / "preprocessor_config.json").is_file():
        processor, profile = open_processor(directory, request)
        return picture_feeds(processor), profile, processor.save_pretrained
    path = directory / "config.json"
    if not path.is_file():
        raise ModelFormatError(
            f"{directory} holds neither preprocessor_config.json nor timm's config.json.",
            hint="Give --processor a directory with one of them.",
        )
    data = need("timm.data")
    need("torchvision")
    try:
        config = json.loads(path.read_text("utf-8"))["pretrained_cfg"]
        resolved = data.resolve_data_config({}, pretrained_cfg=config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{path} is not timm's config.json: {error!r}.") from error
    transform = data.create_transform(**resolved, is_training=False)

    def write(out: Path) -> None:
        shutil.copy(path, out / "config.json")

    return transform_feeds(transform), "timm", write
