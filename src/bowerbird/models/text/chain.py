"""`modules.json` of sentence-transformers: which modules follow the network.

Nothing is ever left out in silence, since a skipped Dense layer leaves a vector that has nothing to do with the model's
own (cosine -0.003 on EmbeddingGemma).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.artifact import artifact
from bowerbird.models.jsonfile import only, read_list, read_object, whole_number
from bowerbird.models.text.sentence import ACTIVATIONS, Dense, LayerNorm, Module, Normalize, known_poolings

_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which the library concatenates them."""

_LONGEST_PATH = 200


@dataclass(frozen=True)
class Chain:
    """`modules.json`, understood.

    Attributes:
        transformer: folder of the network's configuration, relative to the model directory; often empty.
        pooling: modes of `POOLINGS`; empty where the network itself gives the sentence vector.
        include_prompt: whether the tokens of a prompt are pooled.
        after: what is applied to the pooled vector, in order. A Normalize at the end is left out, so that lengths can
            be reported: every vector that leaves is scaled to length 1.
    """

    transformer: str
    pooling: tuple[str, ...]
    include_prompt: bool
    after: tuple[Module, ...]


def read_chain(directory: Path) -> Chain:
    """Read `modules.json` of sentence-transformers 1 to 6 and what it names.

    Raises:
        ModelFormatError: a file is missing or damaged, or names a module or an option that is not implemented.
    """
    path = directory / "modules.json"
    kinds, folders = _listed(path)
    if not kinds or kinds[0] != "Transformer":
        raise _unknown_module(path, kinds[0] if kinds else "nothing", "Every chain begins with Transformer.")
    pooling: tuple[str, ...] = ()
    include_prompt = True
    after: list[Module] = []
    for number, (kind, folder) in enumerate(zip(kinds[1:], folders[1:], strict=True)):
        place = directory / folder
        if kind == "Pooling":
            if number:
                raise _unknown_module(path, "Pooling", "It belongs right behind Transformer.")
            pooling, include_prompt = _pooling(place / "config.json")
        elif kind in _READERS:
            after.append(_READERS[kind](place))
        elif kind != "Dropout":  # does nothing outside of training
            raise _unknown_module(path, kind)
    ends = bool(after) and isinstance(after[-1], Normalize)
    return Chain(folders[0], pooling, include_prompt, tuple(after[:-1] if ends else after))


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Kind and folder of every module. The package is checked: other people's classes of the same name differ."""
    kinds, folders = [], []
    for module in read_list(path):
        if not isinstance(module, dict):
            raise ModelFormatError(f"{path}: {module!r} is no module.", hint="Fetch the model again.")
        kind, folder = str(module.get("type", "")), str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise _unknown_module(path, kind, "Code that comes with a model is never run.")
        if not folder.isprintable() or len(folder) > _LONGEST_PATH:
            raise ModelFormatError(f"{path}: {folder[:40]!r} is not a path.", hint="Fetch the model again.")
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ModelFormatError(f"{path}: the path {folder!r} leads out of the model.")
        kinds.append(kind.rsplit(".", 1)[-1])
        folders.append(folder)
    return kinds, folders


def _unknown_module(path: Path, kind: str, why: str = "") -> ModelFormatError:
    known = ", ".join(["Transformer", "Pooling", *_READERS, "Dropout"])
    return ModelFormatError(
        f"{path}: module {kind!r} is not implemented here. {why}".rstrip(),
        hint=f"Known: {known}. Leaving one out would change every vector.",
    )


def _pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    config = read_object(path)
    known = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_OLD_KEYS}
    only(config, known, path)
    modes = config.get("pooling_mode")
    if modes is None:  # no mode at all means `mean`, as in the library
        modes = [mode for key, mode in _OLD_KEYS.items() if config.get(key)] or ["mean"]
    include = config.get("include_prompt", True)
    if not isinstance(include, bool) or not modes:
        raise ModelFormatError(f"{path}: `include_prompt` is true or false and `pooling_mode` names a mode.")
    return known_poolings(modes, str(path)), include


def _dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = read_object(path)
    only(
        config,
        {
            "in_features",
            "out_features",
            "bias",
            "activation_function",
            "module_input_name",
            "module_output_name",
            "use_residual",
        },
        path,
    )
    _on_sentences(config, path)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, name = activation.rpartition(".")
    if name not in ACTIVATIONS or package.split(".")[:2] != ["torch", "nn"]:
        raise ModelFormatError(
            f"{path}: activation_function {activation!r} is not known.",
            hint=f"Known, of torch.nn: {', '.join(ACTIVATIONS)}.",
        )
    weights = _weights_file(folder)
    return Dense(
        weights=weights,
        sha256=artifact(weights).sha256,
        inputs=whole_number(config.get("in_features"), "in_features", path),
        outputs=whole_number(config.get("out_features"), "out_features", path),
        bias=_flag(config, "bias", True, path),
        activation=name,
        residual=_flag(config, "use_residual", False, path),
    )


def _layer_norm(folder: Path) -> LayerNorm:
    path = folder / "config.json"
    config = read_object(path)
    only(config, {"dimension"}, path)
    weights = _weights_file(folder)
    return LayerNorm(
        weights, artifact(weights).sha256, whole_number(config.get("dimension"), "dimension", path)
    )


def _normalize(folder: Path) -> Normalize:
    path = folder / "config.json"
    if path.exists():  # from sentence-transformers 5.4 on
        config = read_object(path)
        only(config, {"module_input_name", "module_output_name"}, path)
        _on_sentences(config, path)
    return Normalize()


_READERS: dict[str, Callable[[Path], Module]] = {
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


def _on_sentences(config: Mapping[str, Any], path: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ModelFormatError(
                f"{path}: {key} {config[key]!r} is not implemented.", hint="Implemented: sentence_embedding."
            )


def _flag(config: Mapping[str, Any], key: str, default: bool, path: Path) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ModelFormatError(f"{path}: {key} {value!r} is neither true nor false.")
    return value


def _weights_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.exists() and (folder / "pytorch_model.bin").exists():
        raise ModelFormatError(
            f"{folder / 'pytorch_model.bin'} is a pickle, which could run any program when it is read.",
            hint="Convert it with `bowerbird export MODEL DIRECTORY --allow-pickle`, if you trust where it is from.",
        )
    return path
