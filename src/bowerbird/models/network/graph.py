"""What an ONNX graph says of itself: its inputs, outputs, layers and penultimate tensor. Weights are not needed.

How layers are found is told in `bowerbird.models.network.wiring`.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from bowerbird.errors import ModelFormatError
from bowerbird.models.network.wiring import FLOATS, Step, Wiring, feature_axes, trace
from bowerbird.settings import settings

FORMAT = 3
"""Part of the name of remembered facts: raise it when what is found in a graph changes."""

_STRIPPED_BYTES = 1024
"""Larger constants are weights, of which shape inference needs the shape alone."""

_STAND_INS = {
    "BiasGelu": ("Add", 2),
    "FastGelu": ("Gelu", 1),
    "QuickGelu": ("Sigmoid", 1),
    "FusedConv": ("Conv", 3),
    "FusedMatMul": ("MatMul", 2),
    "Attention": ("Identity", 1),
    "MultiHeadAttention": ("Identity", 1),
    "QAttention": ("Identity", 1),
    "SkipLayerNormalization": ("Identity", 1),
    "SkipSimplifiedLayerNormalization": ("Identity", 1),
}
"""ONNX Runtime's own operators, unknown to shape inference: an ONNX operator of a like result, and its inputs."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph.

    Attributes:
        dtype: NumPy name of the element type.
        shape: one entry for each axis; None where the axis is free.
    """

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Tensor:
    """A tensor that the graph computes.

    Attributes:
        name: as in the graph.
        op: type of the operator that makes it.
        dtype: NumPy name of the element type; empty where nothing says so.
        shape: one entry for each axis, None where it is free; None where not even the rank is known.
        features: the axis of the features; the others are the batch and the tokens or the places of a picture.
            None where the steps around the tensor do not tell.
    """

    name: str
    op: str
    dtype: str
    shape: tuple[int | None, ...] | None
    features: int | None


@dataclass(frozen=True)
class Flow:
    """How the input becomes one output.

    Attributes:
        source: the input that carries the picture or the text.
        layers: tensors after each layer, in order; the last one still has tokens, or places of a picture, where
            the network has them. Pooling, classifier and projection come after it.
        penultimate: what goes into the last classifier or projection; empty where the output is not made by one.
    """

    source: str
    layers: tuple[str, ...]
    penultimate: str


@dataclass(frozen=True)
class GraphFacts:
    """What a graph says of itself. Plain data: picklable, and JSON by `to_json`.

    Attributes:
        name: the file, for messages.
        inputs: name -> element type and shape.
        outputs: the same of the outputs, in the graph's order.
        tensors: every tensor that an operator of the graph makes, in the graph's order.
        flows: output -> how it is made; only of outputs that depend on an input.
        weights: files in which the graph keeps its weights, relative to its folder; empty where it holds them itself.
        vocabulary: how many tokens its embedding table has rows for; None for a graph without one.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    tensors: Mapping[str, Tensor]
    flows: Mapping[str, Flow]
    weights: tuple[str, ...] = ()
    vocabulary: int | None = None

    def flow(self, output: str = "") -> Flow:
        """How an output is made; by default the one with the most layers, the first among equals.

        Raises:
            ModelFormatError: the graph has no such output, or it does not depend on any input.
        """
        if not output and self.flows:
            # Where one output is the last layer and another is made of it, the latter: it has a head as well.
            depth = {name: (len(f.layers), name not in f.layers) for name, f in self.flows.items()}
            return self.flows[max(self.flows, key=depth.__getitem__)]
        if output in self.flows:
            return self.flows[output]
        raise ModelFormatError(
            f"{self.name} computes no output {output!r} from its inputs.".replace(" ''", ""),
            hint=f"It computes: {', '.join(self.flows) or 'nothing'}.",
        )

    def layers(self, output: str = "") -> tuple[Tensor, ...]:
        """The layers on the way to an output, in order."""
        return tuple(self.tensors[name] for name in self.flow(output).layers)

    def to_json(self) -> dict[str, Any]:
        """Plain data of which `from_json` makes the same facts again."""
        return {
            "inputs": {name: [spec.dtype, spec.shape] for name, spec in self.inputs.items()},
            "outputs": {name: [spec.dtype, spec.shape] for name, spec in self.outputs.items()},
            "tensors": {t.name: [t.op, t.dtype, t.shape, t.features] for t in self.tensors.values()},
            "flows": {name: [f.source, f.layers, f.penultimate] for name, f in self.flows.items()},
            "weights": self.weights,
            "vocabulary": self.vocabulary,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], name: str) -> GraphFacts:
        """The facts that `to_json` wrote, under the name of a file."""

        def specs(kind: str) -> dict[str, TensorSpec]:
            return {key: TensorSpec(dtype, tuple(shape)) for key, (dtype, shape) in data[kind].items()}

        return cls(
            name,
            specs("inputs"),
            specs("outputs"),
            {
                key: Tensor(key, op, dtype, None if shape is None else tuple(shape), features)
                for key, (op, dtype, shape, features) in data["tensors"].items()
            },
            {key: Flow(source, tuple(layers), last) for key, (source, layers, last) in data["flows"].items()},
            tuple(data["weights"]),
            data["vocabulary"],
        )


