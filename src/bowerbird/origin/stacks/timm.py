"""Models of timm: a directory or repository in its hub layout, or a name with its published weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.origin.original import Feeds, Original, Tower, traced
from bowerbird.origin.packages import need, versions
from bowerbird.origin.request import Request
from bowerbird.origin.weights import fill, read_weights, safe_weights, save_state


def open_timm(directory: Path, request: Request) -> Original:
    """Open a directory in timm's hub layout: config.json with `architecture` and `pretrained_cfg`, and weights.

    Raises:
        ModelFormatError: the architecture is not known, or the weights do not fit or are a pickle.
        MissingExtraError: timm is not installed.
    """
    timm = need("timm")
    try:
        model = timm.create_model(f"local-dir:{directory}", pretrained=False)
    except Exception as error:
        raise ModelFormatError(
            f"{directory / 'config.json'} is not understood by timm {timm.__version__}: {error}",
            hint="A newer timm may know it.",
        ) from error
    path = request.weights or safe_weights(
        directory, ("model.safetensors",), allow_pickle=request.allow_pickle
    )
    fill(model, read_weights(path, allow_pickle=request.allow_pickle), path)

    def write(out: Path) -> None:
        shutil.copy(directory / "config.json", out / "config.json")

    return _original(model, write, request)


def open_timm_name(name: str, request: Request) -> Original:
    """Open a model that timm knows by name, such as `resnet50` or `resnet50.a1_in1k`, with its published weights.

    Raises:
        ModelNotFoundError: timm does not know the name, or its weights cannot be fetched.
        ModelFormatError: the weights are a pickle and that is not allowed, or do not fit.
        MissingExtraError: timm is not installed.
    """
    timm = need("timm")
    if not timm.is_model(name.partition(".")[0]):
        close = timm.list_models(f"*{name.partition('.')[0][:8]}*")[:5]
        raise ModelNotFoundError(
            f"timm {timm.__version__} has no model {name!r}.",
            hint=f"Known are, among others: {', '.join(close or timm.list_models()[:5])}.",
        )
    if not request.weights:
        from bowerbird.origin.source import fetch

        repository = timm.get_pretrained_cfg(name).hf_hub_id
        if not repository:
            raise ModelNotFoundError(
                f"timm publishes no weights of {name!r} on the hub.",
                hint=f"Known are: {', '.join(timm.list_pretrained(name.partition('.')[0] + '*')[:5]) or 'none'}.",
            )
        return open_timm(fetch(repository, request), request)
    weights = read_weights(request.weights, allow_pickle=request.allow_pickle)
    model = timm.create_model(name, pretrained=False)
    rows = weights.get(f"{model.pretrained_cfg.get('classifier')}.weight")
    if rows is not None and len(rows) != model.num_classes:
        model = timm.create_model(name, pretrained=False, num_classes=len(rows))
    fill(model, weights, request.weights)

    def write(out: Path) -> None:
        need("timm.models._hub").save_config_for_hf(model, str(out / "config.json"))

    return _original(model, write, request)


def transform_feeds(transform: Any) -> Callable[[Any, str], Feeds]:
    """A function from a picture to what the network takes, by a torchvision transform."""

    def prepare(image: Any, _role: str) -> Feeds:
        return {"pixel_values": transform(image).unsqueeze(0).numpy().astype(np.float32)}

    return prepare


def _original(model: Any, write: Callable[[Path], None], request: Request) -> Original:
    data = need("timm.data")
    need("torchvision")
    model = model.eval().float()
    transform = data.create_transform(**data.resolve_data_config({}, model=model), is_training=False)

    def call(pixel_values: Any) -> Any:
        hidden = model.forward_features(pixel_values)
        pooled = model.forward_head(hidden, pre_logits=True)
        if not model.num_classes:
            return pooled, hidden
        return model.forward_head(hidden), pooled, hidden

    outputs = ("pooler_output", "last_hidden_state")
    tower = Tower(
        graph="onnx/model.onnx",
        inputs=("pixel_values",),
        outputs=("logits", *outputs) if model.num_classes else outputs,
        embedding="pooler_output",
        module=traced(model, call),
        prepare=transform_feeds(transform),
        raw="last_hidden_state",
    )
    made_with = versions("torch", "timm", "torchvision", "pillow")
    notes = {"image": {"output": tower.embedding}}
    keep = partial(save_state, model)
    return Original(
        request.name, "timm", "timm", made_with, write, image=tower, notes=notes, save_weights=keep
    )
