"""What a heat map needs of a network: the last map of features, all that comes after it, and its attentions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bowerbird.errors import LearnError, ModelError
from bowerbird.models.network.engine import Engine, open_engine
from bowerbird.models.network.graph import GraphFacts, Tensor, read_graph
from bowerbird.models.towers import cut
from bowerbird.models.vision.pooling import feature_axis
from bowerbird.models.vision.tower import ImageSide, Pixels

Array = NDArray[Any]

MOST_EXTRA = 16
"""Tokens before those of the places: a class token, registers."""

LARGEST = 2**31
"""Bytes of a graph in one file: what its format allows."""

_ENGINE = "onnxruntime"
_ATTENDING = ("Softmax", "Attention", "MultiHeadAttention", "QAttention")


@dataclass(frozen=True, eq=False)
class Rest:
    """The network after its last map of features.

    Attributes:
        layer: the tensor of the map.
        features: of one picture, (1, tokens, channels): the map itself, with its places in rows.
        rows: of places.
        columns: of places.
        side: the tower.
        engine: runs the rest of the graph.
        shape: of the tensor in the graph, of one picture.
        axis: of the channels in the graph.
        others: further inputs that the rest reads, such as the picture, of which it wants to know the size.
    """

    layer: str
    features: Array
    rows: int
    columns: int
    side: ImageSide
    engine: Engine
    shape: tuple[int, ...]
    axis: int
    others: dict[str, Array]

    @property
    def extra(self) -> int:
        """Tokens before those of the places."""
        return int(self.features.shape[1]) - self.rows * self.columns

    def batches(self, most: int) -> Iterator[Array]:
        """The places, some at a time."""
        places = np.arange(self.rows * self.columns)
        for start in range(0, len(places), most):
            yield places[start : start + most]

    def filled(self, places: Array) -> Array:
        """Maps (n, tokens, channels) in which every place has the features of one; the extra tokens stay."""
        found = np.repeat(self.features, len(places), 0)
        found[:, self.extra :] = self.features[0, self.extra + places][:, None]
        return found

    def scaled(self, places: Array, by: float) -> Array:
        """Maps in which the features of one place are multiplied."""
        found = np.repeat(self.features, len(places), 0)
        found[np.arange(len(places)), self.extra + places] *= by
        return found

    def run(self, maps: Array) -> NDArray[np.float32]:
        """(n, dimensions): the tower's vectors, as they are, of maps (n, tokens, channels)."""
        last = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        values = np.moveaxis(maps.reshape(len(maps), *last[1:], -1), -1, self.axis)
        tower = self.side.tower
        output = dict(tower.tensors).get(tower.output, tower.output)
        feeds = {name: np.repeat(array, len(maps), 0) for name, array in self.others.items()}
        feeds[self.layer] = np.ascontiguousarray(values).astype(self.engine.inputs[self.layer].dtype)
        (found,) = self.engine.run(feeds, [output])
        return cut(self.side.pooled(found.astype(np.float32), tower.output), tower.dimensions)


def rest_of(side: ImageSide, pixels: Pixels) -> Rest:
    """The rest of a network after its last map of features, for one picture.

    Of a network whose last layer gives a token to pool, the map is what goes into that layer: after it the places
    have no say any more.

    Raises:
        LearnError: there is no such map, or its places do not lie on a grid.
        ModelError: the graph cannot be read or run.
    """
    tower = side.tower
    facts = read_graph(tower.graph.path, tower.graph.sha256)
    output = dict(tower.tensors).get(tower.output, tower.output)
    layers = facts.flow(output if output in facts.flows else "").layers if facts.flows else ()
    for layer in _candidates(facts, layers, output) if tower.steps.patches is None else ():
        found = _rest_after(side, layer, output, pixels)
        if found is not None:
            return found
    raise LearnError(
        f"{tower.graph.path.name} has no map of features through which everything goes.",
        hint="Use method 'occlusion', which suits every network.",
    )


def _candidates(facts: GraphFacts, layers: Sequence[str], output: str) -> list[Tensor]:
    """Layers whose places may be shown, the last first."""
    placed = [facts.tensors[name] for name in layers if name != output and name in facts.tensors]
    return [tensor for tensor in reversed(placed) if tensor.shape is None or len(tensor.shape) in (3, 4)][:4]


