"""Scale and bias of models that were trained with a sigmoid for each pair: SigLIP (arXiv 2303.15343).

`1 / (1 + exp(-(scale * cosine + bias)))` is the probability that a text and a picture belong together. Checkpoints hold
`logit_scale`, the logarithm of the scale, and `logit_bias`. Neither changes a vector, so neither is part of a space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.jsonfile import member, read_object

_CHECKPOINTS = ("model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def read_sigmoid(
    directory: Path, annotations: Path, notes: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[float, float] | None:
    """Scale and bias of a model: as its `bowerbird.json` says, else of a SigLIP checkpoint beside its graphs.

    Args:
        directory: of the model.
        annotations: the path of its `bowerbird.json`, for messages.
        notes: what that holds.
        config: what its `config.json` holds.

    Returns:
        None where the model is no SigLIP, or nothing here holds them.

    Raises:
        ModelFormatError: they are there and cannot be read.
    """
    if "sigmoid" in notes:
        return _checked(notes["sigmoid"], annotations)
    if not _is_siglip(directory, config):
        return None
    for name in _CHECKPOINTS:
        if (directory / name).is_file() and (found := _from_checkpoint(directory / name)):
            return found
    return None


def _checked(said: Any, path: Path) -> tuple[float, float]:
    pair = said if isinstance(said, list) and len(said) == 2 else [None, None]
    numbers = [float(one) for one in pair if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)) or numbers[0] <= 0:
        raise ModelFormatError(
            f"{path}: sigmoid {said!r} is not understood.",
            hint="Write [scale, bias]: the exponential of the checkpoint's logit_scale, and its logit_bias.",
        )
    return numbers[0], numbers[1]


def _is_siglip(directory: Path, config: Mapping[str, Any]) -> bool:
    if str(config.get("model_type", "")).startswith("siglip"):
        return True
    path = directory / "open_clip_config.json"
    model = member(read_object(path, missing_ok=True), "model_cfg", path)
    return model.get("init_logit_bias") is not None


def _from_checkpoint(path: Path) -> tuple[float, float] | None:
    """Two numbers out of a file of gigabytes: nothing else of it is read."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if not {"logit_scale", "logit_bias"} <= set(file.keys()):
                return None
            scale, bias = (file.get_tensor(name).reshape(-1) for name in ("logit_scale", "logit_bias"))
    except (OSError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        # NumPy has no type for some that checkpoints are kept in.
        raise ModelFormatError(
            f"logit_scale and logit_bias of {path} cannot be read: {error}.",
            hint='Fetch the model again, or write "sigmoid": [scale, bias] into its bowerbird.json.',
        ) from error
    return _checked([math.exp(float(scale[0])), float(bias[0])], path) if len(scale) and len(bias) else None
