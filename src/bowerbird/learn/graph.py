"""A head written into the graph of its tower: what was done outside of the graph, then the layers, as ONNX operators.

What a tower does to a tensor after the network (pooling, the modules of sentence-transformers, fewer dimensions) goes
into the graph as well, so that the new output is one unit vector for each input, in any engine and without Bowerbird.
The arithmetic is that of `models.text.sentence`, `models.vision.pooling` and `learn.heads`, in float32.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError
from bowerbird.learn.heads import EPSILON, Branch, Head, Linear, Relu, Scale, Shift, Unit
from bowerbird.models.network.graph import load_graph, weight_files
from bowerbird.models.text.rules import TextRules
from bowerbird.models.text.sentence import Dense, LayerNorm, Module
from bowerbird.models.text.tokens import POOLING_MASK, PROMPT_TOKENS
from bowerbird.models.text.weights import read_weights
from bowerbird.models.vision.pooling import GEM_FLOOR, GEM_POWER

OLDEST = 11
"""The version of the ONNX operators from which on there are all that are written here."""

ONE_FILE = 1_800_000_000
"""Bytes up to which a graph is one file; protocol buffers end at 2 GiB."""

_LOWEST = -3.0e38
"""Less than any number of a network; minus infinity times 0 would be no number."""


@dataclass(frozen=True)
class Tap:
    """A tensor of a graph, and how a tower makes one vector of it.

    Attributes:
        tensor: of the graph.
        shape: that it has for one probe, the batch included; only its length and the channels count.
        width: length of the vectors that the tower makes of it.
        features: of pictures, the axis of the channels.
        pooling: of pictures with several places; see `bowerbird.models.vision.pooling`.
        rules: of texts: how token vectors are pooled, and the modules after that.
        dimensions: vectors are cut to this length, and scaled to 1; 0 keeps all.
    """

    tensor: str
    shape: tuple[int, ...]
    width: int
    features: int = -1
    pooling: str = "avg"
    rules: TextRules | None = None
    dimensions: int = 0


def with_head(
    source: Path,
    target: Path,
    taps: Mapping[str, Tap],
    head: Head,
    output: str,
    *,
    pooled: Mapping[str, str] | None = None,
    one_file: int = ONE_FILE,
) -> None:
    """Write a graph once more, with a head on it. All that it has stays: its weights, in their precision; its outputs.

    Args:
        source: the ONNX file; weights in files beside it are copied, and never held in memory.
        target: where it goes; its folder is there. Weights outside of it lie beside it, as `NAME_data`.
        taps: by the names that the head and `pooled` have for them.
        head: what is written.
        output: name of the new output, float32 (batch, dimensions), rows of length 1; free in the graph.
        pooled: names of further new outputs -> taps, pooled but not scaled to length 1.
        one_file: bytes up to which the weights stay in the graph.

    Raises:
        LearnError: the head does not fit, the graph is too old, or a name is taken.
        ModelFormatError: it cannot be read.
    """
    width = width_of(head, taps)
    model = load_graph(source)
    writer = _Writer(model, f"{output}/", str(source))
    writer.check_free([output, *(pooled or {})])
    rows: dict[str, str] = {}
    for name in dict.fromkeys([*head.tensors, *(pooled or {}).values()]):
        rows[name] = _pooled(writer, taps[name])
    for name, tap in (pooled or {}).items():
        writer.publish(rows[tap], name, taps[tap].width)
    branches = [_branch(writer, branch, writer.unit(rows[branch.tensor])) for branch in head.branches]
    total = branches[0]
    for branch in branches[1:]:
        total = writer.add("Add", total, branch)
    writer.publish(writer.unit(total), output, width)
    _save(model, source, target, one_file)


def width_of(head: Head, taps: Mapping[str, Tap]) -> int:
    """How long the vectors are that a head gives.

    Raises:
        LearnError: its layers do not fit the tensors, or its branches each other.
    """
    found: set[int] = set()
    for branch in head.branches:
        width = taps[branch.tensor].width
        for layer in branch.layers:
            takes = width
            if isinstance(layer, Linear):
                takes = layer.weight.shape[1]
            elif isinstance(layer, Shift):
                takes = len(layer.by)
            if takes != width:
                raise LearnError(
                    f"A layer on {branch.tensor!r} takes vectors of {takes} dimensions, and there they have {width}.",
                    hint="Give the model that the head was fitted on, under the same conditions.",
                )
            width = len(layer.weight) if isinstance(layer, Linear) else width
        found.add(width)
    if len(found) != 1:
        raise LearnError(
            f"The branches of a head give vectors of {' and '.join(map(str, sorted(found)))} dimensions."
        )
    return found.pop()


@dataclass
class _Writer:
    """Puts operators behind those that a graph has.

    Attributes:
        model: `onnx.ModelProto`, without the contents of files beside it.
        prefix: of the names of new tensors.
        where: what errors call the graph.
        opset: version of its operators.
    """

    model: Any
    prefix: str
    where: str
    opset: int = 0
    _taken: set[str] = field(default_factory=set)
    _masks: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = [entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")]
        self.opset = found[0] if found else 0
        if self.opset < OLDEST:
            raise LearnError(
                f"{self.where} is of version {self.opset} of the ONNX operators, to which no head can be added.",
                hint=f"Export the model again with opset {OLDEST} or later: bowerbird export SOURCE DIRECTORY",
            )
        graph = self.model.graph
        self._taken = {name for node in graph.node for name in (*node.output, node.name)}
        self._taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        while any(name.startswith(self.prefix) for name in self._taken):
            self.prefix = f"_{self.prefix}"

    def check_free(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self._taken:
                raise LearnError(
                    f"{self.where} computes a tensor {name!r} already.", hint="Choose another name."
                )

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """An operator; the name of what it makes."""
        from onnx import helper

        name = f"{self.prefix}{len(self.model.graph.node)}_{op}"
        self.model.graph.node.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}constant_{len(self.model.graph.initializer)}"
        array = np.array(values, dtype, order="C")
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def floats(self, name: str) -> str:
        """A tensor in float32, whatever it is in."""
        return self.add("Cast", name, to=1)

    def reduce(self, op: str, name: str, axis: int, *, keep: bool = False) -> str:
        """Over one axis; where the axis is said differs between versions."""
        since = 13 if op == "ReduceSum" else 18
        if self.opset < since:
            return self.add(op, name, axes=[axis], keepdims=int(keep))
        return self.add(op, name, self.constant([axis], np.int64), keepdims=int(keep))

    def reshape(self, name: str, *sides: int) -> str:
        return self.add("Reshape", name, self.constant(sides, np.int64))

    def product(self, name: str, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> str:
        """`x @ weight.T + bias`."""
        found = self.add("MatMul", name, self.constant(weight.T))
        return found if bias is None else self.add("Add", found, self.constant(bias))

    def unit(self, name: str) -> str:
        """(n, d), each row scaled to length 1, or left as zeros."""
        squares = self.reduce("ReduceSum", self.add("Mul", name, name), 1, keep=True)
        length = self.add("Max", self.add("Sqrt", squares), self.constant(EPSILON))
        return self.add("Div", name, length)

    def cut(self, name: str, dimensions: int) -> str:
        """The first of each row, scaled to length 1."""
        bounds = [self.constant([value], np.int64) for value in (0, dimensions, 1)]
        return self.unit(self.add("Slice", name, *bounds))

    def gelu(self, name: str) -> str:
        error = self.add("Erf", self.add("Mul", name, self.constant(1 / math.sqrt(2))))
        both = self.add("Mul", name, self.add("Add", error, self.constant(1.0)))
        return self.add("Mul", both, self.constant(0.5))

    def publish(self, name: str, output: str, width: int) -> None:
        """A tensor (batch, width) under the name of an output of the graph."""
        from onnx import helper

        graph = self.model.graph
        graph.node.append(helper.make_node("Identity", [name], [output], name=f"{self.prefix}{output}"))
        first = graph.input[0].type.tensor_type.shape.dim
        batch = first[0].dim_param if first and first[0].dim_param else "batch"
        graph.output.append(helper.make_tensor_value_info(output, 1, [batch, width]))

    def fed(self, name: str, kind: int, shape: Sequence[str]) -> str:
        """An input of the graph, made where it has none of that name."""
        from onnx import helper

        if all(value.name != name for value in self.model.graph.input):
            self.model.graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def mask(self, rules: TextRules) -> str:
        """float32 (n, T), 1 where there is a token of the text. A network that is told nothing of it asks for it."""
        known = {value.name for value in self.model.graph.input}
        name = "attention_mask" if rules.masked and "attention_mask" in known else POOLING_MASK
        if name not in self._masks:
            self._masks[name] = self.floats(self.fed(name, 7, ["batch", "sequence"]))
        return self._masks[name]


def _branch(writer: _Writer, branch: Branch, x: str) -> str:
    for layer in branch.layers:
        if isinstance(layer, Unit):
            x = writer.unit(x)
        elif isinstance(layer, Shift):
            x = writer.add("Add", x, writer.constant(layer.by))
        elif isinstance(layer, Linear):
            x = writer.product(x, layer.weight, layer.bias)
        elif isinstance(layer, Scale):
            x = writer.add("Mul", x, writer.constant(layer.by))
        elif isinstance(layer, Relu):
            x = writer.add("Relu", x)
        else:
            x = writer.gelu(x)
    return x


def _pooled(writer: _Writer, tap: Tap) -> str:
    """(n, width): what the tower makes of a tensor, before it is scaled to length 1."""
    x = writer.floats(tap.tensor)
    if len(tap.shape) > 2:
        x = _tokens(writer, x, tap.rules) if tap.rules else _places(writer, x, tap)
    return writer.cut(x, tap.dimensions) if tap.dimensions else x


def _places(writer: _Writer, x: str, tap: Tap) -> str:
    """A feature map, pooled as `bowerbird.models.vision.pooling.pool_places` does it."""
    axes = len(tap.shape)
    axis = tap.features % axes
    if axis != axes - 1:
        x = writer.add("Transpose", x, perm=[*(a for a in range(axes) if a != axis), axis])
    if axes != 3:
        x = writer.reshape(x, 0, -1, tap.shape[axis])
    if tap.pooling == "max":
        return writer.reduce("ReduceMax", x, 1)
    if tap.pooling == "cls":
        return writer.add("Gather", x, writer.constant(0, np.int64), axis=1)
    if tap.pooling == "gem":
        x = writer.add("Max", x, writer.constant(GEM_FLOOR))
        mean = writer.reduce("ReduceMean", writer.add("Pow", x, writer.constant(GEM_POWER)), 1)
        return writer.add("Pow", mean, writer.constant(1 / GEM_POWER))
    return writer.reduce("ReduceMean", x, 1)


def _tokens(writer: _Writer, x: str, rules: TextRules) -> str:
    """Token vectors, pooled as `bowerbird.models.text.sentence.pool` does it, then through the modules."""
    mask = writer.mask(rules)
    places = writer.add("CumSum", mask, writer.constant(1, np.int64))  # 1, 2, 3 ... from the first token on
    counted = mask
    if not rules.include_prompt and rules.prompts:
        skipped = writer.floats(writer.fed(PROMPT_TOKENS, 7, ["batch"]))
        beyond = writer.add("Greater", places, writer.reshape(skipped, -1, 1))
        counted = writer.add("Mul", mask, writer.floats(beyond))
    parts = [_POOLED[how](writer, x, counted, places) for how in rules.pooling]
    x = parts[0] if len(parts) == 1 else writer.add("Concat", *parts, axis=1)
    for module in rules.after:
        x = _module(writer, x, module)
    return x


def _weighed(writer: _Writer, x: str, weights: str) -> str:
    """(n, d) sum of token vectors; what has no weight may be anything."""
    column = writer.reshape(weights, 0, -1, 1)
    there = writer.add("Greater", column, writer.constant(0.0))
    real = writer.add("Where", there, x, writer.constant(0.0))
    return writer.reduce("ReduceSum", writer.add("Mul", real, column), 1)


def _total(writer: _Writer, weights: str) -> str:
    summed = writer.reduce("ReduceSum", weights, 1, keep=True)
    return writer.add("Max", summed, writer.constant(1e-9))


def _mean(writer: _Writer, x: str, counted: str, _: str) -> str:
    return writer.add("Div", _weighed(writer, x, counted), _total(writer, counted))


def _mean_sqrt(writer: _Writer, x: str, counted: str, _: str) -> str:
    return writer.add("Div", _weighed(writer, x, counted), writer.add("Sqrt", _total(writer, counted)))


def _weighted_mean(writer: _Writer, x: str, counted: str, places: str) -> str:
    return _mean(writer, x, writer.add("Mul", counted, places), places)


def _max(writer: _Writer, x: str, counted: str, _: str) -> str:
    there = writer.add("Greater", writer.reshape(counted, 0, -1, 1), writer.constant(0.0))
    return writer.reduce("ReduceMax", writer.add("Where", there, x, writer.constant(_LOWEST)), 1)


def _first(writer: _Writer, x: str, counted: str, _: str) -> str:
    """Where none is counted, the first place of all, as `pool` has it."""
    numbers = writer.add("CumSum", counted, writer.constant(1, np.int64))
    there = writer.floats(writer.add("Equal", numbers, writer.constant(1.0)))
    ones = writer.add("Add", writer.add("Mul", counted, writer.constant(0.0)), writer.constant(1.0))
    places = writer.add("CumSum", ones, writer.constant(1, np.int64))
    start = writer.floats(writer.add("Equal", places, writer.constant(1.0)))
    none = writer.add("Sub", writer.constant(1.0), writer.reduce("ReduceMax", counted, 1, keep=True))
    weights = writer.add("Add", writer.add("Mul", there, counted), writer.add("Mul", start, none))
    return _weighed(writer, x, weights)


def _last(writer: _Writer, x: str, counted: str, _: str) -> str:
    numbers = writer.add("CumSum", counted, writer.constant(1, np.int64))
    last = writer.reduce("ReduceSum", counted, 1, keep=True)
    there = writer.floats(writer.add("Equal", numbers, last))
    return _weighed(writer, x, writer.add("Mul", there, counted))


_POOLED = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def _module(writer: _Writer, x: str, module: Module) -> str:
    if isinstance(module, Dense):
        return _dense(writer, x, module)
    if isinstance(module, LayerNorm):
        arrays = read_weights(module.weights, {"norm.weight": (module.width,), "norm.bias": (module.width,)})
        centred = writer.add("Sub", x, writer.reduce("ReduceMean", x, 1, keep=True))
        variance = writer.reduce("ReduceMean", writer.add("Mul", centred, centred), 1, keep=True)
        deviation = writer.add("Sqrt", writer.add("Add", variance, writer.constant(1e-5)))
        scaled = writer.add(
            "Mul", writer.add("Div", centred, deviation), writer.constant(arrays["norm.weight"])
        )
        return writer.add("Add", scaled, writer.constant(arrays["norm.bias"]))
    return writer.unit(x)


def _dense(writer: _Writer, x: str, module: Dense) -> str:
    wanted: dict[str, tuple[int, ...]] = {"linear.weight": (module.outputs, module.inputs)}
    if module.bias:
        wanted["linear.bias"] = (module.outputs,)
    projected = module.residual and module.inputs != module.outputs
    if projected:
        wanted["residual.weight"] = (module.outputs, module.inputs)
    arrays = read_weights(module.weights, wanted)
    y = _activated(writer, writer.product(x, arrays["linear.weight"], arrays.get("linear.bias")), module)
    if not module.residual:
        return y
    return writer.add("Add", y, writer.product(x, arrays["residual.weight"]) if projected else x)


def _activated(writer: _Writer, x: str, module: Dense) -> str:
    name = module.activation
    if name == "Identity":
        return x
    if name == "GELU":
        return writer.gelu(x)
    if name == "SiLU":
        return writer.add("Mul", x, writer.add("Sigmoid", x))
    if name == "Mish":
        return writer.add("Mul", x, writer.add("Tanh", writer.add("Softplus", x)))
    # The defaults of these operators are those of torch.nn.
    return writer.add(
        {"Tanh": "Tanh", "ReLU": "Relu", "LeakyReLU": "LeakyRelu", "ELU": "Elu"}.get(name, name), x
    )


def _save(model: Any, source: Path, target: Path, one_file: int) -> None:
    """Write the graph; files of weights are copied under names that belong to it."""
    from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

    names = {
        location: f"{target.name}_data{f'_{number}' if number else ''}"
        for number, location in enumerate(weight_files(model, str(source)))
    }
    for location, name in names.items():
        shutil.copyfile(source.parent / location.replace("\\", "/"), target.parent / name)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = names[entry.value]
    if model.ByteSize() > one_file:
        own = f"{target.name}_data{f'_{len(names)}' if names else ''}"
        convert_model_to_external_data(model, all_tensors_to_one_file=True, location=own)
        model = write_external_data_tensors(model, str(target.parent))
    target.write_bytes(model.SerializeToString())