def _rest_after(side: ImageSide, layer: Tensor, output: str, pixels: Pixels) -> Rest | None:
    """The rest after one layer; None where its places do not lie on a grid, or nothing looks at them."""
    tower = side.tower
    model = _cut_off(tower.graph.path, layer.name, output)
    if model is None:
        return None
    head = open_engine(_ENGINE, tower.graph.path, expose=[layer.name])
    feeds = side.feeds(head, [pixels])
    (array,) = head.run(feeds, [layer.name])
    if array.ndim not in (3, 4) or array.shape[0] != 1:
        return None
    axis = feature_axis(array.shape) if layer.features is None else layer.features
    last = np.moveaxis(array, axis, -1)
    features = last.reshape(1, -1, last.shape[-1]).astype(np.float32)
    if array.ndim == 4:
        rows, columns = last.shape[1:3]
    else:
        attends = any(node.op_type in _ATTENDING for node in model.graph.node)
        if not attends:
            return None  # Its places are looked at no more; those of the layer before it are.
        try:
            rows, columns = grid_of(features.shape[1], pixels.shape[:2])
        except LearnError:
            return None
    if rows * columns < 2:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rest.onnx"
        file.write_bytes(model.SerializeToString())
        engine = open_engine(_ENGINE, file)
    others = {name: feeds[name] for name in engine.inputs if name != layer.name and name in feeds}
    return Rest(layer.name, features, rows, columns, side, engine, array.shape, axis, others)


def grid_of(tokens: int, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the patches among so many tokens of a picture of (height, width).

    The sides of a patch are those with which most tokens are patches.

    Raises:
        LearnError: no size of a patch leaves few enough other tokens.
    """
    height, width = size[0], size[1]
    for patch in range(1, min(height, width) + 1):
        rows, columns = height // patch, width // patch
        if rows * columns <= tokens:
            if tokens - rows * columns <= MOST_EXTRA and rows * columns > 1:
                return rows, columns
            break
    raise LearnError(
        f"{tokens} tokens do not lie on a grid over {width}x{height} pixels.",
        hint="Use method 'occlusion', which suits every network.",
    )


def attentions(side: ImageSide, pixels: Pixels) -> list[NDArray[np.float32]]:
    """What each token takes from each in every layer, the mean of all heads: (tokens, tokens), from the first layer.

    Raises:
        LearnError: the graph shows no attention of tokens to one another: it is convolutional, or fused.
    """
    path = side.tower.graph.path
    facts = read_graph(path, side.tower.graph.sha256)
    names = [tensor.name for tensor in facts.tensors.values() if tensor.op == "Softmax"]
    found: list[NDArray[np.float32]] = []
    if names:
        engine = open_engine(_ENGINE, path, expose=names)
        for array in engine.run(side.feeds(engine, [pixels]), names):
            heads = array.reshape(-1, *array.shape[-2:]) if array.ndim >= 3 else array[None]
            if heads.shape[-1] == heads.shape[-2] > 1 and (not found or len(found[0]) == heads.shape[-1]):
                found.append(heads.mean(0).astype(np.float32))
    if not found:
        raise LearnError(
            f"{path.name} shows no attention of tokens to one another: it has none, or exporters have fused it.",
            hint="Use method 'places' or 'occlusion'.",
        )
    return found


def _cut_off(path: Path, layer: str, output: str) -> Any:
    """`onnx.ModelProto` from a tensor to an output, with its weights; None where nothing lies between.

    Raises:
        ModelError: weights beside the graph are missing.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"The weights of {path} cannot be read: {error}.", hint="Fetch the model again."
        ) from error
    wanted, kept = {output}, []
    for node in reversed(model.graph.node):
        if layer not in node.output and wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    if not kept or layer not in wanted:
        return None
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kind = types.get(layer) or _kind(path, layer)
    found = onnx.ModelProto()
    found.CopyFrom(_without_graph(model))
    found.graph.name = "rest"
    found.graph.node.extend(reversed(kept))
    found.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in wanted)
    constants = {tensor.name for tensor in found.graph.initializer}
    found.graph.input.append(onnx.helper.make_tensor_value_info(layer, kind, None))
    found.graph.input.extend(v for v in model.graph.input if v.name in wanted and v.name not in constants)
    made = {name for node in kept for name in node.output}
    known = {value.name: value for value in model.graph.output}
    if output not in made:
        return None
    found.graph.output.append(
        known.get(output) or onnx.helper.make_tensor_value_info(output, _kind(path, output), None)
    )
    return found if found.ByteSize() < LARGEST else None


def _without_graph(model: Any) -> Any:
    import onnx

    return onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )


def _kind(path: Path, tensor: str) -> int:
    """The ONNX number of a tensor's element type, as shape inference finds it; float32 where it does not."""
    import onnx

    found = read_graph(path).tensors.get(tensor)
    dtype = found.dtype if found and found.dtype else "float32"
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _reads(node: Any) -> set[str]:
    """What a node reads, its subgraphs included."""
    found = set(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                found |= _reads(inner)
            found.update(value.name for value in body.output)
    return found - {""}
