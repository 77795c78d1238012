"""What follows the network of a sentence encoder: pooling, dense layers, layer norm, length 1.

The arithmetic is that of sentence-transformers 6.2, in NumPy. `read_chain` reads `modules.json` and the folders it
names; nothing is ever left out in silence, since a skipped Dense layer leaves a vector that has nothing to do with the
model's own (cosine -0.003 on EmbeddingGemma).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import BowerbirdError, ModelFormatError

Vectors: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.int64]

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""How token vectors become one vector. In the order in which the library concatenates the old boolean keys."""

_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def pool(hidden: NDArray[Any], mask: Mask, how: str | Sequence[str], prompt: int = 0) -> Vectors:
    """Token vectors to one vector for each text; padding never counts.

    Args:
        hidden: (n, T, d) token vectors, of any float type; sums are taken in float64.
        mask: (n, T), 1 where there is a token, on either side.
        how: one of `POOLINGS`, or several, which are put side by side in this order. Empty: no pooling.
        prompt: how many tokens at the start of every text are left out, for a prompt that the model does not pool.

    Returns:
        float32 (n, d * len(how)), or `hidden` as it is, (n, T, d), when `how` is empty.

    Raises:
        ModelFormatError: there is no such pooling.
    """
    names = known_poolings([how] if isinstance(how, str) else how, "pooling")
    tokens = np.asarray(hidden, np.float32)
    if not names:
        return tokens
    counted = mask
    if prompt:
        start = mask.argmax(1)[:, None]  # the first token, behind padding on the left
        counted = np.where(np.arange(mask.shape[1]) < start + prompt, 0, mask)
    parts = [_POOL[name](tokens, counted, mask) for name in names]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _cls(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    picked: Vectors = tokens[np.arange(len(tokens)), counted.argmax(1)]
    return picked


def _max(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    highest: Vectors = np.where(counted[..., None] > 0, tokens, np.float32(-np.inf)).max(1)
    return highest


def _sum(tokens: Vectors, weight: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, d) weighted sum, and (n, 1) sum of the weights, never 0. What has no weight may even be NaN."""
    weighed = np.where(weight[..., None] > 0, tokens * weight[..., None], np.float32(0))
    summed = weighed.sum(1, dtype=np.float64)
    return summed, np.maximum(weight.sum(1, keepdims=True, dtype=np.float64), 1e-9)


def _mean(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    summed, total = _sum(tokens, counted.astype(np.float32))
    return (summed / total).astype(np.float32)


def _mean_sqrt(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    summed, total = _sum(tokens, counted.astype(np.float32))
    scaled: Vectors = (summed / np.sqrt(total)).astype(np.float32)
    return scaled


def _weighted_mean(tokens: Vectors, counted: Mask, mask: Mask) -> Vectors:
    # Weights 1, 2, 3 ... from the first token that is not padding. A prompt that is left out still takes its own.
    places = np.arange(1, mask.shape[1] + 1) - mask.argmax(1)[:, None]
    summed, total = _sum(tokens, (counted * places).astype(np.float32))
    return (summed / total).astype(np.float32)


def _last(tokens: Vectors, counted: Mask, _: Mask) -> Vectors:
    some = counted.max(1) > 0
    place = np.where(some, counted.shape[1] - 1 - counted[:, ::-1].argmax(1), 0)
    last: Vectors = np.where(some[:, None], tokens[np.arange(len(tokens)), place], np.float32(0))
    return last


_POOL: dict[str, Callable[[Vectors, Mask, Mask], Vectors]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def known_poolings(names: Any, where: str) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ModelFormatError: one of them is not in `POOLINGS`; `where` says who asked.
    """
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, (list, tuple)) or not all(name in POOLINGS for name in listed):
        raise ModelFormatError(
            f"{where}: pooling {names!r} is not known.", hint=f"Known: {', '.join(POOLINGS)}."
        )
    return tuple(listed)


def shorten(vectors: Vectors, dimensions: int) -> Vectors:
    """The first numbers of each vector, scaled to length 1 again: for models trained as Matryoshkas.

    Args:
        vectors: (..., d).
        dimensions: how many to keep, 1 to d.

    Returns:
        float32 (..., dimensions) of length 1; a zero vector stays zero.

    Raises:
        BowerbirdError: `dimensions` is out of range.
    """
    if not 1 <= dimensions <= vectors.shape[-1]:
        raise BowerbirdError(
            f"dimensions={dimensions} does not fit vectors of {vectors.shape[-1]}.",
            hint=f"Give 1 to {vectors.shape[-1]}.",
        )
    return unit(vectors[..., :dimensions])


def unit(vectors: Vectors) -> Vectors:
    """Vectors scaled to length 1 along the last axis; the length is taken as at least 1e-12, so never a NaN."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Vectors) -> Vectors:
    wide = x.astype(np.float64)
    gelu: Vectors = (0.5 * wide * (1 + _erf(wide / math.sqrt(2)))).astype(np.float32)
    return gelu


def _sigmoid(x: Vectors) -> Vectors:
    bounded: Vectors = 0.5 * (1 + np.tanh(0.5 * x))  # the same function, without overflow
    return bounded


def _softplus(x: Vectors) -> Vectors:
    soft: Vectors = np.logaddexp(x, np.float32(0))
    return soft


_ACTIVATIONS: dict[str, Callable[[Vectors], Vectors]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, np.float32(0)),
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, np.float32(0)))),
    "GELU": _gelu,
    "SiLU": lambda x: x * _sigmoid(x),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
}
"""By class of `torch.nn`, each with that class's defaults: the configuration has no place for others."""


@dataclass(frozen=True)
class Dense:
    """A linear layer, an activation, and perhaps the input added to the result.

    Attributes:
        weights: `model.safetensors` with `linear.weight` (outputs, inputs), `linear.bias`, `residual.weight`.
        sha256: of that file.
        inputs: length of the vectors it takes.
        outputs: length of the vectors it gives.
        bias: whether there is one.
        activation: class name within `torch.nn`.
        residual: whether the input is added, through a matrix of its own when the lengths differ.
    """

    weights: Path
    sha256: str
    inputs: int
    outputs: int
    bias: bool
    activation: str
    residual: bool

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {
            "dense": self.sha256,
            "bias": self.bias,
            "activation": self.activation,
            "residual": self.residual,
        }

    def load(self) -> Callable[[Vectors], Vectors]:
        """The layer as a function of (..., inputs) to (..., outputs), safe in several threads.

        Raises:
            ModelFormatError: the weights are missing, damaged or of another shape.
        """
        wanted: dict[str, tuple[int, ...]] = {"linear.weight": (self.outputs, self.inputs)}
        if self.bias:
            wanted["linear.bias"] = (self.outputs,)
        projected = self.residual and self.inputs != self.outputs
        if projected:
            wanted["residual.weight"] = (self.outputs, self.inputs)
        arrays = read_weights(self.weights, wanted)
        activate = _ACTIVATIONS[self.activation]

        def dense(x: Vectors) -> Vectors:
            y = x @ arrays["linear.weight"].T
            if self.bias:
                y = y + arrays["linear.bias"]
            y = activate(y)
            if self.residual:
                y = y + (x @ arrays["residual.weight"].T if projected else x)
            return y

        return dense


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1 within each vector, then a scale and a shift for each place.

    Attributes:
        weights: `model.safetensors` with `norm.weight` and `norm.bias`, (width,) each.
        sha256: of that file.
        width: length of the vectors.
    """

    weights: Path
    sha256: str
    width: int

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {"layer_norm": self.sha256}

    def load(self) -> Callable[[Vectors], Vectors]:
        """The layer as a function of (..., width) to (..., width), safe in several threads.

        Raises:
            ModelFormatError: the weights are missing, damaged or of another shape.
        """
        arrays = read_weights(self.weights, {"norm.weight": (self.width,), "norm.bias": (self.width,)})

        def layer_norm(x: Vectors) -> Vectors:
            wide = x.astype(np.float64)
            centred = wide - wide.mean(-1, keepdims=True)
            scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            normed: Vectors = (scaled * arrays["norm.weight"] + arrays["norm.bias"]).astype(np.float32)
            return normed

        return layer_norm


@dataclass(frozen=True)
class Normalize:
    """Scaling to length 1 in the middle of a chain."""

    def meaning(self) -> dict[str, Any]:
        """What decides the vectors."""
        return {"normalize": True}

    def load(self) -> Callable[[Vectors], Vectors]:
        """`unit`."""
        return unit


Module: TypeAlias = Dense | LayerNorm | Normalize


def load_modules(modules: Sequence[Module]) -> Callable[[Vectors], Vectors]:
    """The modules after pooling, as one function of (n, d) to (n, e); without modules it changes nothing.

    Raises:
        ModelFormatError: weights are missing, damaged or of another shape.
    """
    loaded = [module.load() for module in modules]

    def apply(vectors: Vectors) -> Vectors:
        for layer in loaded:
            vectors = layer(vectors)
        return vectors

    return apply


@dataclass(frozen=True)
class Chain:
    """`modules.json`, understood.

    Attributes:
        transformer: folder of the network's configuration, relative to the model directory; often empty.
        pooling: modes of `POOLINGS`; empty where the network itself gives the sentence vector.
        include_prompt: whether the tokens of a prompt are pooled.
        after: what is applied to the pooled vector, in order.
        unit: whether the chain ends in a Normalize. It is kept out of `after`, so that lengths can be reported.
    """

    transformer: str
    pooling: tuple[str, ...]
    include_prompt: bool
    after: tuple[Module, ...]
    unit: bool


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
    return Chain(folders[0], pooling, include_prompt, tuple(after[:-1] if ends else after), ends)


def _listed(path: Path) -> tuple[list[str], list[str]]:
    """Kind and folder of every module. The package is checked: other people's classes of the same name differ."""
    kinds, folders = [], []
    for module in read_json(path, list):
        if not isinstance(module, dict):
            raise ModelFormatError(f"{path}: {module!r} is no module.", hint="Fetch the model again.")
        kind, folder = str(module.get("type", "")), str(module.get("path", ""))
        if not kind.startswith("sentence_transformers."):
            raise _unknown_module(path, kind, "Code that comes with a model is never run.")
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
    config = read_json(path)
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
    config = read_json(path)
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
    if name not in _ACTIVATIONS or package.split(".")[:2] != ["torch", "nn"]:
        raise ModelFormatError(
            f"{path}: activation_function {activation!r} is not known.",
            hint=f"Known, of torch.nn: {', '.join(_ACTIVATIONS)}.",
        )
    weights = _weights_file(folder)
    return Dense(
        weights=weights,
        sha256=_sha256(weights),
        inputs=_count(config, "in_features", path),
        outputs=_count(config, "out_features", path),
        bias=_flag(config, "bias", True, path),
        activation=name,
        residual=_flag(config, "use_residual", False, path),
    )


def _layer_norm(folder: Path) -> LayerNorm:
    path = folder / "config.json"
    config = read_json(path)
    only(config, {"dimension"}, path)
    weights = _weights_file(folder)
    return LayerNorm(weights, _sha256(weights), _count(config, "dimension", path))


def _normalize(folder: Path) -> Normalize:
    path = folder / "config.json"
    if path.exists():  # from sentence-transformers 5.4 on
        config = read_json(path)
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


def _count(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelFormatError(f"{path}: {key} {value!r} is not a number of dimensions.")
    return value


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


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelFormatError(f"{path} is missing or unreadable.", hint="Fetch the model again.") from error


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


def read_json(path: Path, kind: type[Any] = dict) -> Any:
    """A JSON file of a model, which holds an object, or a list with `kind=list`.

    Raises:
        ModelFormatError: it is missing, damaged or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path} is missing.", hint="Fetch the model again.") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path} cannot be read: {error}.", hint="Fetch the model again.") from error
    if not isinstance(content, kind):
        raise ModelFormatError(f"{path} holds no JSON {'list' if kind is list else 'object'}.")
    return content


def only(config: Mapping[str, Any], known: Collection[str], path: Path | str) -> None:
    """Refuse keys that are not known: one that is ignored could change every vector.

    Raises:
        ModelFormatError: there is such a key.
    """
    if unknown := sorted(set(config) - set(known)):
        raise ModelFormatError(
            f"{path}: {', '.join(unknown)} is not understood.",
            hint=f"Understood: {', '.join(sorted(known))}.",
        )
