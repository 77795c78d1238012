"""Classifiers of torchvision, by name."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.origin.original import Original, Tower, traced
from bowerbird.origin.packages import need, versions
from bowerbird.origin.request import Request
from bowerbird.origin.stacks.timm import transform_feeds
from bowerbird.origin.stacks.transformers import final_layer, with_features
from bowerbird.origin.weights import fill, read_weights, refuse_network, refuse_pickle, save_state


def open_torchvision(name: str, request: Request) -> Original:
    """Open `NAME` or `NAME/WEIGHTS`, such as `resnet50/IMAGENET1K_V2`, with its published weights and transforms.

    Raises:
        ModelNotFoundError: torchvision does not know the name or the weights, or they cannot be fetched.
        ModelFormatError: torchvision publishes pickles, and they are not allowed; or the model is no classifier of
            pictures.
        MissingExtraError: torchvision is not installed.
    """
    models = need("torchvision").models
    architecture, _, tag = name.partition("/")
    try:
        published = models.get_model_weights(architecture)
        weights = published[tag] if tag else published.DEFAULT
    except (ValueError, KeyError) as error:
        known = [entry.name for entry in published] if architecture in models.list_models() else []
        raise ModelNotFoundError(
            f"torchvision has no model {name!r}.",
            hint=f"Weights of {architecture}: {', '.join(known)}."
            if known
            else "Write it as torchvision:resnet50.",
        ) from error
    model = _load(architecture, weights, request).eval()
    classes = _classes(model)
    head = final_layer(model, classes)
    if head is None:
        raise ModelFormatError(
            f"torchvision's {architecture} does not end in a linear layer, whose input would be the embedding.",
            hint="Classifiers of pictures can be exported.",
        )

    def call(pixel_values: Any) -> Any:
        return with_features(head, lambda: model(pixel_values))

    tower = Tower(
        graph="onnx/model.onnx",
        inputs=("pixel_values",),
        outputs=("logits", "pooler_output"),
        embedding="pooler_output",
        module=traced(model, call),
        prepare=transform_feeds(weights.transforms()),
    )
    config = _timm_config(architecture, classes, weights.transforms())

    def write(out: Path) -> None:
        (out / "config.json").write_text(json.dumps(config, indent=2), "utf-8")

    made_with = versions("torch", "torchvision", "pillow")
    notes = {"image": {"output": tower.embedding}}
    keep = partial(save_state, model)  # opened again with the architecture torchvision:NAME
    return Original(
        request.name, "torchvision", "timm", made_with, write, image=tower, notes=notes, save_weights=keep
    )


def _load(architecture: str, weights: Any, request: Request) -> Any:
    models = need("torchvision").models
    options = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    model = models.get_model(architecture, weights=None, **options)
    if request.weights:
        given = read_weights(request.weights, allow_pickle=request.allow_pickle)
        rows = next((len(given[key]) for key in _head_names(model) if key in given), _classes(model))
        if rows != _classes(model):
            model = models.get_model(architecture, weights=None, num_classes=rows, **options)
        fill(model, given, request.weights)
        return model
    refuse_pickle(f"torchvision's {architecture}", request.allow_pickle)
    refuse_network(f"The weights of torchvision:{architecture}")
    try:
        model.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFoundError(
            f"The weights of torchvision's {architecture} cannot be fetched: {reason[:300]}",
            hint="Check the connection.",
        ) from error
    return model


def _head_names(model: Any) -> list[str]:
    torch = need("torch")
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [f"{layers[-1]}.weight"] if layers else []


def _classes(model: Any) -> int:
    torch = need("torch")
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    return int(layers[-1].out_features) if layers else 0


def _timm_config(architecture: str, classes: int, transforms: Any) -> dict[str, Any]:
    """The transforms as timm's config.json writes them: the same functions of torchvision, with the same numbers.

    torchvision itself publishes its transforms as Python only.
    """
    crop, resize = int(transforms.crop_size[0]), int(transforms.resize_size[0])
    ratio = crop / resize
    if int(crop / ratio) != resize:  # timm floors.
        ratio = crop / (resize + 0.5)
    return {
        "architecture": architecture,
        "num_classes": classes,
        "pretrained_cfg": {
            "input_size": [3, crop, crop],
            "interpolation": transforms.interpolation.value,
            "crop_pct": ratio,
            "crop_mode": "center",
            "mean": list(transforms.mean),
            "std": list(transforms.std),
            "num_classes": classes,
        },
    }
