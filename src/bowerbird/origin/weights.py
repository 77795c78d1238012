"""Weights in files: safetensors, and pickles where the user allows them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError, ModelNotFoundError
from bowerbird.models.hub.repository import is_offline
from bowerbird.origin.packages import need

SAFE = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pth.tar", ".ts")

_WRAPPINGS = ("state_dict", "model_state_dict", "model")
_ALLOW = "--allow-pickle"


def refuse_pickle(what: str, allowed: bool) -> None:
    """Refuse weights in a pickle unless the user allows it.

    Raises:
        ModelFormatError: not allowed.
    """
    if not allowed:
        raise ModelFormatError(
            f"{what} holds its weights as a pickle, and unpickling can run any code that its author wrote.",
            hint=f"Use a source with safetensors; or give {_ALLOW}, which reads tensors and nothing else from it "
            "(torch.load with weights_only=True).",
        )


def refuse_script(path: Path, allowed: bool) -> None:
    """Refuse a TorchScript file unless the user allows it.

    Raises:
        ModelFormatError: not allowed.
    """
    if not allowed:
        raise ModelFormatError(
            f"{path} is a TorchScript file: a program, which is run when the model is loaded and exported.",
            hint=f"If you trust where it comes from, give {_ALLOW}.",
        )


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive, told from what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.partition("/")[2].startswith("code/") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def safe_weights(directory: Path, names: tuple[str, ...], *, allow_pickle: bool) -> Path:
    """The file of weights in a directory: safetensors if there is one, a pickle only where that is allowed.

    Args:
        directory: of the model.
        names: of the safetensors files that the stack writes; a pickle has the same stem or `pytorch_model`.
        allow_pickle: whether a pickle may be read.

    Raises:
        ModelFormatError: there are no weights, or only a pickle and it is not allowed.
    """
    for name in names:
        if (directory / name).is_file():
            return directory / name
    pickles = sorted(path for path in directory.iterdir() if path.name.endswith(PICKLES))
    if not pickles:
        raise ModelFormatError(
            f"{directory} holds no weights: none of {', '.join(names)} is there.",
            hint="Fetch the model again.",
        )
    refuse_pickle(str(pickles[0]), allow_pickle)
    return pickles[0]


def read_weights(path: Path, *, allow_pickle: bool) -> dict[str, Any]:
    """Tensors by name. A checkpoint that wraps them, or names them `module.…`, is unwrapped.

    Raises:
        ModelFormatError: the file cannot be read, is a pickle and that is not allowed, or holds other things.
    """
    if path.name.endswith(SAFE):
        try:
            return dict(need("safetensors.torch").load_file(path))
        except Exception as error:
            raise ModelFormatError(
                f"{path} cannot be read as safetensors: {error}.", hint="Fetch it again."
            ) from error
    refuse_pickle(str(path), allow_pickle)
    torch = need("torch")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelFormatError(
            f"{path} cannot be read as weights alone: {str(error).splitlines()[0] if str(error) else error!r}",
            hint="It holds Python objects beside its tensors. Save the model's state_dict() and export that.",
        ) from error
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Any]:
    torch = need("torch")
    for wrapping in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapping), Mapping):
            content = content[wrapping]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise ModelFormatError(
            f"{path} is no state dict: it does not map names to tensors.",
            hint="Save the model's state_dict() and export that.",
        )
    if content and all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def fill(model: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Load weights into a network, every one of them and no other.

    Raises:
        ModelFormatError: names or shapes do not match.
    """
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    faults = [
        f"{len(found)} {what}, such as {found[0]}"
        for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if found
    ]
    if faults:
        raise ModelFormatError(
            f"{path} does not fit {type(model).__name__}: weights are {'; '.join(faults)}.",
            hint="Name the architecture that the weights were trained with.",
        )
    model.load_state_dict(weights)


def save_state(model: Any, out: Path, name: str = "model.safetensors") -> None:
    """Write every weight and buffer of a network to `out / name`, as `fill` takes them."""
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    need("safetensors.torch").save_file(state, out / name, metadata={"format": "pt"})


def refuse_network(what: str) -> None:
    """Refuse what another library would download, where the user forbids network calls.

    Raises:
        ModelNotFoundError: `HF_HUB_OFFLINE` is set.
    """
    if is_offline():
        raise ModelNotFoundError(
            f"{what} are not on this machine, and HF_HUB_OFFLINE is set.", hint="Unset it to download them."
        )