def read_graph(path: Path, sha256: str = "") -> GraphFacts:
    """Read the facts of a graph; external data files need not be there.

    Args:
        path: the ONNX file.
        sha256: of the file. Where it is given the facts are remembered under it in the cache directory: a large
            graph takes half a second to read.

    Raises:
        ModelFormatError: the file is missing or is no ONNX graph.
    """
    cache = settings().cache_path / "graphs" / f"{sha256}-{_reader()}.json" if sha256 else None
    if cache is not None:
        try:
            return GraphFacts.from_json(json.loads(cache.read_text("utf-8")), str(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # Never seen before, or what lies there was cut short: read the graph itself.
    facts = _facts(load_graph(path), str(path))
    if cache is not None:
        _remember(cache, facts)
    return facts


def _reader() -> str:
    """Whose facts they are: shapes are inferred by the package onnx, whose versions find more or less."""
    return f"{FORMAT}-{metadata.version('onnx')}"


def resolve(facts: GraphFacts, layer: int | str, output: str = "") -> str:
    """The tensor that `layer` means.

    Args:
        facts: of the graph.
        layer: an index into the layers of the output, from the end when negative; `penultimate`; or the name of any
            tensor that the graph computes.
        output: see `GraphFacts.flow`.

    Raises:
        ModelFormatError: there is no such layer or tensor, or it does not hold floating-point numbers.
    """
    if isinstance(layer, int):
        name = _indexed(facts, layer, output)
    elif layer == "penultimate" and layer not in facts.tensors:
        name = facts.flow(output).penultimate
        if not name:
            raise ModelFormatError(
                f"{facts.name} has no penultimate tensor: its output does not come out of a classifier or projection.",
                hint="Give a layer by its index or the name of its tensor.",
            )
    else:
        name = layer
    tensor = facts.tensors.get(name)
    if tensor is None:
        near = difflib.get_close_matches(name, facts.tensors, n=3, cutoff=0.4)
        hint = f"The closest names: {', '.join(near)}." if near else ""
        raise ModelFormatError(
            f"{facts.name} computes no tensor {name!r}.", hint=hint or "`bowerbird inspect` lists the layers."
        )
    if tensor.dtype and tensor.dtype not in FLOATS:
        raise ModelFormatError(
            f"{name!r} in {facts.name} holds {tensor.dtype}, of which no vector can be made.",
            hint="Name a tensor of floating-point numbers.",
        )
    return name


def _indexed(facts: GraphFacts, index: int, output: str) -> str:
    layers = facts.flow(output).layers
    if not -len(layers) <= index < len(layers):
        raise ModelFormatError(
            f"{facts.name} has {len(layers)} layers, so there is no layer {index}.",
            hint=f"Give an index from {-len(layers)} to {len(layers) - 1}, or name a tensor.",
        )
    return layers[index]


def load_graph(path: Path) -> Any:
    """The graph as `onnx.ModelProto`, without external data.

    Raises:
        ModelFormatError: the file is missing or is no ONNX graph.
    """
    import onnx

    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelFormatError(f"There is no graph {path}.", hint="Fetch the model again.") from None
    except OSError as error:
        raise ModelFormatError(f"{path} cannot be read: {error.strerror}.") from error
    if content.startswith(b"version https://git-lfs."):
        raise ModelFormatError(
            f"{path} is a pointer of Git LFS, not the file itself.", hint="Run: git lfs pull"
        )
    try:
        # `onnx.load` does the same in three times the time.
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own, which has no public name
        raise ModelFormatError(
            f"{path} cannot be read as ONNX: {str(error).rstrip('. ')}.", hint="Fetch the model again."
        ) from error
    if not model.graph.node:
        raise ModelFormatError(f"{path} holds no ONNX graph.", hint="Fetch the model again.")
    return model


def _remember(cache: Path, facts: GraphFacts) -> None:
    # Another process may read or write the same file at this moment.
    partial = cache.with_suffix(f".{os.getpid()}")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(facts.to_json(), separators=(",", ":")), "utf-8")
        partial.replace(cache)
    except OSError:
        pass  # A cache that cannot be written costs reading the graph again, nothing else.


def _facts(model: Any, name: str) -> GraphFacts:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    weights, vocabulary = weight_files(model, name), _vocabulary(model)
    types = _types(model)
    wiring = Wiring([_step(node) for node in model.graph.node], types)
    for step in wiring.steps:
        if "Conv" in step.op and not step.kernel:
            step.kernel = next(
                (shape[2:] for n in step.inputs[1:] if (shape := wiring.shape(n)) and shape[2:]), ()
            )
    wiring.positions = {value.name: 1 << place for place, value in enumerate(inputs)}
    wiring.reads = dict(wiring.positions)
    for step in wiring.steps:
        bits = 0
        if step.op not in ("Shape", "Size"):
            for source in step.inputs:
                bits |= wiring.reads.get(source, 0)
        wiring.reads.update(dict.fromkeys(step.outputs, bits))
    axes = feature_axes(wiring)
    tensors = {
        out: Tensor(out, step.op, *types.get(out, ("", None)), axes.get(out))
        for step in wiring.steps
        if step.op != "Constant"
        for out in step.outputs
    }
    outputs = [value.name for value in model.graph.output]
    flows = {output: Flow(*found) for output in outputs if (found := trace(wiring, output)) is not None}

    def specs(names: Sequence[str]) -> dict[str, TensorSpec]:
        return {key: TensorSpec(types[key][0], types[key][1] or ()) for key in names if key in types}

    return GraphFacts(
        name, specs([v.name for v in inputs]), specs(outputs), tensors, flows, tuple(weights), vocabulary
    )


def weight_files(model: Any, name: str) -> dict[str, int]:
    """The files that hold a graph's weights, by the names the graph knows them by -> bytes they must have.

    Raises:
        ModelFormatError: one is named so that it could lie anywhere.
    """
    needed: dict[str, int] = {}
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if "location" in entries:
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            needed[entries["location"]] = max(end, needed.get(entries["location"], 0))
    for location in needed:
        parts = PurePosixPath(location.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise ModelFormatError(f"{name} wants weights at {location!r}, outside its own folder.")
    return needed


def _vocabulary(model: Any) -> int | None:
    """Rows of the table in which the token ids of the input are looked up, through casts and copies."""
    tables = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
    ids = {"input_ids", "text"}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.update(node.output)
        elif node.op_type == "Gather" and node.input[1] in ids and node.input[0] in tables:
            return int(tables[node.input[0]])
    return None


def _step(node: Any) -> Step:
    numbers = {a.name: tuple(a.ints) for a in node.attribute if a.name in ("kernel_shape", "perm")}
    inputs = [name for name in node.input if name]
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            inputs += sorted(_captured(body))
    outputs = [name for name in node.output if name]
    return Step(node.op_type, inputs, outputs, numbers.get("kernel_shape", ()), numbers.get("perm", ()))


def _captured(body: Any) -> set[str]:
    """Tensors of the surrounding graph that the body of an `If` or `Loop` reads."""
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    read = {value.name for value in body.output}
    for node in body.node:
        step = _step(node)
        read.update(step.inputs)
        own.update(step.outputs)
    return read - own


def _types(model: Any) -> dict[str, tuple[str, tuple[int | None, ...] | None]]:
    """Element type and shape of every tensor for which shape inference finds them. Takes the weights out of `model`."""
    from onnx import shape_inference

    _strip(model.graph)
    likened = type(model)()
    likened.CopyFrom(model)
    for node in likened.graph.node:
        if node.domain == "com.microsoft" and node.op_type in _STAND_INS:
            op, count = _STAND_INS[node.op_type]
            node.domain, node.op_type = "", op
            del node.input[count:], node.output[1:]
    try:
        likened = shape_inference.infer_shapes(likened, data_prop=True)
    except Exception:  # noqa: BLE001  # What cannot be inferred stays unknown; the engine judges the graph.
        likened = model
    graph = likened.graph
    types = {value.name: _typed(value.type) for value in (*graph.value_info, *graph.input, *graph.output)}
    weights = {t.name: (_dtype(t.data_type), tuple(t.dims)) for t in graph.initializer}
    return {**weights, **types}


def _strip(graph: Any) -> None:
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.HasField("t"):
                tensors.append(attribute.t)
    for tensor in tensors:
        if len(tensor.raw_data) > _STRIPPED_BYTES:
            tensor.ClearField("raw_data")
        for values in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            if len(getattr(tensor, values)) > _STRIPPED_BYTES // 4:
                tensor.ClearField(values)


def _typed(value: Any) -> tuple[str, tuple[int | None, ...] | None]:
    kind = value.tensor_type
    dtype = _dtype(kind.elem_type)
    if not kind.HasField("shape"):
        return dtype, None
    return dtype, tuple(side.dim_value if side.HasField("dim_value") else None for side in kind.shape.dim)


def _dtype(code: int) -> str:
    from onnx import helper

    return str(helper.tensor_dtype_to_np_dtype(code).name) if code else ""
