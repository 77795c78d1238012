"""Tensors of a safetensors file, as float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import ModelFormatError

Vectors: TypeAlias = NDArray[np.float32]

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def read_weights(path: Path, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Vectors]:
    """The tensors of a safetensors file as float32.

    Args:
        path: the file.
        wanted: name -> shape; exactly these have to be there.

    Raises:
        ModelFormatError: the file is missing or damaged, or holds other tensors.
    """
    import safetensors  # `safetensors.numpy` cannot read BF16

    try:
        tensors: dict[str, Any] = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    shapes = {name: tuple(tensor["shape"]) for name, tensor in tensors.items()}
    if shapes != dict(wanted):
        raise ModelFormatError(f"{path} holds {shapes}, while its config.json asks for {dict(wanted)}.")
    return {name: _floats(path, name, tensor) for name, tensor in tensors.items()}


def _floats(path: Path, name: str, tensor: Mapping[str, Any]) -> Vectors:
    kind, data = tensor["dtype"], bytes(tensor["data"])
    if kind == "BF16":  # the upper half of a float32, which NumPy has no type for
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor["shape"])
    if kind not in _FLOATS:
        raise ModelFormatError(
            f"{path}: {name} is of type {kind}.", hint=f"Read: BF16, {', '.join(_FLOATS)}."
        )
    little = np.frombuffer(data, np.dtype(_FLOATS[kind]).newbyteorder("<"))
    return little.astype(np.float32).reshape(tensor["shape"])
